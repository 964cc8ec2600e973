package copyset

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/opencurve/curve-nbd/backend"
)

// naive is the fence as backend.Op tells it: sets that forget nothing but what a
// newer epoch outdates.
type naive struct {
	epoch backend.Epoch
	low   map[backend.SessionID]uint64
	done  map[backend.SessionID]map[uint64]bool
}

func (n *naive) decide(op *backend.Op) verdict {
	if op.Epoch < n.epoch {
		return verdictStale
	}
	if op.Epoch > n.epoch || n.done == nil {
		*n = naive{epoch: op.Epoch, low: map[backend.SessionID]uint64{}, done: map[backend.SessionID]map[uint64]bool{}}
	}
	if n.done[op.Session] == nil {
		n.done[op.Session] = map[uint64]bool{}
	}
	n.low[op.Session] = max(n.low[op.Session], op.Low)
	if op.Seq < n.low[op.Session] || n.done[op.Session][op.Seq] {
		return verdictDone
	}
	n.done[op.Session][op.Seq] = true
	return verdictApply
}

// recode is the fence after a trip through a raft snapshot.
func recode(t interface{ Fatalf(string, ...any) }, f *fence) *fence {
	data := f.append(nil)
	d := &decoder{rest: data}
	again, err := decodeFence(d)
	if err != nil || len(d.rest) != 0 {
		t.Fatalf("decode: %v, %d bytes left", err, len(d.rest))
	}
	if !bytes.Equal(again.append(nil), data) {
		t.Fatalf("the decoded fence encodes differently")
	}
	return again
}

func TestFenceDecidesAsANaiveSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFence()
		model := map[backend.VolumeID]*naive{}
		next := map[[2]uint64]uint64{} // highest seq used of (volume, session)
		for range rapid.IntRange(1, 200).Draw(t, "ops") {
			if rapid.IntRange(0, 20).Draw(t, "snapshot") == 0 {
				f = recode(t, f)
			}
			op := backend.Op{
				Volume:  backend.VolumeID(rapid.IntRange(1, 2).Draw(t, "volume")),
				Epoch:   backend.Epoch(rapid.IntRange(1, 4).Draw(t, "epoch")),
				Session: backend.SessionID(rapid.IntRange(1, 3).Draw(t, "session")),
			}
			key := [2]uint64{uint64(op.Volume), uint64(op.Session)}
			step := rapid.SampledFrom([]uint64{0, 1, 2, 63, 64, 65, 200, windowBits - 1, windowBits, 2 * windowBits}).Draw(t, "step")
			back := rapid.SampledFrom([]uint64{0, 1, 5, 64, 200, windowBits}).Draw(t, "back")
			op.Seq = max(1, next[key]+step-min(back, next[key]+step))
			next[key] = max(next[key], op.Seq)
			lag := rapid.SampledFrom([]uint64{0, 1, 63, 64, 100, windowBits - 1}).Draw(t, "lag")
			op.Low = op.Seq - min(lag, op.Seq)
			if model[op.Volume] == nil {
				model[op.Volume] = &naive{}
			}
			want := model[op.Volume].decide(&op)
			if got := f.decide(&op); got != want {
				t.Fatalf("%+v: verdict %d, expected %d", op, got, want)
			}
			if f.epochOf(op.Volume) != model[op.Volume].epoch {
				t.Fatalf("epoch %d, expected %d", f.epochOf(op.Volume), model[op.Volume].epoch)
			}
		}
	})
}

func TestFenceForgetsTheLeastUsedSessionAndRefusesIt(t *testing.T) {
	f := newFence()
	op := backend.Op{Volume: 1, Epoch: 1, Seq: 1, Low: 1}
	for id := range maxSessions {
		op.Session = backend.SessionID(id + 1)
		f.decide(&op)
	}
	op.Session, op.Seq = 1, 2 // used again: 2 is the oldest now
	f.decide(&op)
	op.Session, op.Seq = maxSessions+1, 1
	if f.decide(&op) != verdictApply {
		t.Fatal("a new session was refused")
	}
	op.Session = 2
	if got := f.decide(&op); got != verdictStale {
		t.Errorf("a change of the forgotten session: verdict %d, expected stale: it may be a duplicate", got)
	}
	op.Session = 1
	if got := f.decide(&op); got != verdictDone {
		t.Errorf("a duplicate of a remembered session: verdict %d", got)
	}
	op.Epoch, op.Session = 2, 2
	if f.decide(&op) != verdictApply {
		t.Error("the session was refused in a newer epoch")
	}
	recode(t, f)
}

func TestFenceDoesNotAllocateOnceItKnowsTheSession(t *testing.T) {
	f := newFence()
	op := backend.Op{Volume: 1, Epoch: 1, Session: 1, Seq: 1, Low: 1}
	f.decide(&op)
	if n := testing.AllocsPerRun(1000, func() {
		op.Seq++
		op.Low = op.Seq - min(op.Seq-1, 100)
		if f.decide(&op) != verdictApply {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations for a decision", n)
	}
}

func sampleState() *state {
	st := &state{fence: newFence(), chunks: newChunkSet(), applied: 100, ceiling: 120}
	for seq := range uint64(200) {
		if seq%3 == 0 {
			st.fence.decide(&backend.Op{Volume: 7, Epoch: 2, Session: 9, Seq: seq + 1, Low: 1})
		}
	}
	st.fence.raise(8, 3)
	st.chunks.create(5, chunkInfo{volume: 7, size: testChunkSize})
	st.chunks.create(1<<40, chunkInfo{volume: 8, size: 16 << 20})
	st.chunks.settle(st.chunks.ids())
	return st
}

func FuzzDecodeState(f *testing.F) {
	f.Add(sampleState().append(nil))
	f.Add((&state{fence: newFence(), chunks: newChunkSet()}).append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := decodeState(data)
		if err != nil {
			return
		}
		again := st.append(nil)
		st2, err := decodeState(again)
		if err != nil {
			t.Fatalf("what was decoded encodes to what does not decode: %v", err)
		}
		if !bytes.Equal(st2.append(nil), again) {
			t.Error("not stable")
		}
	})
}
