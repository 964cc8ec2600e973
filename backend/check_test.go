package backend

import (
	"errors"
	"testing"
)

func TestOpCheck(t *testing.T) {
	chunk := ChunkRef{ID: 1, Size: 1 << 20}
	cases := []struct {
		name string
		op   Op
		want error
	}{
		{"read", Op{Kind: OpRead, Chunk: chunk, Len: 512, Data: make([]byte, 512)}, nil},
		{"whole chunk", Op{Kind: OpTrim, Chunk: chunk, Len: 1 << 20}, nil},
		{"flush needs no range", Op{Kind: OpFlush}, nil},
		{"past the end", Op{Kind: OpTrim, Chunk: chunk, Off: 1 << 20, Len: 512}, ErrInvalid},
		{"negative offset", Op{Kind: OpTrim, Chunk: chunk, Off: -512, Len: 512}, ErrInvalid},
		{"sum that overflows", Op{Kind: OpTrim, Chunk: chunk, Off: 512, Len: 1<<63 - 512}, ErrInvalid},
		{"half a sector", Op{Kind: OpTrim, Chunk: chunk, Len: 256}, ErrInvalid},
		{"chunk size that is no power of two", Op{Kind: OpTrim, Chunk: ChunkRef{Size: 3 << 20}, Len: 512}, ErrInvalid},
		{"no chunk size", Op{Kind: OpTrim, Len: 0}, ErrInvalid},
		{"buffer of another length", Op{Kind: OpWrite, Chunk: chunk, Len: 1024, Data: make([]byte, 512)}, ErrInvalid},
		{"fast zero that keeps space", Op{Kind: OpZero, Chunk: chunk, Len: 512, Flags: FlagNoHole | FlagFastZero}, ErrNotSupported},
		{"no operation", Op{Chunk: chunk}, ErrInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if err := c.op.Check(); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestFenceAdmitsOnlyTheNewest(t *testing.T) {
	var f Fence
	for _, step := range []struct {
		epoch Epoch
		want  error
	}{{0, nil}, {3, nil}, {3, nil}, {2, ErrStaleEpoch}, {4, nil}, {3, ErrStaleEpoch}} {
		if err := f.Admit(1, step.epoch); !errors.Is(err, step.want) {
			t.Errorf("epoch %d: got %v, want %v", step.epoch, err, step.want)
		}
	}
}

func TestGeometryValidate(t *testing.T) {
	cases := []struct {
		name string
		g    Geometry
		ok   bool
	}{
		{"default", DefaultGeometry(), true},
		{"zero value with defaults", Geometry{}.WithDefaults(), true},
		{"zero value", Geometry{}, false},
		{"striped", Geometry{StripeUnit: 64 << 10, StripeCount: 4}.WithDefaults(), true},
		{"block size 1024", Geometry{BlockSize: 1024}.WithDefaults(), false},
		{"chunk size that is no power of two", Geometry{ChunkSize: 3 << 20}.WithDefaults(), false},
		{"segment smaller than a chunk", Geometry{ChunkSize: 16 << 20, SegmentSize: 8 << 20}.WithDefaults(), false},
		{"too many chunks in a segment", Geometry{ChunkSize: MinChunkSize, SegmentSize: 1 << 30}.WithDefaults(), false},
		{"stripe unit alone", Geometry{StripeUnit: 64 << 10}.WithDefaults(), false},
		{"more stripes than chunks", Geometry{StripeUnit: 64 << 10, StripeCount: 128}.WithDefaults(), false},
		{"stripe unit larger than a chunk", Geometry{StripeUnit: 32 << 20, StripeCount: 2}.WithDefaults(), false},
		{"negative stripe count", Geometry{StripeCount: -1}.WithDefaults(), false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := c.g.Validate()
			if (err == nil) != c.ok || (err != nil && !errors.Is(err, ErrInvalid)) {
				t.Errorf("%+v: %v", c.g, err)
			}
		})
	}
}
