package raftnet

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// instant is a time in nanoseconds since the Net started, by the monotonic
// clock; 0 is never in the past.
type instant int64

// never is an instant that does not come.
const never = instant(math.MaxInt64)

func (t instant) add(d time.Duration) instant { return t + instant(d) }

// Net is the links of one chunkserver.
type Net struct {
	opts        Options
	incarnation uint64
	cluster     uint64
	base        time.Time
	stats       stats

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	clock  scheduler
	feeds  chan *Group
	// inbounds are *inbound to use again.
	inbounds sync.Pool

	// mu guards what follows against concurrent changes; readers of groups and
	// peers load snapshots.
	mu     sync.Mutex
	closed bool
	// dialogs are connections in handshake, to close at the end.
	dialogs map[net.Conn]struct{}
	groups  atomic.Pointer[map[backend.CopysetID]*Group]
	peers   atomic.Pointer[map[backend.ServerID]*peer]
}

// Start serves the listener and keeps links to the peers.
func Start(o Options) (*Net, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	n := &Net{
		opts: o, incarnation: newIncarnation(), cluster: clusterHash(o.Cluster),
		// A second back, so that instants of now minus something stay positive.
		base:    time.Now().Add(-time.Second),
		feeds:   make(chan *Group, feedQueue),
		dialogs: map[net.Conn]struct{}{},
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.groups.Store(&map[backend.CopysetID]*Group{})
	n.peers.Store(&map[backend.ServerID]*peer{})
	n.clock.init()
	n.wg.Go(n.accept)
	n.wg.Go(n.feed)
	n.wg.Go(func() { n.clock.run(n) })
	return n, nil
}

func (n *Net) now() instant { return instant(time.Since(n.base)) }

func (n *Net) time(t instant) time.Time { return n.base.Add(time.Duration(t)) }

// SetAddresses replaces the address book: where each chunkserver's peer listener is.
func (n *Net) SetAddresses(book map[backend.ServerID]string) {
	for id, address := range book {
		if p := n.addPeer(id); p != nil {
			p.setAddress(address)
		}
	}
	for id, p := range *n.peers.Load() {
		if _, ok := book[id]; !ok {
			p.setAddress("")
		}
	}
}

// peer returns what is known of a chunkserver, nil if nothing is.
func (n *Net) peer(id backend.ServerID) *peer { return (*n.peers.Load())[id] }

// addPeer makes id known; nil for this chunkserver itself and for too many.
func (n *Net) addPeer(id backend.ServerID) *peer {
	if id == 0 || id == n.opts.Self {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	old := *n.peers.Load()
	if p := old[id]; p != nil {
		return p
	}
	if n.closed || len(old) >= maxPeers {
		return nil
	}
	p := newPeer(n, id)
	peers := make(map[backend.ServerID]*peer, len(old)+1)
	for k, v := range old {
		peers[k] = v
	}
	peers[id] = p
	n.peers.Store(&peers)
	return p
}

// Alive says how long ago peer was last heard of.
func (n *Net) Alive(peer backend.ServerID) (silence time.Duration, known bool) {
	p := n.peer(peer)
	if p == nil {
		return 0, false
	}
	heard := p.heard.Load()
	if heard == 0 {
		return 0, false
	}
	return time.Duration(n.now() - instant(heard)), true
}

// Group joins a copyset to the net. gate may be nil for a log that is always
// durable. A copyset that is there already is replaced: its old Group is closed.
func (n *Net) Group(id backend.CopysetID, gate Gate) *Group {
	g := newGroup(n, id, gate)
	n.mu.Lock()
	old := (*n.groups.Load())[id]
	closed := n.closed
	if !closed {
		n.setGroupLocked(id, g)
		n.wg.Go(g.respond)
	}
	n.mu.Unlock()
	if old != nil {
		old.shut()
	}
	if closed {
		g.shut()
	}
	return g
}

// setGroupLocked changes the snapshot of groups; nil removes.
func (n *Net) setGroupLocked(id backend.CopysetID, g *Group) {
	old := *n.groups.Load()
	groups := make(map[backend.CopysetID]*Group, len(old)+1)
	for k, v := range old {
		groups[k] = v
	}
	if groups[id] = g; g == nil {
		delete(groups, id)
	}
	n.groups.Store(&groups)
}

// leave removes g, unless another one took its place.
func (n *Net) leave(g *Group) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if (*n.groups.Load())[g.id] == g {
		n.setGroupLocked(g.id, nil)
	}
}

// Close ends all links and waits for the goroutines. Leases end first: once the
// listener is closed, peers know that nobody leads here.
func (n *Net) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.mu.Unlock()
	for _, g := range *n.groups.Load() {
		g.shut()
	}
	n.cancel()
	err := n.opts.Listener.Close()
	n.mu.Lock()
	for conn := range n.dialogs {
		conn.Close()
	}
	n.mu.Unlock()
	for _, p := range *n.peers.Load() {
		p.breakLinks(context.Canceled)
	}
	n.clock.stop()
	n.wg.Wait()
	return err
}

// accept serves the listener.
func (n *Net) accept() {
	limit := make(chan struct{}, maxHandshakes)
	for {
		conn, err := n.opts.Listener.Accept()
		if n.ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			n.opts.Logger.Error("raft links: accept", "err", err)
			select {
			case <-n.ctx.Done():
				return
			case <-time.After(redialMin): // out of descriptors, most likely
				continue
			}
		}
		select {
		case limit <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		n.wg.Go(func() { n.serve(conn, func() { <-limit }) })
	}
}

// maxHandshakes bounds strangers that connect and say nothing.
const maxHandshakes = 128

// dialog registers a connection that has no owner yet; false when closing.
func (n *Net) dialog(conn net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.dialogs[conn] = struct{}{}
	return true
}

func (n *Net) dialogOver(conn net.Conn) {
	n.mu.Lock()
	delete(n.dialogs, conn)
	n.mu.Unlock()
}

// serve runs an inbound connection.
func (n *Net) serve(conn net.Conn, shaken func()) {
	defer conn.Close()
	if !n.dialog(conn) {
		shaken()
		return
	}
	h, err := n.answerHello(conn)
	p := n.addPeer(h.from)
	if err == nil && p == nil {
		err = fmt.Errorf("%w: more than %d peers, or a link from itself", backend.ErrInvalid, maxPeers)
	}
	shaken()
	if err != nil {
		n.dialogOver(conn)
		n.opts.Logger.Debug("raft links: refused", "from", conn.RemoteAddr(), "err", err)
		return
	}
	l := newLink(conn, h.kind, h)
	attached := p.attachInbound(l)
	n.dialogOver(conn)
	if attached && n.ctx.Err() == nil {
		n.wg.Go(l.write)
		in := inboundLink{n, p, l, nil}
		idle := time.Duration(0)
		if h.kind == kindControl {
			idle = idleTimeout
		}
		err = l.read(idle, in.handle)
		l.close(err)
	}
	l.close(errLinkClosed)
	p.detachInbound(l)
}

// answerHello is the accepting side's handshake.
func (n *Net) answerHello(conn net.Conn) (hello, error) {
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	h, err := readHello(conn)
	if err != nil {
		return hello{}, err
	}
	mine := hello{version: wireVersion, kind: h.kind, from: n.opts.Self, to: h.from, incarnation: n.incarnation, cluster: n.cluster}
	if h.to != n.opts.Self || h.cluster != n.cluster || h.from == n.opts.Self {
		mine.verdict = verdictWrong
		err = fmt.Errorf("%w: link from %v to %v of cluster %#x, this is %v of %#x", backend.ErrInvalid, h.from, h.to, h.cluster, n.opts.Self, n.cluster)
	}
	b := mine.encode()
	if _, werr := conn.Write(b[:]); err == nil {
		err = werr
	}
	conn.SetDeadline(time.Time{})
	return h, err
}

// handshakeTimeout is generous: a peer that is stopped accepts and says nothing.
const handshakeTimeout = time.Second

func readHello(conn net.Conn) (hello, error) {
	var b [helloBytes]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return hello{}, err
	}
	return decodeHello(b[:])
}
