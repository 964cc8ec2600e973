package client

import (
	"encoding/binary"
	"slices"
)

// statusPiece is how many descriptors are read at a time, so that a length that
// lies costs the server more than us.
const statusPiece = 1024

// statusChunk reads a BLOCK_STATUS chunk, 32-bit or extended:
//
//	| context id | (length, flags)... |           32 bits each
//	| context id | count | (length, flags)... |   descriptors of 64 bits each
func (in *replies) statusChunk(h ReplyHeader, r *Request) error {
	prefix, size := uint64(4), uint64(8)
	if h.Type == ChunkBlockStatusExt {
		prefix, size = 8, 16
	}
	count := (h.Length - prefix) / size
	if h.Length < prefix+size || (h.Length-prefix)%size != 0 || count > maxDescriptors {
		return broken("block status chunk of %d bytes, want %d + n*%d, n from 1 to %d", h.Length, prefix, size, maxDescriptors)
	}
	b, err := in.read(int(prefix))
	if err != nil {
		return err
	}
	if h.Type == ChunkBlockStatusExt && uint64(binary.BigEndian.Uint32(b[4:])) != count {
		return broken("block status chunk says %d descriptors and has room for %d", binary.BigEndian.Uint32(b[4:]), count)
	}
	status := ContextStatus{Context: binary.BigEndian.Uint32(b)}
	context, err := in.statusContext(r, status.Context)
	if err != nil {
		return err
	}
	for left := count; left > 0; {
		n := min(left, statusPiece)
		b, err := in.read(int(n * size))
		if err != nil {
			return err
		}
		for ; len(b) > 0; b = b[size:] {
			status.Extents = append(status.Extents, decodeExtent(b, size))
		}
		left -= n
	}
	if err := checkExtents(r, context, status.Extents); err != nil {
		return err
	}
	r.Status = append(r.Status, status)
	return nil
}

// statusContext says whether the reply may tell of the context with this id.
func (in *replies) statusContext(r *Request, id uint32) (MetaContext, error) {
	at := slices.IndexFunc(in.contexts, func(c MetaContext) bool { return c.ID == id })
	if at < 0 || len(r.Contexts) > 0 && !slices.Contains(r.Contexts, id) {
		return MetaContext{}, broken("block status tells of metadata context %d, which was not asked for", id)
	}
	if slices.ContainsFunc(r.Status, func(s ContextStatus) bool { return s.Context == id }) {
		return MetaContext{}, broken("block status tells of metadata context %d twice", id)
	}
	return in.contexts[at], nil
}

func decodeExtent(b []byte, size uint64) Extent {
	if size == 8 {
		return Extent{uint64(binary.BigEndian.Uint32(b)), uint64(binary.BigEndian.Uint32(b[4:]))}
	}
	return Extent{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// checkExtents: each has a length, only the last may go beyond the request, and
// none may with REQ_ONE.
func checkExtents(r *Request, context MetaContext, extents []Extent) error {
	one := r.Flags&FlagReqOne != 0
	if one && len(extents) != 1 {
		return broken("%d descriptors in the reply to a block status with REQ_ONE", len(extents))
	}
	var sum uint64
	for _, e := range extents {
		if e.Length == 0 {
			return broken("block status descriptor without length")
		}
		if sum >= r.Length {
			return broken("block status goes on behind the %d bytes that were asked for", r.Length)
		}
		if context.Name == BaseAllocation && e.Flags>>32 != 0 {
			return broken("block status flags %#x of %s use more than 32 bits", e.Flags, context.Name)
		}
		if sum+e.Length < sum {
			return broken("block status descriptor of %d bytes runs past the end of everything", e.Length)
		}
		sum += e.Length
	}
	if one && sum > r.Length {
		return broken("block status with REQ_ONE describes %d bytes of the %d that were asked for", sum, r.Length)
	}
	return nil
}
