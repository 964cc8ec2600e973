package raftnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// village is some Nets with one group each, in virtual time and over pipes, with
// voters in raft's stead that vote whenever they may: without a log, without a
// timeout, without loyalty to a leader. What keeps leases apart here is this
// package alone.
type village struct {
	t      *testing.T
	rand   *rand.Rand
	mute   *muffler
	homes  []*home
	voters []backend.ServerID

	mu  sync.Mutex
	log []string
}

type home struct {
	id    backend.ServerID
	doors *pipeListener
	net   *Net
	group *Group
	wg    sync.WaitGroup

	// mu guards the voter's state, which survives restarts.
	mu    sync.Mutex
	term  uint64
	voted backend.ServerID
	leads uint64
	// told is the latest lease that a reader was told and may rely on, of the
	// leadership in toldTerm.
	told     time.Time
	toldTerm uint64
}

// pipeListener is a listener that net.Pipe connections come from.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func newVillage(t *testing.T, seed uint64) *village {
	v := &village{t: t, rand: rand.New(rand.NewPCG(seed, 1)), mute: newMuffler(), voters: []backend.ServerID{1, 2, 3}}
	for _, id := range v.voters {
		v.homes = append(v.homes, &home{id: id, doors: newPipeListener()})
		v.homes[id-1].doors.Close()
	}
	for _, h := range v.homes {
		v.open(h)
	}
	return v
}

func (v *village) note(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.log = append(v.log, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

// open starts a home's Net and its voter.
func (v *village) open(h *home) {
	doors := newPipeListener()
	h.mu.Lock()
	h.doors = doors
	h.mu.Unlock()
	n, err := Start(Options{Self: h.id, Listener: doors, Dial: func(ctx context.Context, address string) (net.Conn, error) {
		return v.dial(ctx, h.id, ParsePeer(address))
	}})
	if err != nil {
		v.t.Fatal(err)
	}
	book := map[backend.ServerID]string{}
	for _, id := range v.voters {
		book[id] = string(PeerAddress(id))
	}
	n.SetAddresses(book)
	g := n.Group(1, nil)
	g.Configure(v.voters)
	g.SetHeartbeatHandler(func(r raft.RPC) { h.answer(r) })
	h.mu.Lock()
	h.net, h.group = n, g
	h.mu.Unlock()
	h.wg.Go(func() {
		for {
			select {
			case r := <-g.Consumer():
				if _, vote := r.Command.(*raft.RequestVoteRequest); vote {
					h.answerLate(r, g.closed)
					continue
				}
				h.answer(r)
			case <-g.closed:
				return
			}
		}
	})
}

func (v *village) dial(ctx context.Context, from, to backend.ServerID) (net.Conn, error) {
	h := v.homes[to-1]
	h.mu.Lock()
	doors := h.doors
	h.mu.Unlock()
	ours, theirs := net.Pipe()
	select {
	case <-doors.closed:
		return nil, fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, ctx.Err()
	case doors.conns <- theirs:
	}
	return &muffledConn{Conn: ours, net: v.mute, ends: [2]backend.ServerID{from, to}, closed: make(chan struct{})}, nil
}

func (v *village) shut(h *home) {
	h.mu.Lock()
	h.leads, h.told = 0, time.Time{} // a process that is gone reads nothing
	h.mu.Unlock()
	h.net.Close()
	h.wg.Wait()
}

// answerLate votes at once, and says so after a while, as raft writes its vote to
// the disk.
func (h *home) answerLate(r raft.RPC, end <-chan struct{}) {
	answer := make(chan raft.RPCResponse, 1)
	h.answer(raft.RPC{Command: r.Command, RespChan: answer})
	select {
	case <-time.After(time.Duration(rand.IntN(40)) * time.Millisecond):
		r.RespChan <- <-answer
	case <-end:
	}
}

// answer is the voter.
func (h *home) answer(r raft.RPC) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch c := r.Command.(type) {
	case *raft.AppendEntriesRequest:
		if c.Term >= h.term {
			h.term = c.Term
		}
		r.Respond(&raft.AppendEntriesResponse{Term: h.term, Success: c.Term == h.term}, nil)
	case *raft.RequestVoteRequest:
		if c.Term > h.term {
			h.term, h.voted = c.Term, 0
		}
		granted := c.Term == h.term && (h.voted == 0 || h.voted == ParsePeer(string(c.Addr)))
		if granted {
			h.voted = ParsePeer(string(c.Addr))
		}
		r.Respond(&raft.RequestVoteResponse{Term: h.term, Granted: granted}, nil)
	case *raft.TimeoutNowRequest:
		r.Respond(&raft.TimeoutNowResponse{}, nil) // stands when the script says so
	default:
		r.Respond(nil, fmt.Errorf("unexpected %T", c))
	}
}

// stand makes h ask for votes, lag after it has voted for itself, and lead if a
// majority grants them.
func (v *village) stand(h *home, lag time.Duration) {
	h.mu.Lock()
	h.term++
	h.voted = h.id
	term := h.term
	h.mu.Unlock()
	n, g := h.net, h.group
	h.wg.Go(func() {
		time.Sleep(lag)
		votes := make(chan bool, len(v.voters))
		for _, id := range v.voters {
			if id == h.id {
				continue
			}
			go func() {
				var resp raft.RequestVoteResponse
				err := g.RequestVote(PeerID(id), PeerAddress(id), &raft.RequestVoteRequest{RPCHeader: headerOf(h.id), Term: term, LeadershipTransfer: true}, &resp)
				votes <- err == nil && resp.Granted
			}()
		}
		granted := 1
		for range len(v.voters) - 1 {
			if <-votes {
				granted++
			}
			if granted == len(v.voters)/2+1 {
				v.elected(h, n, g, term)
				return
			}
		}
	})
}

// elected checks that no leader of an older term has a lease when h wins, and
// lets it lead. (One that wins after a newer term's leader can do nothing.)
func (v *village) elected(h *home, n *Net, g *Group, term uint64) {
	now := time.Now()
	for _, o := range v.homes {
		o.mu.Lock()
		if o != h && o.toldTerm < term && o.told.After(now) {
			v.note("%v has its lease for another %v", o.id, o.told.Sub(now))
			v.t.Errorf("%v is elected in term %d while %v may read for another %v:\n%s", h.id, term, o.id, o.told.Sub(now), v.story())
		}
		o.mu.Unlock()
	}
	h.mu.Lock()
	leads := h.term == term && h.net == n && n.ctx.Err() == nil
	if leads {
		h.leads = term
	}
	h.mu.Unlock()
	if leads {
		v.note("%v leads in term %d", h.id, term)
		g.Lead(term)
	}
}

func (v *village) story() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := ""
	for _, l := range v.log {
		out += l + "\n"
	}
	return out
}

// read samples the leases that readers are told of.
func (v *village) read() (leases int) {
	for _, h := range v.homes {
		until := h.group.LeaseUntil()
		h.mu.Lock()
		if until.After(h.told) {
			h.told, h.toldTerm = until, h.leads
		}
		h.mu.Unlock()
		if until.After(time.Now()) {
			leases++
		}
	}
	return leases
}

// live runs for d of virtual time.
func (v *village) live(d time.Duration) (leased int) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if v.read() > 0 {
			leased++
		}
		// A leader that has seen a newer term steps down, somewhat later.
		for _, h := range v.homes {
			h.mu.Lock()
			stale := h.leads != 0 && h.leads < h.term && v.rand.IntN(20) == 0
			if stale {
				h.leads = 0
			}
			h.mu.Unlock()
			if stale {
				h.group.Follow()
			}
		}
	}
	return leased
}

func TestNoElectionDuringALease(t *testing.T) {
	runs := 100
	if testing.Short() {
		runs = 5
	}
	leased := 0
	for seed := range uint64(runs) {
		synctest.Test(t, func(t *testing.T) {
			v := newVillage(t, seed)
			v.note("seed %d", seed)
			for range 40 {
				h := v.homes[v.rand.IntN(len(v.homes))]
				switch v.rand.IntN(8) {
				case 0, 1, 2:
					v.note("%v stands", h.id)
					v.stand(h, time.Duration(v.rand.IntN(30))*time.Millisecond)
				case 3:
					h.mu.Lock()
					h.told = time.Time{} // whoever releases has its readers ask again
					h.mu.Unlock()
					v.note("%v releases", h.id)
					h.group.Release(t.Context())
				case 4:
					v.note("%v is cut off", h.id)
					v.mute.silence(h.id, true)
				case 5:
					v.note("all links are whole")
					for _, id := range v.voters {
						v.mute.silence(id, false)
					}
				case 6:
					v.note("%v restarts", h.id)
					v.shut(h)
					v.live(time.Duration(v.rand.IntN(50)) * time.Millisecond)
					v.open(h)
				}
				leased += v.live(time.Duration(v.rand.IntN(400)) * time.Millisecond)
				if t.Failed() {
					break
				}
			}
			for _, h := range v.homes {
				v.shut(h)
			}
		})
		if t.Failed() {
			break
		}
	}
	t.Logf("%d ms under a lease in %d runs", leased, runs)
	if leased == 0 {
		t.Error("nobody ever had a lease: nothing was tested")
	}
}
