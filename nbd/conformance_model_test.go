package nbd_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/opencurve/curve-nbd/nbd/client"
)

// model is what an export must hold.
type model struct {
	data []byte
	rng  *rand.Rand
	// trims: what is trimmed reads as zeros, which is more than the protocol
	// promises.
	trims bool
}

// step is a request with what it changes and what it must bring.
type step struct {
	request client.Request
	want    []byte // of a read
}

// randomRange picks bytes that are aligned to the smallest block; most are
// small, some are not.
func (m *model) randomRange() (off, length uint64) {
	blocks := uint64(len(m.data)) / testBlock
	n := 1 + m.rng.Uint64N(64)
	if m.rng.IntN(20) == 0 {
		n = 1 + m.rng.Uint64N(8192) // 4 MiB
	}
	at := m.rng.Uint64N(blocks - n + 1)
	switch m.rng.IntN(8) {
	case 0:
		at &^= 7 // whole pages
		n = (n + 7) &^ 7
		n = min(n, blocks-at)
	case 1:
		at = blocks - n // up to the end
	}
	return at * testBlock, n * testBlock
}

// next makes up a step on [off, off+length) and applies it to the model.
func (m *model) next(off, length uint64) *step {
	s := &step{request: client.Request{Offset: off, Length: length}}
	r, part := &s.request, m.data[off:off+length]
	if m.rng.IntN(4) == 0 {
		r.Flags |= client.FlagFUA
	}
	switch m.rng.IntN(10) {
	case 0, 1, 2, 3:
		r.Command, r.Data = client.CmdWrite, make([]byte, length)
		for i := range r.Data {
			r.Data[i] = byte(m.rng.Uint32())
		}
		copy(part, r.Data)
	case 4:
		r.Command = client.CmdWriteZeroes
		if m.rng.IntN(2) == 0 {
			r.Flags |= client.FlagNoHole
		}
		clear(part)
	case 5:
		r.Command = client.CmdTrim
		if !m.trims {
			r.Command = client.CmdWriteZeroes
		}
		clear(part)
	case 6:
		r.Command, r.Flags = client.CmdCache, 0
	case 7:
		r.Command, r.Flags, r.Offset, r.Length = client.CmdFlush, 0, 0, 0
	default:
		r.Command, r.Flags, r.Data = client.CmdRead, 0, make([]byte, length)
		s.want = bytes.Clone(part)
	}
	return s
}

func (s *step) check(t *testing.T, seed uint64, number int) {
	t.Helper()
	if err := s.request.Wait(); err != nil {
		t.Fatalf("seed %d, step %d: %v", seed, number, err)
	}
	if s.want != nil && !bytes.Equal(s.request.Data, s.want) {
		t.Fatalf("seed %d, step %d: %v of %d at %d: %s", seed, number, s.request.Command, s.request.Length, s.request.Offset,
			firstDifference(s.request.Data, s.want))
	}
}

func overlaps(steps []*step, off, length uint64) bool {
	for _, s := range steps {
		if off < s.request.Offset+s.request.Length && s.request.Offset < off+length {
			return true
		}
	}
	return false
}

// checkModel runs batches of requests, those of a batch in flight together, and
// then compares the whole export and its block status with the model.
func checkModel(t *testing.T, tg *target, c *client.Conn, seed uint64, batches int) {
	t.Helper()
	m := &model{data: make([]byte, tg.size), rng: rand.New(rand.NewPCG(seed, 0)), trims: !tg.foreign()}
	must(t, c.WriteZeroes(within(t), 0, tg.size, 0))
	number := 0
	for range batches {
		var steps []*step
		for range 1 + m.rng.IntN(24) {
			off, length := m.randomRange()
			if overlaps(steps, off, length) {
				continue
			}
			s := m.next(off, length)
			steps = append(steps, s)
			must(t, c.Start(within(t), &s.request))
		}
		for _, s := range steps {
			s.check(t, seed, number)
			number++
		}
	}
	got := make([]byte, tg.size)
	for off := uint64(0); off < tg.size; off += 8 * mib {
		must(t, c.Read(within(t), got[off:min(off+8*mib, tg.size)], off, 0))
	}
	if !bytes.Equal(got, m.data) {
		t.Fatalf("seed %d, at the end: %s", seed, firstDifference(got, m.data))
	}
	if len(c.Contexts()) == 0 {
		return
	}
	for i, flags := range statusMap(t, c, tg.size, testBlock) {
		block := m.data[i*testBlock : (i+1)*testBlock]
		if flags&client.StateZero != 0 && !bytes.Equal(block, make([]byte, testBlock)) {
			t.Fatalf("seed %d: block %d is said to read as zeros and does not", seed, i)
		}
	}
}

func TestConformanceRandomRequestsMatchAModel(t *testing.T) {
	seed := rand.Uint64()
	forEachStyle(t, func(t *testing.T, tg *target, style client.ReplyStyle) {
		checkModel(t, tg, connect(t, tg, style), seed, 60)
	})
}

func TestRandomRequestsMatchAModelOnDisk(t *testing.T) {
	tg := serve(t, setup{dir: t.TempDir()})
	seed := rand.Uint64()
	for _, style := range styles {
		checkModel(t, tg, connect(t, tg, style), seed, 25)
	}
}

// Each block of overlapping writes on two connections is one of the two.
func TestConformanceOverlappingWritesOfTwoConnections(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		a, b := connect(t, tg, client.SimpleReplies), connect(t, tg, client.StructuredReplies)
		const size = 64 << 10
		for round := range 100 {
			off := uint64(256<<10 - size/2) // over a chunk's border
			writes := []*client.Request{
				{Command: client.CmdWrite, Offset: off, Data: bytes.Repeat([]byte{'a'}, size)},
				{Command: client.CmdWrite, Offset: off + 8192, Data: bytes.Repeat([]byte{'b'}, size-8192)},
			}
			must(t, a.Start(within(t), writes[0]))
			must(t, b.Start(within(t), writes[1]))
			must(t, writes[0].Wait())
			must(t, writes[1].Wait())
			got := make([]byte, size)
			must(t, a.Read(within(t), got, off, 0))
			for i := 0; i < size; i += testBlock {
				block := got[i : i+testBlock]
				if block[0] != 'a' && (block[0] != 'b' || i < 8192) || !bytes.Equal(block, bytes.Repeat(block[:1], testBlock)) {
					t.Fatalf("round %d: block at %d is %q...: neither of the two", round, i, block[:8])
				}
			}
		}
	})
}

// What CAN_MULTI_CONN promises: written on one connection, flushed on another,
// seen on a third.
func TestConnectionsShareOneVolume(t *testing.T) {
	for name, dir := range map[string]string{"memory": "", "disk": t.TempDir()} {
		for _, network := range []string{"unix", "tcp"} {
			t.Run(name+" "+network, func(t *testing.T) {
				tg := serve(t, setup{dir: dir, network: network})
				var conns []*client.Conn
				for _, style := range styles {
					conns = append(conns, connect(t, tg, style))
				}
				if !conns[0].Export().Flags.Has(client.CanMultiConn) {
					t.Fatal("CAN_MULTI_CONN is not offered")
				}
				for round := range 60 {
					writer, flusher, reader := conns[round%3], conns[(round+1)%3], conns[(round+2)%3]
					off := uint64(round) * 12 << 10
					want := pattern(make([]byte, 20<<10), byte(round))
					if round%2 == 0 {
						must(t, writer.Write(within(t), want, off, 0))
						must(t, flusher.Flush(within(t)))
					} else {
						must(t, writer.Write(within(t), want, off, client.FlagFUA))
					}
					got := make([]byte, len(want))
					must(t, reader.Read(within(t), got, off, 0))
					if !bytes.Equal(got, want) {
						t.Fatalf("round %d: %s", round, firstDifference(got, want))
					}
				}
			})
		}
	}
}
