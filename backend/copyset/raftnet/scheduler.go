package raftnet

import (
	"container/heap"
	"sync"
	"time"
)

// scheduler runs what groups have to do at certain times: pass held votes on,
// stand for election. One goroutine for all groups.
type scheduler struct {
	mu   sync.Mutex
	heap alarms
	wake chan struct{}
	end  chan struct{}
	once sync.Once
}

type alarm struct {
	at    instant
	group *Group
}

func (s *scheduler) init() {
	s.wake, s.end = make(chan struct{}, 1), make(chan struct{})
}

// at has g.alarm called at that time, or soon after. A group has one alarm for
// each time at most.
func (s *scheduler) at(t instant, g *Group) {
	s.mu.Lock()
	for _, a := range s.heap {
		if a.group == g && a.at == t {
			s.mu.Unlock()
			return
		}
	}
	heap.Push(&s.heap, alarm{t, g})
	first := s.heap[0].group == g && s.heap[0].at == t
	s.mu.Unlock()
	if first {
		poke(s.wake)
	}
}

// run serves alarms until stop.
func (s *scheduler) run(n *Net) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		now := n.now()
		var due []*Group
		for len(s.heap) > 0 && s.heap[0].at <= now {
			due = append(due, heap.Pop(&s.heap).(alarm).group)
		}
		wait := time.Hour
		if len(s.heap) > 0 {
			wait = time.Duration(s.heap[0].at - now)
		}
		s.mu.Unlock()
		for _, g := range due {
			g.alarm()
		}
		if len(due) > 0 {
			continue // alarms may have been set
		}
		timer.Reset(wait)
		select {
		case <-s.end:
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

func (s *scheduler) stop() { s.once.Do(func() { close(s.end) }) }

// alarm does what is due in the group.
func (g *Group) alarm() {
	g.mu.Lock()
	held, standing := len(g.votes.held) > 0, g.camp.on
	g.mu.Unlock()
	if held {
		g.passVotes()
	}
	g.adjustPatience()
	if standing {
		g.stand()
	}
}

// alarms is a heap by time.
type alarms []alarm

func (h alarms) Len() int           { return len(h) }
func (h alarms) Less(i, j int) bool { return h[i].at < h[j].at }
func (h alarms) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *alarms) Push(x any)        { *h = append(*h, x.(alarm)) }
func (h *alarms) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = alarm{}
	*h = old[:len(old)-1]
	return last
}
