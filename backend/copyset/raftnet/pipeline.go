package raftnet

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// pipeline is AppendEntries in flight to one peer. It lives as long as the link
// that it began with: when that breaks, all that is in flight fails at once, and
// raft goes back to asking one by one.
type pipeline struct {
	group *Group
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
}

// future is one of them.
type future struct {
	pipeline *pipeline
	start    time.Time
	args     *raft.AppendEntriesRequest
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
	l, err := g.net.dataLink(ParsePeer(id), 0, nil)
	if err != nil {
		return nil, err
	}
	p := &pipeline{
		group: g, link: l,
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
	f := &future{pipeline: p, start: time.Now(), args: args}
	f.call = call{future: f, append: resp}
	f.wait.Add(1)
	p.mu.Lock()
	if p.err != nil {
		defer p.mu.Unlock()
		return nil, p.err
	}
	p.flight = append(p.flight, f)
	p.mu.Unlock()
	commit := p.group.committed(args.LeaderCommitIndex)
	err := p.link.request(head{kind: typeAppend, copyset: p.group.id}, &f.call, true, func(m *message) { putAppend(m, args, commit) })
	if err != nil {
		p.fail(err)
		return nil, err
	}
	return f, nil
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
