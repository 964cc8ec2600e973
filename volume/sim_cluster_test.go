package volume

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// simCluster is three chunkservers and two copysets in one struct: what replicas
// agree on is applied once, in log order, the way raft would have it; around that,
// messages are late, lost and repeated, servers hang, connections break, and
// leaders change. It serves backend.Replicas to one volume.
type simCluster struct {
	backend.Chunks
	fenced bool

	mu       sync.Mutex // guards all below
	random   *rand.Rand
	closed   bool
	watcher  backend.RouteWatcher
	copysets map[backend.CopysetID]*simCopyset
	hungTill [simServers + 1]time.Time
	out      map[*backend.Op]*simMessage
	faults   map[string]int // what was done to the volume

	newsMu sync.Mutex // news come one at a time
}

const simServers = 3

type simCopyset struct {
	leader, before backend.ServerID // 0 while an election is held
	term           uint64
	log            []*simMessage // proposed to the leader, not committed
	blocks         map[int64]uint64
	low            uint64
	applied        map[uint64]bool
}

// simMessage is one sending of an operation, copied as the wire would.
type simMessage struct {
	op       *backend.Op // to answer, nil once that was done
	kind     backend.OpKind
	copyset  backend.CopysetID
	server   backend.ServerID
	block    int64
	value    uint64
	seq, low uint64
}

func newSimCluster(seed uint64, fenced bool) *simCluster {
	s := &simCluster{
		fenced:   fenced,
		random:   rand.New(rand.NewPCG(seed, 1)),
		copysets: make(map[backend.CopysetID]*simCopyset),
		out:      make(map[*backend.Op]*simMessage),
		faults:   make(map[string]int),
	}
	for id := backend.CopysetID(1); id <= 2; id++ {
		s.copysets[id] = &simCopyset{term: 1, leader: backend.ServerID(id), blocks: make(map[int64]uint64), applied: make(map[uint64]bool)}
	}
	return s
}

// chance is true in percent of a hundred cases.
func (s *simCluster) chance(percent int) bool { return s.random.IntN(100) < percent }

func (s *simCluster) between(from, to time.Duration) time.Duration {
	return from + time.Duration(s.random.Int64N(int64(to-from)))
}

// after does something under mu later, unless the cluster is gone.
func (s *simCluster) after(d time.Duration, do func()) {
	time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			do()
		}
	})
}

func (s *simCluster) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *simCluster) Try(*backend.Op) bool { return false }

func (s *simCluster) Submit(op *backend.Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &simMessage{op: op, kind: op.Kind, copyset: op.Chunk.Copyset, server: op.Server, block: blockOf(op), seq: op.Seq, low: op.Low}
	if op.Kind == backend.OpWrite {
		m.value = binary.LittleEndian.Uint64(op.Data)
	}
	s.out[op] = m
	first := s.between(100*time.Microsecond, 2*time.Millisecond)
	switch {
	case s.chance(3): // held somewhere for long
		s.faults["held"]++
		first = s.between(10*time.Millisecond, 10*time.Second)
	case s.chance(3):
		s.faults["unreachable"]++
		s.answer(m, backend.ErrUnreachable, 0)
		return
	}
	s.after(first, func() { s.deliver(m) })
	if s.chance(10) {
		s.faults["repeated"]++
		s.after(s.between(time.Millisecond, 10*time.Second), func() { s.deliver(m) })
	}
}

// deliver brings a message to its server.
func (s *simCluster) deliver(m *simMessage) {
	if left := time.Until(s.hungTill[m.server]); left > 0 {
		s.after(left+s.between(0, time.Millisecond), func() { s.deliver(m) })
		return
	}
	c := s.copysets[m.copyset]
	if c.leader != m.server {
		s.refuse(c, m)
		return
	}
	if s.chance(3) {
		s.reply(m, backend.ErrOverload, 0)
		return
	}
	if m.kind == backend.OpRead {
		s.reply(m, nil, c.blocks[m.block])
		return
	}
	c.log = append(c.log, m)
	term := c.term
	s.after(s.between(200*time.Microsecond, 3*time.Millisecond), func() {
		if c.term == term && c.leader == m.server {
			s.commit(c, m)
		}
	})
}

// commit applies the log up to m, as raft does: in order.
func (s *simCluster) commit(c *simCopyset, m *simMessage) {
	for i, logged := range c.log {
		if logged != m {
			continue
		}
		for _, l := range c.log[:i+1] {
			s.apply(c, l)
			s.reply(l, nil, 0)
		}
		c.log = c.log[i+1:]
		return
	}
}

// apply is the state machine, with the fence of backend.Op.
func (s *simCluster) apply(c *simCopyset, m *simMessage) {
	done := m.seq < c.low || c.applied[m.seq]
	if done {
		s.faults["applied before"]++
	}
	if s.fenced && done {
		return
	}
	c.blocks[m.block] = m.value
	c.applied[m.seq] = true
	for c.low < m.low {
		delete(c.applied, c.low)
		c.low++
	}
}

func (s *simCluster) refuse(c *simCopyset, m *simMessage) {
	switch {
	case s.chance(5): // says nothing
		s.faults["ignored"]++
	case s.chance(10):
		s.reply(m, backend.ErrOutcomeUnknown, 0)
	case s.chance(10):
		s.reply(m, backend.ErrNoCopyset, 0)
	case s.chance(20): // knows only who led before
		s.reply(m, &backend.NotLeaderError{Copyset: m.copyset, Leader: c.before, Term: c.term - 1}, 0)
	case s.chance(30):
		s.reply(m, &backend.NotLeaderError{Copyset: m.copyset, Term: c.term}, 0)
	default:
		s.reply(m, &backend.NotLeaderError{Copyset: m.copyset, Leader: c.leader, Term: c.term}, 0)
	}
}

// reply answers over the network.
func (s *simCluster) reply(m *simMessage, err error, value uint64) {
	if s.chance(3) {
		s.faults["reply lost"]++
		return
	}
	s.after(s.between(100*time.Microsecond, 2*time.Millisecond), func() { s.answer(m, err, value) })
}

// answer completes the operation, if this sending of it is still waited for. It
// is called with mu, and completes without.
func (s *simCluster) answer(m *simMessage, err error, value uint64) {
	op := m.op
	if op == nil || s.out[op] != m {
		return
	}
	delete(s.out, op)
	m.op = nil
	op.Err = err
	if err == nil && op.Kind == backend.OpRead {
		binary.LittleEndian.PutUint64(op.Data, value)
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	op.Done.OpDone(op)
}

func (s *simCluster) Cancel(op *backend.Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.out[op]; m != nil {
		s.faults["cancelled"]++
		s.answer(m, fmt.Errorf("cancelled: %w", backend.ErrOutcomeUnknown), 0)
	}
}

func (s *simCluster) Ask(server backend.ServerID, id backend.CopysetID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Until(s.hungTill[server]) > 0 || s.chance(5) {
		return
	}
	c := s.copysets[id]
	leader, term := c.leader, c.term
	if s.chance(10) {
		leader, term = c.before, c.term-1
	}
	s.tell(id, leader, term)
}

// tell brings news, late.
func (s *simCluster) tell(id backend.CopysetID, leader backend.ServerID, term uint64) {
	s.after(s.between(100*time.Microsecond, 3*time.Millisecond), func() {
		s.news(func(w backend.RouteWatcher) { w.LeaderIs(id, leader, term) })
	})
}

// news calls the watcher without mu, which the caller has.
func (s *simCluster) news(call func(backend.RouteWatcher)) {
	w := s.watcher
	if w == nil {
		return
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	s.newsMu.Lock()
	defer s.newsMu.Unlock()
	call(w)
}

func (s *simCluster) Watch(w backend.RouteWatcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watcher = w
}

func (s *simCluster) Unwatch(backend.RouteWatcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watcher = nil
}

// disturb does one thing to the cluster.
func (s *simCluster) disturb() {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := backend.CopysetID(1 + s.random.IntN(2))
	server := backend.ServerID(1 + s.random.IntN(simServers))
	switch s.random.IntN(4) {
	case 0:
		s.depose(id, s.between(0, 300*time.Millisecond))
	case 1: // hang a server; the copysets that it leads find another
		s.faults["hung"]++
		d := s.between(100*time.Millisecond, 1500*time.Millisecond)
		s.hungTill[server] = time.Now().Add(d)
		for id, c := range s.copysets {
			if c.leader == server && d > 350*time.Millisecond {
				s.after(350*time.Millisecond, func() {
					if c.leader == server {
						s.depose(id, 50*time.Millisecond)
					}
				})
			}
		}
	case 2: // break a connection
		s.faults["connection lost"]++
		for op, m := range s.out {
			if m.server == server {
				s.answer(s.out[op], backend.ErrOutcomeUnknown, 0)
			}
		}
		s.news(func(w backend.RouteWatcher) { w.ServerLost(server) })
	case 3: // somebody stands for election in vain
		s.faults["vain election"]++
		s.tell(id, 0, s.copysets[id].term+uint64(s.random.IntN(2)))
	}
}

// depose ends a leader's term; another is elected after gap. What the old one had
// in its log is committed by the next one, or lost.
func (s *simCluster) depose(id backend.CopysetID, gap time.Duration) {
	c := s.copysets[id]
	if c.leader == 0 {
		return
	}
	s.faults["leader changed"]++
	c.before, c.leader = c.leader, 0
	if s.chance(50) {
		s.tell(id, 0, c.term)
	}
	s.after(gap, func() {
		c.term++
		kept := c.log[:s.random.IntN(len(c.log)+1)]
		for _, m := range c.log {
			s.reply(m, backend.ErrOutcomeUnknown, 0)
		}
		for _, m := range kept {
			s.apply(c, m)
		}
		c.log = nil
		c.leader = 1 + backend.ServerID(s.random.IntN(simServers))
		if s.chance(70) {
			s.tell(id, c.leader, c.term)
		}
	})
}
