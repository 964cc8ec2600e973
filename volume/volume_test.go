package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

func TestVolumeBehavesLikeAByteArray(t *testing.T) {
	everyPath(t, func(t *testing.T, g backend.Geometry, inline bool) {
		f := open(t, g, inline, backend.QoS{}, Options{})
		model := make([]byte, testSize)
		rnd := rand.New(rand.NewPCG(1, 2))
		for step := range 600 {
			blocks := int64(testSize / 4096)
			off := rnd.Int64N(blocks)
			n := min(1+rnd.Int64N(1<<rnd.IntN(10)), blocks-off) * 4096
			off *= 4096
			var err error
			switch rnd.IntN(5) {
			case 0, 1:
				data := make([]byte, n)
				for i := range data {
					data[i] = byte(step + i>>9)
				}
				copy(model[off:], data)
				_, err = f.do(backend.OpWrite, off, n, data)
			case 2:
				clear(model[off : off+n])
				_, err = f.do(backend.OpZero, off, n, nil)
			case 3:
				clear(model[off : off+n])
				_, err = f.do(backend.OpTrim, off, n, nil)
			default:
				if !bytes.Equal(f.read(t, off, n), model[off:off+n]) {
					t.Fatalf("step %d: read of %d at %d differs from the model", step, n, off)
				}
			}
			if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
		}
		if !bytes.Equal(f.read(t, 0, testSize), model) {
			t.Fatal("whole volume differs from the model")
		}
	})
}

func TestUnallocatedReadsCostNoIO(t *testing.T) {
	everyPath(t, func(t *testing.T, g backend.Geometry, inline bool) {
		f := open(t, g, inline, backend.QoS{}, Options{})
		for range 3 {
			data := bytes.Repeat([]byte{1}, 16*mib)
			r, err := f.do(backend.OpRead, 4*mib, 16*mib, data)
			if err != nil || !r.Hole || !bytes.Equal(data, make([]byte, len(data))) {
				t.Fatalf("err %v, hole %t", err, r.Hole)
			}
		}
		if n := f.chunks.sent.Load(); n != 0 {
			t.Errorf("%d operations reached the backend", n)
		}
		if n := f.meta.asked.Load(); n > 3 {
			t.Errorf("asked the MDS %d times about 3 segments", n)
		}
		if n := f.meta.allocated.Load(); n != 0 {
			t.Errorf("reads allocated %d segments", n)
		}
	})
}

func TestTrimAndZeroOfUnallocatedSpaceAllocateNothing(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	for _, op := range []backend.OpKind{backend.OpTrim, backend.OpZero} {
		if _, err := f.do(op, 0, testSize, nil); err != nil {
			t.Fatal(err)
		}
	}
	if f.meta.allocated.Load() != 0 || f.chunks.sent.Load() != 0 {
		t.Errorf("allocated %d segments, sent %d operations", f.meta.allocated.Load(), f.chunks.sent.Load())
	}
}

func TestNoHoleZeroAllocates(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	r, c := f.start(backend.OpZero, backend.FlagNoHole, 0, 9*mib, nil)
	<-c.done
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	exts, err := f.Extents(ctx, 0, testSize, 100, nil)
	want := []backend.Extent{{Length: 9 * mib}, {Length: testSize - 9*mib, Hole: true}}
	if err != nil || fmt.Sprint(exts) != fmt.Sprint(want) {
		t.Errorf("extents %v (%v), want %v", exts, err, want)
	}
}

func TestManyWritersToOneNewSegmentAllocateItOnce(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	f.meta.gate = make(chan struct{})
	var waiting []*completion
	for i := range int64(50) {
		_, c := f.start(backend.OpWrite, 0, i*4096, 4096, make([]byte, 4096))
		waiting = append(waiting, c)
	}
	close(f.meta.gate)
	for _, c := range waiting {
		<-c.done
	}
	if n := f.meta.allocated.Load(); n != 1 {
		t.Errorf("allocated %d times", n)
	}
}

func TestStalledAllocationDoesNotHoldUpKnownSegments(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	if _, err := f.do(backend.OpWrite, 0, 4096, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	f.meta.gate = make(chan struct{})
	var stalled []*completion
	for i := range int64(100) {
		_, c := f.start(backend.OpWrite, 0, 8*mib+i*4096, 4096, make([]byte, 4096))
		stalled = append(stalled, c)
	}
	for range 100 {
		if _, err := f.do(backend.OpWrite, 0, 4096, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	if n, oldest := f.Queued(); n != 100 || oldest <= 0 {
		t.Errorf("%d requests queued, the oldest for %v; want 100", n, oldest)
	}
	close(f.meta.gate)
	for _, c := range stalled {
		<-c.done
	}
}

func TestFailedAllocationFailsItsRequestsOnly(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	f.meta.fail = backend.ErrNoSpace
	if _, err := f.do(backend.OpWrite, 0, 4096, make([]byte, 4096)); !errors.Is(err, backend.ErrNoSpace) {
		t.Errorf("write: %v", err)
	}
	f.read(t, 0, 4096)
	f.meta.fail = nil
	if _, err := f.do(backend.OpWrite, 0, 4096, make([]byte, 4096)); err != nil {
		t.Errorf("write after the MDS recovered: %v", err)
	}
}

func TestHugeTrimIsHandedOutInWindows(t *testing.T) {
	g := backend.Geometry{BlockSize: 4096, ChunkSize: 64 * kib, SegmentSize: 8 * mib}
	f := open(t, g, false, backend.QoS{}, Options{})
	for off := int64(0); off < testSize; off += 64 * kib { // 640 chunks
		if _, err := f.do(backend.OpWrite, off, 4096, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	f.chunks.hold()
	r, c := f.start(backend.OpTrim, 0, 0, testSize, nil)
	for completed := false; !completed; {
		f.chunks.release(false)
		select {
		case <-c.done:
			completed = true
		default:
		}
	}
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if f.chunks.maxOut > windowPieces {
		t.Errorf("%d pieces of one request were out at once, limit %d", f.chunks.maxOut, windowPieces)
	}
	if exts, _ := f.Extents(ctx, 0, testSize, 10, nil); len(exts) != 1 || !exts[0].Hole {
		t.Errorf("not everything was trimmed: %v", exts)
	}
}

func TestRequestCompletesOnceWithTheFirstError(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	if _, err := f.do(backend.OpWrite, 0, 6*mib, make([]byte, 6*mib)); err != nil {
		t.Fatal(err)
	}
	// A later open fences this one: every piece fails.
	if _, err := f.meta.OpenVolume(ctx, "v", "test", backend.OpenExclusive); err != nil {
		t.Fatal(err)
	}
	op := backend.Op{Kind: backend.OpRead, Volume: f.ID(), Epoch: f.Epoch() + 1, Data: make([]byte, 4096), Len: 4096}
	segment, _ := f.cache.lookup(0)
	op.Chunk = segment.Chunks[0]
	if !f.chunks.Chunks.Try(&op) || op.Err != nil {
		t.Fatalf("new owner: %v", op.Err)
	}
	r, c := f.start(backend.OpRead, 0, 0, 6*mib, make([]byte, 6*mib))
	<-c.done
	if !errors.Is(r.Err, backend.ErrStaleEpoch) || c.times.Load() != 1 {
		t.Errorf("completed %d times with %v", c.times.Load(), r.Err)
	}
	if err := f.Close(ctx); !errors.Is(err, backend.ErrStaleEpoch) {
		t.Errorf("close of a lost volume: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	block := make([]byte, 4096)
	cases := []struct {
		name string
		r    *Request
		want error
	}{
		{"past the end", &Request{Op: backend.OpRead, Off: testSize, Len: 4096, Data: block}, ErrOutOfRange},
		{"across the end", &Request{Op: backend.OpWrite, Off: testSize - 4096, Len: 8192, Data: make([]byte, 8192)}, ErrOutOfRange},
		{"negative offset", &Request{Op: backend.OpRead, Off: -4096, Len: 4096, Data: block}, ErrOutOfRange},
		{"offset that overflows", &Request{Op: backend.OpTrim, Off: 1<<63 - 4096, Len: 8192}, ErrOutOfRange},
		{"negative length", &Request{Op: backend.OpTrim, Off: 0, Len: -4096}, ErrOutOfRange},
		{"unaligned offset", &Request{Op: backend.OpRead, Off: 512, Len: 4096, Data: block}, ErrUnaligned},
		{"unaligned length", &Request{Op: backend.OpZero, Off: 0, Len: 100}, ErrUnaligned},
		{"data of another length", &Request{Op: backend.OpWrite, Off: 0, Len: 8192, Data: block}, backend.ErrInvalid},
		{"no such operation", &Request{Op: 99}, backend.ErrInvalid},
		{"fast zero that keeps space", &Request{Op: backend.OpZero, Len: 4096, Flags: backend.FlagFastZero | backend.FlagNoHole}, backend.ErrNotSupported},
		{"zero length is nothing to do", &Request{Op: backend.OpTrim}, nil},
	}
	f := open(t, plain, true, backend.QoS{}, Options{})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !f.Try(c.r) || !errors.Is(c.r.Err, c.want) {
				t.Errorf("Try: %v, want %v", c.r.Err, c.want)
			}
			r, done := f.start(c.r.Op, c.r.Flags, c.r.Off, c.r.Len, c.r.Data)
			<-done.done
			if !errors.Is(r.Err, c.want) {
				t.Errorf("Submit: %v, want %v", r.Err, c.want)
			}
		})
	}
}

func TestCloseWaitsForWhatIsInFlightAndRefusesTheRest(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	f.chunks.hold()
	_, inFlight := f.start(backend.OpWrite, 0, 0, 4096, make([]byte, 4096))
	for f.chunks.heldOps() == 0 {
		time.Sleep(time.Millisecond) // the stages are at work
	}
	closed := make(chan error, 1)
	go func() { closed <- f.Close(ctx) }()
	for {
		r, c := f.start(backend.OpRead, 0, 0, 4096, make([]byte, 4096))
		select {
		case <-c.done:
		default: // came before the close
			continue
		}
		if errors.Is(r.Err, backend.ErrClosed) {
			break
		}
	}
	select {
	case err := <-closed:
		t.Fatalf("closed (%v) with a write in flight", err)
	default:
	}
	f.chunks.release(true)
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	<-inFlight.done
	if _, err := f.meta.OpenVolume(ctx, "v", "other", backend.OpenExclusive); err != nil {
		t.Errorf("the lease was not given back: %v", err)
	}
}

func TestCloseDeadlineEndsWaitsForTheMDS(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	f.meta.gate = make(chan struct{}) // never opened
	r, c := f.start(backend.OpWrite, 0, 0, 4096, make([]byte, 4096))
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := f.Close(short); err != nil {
		t.Fatal(err)
	}
	<-c.done
	if r.Err == nil {
		t.Error("a write that was never allocated succeeded")
	}
}

func TestResizeWhileOpenLetsRequestsIn(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	if _, err := f.do(backend.OpWrite, 0, 4096, bytes.Repeat([]byte{7}, 4096)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.do(backend.OpWrite, testSize, 4096, make([]byte, 4096)); !errors.Is(err, ErrOutOfRange) {
		t.Fatalf("write past the old end: %v", err)
	}
	if _, err := f.meta.ResizeVolume(ctx, "v", 2*testSize); err != nil {
		t.Fatal(err)
	}
	f.Resize(2 * testSize)
	if _, err := f.do(backend.OpWrite, 2*testSize-4096, 4096, make([]byte, 4096)); err != nil {
		t.Fatalf("write before the new end: %v", err)
	}
	if f.read(t, 0, 4096)[0] != 7 {
		t.Error("old data is gone")
	}
}

func TestExtentsStopAtTheLimit(t *testing.T) {
	f := open(t, plain, true, backend.QoS{}, Options{})
	for i := range int64(10) {
		if _, err := f.do(backend.OpWrite, i*2*mib, mib, bytes.Repeat([]byte{1}, mib)); err != nil {
			t.Fatal(err)
		}
	}
	exts, err := f.Extents(ctx, 0, testSize, 3, nil)
	want := []backend.Extent{{Length: mib}, {Length: mib, Hole: true}, {Length: mib}}
	if err != nil || fmt.Sprint(exts) != fmt.Sprint(want) {
		t.Errorf("extents %v (%v), want %v", exts, err, want)
	}
}
