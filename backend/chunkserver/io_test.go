package chunkserver

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/memory"
	"github.com/opencurve/curve-nbd/backend/pb"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// patience bounds waits that a test that passes never sees the end of.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// toServer is remote.Chunks for a cluster of one server: it names it in each
// operation, and numbers changes.
type toServer struct {
	*remote.Chunks
	id backend.ServerID
	// seq numbers changes for the fence.
	mu  sync.Mutex
	seq uint64
}

func (c *toServer) Submit(op *backend.Op) {
	op.Server, op.Session = c.id, 1
	if op.Kind.Changes() {
		c.mu.Lock()
		c.seq++
		op.Seq, op.Low = c.seq, 1
		c.mu.Unlock()
	}
	c.Chunks.Submit(op)
}

// serveMemory is a server whose copyset 0 is in memory.
func serveMemory(t testing.TB) (*ioServer, *scripted) {
	t.Helper()
	s := serveIO(t, 1, "")
	r := &scripted{chunks: memory.New()}
	s.replicas.set(0, r)
	s.news.leaderChanged(0, 1, 1)
	return s, r
}

// Changes of a chunk in flight together may take effect in any order on Replicas; over
// one stream to one replica that works in order they keep it, so that the whole suite
// holds.
func TestChunksConformance(t *testing.T) {
	for _, declines := range []bool{false, true} {
		t.Run(fmt.Sprintf("try declines %v", declines), func(t *testing.T) {
			backendtest.TestChunks(t, func(t *testing.T) backend.Chunks {
				s, r := serveMemory(t)
				r.declines = declines
				return &toServer{Chunks: dialChunks(t, bookOf(s), remote.Options{}), id: 1}
			})
		})
	}
}

func newOp(kind backend.OpKind, off, length int64) *backend.Op {
	op := &backend.Op{
		Kind: kind, Volume: 7, Epoch: 1, Chunk: backend.ChunkRef{ID: 1, Size: backend.DefaultChunkSize},
		Off: off, Len: length, Server: 1, Session: 1, Seq: 1, Low: 1,
	}
	if kind == backend.OpRead || kind == backend.OpWrite {
		op.Data = bytes.Repeat([]byte{0xA5}, int(length))
	}
	return op
}

// start submits op and returns a channel that gets it when it is complete.
func start(c backend.Chunks, op *backend.Op) completion {
	done := make(completion, 1)
	op.Done = done
	c.Submit(op)
	return done
}

type completion chan *backend.Op

func (c completion) OpDone(op *backend.Op) { c <- op }

func (c completion) wait(t testing.TB) error {
	t.Helper()
	select {
	case op := <-c:
		return op.Err
	case <-time.After(patience):
		t.Fatal("an operation does not complete")
		return nil
	}
}

func TestOutcomesKeepTheirMeaning(t *testing.T) {
	s, r := serveMemory(t)
	c := dialChunks(t, bookOf(s), remote.Options{})
	for _, tc := range []struct {
		name       string
		from, want error
	}{
		{"stale epoch", fmt.Errorf("%w: volume 7 is at 9", backend.ErrStaleEpoch), backend.ErrStaleEpoch},
		{"no space", backend.ErrNoSpace, backend.ErrNoSpace},
		{"overload", backend.ErrOverload, backend.ErrOverload},
		{"checksum", backend.ErrChecksum, backend.ErrChecksum},
		{"outcome unknown", backend.ErrOutcomeUnknown, backend.ErrOutcomeUnknown},
		{"an error of the disk", errors.New("sector 7 is gone"), backend.ErrIO},
		{"closed there is not closed here", backend.ErrClosed, backend.ErrUnreachable},
		{"not supported", backend.ErrNotSupported, backend.ErrNotSupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r.script(func(r *scripted) { r.refuse = tc.from })
			for _, kind := range []backend.OpKind{backend.OpRead, backend.OpWrite, backend.OpTrim, backend.OpZero} {
				if err := start(c, newOp(kind, 0, 4096)).wait(t); !errors.Is(err, tc.want) || errors.Is(err, backend.ErrClosed) {
					t.Errorf("%v: got %v, want %v", kind, err, tc.want)
				}
			}
		})
	}
	t.Run("the hint of a redirect", func(t *testing.T) {
		want := backend.NotLeaderError{Copyset: 0, Leader: 3, Term: 99}
		r.script(func(r *scripted) { r.refuse = &want })
		err := start(c, newOp(backend.OpWrite, 0, 4096)).wait(t)
		var got *backend.NotLeaderError
		if !errors.As(err, &got) || *got != want {
			t.Errorf("got %v, want %v", err, &want)
		}
	})
	t.Run("a copyset that is not here", func(t *testing.T) {
		op := newOp(backend.OpWrite, 0, 4096)
		op.Chunk.Copyset = 5
		if err := start(c, op).wait(t); !errors.Is(err, backend.ErrNoCopyset) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an operation without a server", func(t *testing.T) {
		op := newOp(backend.OpWrite, 0, 4096)
		op.Server = 0
		if err := start(c, op).wait(t); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAllFieldsArrive(t *testing.T) {
	s, r := serveMemory(t)
	c := dialChunks(t, bookOf(s), remote.Options{Streams: 3})
	var got backend.Op
	var data []byte
	r.onSubmit = func(op *backend.Op) {
		got, data = *op, bytes.Clone(op.Data)
		op.Err = nil
		op.Done.OpDone(op)
	}
	want := backend.Op{
		Kind: backend.OpWrite, Flags: backend.FlagFUA, Volume: 1 << 40, Epoch: 1 << 41,
		Chunk: backend.ChunkRef{ID: 1 << 60, Copyset: 17, Size: backend.MaxChunkSize},
		Off:   backend.MaxChunkSize - 100<<10, Len: 100 << 10, Data: bytes.Repeat([]byte("0123456789abcdef"), 100<<6),
		Session: 1 << 42, Seq: 1 << 43, Low: 1<<43 - 5, Server: 1,
	}
	s.replicas.set(17, r)
	op := want
	if err := start(c, &op).wait(t); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want.Data) {
		t.Error("the payload was changed on the way")
	}
	got.Data, want.Data, got.Done, want.Server = nil, nil, nil, 0
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestChangesPayloadIsFreeAfterSubmit(t *testing.T) {
	s, r := serveMemory(t)
	c := dialChunks(t, bookOf(s), remote.Options{})
	held := make(chan *backend.Op, 64)
	var mu sync.Mutex
	var wrong int
	r.onSubmit = func(op *backend.Op) {
		mu.Lock()
		defer mu.Unlock()
		if !bytes.Equal(op.Data, bytes.Repeat([]byte{byte(op.Seq)}, int(op.Len))) {
			wrong++
		}
		held <- op
	}
	var waits []completion
	data := make([]byte, 64<<10)
	for i := range 32 {
		op := newOp(backend.OpWrite, 0, int64(len(data)))
		op.Seq = uint64(i + 1)
		op.Data = data
		for k := range data {
			data[k] = byte(op.Seq)
		}
		waits = append(waits, start(c, op))
	}
	clear(data)
	for range 32 {
		op := <-held
		op.Err = nil
		op.Done.OpDone(op)
	}
	for _, w := range waits {
		if err := w.wait(t); err != nil {
			t.Error(err)
		}
	}
	if wrong != 0 {
		t.Errorf("%d payloads were not what they were at Submit", wrong)
	}
}

func TestNewsReachEveryClient(t *testing.T) {
	s, _ := serveMemory(t)
	first, second := newWatcher(), newWatcher()
	a, b := dialChunks(t, bookOf(s), remote.Options{}), dialChunks(t, bookOf(s), remote.Options{Streams: 2})
	a.Watch(first)
	b.Watch(second)
	a.Ask(1, 0)
	b.Ask(1, 0)
	is := func(want pb.Route) func(*watcher) bool {
		return func(w *watcher) bool { return w.routes[want.Copyset] == want }
	}
	for _, w := range []*watcher{first, second} {
		w.await(t, "what is known at the beginning", is(pb.Route{Copyset: 0, Leader: 1, Term: 1}))
	}
	s.news.leaderChanged(0, 3, 2)
	s.news.leaderChanged(8, 1, 5)
	for _, w := range []*watcher{first, second} {
		w.await(t, "a new leader", is(pb.Route{Copyset: 0, Leader: 3, Term: 2}))
		w.await(t, "a new copyset", is(pb.Route{Copyset: 8, Leader: 1, Term: 5}))
	}
	s.news.leaderChanged(8, 0, 5)
	first.await(t, "a leader that resigned", is(pb.Route{Copyset: 8, Leader: 0, Term: 5}))

	late := newWatcher()
	a.Watch(late)
	late.await(t, "what is known when the watch begins", is(pb.Route{Copyset: 0, Leader: 3, Term: 2}))
	a.Unwatch(late)
	s.news.leaderChanged(0, 2, 3)
	first.await(t, "the newest leader", is(pb.Route{Copyset: 0, Leader: 2, Term: 3}))
	if late.routes[0].Term == 3 {
		t.Error("a watcher heard news after Unwatch")
	}
}

func TestAskIsAnsweredThoughNothingChanged(t *testing.T) {
	s, _ := serveMemory(t)
	w := newWatcher()
	c := dialChunks(t, bookOf(s), remote.Options{})
	c.Watch(w)
	c.Ask(1, 0)
	w.await(t, "the welcome", func(w *watcher) bool { return w.routes[0].Term == 1 })
	for range 3 {
		w.mu.Lock()
		delete(w.routes, 0)
		w.mu.Unlock()
		c.Ask(1, 0)
		w.await(t, "an answer", func(w *watcher) bool { return w.routes[0].Leader == 1 })
	}
}
