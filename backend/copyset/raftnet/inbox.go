package raftnet

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// inbox is what waits for a group's raft. raft takes requests one by one, and has
// answered each before it takes the next, so one goroutine, Group.respond, waits
// for the answers in turn.
type inbox struct {
	toRaft chan raft.RPC
	// asked are the requests in toRaft, and the one that raft is at, in order.
	asked chan *inbound
	bytes atomic.Int64
	// mu makes put serial, so that both channels agree on the order; shut says that
	// nobody answers any more.
	mu   sync.Mutex
	shut bool

	// answersMu guards answers: AppendEntries' that wait for the gate, in order.
	answersMu sync.Mutex
	answers   []*inbound
}

func (b *inbox) init() {
	b.toRaft = make(chan raft.RPC, inboxCount)
	b.asked = make(chan *inbound, 2*inboxCount)
}

// inbound is a request for a group's raft.
type inbound struct {
	net   *Net
	group *Group
	// link is where the answer goes; nil for requests made up here.
	link *link
	kind uint8
	id   uint64
	term uint64
	size int64
	rpc  raft.RPC
	resp chan raft.RPCResponse
	// since is when a vote arrived.
	since instant
	// ready: the answer may be sent; fire is what the gate calls. Guarded by
	// inbox.answersMu.
	ready  bool
	answer [32]byte
	length int
	fire   func()
}

// typeFeed marks a heartbeat made of a ping, which is answered by a pong.
const typeFeed = 0

var (
	errGroupClosed = errors.New("the replica is closed")
	errInboxFull   = fmt.Errorf("%w: raft does not take its messages", backend.ErrOverload)
)

func (n *Net) newInbound(g *Group, l *link, kind uint8, id uint64) *inbound {
	in, _ := n.inbounds.Get().(*inbound)
	if in == nil {
		in = &inbound{net: n, resp: make(chan raft.RPCResponse, 1)}
	}
	in.group, in.link, in.kind, in.id = g, l, kind, id
	in.rpc.RespChan = in.resp
	if in.fire == nil {
		in.fire = func() { in.group.released(in) }
	}
	return in
}

// free gives in back once nothing refers to it. A request that raft may still
// answer is not given back.
func (in *inbound) free() {
	in.group, in.link, in.rpc, in.ready = nil, nil, raft.RPC{}, false
	in.net.inbounds.Put(in)
}

// put hands a request to raft without waiting.
func (b *inbox) put(in *inbound) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shut {
		return errGroupClosed
	}
	if len(b.asked) == cap(b.asked) || len(b.toRaft) == cap(b.toRaft) || in.size > 0 && b.bytes.Load()+in.size > inboxBytes {
		return errInboxFull
	}
	b.bytes.Add(in.size)
	b.asked <- in
	b.toRaft <- in.rpc
	return nil
}

// request hands a peer's request to its group.
func (in *inboundLink) request(h head, body []byte) error {
	g := (*in.net.groups.Load())[h.copyset]
	r := in.net.newInbound(g, in.link, h.kind, h.id)
	var err error
	switch h.kind {
	case typeAppend:
		var a *raft.AppendEntriesRequest
		if a, err = decodeAppend(body); err == nil {
			a.RPCHeader = in.peer.header
			r.term, r.size, r.rpc.Command = a.Term, int64(len(body)), a
		}
	case typeSnapshot:
		var s *raft.InstallSnapshotRequest
		var data []byte
		if s, data, err = decodeSnapshot(body); err == nil {
			s.RPCHeader = in.peer.header
			s.Leader = s.Addr
			r.term, r.size, r.rpc.Command = s.Term, int64(len(body)), s
			r.rpc.Reader = bytes.NewReader(data)
		}
	case typeVote, typePreVote:
		var v *raft.RequestVoteRequest
		if v, err = decodeVote(body); err == nil {
			v.RPCHeader = in.peer.header
			r.term, r.rpc.Command = v.Term, v
			if h.kind == typePreVote {
				r.rpc.Command = &raft.RequestPreVoteRequest{RPCHeader: v.RPCHeader, Term: v.Term, LastLogIndex: v.LastLogIndex, LastLogTerm: v.LastLogTerm}
			}
		}
	case typeTimeoutNow:
		if len(body) != 0 {
			err = fmt.Errorf("%w: TimeoutNow with a body of %d bytes", errWire, len(body))
		}
		r.rpc.Command = &raft.TimeoutNowRequest{RPCHeader: in.peer.header}
	}
	switch {
	case err != nil:
		return err
	case g == nil:
		r.refuse(fmt.Errorf("%w: %v", backend.ErrNoCopyset, h.copyset))
	case h.kind == typeVote:
		g.vote(r)
	default:
		g.deliver(r)
	}
	return nil
}

// deliver hands a request to raft, or answers that it cannot.
func (g *Group) deliver(in *inbound) {
	if err := g.inbox.put(in); err != nil {
		if in.kind == typeVote {
			g.voteOut(nil, false)
		}
		in.refuse(err)
	}
}

// refuse answers a request with an error, and is done with it.
func (in *inbound) refuse(err error) {
	if in.link != nil {
		in.link.send(head{kind: in.kind + 1, id: in.id}, appendAnswerError(nil, err))
	}
	in.free()
}

// respond passes raft's answers on until the group closes, and then answers what
// is left with an error.
func (g *Group) respond() {
	defer close(g.done)
	for {
		select {
		case in := <-g.inbox.asked:
			select {
			case r := <-in.resp:
				g.inbox.bytes.Add(-in.size)
				g.answered(in, r)
			case <-g.closed:
				g.orphan(in)
			}
		case <-g.closed:
			g.inbox.mu.Lock()
			defer g.inbox.mu.Unlock()
			g.inbox.shut = true
			for {
				select {
				case in := <-g.inbox.asked:
					g.orphan(in)
				default:
					return
				}
			}
		}
	}
}

// orphan answers a request that raft did not answer before the group closed. in
// is not used again: raft may still hold its channel.
func (g *Group) orphan(in *inbound) {
	if in.link != nil && in.kind != typeFeed {
		in.link.send(head{kind: in.kind + 1, id: in.id}, appendAnswerError(nil, errGroupClosed))
	}
}

// answered passes one answer of raft's on.
func (g *Group) answered(in *inbound, r raft.RPCResponse) {
	if r.Error != nil && in.kind != typeFeed {
		if in.kind == typeVote {
			g.voteOut(in, false)
		}
		in.refuse(r.Error)
		return
	}
	switch a := r.Response.(type) {
	case *raft.AppendEntriesResponse:
		if in.kind == typeFeed {
			g.fed(in, a)
			in.free()
			return
		}
		g.heardOf(in, a.Term)
		g.gated(in, appendAppendAnswer(in.answer[:0], a), a.Success)
	case *raft.InstallSnapshotResponse:
		g.heardOf(in, a.Term)
		g.gated(in, appendVoteAnswer(in.answer[:0], a.Term, a.Success), a.Success)
	case *raft.RequestVoteResponse:
		g.mu.Lock()
		g.observeLocked(a.Term)
		g.mu.Unlock()
		g.voteOut(in, a.Granted)
		in.send(appendVoteAnswer(in.answer[:0], a.Term, a.Granted))
	case *raft.RequestPreVoteResponse:
		in.send(appendVoteAnswer(in.answer[:0], a.Term, a.Granted))
	case *raft.TimeoutNowResponse:
		in.send(appendVoteAnswer(in.answer[:0], 0, true))
	default:
		if in.kind == typeFeed {
			g.fed(in, nil)
			in.free()
			return
		}
		in.refuse(fmt.Errorf("raft answered with %T", r.Response))
	}
}

// heardOf notes whom raft follows, from its answer to a leader's request.
func (g *Group) heardOf(in *inbound, term uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if term <= in.term {
		g.acceptedLocked(in.link, in.term)
	} else {
		g.observeLocked(term)
	}
}

// send answers a request and is done with it.
func (in *inbound) send(body []byte) {
	if in.link != nil {
		in.link.send(head{kind: in.kind + 1, id: in.id}, body)
	}
	in.free()
}

// gated sends an answer once what it promises is durable, in the order of raft's.
func (g *Group) gated(in *inbound, body []byte, promises bool) {
	in.length = len(body)
	b := &g.inbox
	b.answersMu.Lock()
	b.answers = append(b.answers, in)
	b.answersMu.Unlock()
	if promises && g.gate != nil {
		g.gate.AfterDurable(in.fire)
		return
	}
	g.released(in)
}

// released marks an answer as ready and sends all that are, up to the first that
// is not.
func (g *Group) released(in *inbound) {
	b := &g.inbox
	b.answersMu.Lock()
	in.ready = true
	n := 0
	for n < len(b.answers) && b.answers[n].ready {
		a := b.answers[n]
		a.link.send(head{kind: a.kind + 1, id: a.id}, a.answer[:a.length])
		n++
	}
	for _, a := range b.answers[:n] {
		a.free()
	}
	b.answers = slices.Delete(b.answers, 0, n)
	b.answersMu.Unlock()
}
