package volume

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// trace is what happened in a script, in virtual time. What several goroutines
// did at the same instant is put in order of its kind; each kind comes from one
// goroutine.
type trace struct {
	mu     sync.Mutex
	began  time.Time
	events []traceEvent
}

type traceEvent struct {
	at      time.Time
	kind    int
	text    string
	copyset backend.CopysetID // of a question
}

const (
	kindMeta = iota
	kindCancel
	kindAsk
	kindSend
	kindDone
	kindLog
)

func (t *trace) add(kind int, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, traceEvent{at: time.Now(), kind: kind, text: fmt.Sprintf(format, args...)})
}

// take returns the lines since the last take.
func (t *trace) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortStableFunc(t.events, func(a, b traceEvent) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return cmp.Or(a.kind-b.kind, int(a.copyset)-int(b.copyset))
	})
	var text strings.Builder
	events := t.events
	t.events = nil
	for len(events) > 0 {
		e, rounds := events[0], askRounds(events)
		at := e.at.Sub(t.began).String()
		if n := len(rounds); n > 0 {
			e.text = "ask"
			for _, a := range rounds[0] {
				e.text += " " + a.text
			}
			e.text += fmt.Sprintf(" about copyset %d", e.copyset)
			if n > 1 {
				at += fmt.Sprintf(" to %v", rounds[n-1][0].at.Sub(t.began))
				e.text += fmt.Sprintf(", %d times", n)
			}
			events = events[n*len(rounds[0]):]
		} else {
			events = events[1:]
		}
		fmt.Fprintf(&text, "%s %s\n", at, e.text)
	}
	return text.String()
}

// askRounds are the events, from the first on, that ask the same servers about the
// same copyset, once an instant.
func askRounds(events []traceEvent) (rounds [][]traceEvent) {
	for len(events) > 0 && events[0].kind == kindAsk {
		n := 1
		for n < len(events) && events[n].kind == kindAsk && events[n].at.Equal(events[0].at) && events[n].copyset == events[0].copyset {
			n++
		}
		round := events[:n]
		if len(rounds) > 0 && !slices.EqualFunc(rounds[0], round, func(a, b traceEvent) bool { return a.text == b.text && a.copyset == b.copyset }) {
			break
		}
		rounds, events = append(rounds, round), events[n:]
	}
	return rounds
}

// scriptedReplicas is a backend that answers when the script says so.
type scriptedReplicas struct {
	backend.Chunks
	trace *trace
	fail  func(format string, args ...any)

	mu      sync.Mutex // guards all below
	watcher backend.RouteWatcher
	known   []routeNewsOf
	out     map[string]*backend.Op
	names   map[int64]string // by offset in the volume's only segment
	blocked map[backend.ServerID]chan struct{}
}

type routeNewsOf struct {
	copyset backend.CopysetID
	leader  backend.ServerID
	term    uint64
}

// blockOf is the offset of an operation in the segment: it identifies it.
func blockOf(op *backend.Op) int64 { return int64(op.Chunk.ID-1)*op.Chunk.Size + op.Off }

func (s *scriptedReplicas) Try(*backend.Op) bool { return false }

func (s *scriptedReplicas) Submit(op *backend.Op) {
	s.mu.Lock()
	gate := s.blocked[op.Server]
	name, ok := s.names[blockOf(op)]
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if ok {
		seq := ""
		if op.Kind.Changes() {
			seq = fmt.Sprintf(" seq %d low %d", op.Seq, op.Low)
		}
		s.trace.add(kindSend, "send %s to cs%d%s", name, op.Server, seq)
	} else {
		name = fmt.Sprint(blockOf(op))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out[name] != nil {
		s.fail("%s was sent again while it is out", name)
	}
	if op.Kind.Changes() && (op.Session != scriptSession || op.Seq == 0 || op.Low > op.Seq || op.Seq-op.Low >= backend.FenceWindow) {
		s.fail("%s breaks the fence's rules: session %d seq %d low %d", name, op.Session, op.Seq, op.Low)
	}
	s.out[name] = op
}

func (s *scriptedReplicas) Cancel(op *backend.Op) {
	s.mu.Lock()
	name := s.names[blockOf(op)]
	if name == "" {
		name = fmt.Sprint(blockOf(op))
	}
	found := s.out[name]
	delete(s.out, name)
	s.mu.Unlock()
	s.trace.add(kindCancel, "cancel %s", name)
	if found != op {
		s.fail("%s was cancelled and is not out", name)
		return
	}
	op.Err = fmt.Errorf("cancelled: %w", backend.ErrOutcomeUnknown)
	op.Done.OpDone(op)
}

func (s *scriptedReplicas) Ask(server backend.ServerID, copyset backend.CopysetID) {
	s.trace.mu.Lock()
	defer s.trace.mu.Unlock()
	s.trace.events = append(s.trace.events, traceEvent{at: time.Now(), kind: kindAsk, text: fmt.Sprintf("cs%d", server), copyset: copyset})
}

func (s *scriptedReplicas) Watch(w backend.RouteWatcher) {
	s.mu.Lock()
	s.watcher = w
	known := s.known
	s.mu.Unlock()
	for _, k := range known {
		w.LeaderIs(k.copyset, k.leader, k.term)
	}
}

func (s *scriptedReplicas) Unwatch(backend.RouteWatcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watcher = nil
}

// answer completes an operation; false when it is not out.
func (s *scriptedReplicas) answer(name string, err error) bool {
	s.mu.Lock()
	op := s.out[name]
	delete(s.out, name)
	s.mu.Unlock()
	if op == nil {
		return false
	}
	op.Err = err
	op.Done.OpDone(op)
	return true
}

const scriptSession backend.SessionID = 77

var scriptGeometry = backend.DefaultGeometry()

// scriptedMeta knows one volume of one segment, whose chunks lie on copysets 1
// and 2 in turn.
type scriptedMeta struct {
	backend.Meta
	trace *trace
	mu    sync.Mutex // guards all below
	peers []backend.ServerID
	down  bool
}

func (m *scriptedMeta) OpenVolume(context.Context, string, string, backend.OpenMode) (backend.Lease, error) {
	return backend.Lease{Epoch: 9, Session: scriptSession, Volume: backend.VolumeInfo{
		ID: 5, Name: "v", Size: scriptGeometry.SegmentSize, Geometry: scriptGeometry}}, nil
}

func (m *scriptedMeta) CloseVolume(context.Context, backend.VolumeID, backend.Epoch) error {
	return nil
}

func (m *scriptedMeta) Segment(context.Context, backend.VolumeID, backend.SegmentIndex) (backend.Segment, error) {
	g := scriptGeometry
	s := backend.Segment{}
	for i := range g.SegmentSize / g.ChunkSize {
		s.Chunks = append(s.Chunks, backend.ChunkRef{ID: backend.ChunkID(i + 1), Copyset: backend.CopysetID(i%2 + 1), Size: g.ChunkSize})
	}
	return s, nil
}

func (m *scriptedMeta) Segments(ctx context.Context, id backend.VolumeID) ([]backend.Segment, error) {
	s, err := m.Segment(ctx, id, 0)
	return []backend.Segment{s}, err
}

func (m *scriptedMeta) AllocateSegment(ctx context.Context, id backend.VolumeID, _ backend.Epoch, i backend.SegmentIndex) (backend.Segment, error) {
	return m.Segment(ctx, id, i)
}

func (m *scriptedMeta) Copyset(_ context.Context, id backend.CopysetID) (backend.Copyset, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		m.trace.add(kindMeta, "meta: copyset %d? unreachable", id)
		return backend.Copyset{}, backend.ErrUnreachable
	}
	m.trace.add(kindMeta, "meta: copyset %d? %v", id, m.peers)
	return backend.Copyset{ID: id, Peers: slices.Clone(m.peers)}, nil
}

// traceHandler writes log lines into the trace.
type traceHandler struct {
	trace *trace
	attrs string
}

func (h traceHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h traceHandler) Handle(_ context.Context, r slog.Record) error {
	text := r.Message + h.attrs
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	h.trace.add(kindLog, "log %v: %s", r.Level, text)
	return nil
}

func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.attrs += " " + a.String()
	}
	return h
}

func (h traceHandler) WithGroup(string) slog.Handler { return h }
