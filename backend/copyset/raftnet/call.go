package raftnet

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// call is a request that waits for its answer.
type call struct {
	id   uint64
	done chan error
	// future is set for a pipelined AppendEntries, and done is not.
	future *future

	// Where the answer goes; by the request's type.
	append  *raft.AppendEntriesResponse
	term    uint64
	granted bool
}

func (c *call) fail(err error) {
	if c.future != nil {
		c.future.pipeline.fail(err)
		return
	}
	c.done <- err
}

// finish reads the answer's body into the call and completes it. Its error is
// one of the wire's.
func (c *call) finish(kind uint8, body []byte) error {
	if (kind == typeAppendAnswer) != (c.append != nil) {
		err := fmt.Errorf("%w: answer of type %d to another request", errWire, kind)
		c.fail(err)
		return err
	}
	var remote, err error
	if kind != typeAppendAnswer {
		c.term, c.granted, remote, err = decodeVoteAnswer(body)
	} else {
		var resp raft.AppendEntriesResponse
		remote, err = decodeAppendAnswer(body, &resp)
		if err == nil && c.future != nil {
			// Under the pipeline's lock: raft may have been told of a failure.
			c.future.pipeline.complete(c.future, resp, remote)
			return nil
		}
		if c.future == nil {
			*c.append = resp
		}
	}
	if err != nil {
		c.fail(err)
		return err
	}
	c.done <- remote
	return nil
}

// roundTrip sends a request on l and waits for its answer.
func (g *Group) roundTrip(l *link, kind uint8, c *call, timeout time.Duration, put func(*message)) error {
	c.done = make(chan error, 1)
	if err := l.request(head{kind: kind, copyset: g.id}, c, kind == typeAppend, put); err != nil {
		return err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var err error
	select {
	case err = <-c.done:
		return err
	case <-g.closed:
		err = raft.ErrTransportShutdown
	case <-timer.C:
		err = fmt.Errorf("%w: %v did not answer for %v within %v", backend.ErrUnreachable, l.peer, g.id, timeout)
	}
	if !l.forget(c) {
		return <-c.done // the answer is being read into raft's response
	}
	return err
}

// control sends a small request to a peer, on the control link that is up now.
func (g *Group) control(to backend.ServerID, kind uint8, timeout time.Duration, put func(*message)) (*call, error) {
	l, err := g.net.controlLink(to)
	if err != nil {
		return nil, err
	}
	c := &call{}
	return c, g.roundTrip(l, kind, c, timeout, put)
}

// handleAnswer completes the call that a message answers.
func (l *link) handleAnswer(h head, body []byte) error {
	c := l.answered(h.id)
	if c == nil {
		return nil // its caller gave up
	}
	return c.finish(h.kind, body)
}
