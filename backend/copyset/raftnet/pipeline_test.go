package raftnet

import (
	"testing"

	"github.com/hashicorp/raft"
)

// repeated is the empty request that raft sends when nothing happens.
func repeated(index, commit uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: headerOf(1), Term: 1, PrevLogEntry: index, PrevLogTerm: 1, LeaderCommitIndex: commit}
}

func TestRequestsWithoutNewsStayHere(t *testing.T) {
	gate := &valve{durable: 100}
	p := newPair(t, [2]Gate{gate, nil})
	seen := make(chan *raft.AppendEntriesRequest, 16)
	p.follow(t, func(c any) { seen <- c.(*raft.AppendEntriesRequest) })
	pipe, err := p.groups[0].AppendEntriesPipeline("2", "2")
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	for _, c := range []struct {
		name string
		req  *raft.AppendEntriesRequest
		sent bool
	}{
		{"first, though empty", repeated(4, 4), true},
		{"the same", repeated(4, 4), false},
		{"an entry", request(5, []byte("x")), true},
		{"the commit of the entry", repeated(5, 5), true},
		{"the same again", repeated(5, 5), false},
		{"and again", repeated(5, 5), false},
		{"an older place", repeated(4, 5), true},
		{"a newer place", repeated(5, 5), true},
		{"another term", func() *raft.AppendEntriesRequest { r := repeated(5, 5); r.Term = 2; return r }(), true},
	} {
		if _, err := pipe.AppendEntries(c.req, &raft.AppendEntriesResponse{}); err != nil {
			t.Fatal(c.name, err)
		}
		f := <-pipe.Consumer()
		if r := f.Response(); f.Error() != nil || f.Request() != c.req || !r.Success && c.req.Term == 1 {
			t.Errorf("%s: answer %+v, %v", c.name, r, f.Error())
		}
		if sent := len(seen) > 0; sent != c.sent {
			t.Errorf("%s: sent is %v", c.name, sent)
		}
		for len(seen) > 0 {
			<-seen
		}
	}
}

// A follower that is not heard of must not pass for one that has just answered:
// raft would lead on without a majority.
func TestRequestsToSilentFollowersAreSent(t *testing.T) {
	p := newPair(t, [2]Gate{nil, nil})
	seen := make(chan *raft.AppendEntriesRequest, 16)
	p.follow(t, func(c any) { seen <- c.(*raft.AppendEntriesRequest) })
	pipe, err := p.groups[0].AppendEntriesPipeline("2", "2")
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	send := func() {
		t.Helper()
		if _, err := pipe.AppendEntries(repeated(4, 4), &raft.AppendEntriesResponse{}); err != nil {
			t.Fatal(err)
		}
		<-pipe.Consumer()
	}
	send()
	<-seen
	n := p.nets[0]
	for range 100 { // a pong may come in between
		n.peer(2).heard.Store(int64(n.now() - instant(n.opts.Lease)))
		if send(); len(seen) > 0 {
			return
		}
	}
	t.Error("the request was not sent")
}
