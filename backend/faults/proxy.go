package faults

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// Proxy stands in front of one party.
type Proxy struct {
	net  *Network
	to   string
	addr string

	mu       sync.Mutex // guards what follows
	target   string
	refuse   bool
	down     bool         // the target refuses
	listener net.Listener // nil while refusing
	closed   bool

	wake chan struct{} // of watch; holds one
	quit chan struct{}
}

// Addr is where the proxy listens. It stays the same through Refuse.
func (p *Proxy) Addr() string { return p.addr }

// SetTarget says where the party listens from now on.
func (p *Proxy) SetTarget(addr string) {
	p.mu.Lock()
	p.target = addr
	p.mu.Unlock()
	p.poke()
}

// Refuse makes new connections refused, or accepted again. Those that are open
// stay.
func (p *Proxy) Refuse(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
	return p.listenOrNot()
}

// listenOrNot makes the listener fit the state; p.mu is held.
func (p *Proxy) listenOrNot() error {
	want := !p.refuse && !p.down && !p.closed
	switch {
	case want && p.listener == nil:
		l, err := net.Listen("tcp", p.addr)
		if err != nil {
			return err
		}
		p.listener = l
		p.net.running.Go(func() { p.accept(l) })
	case !want && p.listener != nil:
		p.listener.Close()
		p.listener = nil
	}
	return nil
}

func (p *Proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		close(p.quit)
		_ = p.listenOrNot() // closing does not fail
	}
}

func (p *Proxy) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// probeEvery is how often a target that refused is tried again.
const probeEvery = 10 * time.Millisecond

// watch refuses while the target does. It tries the target when a connection to it
// broke, and then until it is back.
func (p *Proxy) watch() {
	for {
		p.mu.Lock()
		target, down := p.target, p.down
		p.mu.Unlock()
		var retry <-chan time.Time
		if down {
			retry = time.After(probeEvery)
		}
		select {
		case <-p.quit:
			return
		case <-p.wake:
		case <-retry:
		}
		c, err := net.DialTimeout("tcp", target, time.Second)
		if err == nil {
			c.Close()
		}
		p.mu.Lock()
		p.down = errors.Is(err, syscall.ECONNREFUSED) && p.target == target
		if p.listenOrNot() != nil {
			p.down = true // the port is taken for the moment: once more
		}
		p.mu.Unlock()
	}
}

func (p *Proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return // closed: nothing else fails on loopback for long
		}
		p.net.running.Go(func() { p.serve(client.(*net.TCPConn)) })
	}
}

// pair is one proxied connection.
type pair struct {
	net      *Network
	from, to string // who dialed, and whom
	client   *net.TCPConn
	server   *net.TCPConn
	over     chan struct{} // closed by reset

	once sync.Once
}

func (p *Proxy) serve(client *net.TCPConn) {
	pr := &pair{net: p.net, from: p.net.dialer(client), to: p.to, client: client, over: make(chan struct{})}
	if !p.net.enlist(pr) {
		pr.reset()
		return
	}
	defer p.net.strike(pr)
	defer pr.reset()
	if !pr.awaitPassage() {
		return
	}
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		p.poke()
		return
	}
	pr.setServer(server.(*net.TCPConn))
	var pumps sync.WaitGroup
	pumps.Go(func() { pr.pump(pr.client, pr.server, direction{pr.from, pr.to}) })
	pumps.Go(func() {
		pr.pump(pr.server, pr.client, direction{pr.to, pr.from})
		p.poke()
	})
	pumps.Wait()
}

func (n *Network) enlist(p *pair) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.pairs[p] = struct{}{}
	return true
}

func (n *Network) strike(p *pair) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pairs, p)
}

// setServer completes the pair. A reset that came before is made good.
func (p *pair) setServer(c *net.TCPConn) {
	p.net.mu.Lock()
	p.server = c
	p.net.mu.Unlock()
	select {
	case <-p.over:
		abort(c)
	default:
	}
}

// reset ends both connections with RST.
func (p *pair) reset() {
	p.once.Do(func() { close(p.over) })
	p.net.mu.Lock()
	server := p.server
	p.net.mu.Unlock()
	abort(p.client)
	if server != nil {
		abort(server)
	}
}

// abort closes with RST. A connection that is closed already stays so.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// awaitPassage waits until neither direction is held: no connection comes about
// otherwise.
func (p *pair) awaitPassage() bool {
	for {
		there, changed := p.net.rule(direction{p.from, p.to})
		back, _ := p.net.rule(direction{p.to, p.from})
		if !there.Hold && !back.Hold {
			return true
		}
		select {
		case <-changed:
		case <-p.over:
			return false
		}
	}
}
