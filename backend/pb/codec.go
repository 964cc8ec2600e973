package pb

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// codecName is the content subtype of the frames' stream.
const codecName = "curve-frame"

// Codec passes frames through gRPC as they are.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

// gRPC finds a server's codec by the content subtype that the client sends, in a
// table of the process.
func init() { encoding.RegisterCodecV2(Codec{}) }

// Name implements encoding.CodecV2.
func (Codec) Name() string { return codecName }

// Marshal implements encoding.CodecV2. gRPC frees the frame's buffers.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*Frame)
	if !ok {
		return nil, fmt.Errorf("frame codec: cannot send a %T", v)
	}
	data := f.data
	f.data = nil
	return data, nil
}

// Unmarshal implements encoding.CodecV2. The frame keeps the buffers until Free.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*Frame)
	if !ok {
		return fmt.Errorf("frame codec: cannot receive into a %T", v)
	}
	f.Free()
	data.Ref()
	f.data = data
	return nil
}

// Frame is one message of the stream, in buffers that are counted.
type Frame struct{ data mem.BufferSlice }

// FrameOf makes a frame of a buffer from Pool, which belongs to it from then on.
func FrameOf(b *[]byte) Frame {
	return Frame{data: mem.BufferSlice{mem.NewBuffer(b, Pool)}}
}

// Free gives the frame's buffers back. A frame that was sent has none.
func (f *Frame) Free() {
	f.data.Free()
	f.data = nil
}

// Len is the frame's length in bytes.
func (f *Frame) Len() int { return f.data.Len() }

// Head returns the first len(scratch) bytes, or all if there are fewer: the frame's
// own where they lie together, else copied into scratch.
func (f *Frame) Head(scratch []byte) []byte {
	if len(f.data) > 0 {
		if b := f.data[0].ReadOnlyData(); len(b) >= len(scratch) {
			return b[:len(scratch)]
		}
	}
	return scratch[:f.data.CopyTo(scratch)]
}

// Whole returns the bytes from off to the end if they lie together. They are the
// frame's own and must not be changed.
func (f *Frame) Whole(off int) ([]byte, bool) {
	for i, b := range f.data {
		if off < b.Len() {
			return b.ReadOnlyData()[off:], i == len(f.data)-1
		}
		off -= b.Len()
	}
	return nil, off == 0
}

// CopyTo copies the bytes from off on into dst, and returns how many there were.
func (f *Frame) CopyTo(dst []byte, off int) int {
	n := 0
	for _, b := range f.data {
		if part := b.ReadOnlyData(); off < len(part) {
			n += copy(dst[n:], part[off:])
			off = 0
		} else {
			off -= len(part)
		}
	}
	return n
}
