package copyset

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func sampleOp(kind backend.OpKind, n int) backend.Op {
	op := backend.Op{
		Kind: kind, Flags: backend.FlagFUA, Volume: 3, Epoch: 4, Session: 5, Seq: 7, Low: 6,
		Chunk: backend.ChunkRef{ID: 8, Size: testChunkSize}, Off: 512, Len: int64(n),
	}
	if kind == backend.OpWrite {
		op.Data = pattern(1, n)
	}
	return op
}

func sampleBatch(ops ...backend.Op) []byte {
	data := newCommand(0)
	for i := range ops {
		data = appendOp(data, &ops[i])
	}
	sealCommand(data, kindBatch, len(ops), 9, 10)
	return data
}

func sealed(data []byte, kind commandKind, count int) []byte {
	sealCommand(data, kind, count, 9, 10)
	return data
}

func TestBatchComesBackAsItWas(t *testing.T) {
	want := []backend.Op{sampleOp(backend.OpWrite, 512), sampleOp(backend.OpTrim, 1024), sampleOp(backend.OpZero, 4096), sampleOp(backend.OpWrite, 4096)}
	c, err := decodeCommand(sampleBatch(want...))
	if err != nil {
		t.Fatal(err)
	}
	if c.kind != kindBatch || c.count != len(want) || c.origin != 9 || c.number != 10 {
		t.Errorf("header %+v", c)
	}
	rest := c.body
	for i := range want {
		var got backend.Op
		if rest, err = decodeOp(rest, &got); err != nil {
			t.Fatal(err)
		}
		w := want[i]
		if !bytes.Equal(got.Data, w.Data) {
			t.Errorf("operation %d has other data", i)
		}
		if got.Kind != w.Kind || got.Flags != w.Flags || got.Volume != w.Volume || got.Epoch != w.Epoch || got.Session != w.Session ||
			got.Seq != w.Seq || got.Low != w.Low || got.Chunk != w.Chunk || got.Off != w.Off || got.Len != w.Len {
			t.Errorf("operation %d is %+v, expected %+v", i, got, w)
		}
	}
}

// The bytes are on disks and wires: a change of them needs a new version.
func TestCommandBytesAreGolden(t *testing.T) {
	for _, tc := range []struct {
		name string
		data []byte
		want string
	}{
		{"batch", sampleBatch(sampleOp(backend.OpTrim, 1024)), "01010100000000000900000000000000" + "0a00000000000000" +
			"04010000000001000300000000000000040000000000000005000000000000000700000000000000060000000000000008000000000000000002000000040000"},
		{"fence", sealed(encodeFence(3, 4), kindFence, 0), "010200000000000009000000000000000a0000000000000003000000000000000400000000000000"},
		{"delete", sealed(encodeDelete(3, []backend.ChunkRef{{ID: 8, Size: testChunkSize}}), kindDelete, 1),
			"010301000000000009000000000000000a00000000000000030000000000000008000000000000000000010000000000"},
		{"barrier", sealed(newCommand(0), kindBarrier, 0), "010400000000000009000000000000000a00000000000000"},
	} {
		if got := hex.EncodeToString(tc.data); got != tc.want {
			t.Errorf("%s:\n%s, expected\n%s", tc.name, got, tc.want)
		}
		if _, err := decodeCommand(tc.data); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestMalformedCommandsAreRefused(t *testing.T) {
	good := sampleBatch(sampleOp(backend.OpWrite, 512), sampleOp(backend.OpTrim, 512))
	with := func(at int, b byte) []byte {
		data := bytes.Clone(good)
		data[at] = b
		return data
	}
	for _, tc := range []struct {
		name string
		data []byte
	}{
		{"nothing", nil},
		{"half a header", good[:12]},
		{"other version", with(0, 2)},
		{"unknown kind", with(1, 9)},
		{"kind none", with(1, 0)},
		{"reserved bytes", with(5, 1)},
		{"no operations", with(2, 0)},
		{"more operations than there are", with(2, 3)},
		{"fewer operations than there are", with(2, 1)},
		{"too many operations", with(2, 65)},
		{"cut payload", good[:commandHeaderSize+opHeaderSize+100]},
		{"byte at the end", append(bytes.Clone(good), 0)},
		{"read in a batch", with(commandHeaderSize, byte(backend.OpRead))},
		{"unknown flag", with(commandHeaderSize+1, 0x80)},
		{"reserved bytes of an operation", with(commandHeaderSize+2, 1)},
		{"odd chunk size", with(commandHeaderSize+4, 1)},
		{"offset past the chunk", with(commandHeaderSize+58, 1)},
		{"no session", with(commandHeaderSize+24, 0)},
		{"seq 0", with(commandHeaderSize+32, 0)},
		{"low above seq", with(commandHeaderSize+40, 200)},
		{"fence of another length", sealed(append(encodeFence(1, 2), 0), kindFence, 0)},
		{"fence with a count", sealed(encodeFence(1, 2), kindFence, 1)},
		{"delete of fewer than it says", sealed(encodeDelete(1, []backend.ChunkRef{{ID: 1, Size: testChunkSize}}), kindDelete, 2)},
		{"delete of nothing", sealed(encodeDelete(1, nil), kindDelete, 0)},
		{"delete of an odd chunk", sealed(encodeDelete(1, []backend.ChunkRef{{ID: 1, Size: 5}}), kindDelete, 1)},
		{"barrier with a body", sealed(append(newCommand(0), 1), kindBarrier, 0)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := decodeCommand(tc.data); !errors.Is(err, backend.ErrInvalid) {
				t.Errorf("%v, expected ErrInvalid", err)
			}
		})
	}
}

func TestWriteOfMoreThanAnEntryTakesIsRefused(t *testing.T) {
	op := sampleOp(backend.OpWrite, maxPayload+512)
	op.Chunk.Size = backend.MaxChunkSize
	if err := checkChange(&op); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("%v", err)
	}
	op.Len -= 512
	op.Data = op.Data[:op.Len]
	if err := checkChange(&op); err != nil {
		t.Error(err)
	}
	if data := sampleBatch(op); len(data) != maxCommandBytes {
		t.Errorf("the largest command has %d bytes, the limit is %d", len(data), maxCommandBytes)
	}
}

// Whatever decodes, encodes to the same bytes: there is one encoding each.
func FuzzDecodeCommand(f *testing.F) {
	f.Add(sampleBatch(sampleOp(backend.OpWrite, 512), sampleOp(backend.OpTrim, 1024)))
	f.Add(sealed(encodeFence(3, 4), kindFence, 0))
	f.Add(sealed(encodeDelete(3, []backend.ChunkRef{{ID: 8, Size: testChunkSize}}), kindDelete, 1))
	f.Add(sealed(newCommand(0), kindBarrier, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCommand(data)
		if err != nil {
			return
		}
		again := newCommand(len(c.body))
		switch c.kind {
		case kindBatch:
			rest := c.body
			for range c.count {
				var op backend.Op
				if rest, err = decodeOp(rest, &op); err != nil {
					t.Fatal(err)
				}
				again = appendOp(again, &op)
			}
		case kindFence:
			again = encodeFence(c.fence())
		case kindDelete:
			var refs []backend.ChunkRef
			for i := range c.count {
				refs = append(refs, c.deleted(i))
			}
			again = encodeDelete(c.deleteVolume(), refs)
		}
		sealCommand(again, c.kind, c.count, c.origin, c.number)
		if !bytes.Equal(again, data) {
			t.Errorf("%x encodes again to %x", data, again)
		}
	})
}
