package volume

import (
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func TestInlineServiceAllocatesNothing(t *testing.T) {
	f := open(t, plain, true, backend.QoS{}, Options{})
	data := make([]byte, 4096)
	if _, err := f.do(backend.OpWrite, 0, 4096, data); err != nil {
		t.Fatal(err)
	}
	for _, op := range []backend.OpKind{backend.OpRead, backend.OpWrite} {
		var r Request
		if n := testing.AllocsPerRun(200, func() {
			r.Reset()
			r.Op, r.Len, r.Data = op, 4096, data
			if !f.Try(&r) || r.Err != nil {
				t.Fatal(r.Err)
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations per request", op, n)
		}
	}
}

func TestSubmitAllocatesNothing(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	data := make([]byte, 4096)
	if _, err := f.do(backend.OpWrite, 0, 4096, data); err != nil {
		t.Fatal(err)
	}
	done := make(signal, 1)
	var r Request
	if n := testing.AllocsPerRun(200, func() {
		r.Reset()
		r.Op, r.Len, r.Data, r.Done = backend.OpRead, 4096, data, done
		f.Submit(&r)
		<-done
	}); n > 0.1 {
		t.Errorf("%v allocations per request", n)
	}
}

type signal chan struct{}

func (s signal) RequestDone(*Request) { s <- struct{}{} }

func BenchmarkTry(b *testing.B) { benchmarkVolume(b, true) }

func BenchmarkSubmit(b *testing.B) { benchmarkVolume(b, false) }

func benchmarkVolume(b *testing.B, inline bool) {
	f := open(b, backend.DefaultGeometry(), inline, backend.QoS{}, Options{})
	data := make([]byte, 4096)
	done := make(signal, 1)
	var r Request
	b.ReportAllocs()
	for i := range b.N {
		r.Reset()
		r.Op, r.Off, r.Len, r.Data, r.Done = backend.OpWrite, int64(i%8192)*4096, 4096, data, done
		if !f.Try(&r) {
			f.Submit(&r)
			<-done
		}
		if r.Err != nil {
			b.Fatal(r.Err)
		}
	}
}
