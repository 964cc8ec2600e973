package raftnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// peer is another chunkserver. Two goroutines dial it and read the answers on
// the links to it, one pings it; the links from it run on their own.
type peer struct {
	net *Net
	id  backend.ServerID
	// header is that of the requests that it sends to raft.
	header raft.RPCHeader
	// heard is the instant of the last message from it.
	heard     atomic.Int64
	suspected atomic.Bool
	// lastHeard is heard at the pinger's last look, silence how long it has stood
	// still; the pinger's own.
	lastHeard, silence instant
	// slow is the silence after which it is suspected until slowUntil, if that is more
	// than Suspect; the pinger's own.
	slow, slowUntil instant
	// seq numbers the pings to it.
	seq atomic.Uint64
	// control and data are the links to it that are up.
	control, data atomic.Pointer[link]
	// kick wakes the pinger, redial the dialers.
	kick   chan struct{}
	redial [2]chan struct{}

	mu      sync.Mutex
	address string
	// incarnation is the one that is known to have lived last; dead says that it
	// does not any more.
	incarnation uint64
	dead        bool
	// buried is the incarnation before: late connections of it are refused.
	buried uint64
	// refused: the last attempt to connect was refused, and none succeeded since.
	refused bool
	inbound map[*link]struct{}
	// up is closed when the data link comes up, and made anew when it breaks.
	up chan struct{}
	// lastPing is the newest sequence number of a ping from incarnation.
	lastPing uint64
	// sent are the sending times of the last pings, by sequence number.
	sent [pingsKept]sentPing
	// pinged is the instant of the last ping received, gap the largest gap.
	pinged, gap instant
}

type sentPing struct {
	seq uint64
	at  instant
}

// pingsKept is how many pings may be unanswered; an answer to an older one is
// worth nothing.
const pingsKept = 64

func newPeer(n *Net, id backend.ServerID) *peer {
	p := &peer{net: n, id: id, header: headerOf(id), kick: make(chan struct{}, 1), inbound: map[*link]struct{}{}, up: make(chan struct{})}
	p.redial = [2]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}
	n.wg.Go(func() { p.keep(kindControl, &p.control, p.redial[0]) })
	n.wg.Go(func() { p.keep(kindData, &p.data, p.redial[1]) })
	n.wg.Go(p.ping)
	return p
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// setAddress changes where the peer is dialled; "" for no more. A link that is
// up stays if it is to the right process.
func (p *peer) setAddress(address string) {
	p.mu.Lock()
	changed := p.address != address
	p.address = address
	if changed {
		p.refused = false // that was another address
	}
	p.mu.Unlock()
	if !changed {
		return
	}
	if address == "" {
		for _, l := range []*link{p.control.Load(), p.data.Load()} {
			if l != nil {
				l.close(errNoAddress)
			}
		}
	}
	poke(p.redial[0])
	poke(p.redial[1])
}

var errNoAddress = errors.New("not in the address book any more")

// keep holds one link to the peer up until the Net closes.
func (p *peer) keep(kind uint8, slot *atomic.Pointer[link], redial chan struct{}) {
	ctx, backoff := p.net.ctx, time.Duration(0)
	for ctx.Err() == nil {
		p.mu.Lock()
		address := p.address
		p.mu.Unlock()
		if address == "" {
			select {
			case <-ctx.Done():
			case <-redial:
			}
			continue
		}
		l, err := p.dial(ctx, kind, address)
		if err == nil {
			backoff = 0
			p.run(l, slot)
			continue
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			p.wasRefused(address)
		}
		p.net.opts.Logger.Debug("raft links: dial", "peer", p.id, "address", address, "err", err)
		backoff = min(max(2*backoff, redialMin), redialMax)
		timer := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
		case <-redial:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// dial connects and shakes hands.
func (p *peer) dial(ctx context.Context, kind uint8, address string) (*link, error) {
	n := p.net
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := n.opts.Dial(dctx, address)
	if err != nil {
		return nil, err
	}
	if !n.dialog(conn) {
		conn.Close()
		return nil, net.ErrClosed
	}
	defer n.dialogOver(conn)
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	b := hello{version: wireVersion, kind: kind, from: n.opts.Self, to: p.id, incarnation: n.incarnation, cluster: n.cluster}.encode()
	_, err = conn.Write(b[:])
	var h hello
	if err == nil {
		h, err = readHello(conn)
	}
	if err == nil && (h.from != p.id || h.to != n.opts.Self || h.cluster != n.cluster || h.kind != kind || h.verdict != verdictOK) {
		err = fmt.Errorf("%w: %s is %v of cluster %#x, wanted %v of %#x", backend.ErrInvalid, address, h.from, h.cluster, p.id, n.cluster)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return newLink(conn, kind, h), nil
}

// fresh says that the peer was heard of just now.
func (p *peer) fresh() bool {
	return p.net.now()-instant(p.heard.Load()) < instant(p.net.opts.Lease)
}

// run makes l the peer's link, and reads its answers until it breaks.
func (p *peer) run(l *link, slot *atomic.Pointer[link]) {
	n := p.net
	if !p.living(l.incarnation) {
		l.close(errLinkClosed)
		return
	}
	p.heard.Store(int64(n.now()))
	p.mu.Lock()
	p.refused = false
	slot.Store(l)
	if l.kind == kindData {
		close(p.up)
	}
	p.mu.Unlock()
	if n.ctx.Err() != nil {
		l.close(n.ctx.Err()) // Close may have missed it
	}
	n.wg.Go(l.write)
	poke(p.kick)
	err := l.read(0, func(h head, body []byte) error {
		p.heard.Store(int64(n.now()))
		if h.kind == typePong {
			return p.onPong(h.id, body)
		}
		return l.handleAnswer(h, body)
	})
	slot.Store(nil)
	if l.kind == kindData {
		p.mu.Lock()
		p.up = make(chan struct{})
		p.mu.Unlock()
	}
	l.close(err)
	if l.kind == kindControl {
		p.controlLost()
	}
	n.opts.Logger.Debug("raft links: broken", "peer", p.id, "kind", l.kind, "err", err)
}

// living notes which incarnation of the peer there is. Another one than before
// means that the one before is dead. False for one that is dead already.
func (p *peer) living(incarnation uint64) bool {
	p.mu.Lock()
	before := p.incarnation
	switch {
	case before == incarnation:
		// Taken for dead by mistake, if at all: a refusal on its behalf.
		p.dead = false
		p.mu.Unlock()
		return true
	case before != 0 && p.dead && p.buried == incarnation:
		p.mu.Unlock()
		return false
	}
	wasDead := p.dead
	p.buried = before
	p.incarnation, p.dead, p.lastPing, p.pinged = incarnation, false, 0, 0
	var stale []*link
	for l := range p.inbound {
		if l.incarnation == before {
			stale = append(stale, l)
		}
	}
	p.mu.Unlock()
	for _, l := range append(stale, p.control.Load(), p.data.Load()) {
		if l != nil && l.incarnation == before {
			l.close(errReborn)
		}
	}
	if before != 0 && !wasDead {
		p.net.died(p, before, "restarted")
	}
	return true
}

var (
	errReborn = errors.New("peer has restarted")
	errSilent = errors.New("peer is silent")
)

// wasRefused notes that nobody listens at the peer's address. With no link from
// the process left either, that is its death.
func (p *peer) wasRefused(address string) {
	p.mu.Lock()
	if p.address == address {
		p.refused = true
	}
	p.mu.Unlock()
	p.checkDead()
}

func (p *peer) checkDead() {
	p.mu.Lock()
	died := p.refused && !p.dead && p.incarnation != 0 && len(p.inbound) == 0 &&
		p.control.Load() == nil && p.data.Load() == nil && p.net.ctx.Err() == nil
	if died {
		p.dead = true
	}
	incarnation := p.incarnation
	p.mu.Unlock()
	if died {
		p.net.died(p, incarnation, "refuses connections")
	}
}

// attachInbound adds a link from the peer.
func (p *peer) attachInbound(l *link) bool {
	if !p.living(l.incarnation) {
		return false
	}
	p.heard.Store(int64(p.net.now()))
	p.mu.Lock()
	defer p.mu.Unlock()
	for old := range p.inbound {
		if old.kind == l.kind {
			// The peer gave that one up. Closing it fails no calls, as none are
			// made on inbound links, and so takes no lock but the link's.
			old.close(errLinkClosed)
		}
	}
	p.inbound[l] = struct{}{}
	return true
}

func (p *peer) detachInbound(l *link) {
	p.mu.Lock()
	delete(p.inbound, l)
	p.mu.Unlock()
	p.checkDead()
}

// breakLinks closes every link from and to the peer.
func (p *peer) breakLinks(err error) {
	p.mu.Lock()
	links := []*link{p.control.Load(), p.data.Load()}
	for l := range p.inbound {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		if l != nil {
			l.close(err)
		}
	}
}

// controlLink is the link to a peer for small messages.
func (n *Net) controlLink(to backend.ServerID) (*link, error) {
	p, err := n.known(to)
	if err != nil {
		return nil, err
	}
	if l := p.control.Load(); l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("%w: no link to %v", backend.ErrUnreachable, to)
}

// known returns a peer that is in the address book.
func (n *Net) known(id backend.ServerID) (*peer, error) {
	p := n.peer(id)
	if p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
	}
	if p == nil || p.address == "" {
		return nil, fmt.Errorf("%w: %v is not in the address book", backend.ErrUnreachable, id)
	}
	return p, nil
}

// dataLink is the link to a peer for bulk, waiting for it to come up until stop,
// the Net's end or the timeout.
func (n *Net) dataLink(to backend.ServerID, timeout time.Duration, stop <-chan struct{}) (*link, error) {
	p, err := n.known(to)
	if err != nil {
		return nil, err
	}
	if l := p.data.Load(); l != nil {
		return l, nil
	}
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		p.mu.Lock()
		up := p.up
		p.mu.Unlock()
		select {
		case <-up:
		case <-stop:
		case <-n.ctx.Done():
		case <-timer.C:
		}
		if l := p.data.Load(); l != nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("%w: no link to %v", backend.ErrUnreachable, to)
}
