package iscsi

import (
	"encoding/binary"
	"hash/crc32"
)

// DigestSize is the length of a header or data digest on the wire.
const DigestSize = 4

// castagnoli is the polynomial of CRC32C (RFC 7143 13.1); the standard library
// computes it with the processor's instruction where there is one.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var padding [3]byte

// HeaderDigest covers the BHS and all additional headers with their padding.
func HeaderDigest(b *BHS, ahs []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, b[:]), castagnoli, ahs)
}

// DataDigest covers a data segment and the zero bytes that pad it. A peer may
// pad with other bytes: what was received goes through DataDigestOf.
func DataDigest(data []byte) uint32 {
	return DataDigestAdd(0, data, len(data))
}

// DataDigestAdd goes on from the digest of the bytes before data, and adds the
// padding when total, the length of the whole segment, is reached with data:
// pass total < 0 until then.
func DataDigestAdd(crc uint32, data []byte, total int) uint32 {
	crc = crc32.Update(crc, castagnoli, data)
	if total < 0 {
		return crc
	}
	return crc32.Update(crc, castagnoli, padding[:Padded(total)-total])
}

// DataDigestOf covers a segment as received, its padding included.
func DataDigestOf(padded []byte) uint32 { return crc32.Update(0, castagnoli, padded) }

// PutDigest writes a digest in the byte order of the wire. It is little endian,
// unlike every integer of a PDU: the CRC is a bit string whose first bit is bit
// 0 of the first byte (see the examples of RFC 7143 appendix A.4).
func PutDigest(b []byte, digest uint32) { binary.LittleEndian.PutUint32(b, digest) }

// GetDigest reads what PutDigest wrote.
func GetDigest(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
