package iscsi

import (
	"encoding/binary"
	"fmt"
)

// LUN is the 8-byte logical unit number as it travels (SAM-5 4.7).
type LUN [8]byte

// MaxLUN is the highest number that flat space addressing can say.
const MaxLUN = 1<<14 - 1

// Addressing methods: the two high bits of a LUN.
const (
	lunPeripheral = 0
	lunFlat       = 1
)

// LUNOf is number n as initiators expect it: peripheral device addressing for
// the first 256, flat space addressing above. It is false for n > MaxLUN.
func LUNOf(n int) (LUN, bool) {
	switch {
	case n < 0 || n > MaxLUN:
		return LUN{}, false
	case n < 256:
		return LUN{1: byte(n)}, true
	}
	return LUN{0: lunFlat<<6 | byte(n>>8), 1: byte(n)}, true
}

// Number is the number of a single-level LUN with peripheral or flat space
// addressing. It is false for all others: they are of no unit of ours. Initiators
// use either method for the same unit. We have no buses, and QEMU writes 300 as
// peripheral device 44 on bus 1.
func (l LUN) Number() (int, bool) {
	for _, b := range l[2:] {
		if b != 0 {
			return 0, false
		}
	}
	if method := l[0] >> 6; method != lunPeripheral && method != lunFlat {
		return 0, false
	}
	return int(l[0]&0x3f)<<8 | int(l[1]), true
}

// Uint64 is the LUN as one big-endian number, as REPORT LUNS lists it.
func (l LUN) Uint64() uint64 { return binary.BigEndian.Uint64(l[:]) }

// String is the number, or the raw bytes of a LUN that has none.
func (l LUN) String() string {
	if n, ok := l.Number(); ok {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("0x%x", l[:])
}

func (b *BHS) lun() LUN     { return LUN(b[8:16]) }
func (b *BHS) putLUN(l LUN) { copy(b[8:16], l[:]) }
