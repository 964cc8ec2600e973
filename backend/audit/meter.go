package audit

import (
	"sync"
	"sync/atomic"
	"time"
)

// Meter measures stalls: stretches of time with IO in flight and none completed.
// Submit and Complete may be called from any goroutine; they take no lock and
// allocate nothing.
type Meter struct {
	start time.Time
	// state is how many are in flight (low bits) and when there was progress last
	// (microseconds since start, high bits). Both in one word: an idle stretch
	// between two requests must never pass for a stall.
	state atomic.Uint64
	now   atomic.Pointer[event] // that completions are counted to

	mu     sync.Mutex // guards events
	events []*event
}

const (
	flightBits = 20
	// maxInFlight bounds the requests in flight; 44 bits of microseconds are left,
	// half a year.
	maxInFlight = 1<<flightBits - 1
	// maxEvents bounds what a Meter remembers. Later marks still count, together,
	// as one.
	maxEvents = 1 << 16
)

type event struct {
	name        string
	at          int64 // µs since start
	stall, slow atomic.Int64
	completed   atomic.Int64
}

// NewMeter starts the clock.
func NewMeter() *Meter {
	m := &Meter{start: time.Now()}
	first := &event{name: "start"}
	m.events = []*event{first}
	m.now.Store(first)
	return m
}

// Ticket is one request in flight.
type Ticket int64

func (m *Meter) clock() int64 { return int64(time.Since(m.start) / time.Microsecond) }

// Submit says that a request is on its way.
func (m *Meter) Submit() Ticket {
	now := m.clock()
	for {
		old := m.state.Load()
		flying, last := old&maxInFlight, int64(old>>flightBits)
		if flying == maxInFlight {
			panic("audit: more requests in flight than a Meter can count")
		}
		if flying == 0 {
			// What was before was idleness.
			last = max(last, now)
		}
		if m.state.CompareAndSwap(old, uint64(last)<<flightBits|(flying+1)) {
			return Ticket(now)
		}
	}
}

// Complete says that the request has been answered, well or not, and returns
// how long that took.
func (m *Meter) Complete(t Ticket) time.Duration {
	now := m.clock()
	for {
		old := m.state.Load()
		flying, last := old&maxInFlight, int64(old>>flightBits)
		if flying == 0 {
			panic("audit: Complete without Submit")
		}
		if !m.state.CompareAndSwap(old, uint64(max(last, now))<<flightBits|(flying-1)) {
			continue
		}
		e := m.now.Load()
		raise(&e.stall, now-last)
		raise(&e.slow, now-int64(t))
		e.completed.Add(1)
		return time.Duration(now-int64(t)) * time.Microsecond
	}
}

// raise makes v at least n.
func raise(v *atomic.Int64, n int64) {
	for old := v.Load(); n > old; old = v.Load() {
		if v.CompareAndSwap(old, n) {
			return
		}
	}
}

// InFlight is how many requests are not answered, and for how long now none of
// them was; 0 when there are none.
func (m *Meter) InFlight() (n int, stalled time.Duration) {
	state := m.state.Load()
	if n = int(state & maxInFlight); n > 0 {
		stalled = time.Duration(max(0, m.clock()-int64(state>>flightBits))) * time.Microsecond
	}
	return n, stalled
}

// Mark says that something happened (a server was killed): what completes from
// now on is counted to it. A stall that is going on counts to both sides.
func (m *Meter) Mark(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, stalled := m.InFlight()
	raise(&m.now.Load().stall, int64(stalled/time.Microsecond))
	if len(m.events) == maxEvents {
		return
	}
	e := &event{name: name, at: m.clock()}
	m.events = append(m.events, e)
	m.now.Store(e)
}

// Event is what a Meter saw between two marks.
type Event struct {
	Name string
	// At is when, since the Meter's start.
	At time.Duration
	// Stall is the longest time with IO in flight and none completed; Slowest the
	// longest single IO. What was in flight at the mark counts from its beginning.
	Stall, Slowest time.Duration
	Completed      int64
}

// Events returns what was seen so far: first, as "start", what came before the
// first mark, then every mark. A stall that is going on is in the last of them.
func (m *Meter) Events() []Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, stalled := m.InFlight()
	events := make([]Event, len(m.events))
	for i, e := range m.events {
		events[i] = Event{
			Name: e.name, At: time.Duration(e.at) * time.Microsecond,
			Stall:     time.Duration(e.stall.Load()) * time.Microsecond,
			Slowest:   time.Duration(e.slow.Load()) * time.Microsecond,
			Completed: e.completed.Load(),
		}
	}
	last := &events[len(events)-1]
	last.Stall = max(last.Stall, stalled)
	return events
}

// Stalls summarizes the events.
func (m *Meter) Stalls() Stalls { return SummarizeStalls(m.Events()) }
