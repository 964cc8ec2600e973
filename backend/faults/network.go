package faults

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Rule is what happens to bytes on their way from one party to another. The zero
// Rule passes them on.
type Rule struct {
	// Hold keeps them until the rule changes; the connections live.
	Hold bool
	// Delay, and up to Jitter more, before they arrive; in order.
	Delay, Jitter time.Duration
	// BytesPerSecond at most; 0 for no limit.
	BytesPerSecond int64
}

// Anyone stands for every party, and for dialers that nobody identified.
const Anyone = "*"

type direction struct{ from, to string }

// Network is the connections between parties, each of which has a name.
type Network struct {
	mu      sync.Mutex // guards what follows
	rnd     *rand.Rand
	rules   map[direction]Rule
	changed chan struct{} // closed when rules change
	parties map[int]string
	proxies []*Proxy
	pairs   map[*pair]struct{}
	closed  bool

	running sync.WaitGroup
}

// NewNetwork has no rules and no parties. The seed is that of the jitter.
func NewNetwork(seed uint64) *Network {
	return &Network{
		rnd: rand.New(rand.NewPCG(seed, 1)), rules: map[direction]Rule{}, changed: make(chan struct{}),
		parties: map[int]string{}, pairs: map[*pair]struct{}{},
	}
}

// Identify says that connections made by that process are the party's. A process
// that is not identified is Anyone.
func (n *Network) Identify(pid int, party string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.parties[pid] = party
}

// Set makes the rule for what from sends to to, on connections that either of them
// made. A rule for two names counts before one with Anyone, and one for the
// sender before one for the receiver.
func (n *Network) Set(from, to string, r Rule) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules[direction{from, to}] = r
	n.tell()
}

// Block holds both directions between two parties.
func (n *Network) Block(a, b string) {
	n.Set(a, b, Rule{Hold: true})
	n.Set(b, a, Rule{Hold: true})
}

// Heal drops every rule.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules = map[direction]Rule{}
	n.tell()
}

func (n *Network) tell() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// rule is the one in force, and a channel that is closed when that may be another.
func (n *Network) rule(d direction) (Rule, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, try := range []direction{d, {d.from, Anyone}, {Anyone, d.to}, {Anyone, Anyone}} {
		if r, ok := n.rules[try]; ok {
			return r, n.changed
		}
	}
	return Rule{}, n.changed
}

func (n *Network) jitter(r Rule) time.Duration {
	if r.Jitter <= 0 {
		return r.Delay
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return r.Delay + time.Duration(n.rnd.Int64N(int64(r.Jitter)+1))
}

// Cut resets every connection between two parties, held or not. Anyone stands for
// all.
func (n *Network) Cut(a, b string) {
	match := func(name, want string) bool { return want == Anyone || name == want }
	n.mu.Lock()
	var cut []*pair
	for p := range n.pairs {
		if match(p.from, a) && match(p.to, b) || match(p.from, b) && match(p.to, a) {
			cut = append(cut, p)
		}
	}
	n.mu.Unlock()
	for _, p := range cut {
		p.reset()
	}
}

// Listen puts a proxy in front of party to, which itself listens at target. Others
// are given the proxy's address instead.
func (n *Network) Listen(to, target string) (*Proxy, error) {
	l, err := listenBelowEphemeral()
	if err != nil {
		return nil, err
	}
	p := &Proxy{net: n, to: to, addr: l.Addr().String(), target: target, listener: l, wake: make(chan struct{}, 1), quit: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		l.Close()
		return nil, net.ErrClosed
	}
	n.proxies = append(n.proxies, p)
	n.running.Go(func() { p.accept(l) })
	n.running.Go(p.watch)
	return p, nil
}

// listenBelowEphemeral picks a port that no outgoing connection is given, so that
// a proxy that refused for a while gets it back.
func listenBelowEphemeral() (net.Listener, error) {
	const first, ports, tries = 18000, 14000, 200
	var err error
	for range tries {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(ports))); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no free port from %d to %d: %w", first, first+ports, err)
}

// FreeAddress is a loopback address that was free a moment ago, and that no outgoing
// connection will be given: for a server that is killed and started again there.
func FreeAddress() (string, error) {
	l, err := listenBelowEphemeral()
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// Close resets all connections, stops listening, and waits.
func (n *Network) Close() {
	n.mu.Lock()
	n.closed = true
	proxies := n.proxies
	n.mu.Unlock()
	for _, p := range proxies {
		p.close()
	}
	n.Cut(Anyone, Anyone)
	n.running.Wait()
}
