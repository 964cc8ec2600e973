package raftnet

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// pipeline is AppendEntries in flight to one peer. It lives as long as the link
// that it began with: when that breaks, all that is in flight fails at once, and
// raft goes back to asking one by one.
//
// raft repeats its last request, empty, a few times a second for as long as nothing
// else happens. One that would tell the follower nothing it has not answered already
// stays here: with a hundred copysets they are most of what an idle chunkserver does.
type pipeline struct {
	group *Group
	peer  *peer
	link  *link
	slots chan struct{}
	// done has room for far more than may be in flight, as a slot is free again
	// before raft has taken the future.
	done   chan raft.AppendFuture
	closed chan struct{}

	// mu guards flight, the futures in the order of sending, and err.
	mu     sync.Mutex
	flight []*future
	err    error
	// told is what the follower has agreed to last, with lastLog of its answer.
	told    position
	lastLog uint64
}

// position is what an append leaves a follower at: a log that agrees with the
// leader's of that term up to an entry, and is committed up to another.
type position struct{ term, index, indexTerm, commit uint64 }

func positionAfter(a *raft.AppendEntriesRequest, commit uint64) position {
	p := position{term: a.Term, index: a.PrevLogEntry, indexTerm: a.PrevLogTerm, commit: commit}
	if n := len(a.Entries); n > 0 {
		p.index, p.indexTerm = a.Entries[n-1].Index, a.Entries[n-1].Term
	}
	return p
}

// future is one of them.
type future struct {
	pipeline *pipeline
	start    time.Time
	args     *raft.AppendEntriesRequest
	commit   uint64 // what the follower is told, see committed
	call     call
	wait     sync.WaitGroup
	err      error
}

func (f *future) Error() error                          { f.wait.Wait(); return f.err }
func (f *future) Start() time.Time                      { return f.start }
func (f *future) Request() *raft.AppendEntriesRequest   { return f.args }
func (f *future) Response() *raft.AppendEntriesResponse { return f.call.append }

// AppendEntriesPipeline implements raft.Transport.
func (g *Group) AppendEntriesPipeline(id raft.ServerID, _ raft.ServerAddress) (raft.AppendPipeline, error) {
	peer, err := g.net.known(ParsePeer(id))
	if err != nil {
		return nil, err
	}
	l, err := g.net.dataLink(peer.id, 0, nil)
	if err != nil {
		return nil, err
	}
	p := &pipeline{
		group: g, peer: peer, link: l,
		slots: make(chan struct{}, pipelineDepth), done: make(chan raft.AppendFuture, 8*pipelineDepth),
		closed: make(chan struct{}),
	}
	if err := l.join(p); err != nil {
		return nil, err
	}
	return p, nil
}

// AppendEntries implements raft.AppendPipeline. It waits for a slot.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := fitAppend(args); err != nil {
		return nil, err
	}
	select {
	case p.slots <- struct{}{}:
	case <-p.closed:
		return nil, p.failure()
	case <-p.group.closed:
		return nil, raft.ErrTransportShutdown
	}
	f := &future{pipeline: p, start: time.Now(), args: args, commit: p.group.committed(args.LeaderCommitIndex)}
	f.call = call{future: f, append: resp}
	f.wait.Add(1)
	p.mu.Lock()
	if p.err != nil {
		defer p.mu.Unlock()
		return nil, p.err
	}
	if p.knownLocked(f) {
		defer p.mu.Unlock()
		*resp = raft.AppendEntriesResponse{RPCHeader: responseHeader, Term: args.Term, LastLog: p.lastLog, Success: true}
		p.finishLocked(f, nil)
		<-p.slots
		return f, nil
	}
	p.flight = append(p.flight, f)
	p.mu.Unlock()
	err := p.link.request(head{kind: typeAppend, copyset: p.group.id}, &f.call, true, func(m *message) { putAppend(m, args, f.commit) })
	if err != nil {
		p.fail(err)
		return nil, err
	}
	return f, nil
}

// knownLocked says that the answer to f is known: the follower has given it before,
// nothing was sent since, and it is alive, so that raft may count it as heard of.
func (p *pipeline) knownLocked(f *future) bool {
	return len(f.args.Entries) == 0 && len(p.flight) == 0 && p.told == positionAfter(f.args, f.commit) && p.peer.fresh()
}

func (p *pipeline) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// complete takes an answer. The peer answers a group's requests in order.
func (p *pipeline) complete(f *future, resp raft.AppendEntriesResponse, err error) {
	p.mu.Lock()
	if p.err != nil || len(p.flight) == 0 || p.flight[0] != f {
		broken := p.err == nil
		p.mu.Unlock()
		if broken {
			p.fail(errWire)
		}
		return
	}
	*f.call.append = resp
	p.told, p.lastLog = position{}, resp.LastLog
	if err == nil && resp.Success && resp.Term == f.args.Term {
		p.told = positionAfter(f.args, f.commit)
	}
	p.flight[0] = nil
	p.flight = p.flight[1:]
	p.finishLocked(f, err)
	full := cap(p.done)-len(p.done) == 0
	p.mu.Unlock()
	<-p.slots
	if full {
		p.fail(errQueueFull)
	}
}

// finishLocked hands a future to raft.
func (p *pipeline) finishLocked(f *future, err error) {
	f.err = err
	f.wait.Done()
	select {
	case p.done <- f:
	default:
	}
}

// fail ends the pipeline. What is in flight goes to raft without success, and
// raft looks at that, not at the error.
func (p *pipeline) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	p.err = err
	close(p.closed)
	if len(p.flight) == 0 {
		// raft shall notice now, and not when it has something to send.
		f := &future{pipeline: p, start: time.Now(), args: &raft.AppendEntriesRequest{}}
		f.call.append = &raft.AppendEntriesResponse{}
		f.wait.Add(1)
		p.finishLocked(f, err)
	}
	for _, f := range p.flight {
		p.finishLocked(f, err)
	}
	p.flight = nil
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.link.leave(p)
	p.fail(raft.ErrPipelineShutdown)
	return nil
}
