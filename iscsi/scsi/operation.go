package scsi

import (
	"encoding/binary"
	"math/bits"

	"github.com/opencurve/curve-nbd/backend"
)

// operation is one command of the set: the table of them (table.go) decides what
// is decoded, what is executed, and what REPORT SUPPORTED OPERATION CODES says.
type operation struct {
	name string
	code byte
	// action is the service action, or noAction.
	action int
	size   int
	// mask is what of the CDB is looked at; decoders see nothing else. refuse is
	// what must be zero: fields that would change the meaning of the command.
	mask, refuse [16]byte

	kind backend.OpKind // how it is counted, 0 for not at all
	// access is the class that reservations look at; accessOf finds it where it
	// depends on the CDB.
	access   accessClass
	accessOf func(*Command) accessClass
	plain    bool // moves its blocks and nothing else: Try may do it
	partial  bool // writes what comes, if that is less than it says
	quiet    bool // does not report unit attentions
	ready    bool // needs an active path, and the medium
	full     bool // needs the medium, but goes by any path
	empty    bool // needs no medium, though it is ready
	calm     bool // serves a unit that is being sanitized, as quiet ones do
	lock     lockMode
	seconds  uint32 // to allow for it

	// decode sets Direction, Transfer and what execute needs.
	decode  func(u *Unit, c *Command, blocks uint64) *Sense
	execute step
}

const noAction = -1

// lockMode is how an operation holds its blocks.
type lockMode uint8

const (
	lockNone lockMode = iota
	lockShared
	lockExclusive
)

// operations by code; more than one where there are service actions.
var operations [256][]*operation

func init() {
	for i := range table {
		op := &table[i]
		op.mask[0] = 0xff
		op.refuse[op.size-1] |= 0x04 // NACA: there is no ACA
		operations[op.code] = append(operations[op.code], op)
	}
}

// find looks the operation of a CDB up.
func find(cdb []byte) (*operation, *Sense) {
	if len(cdb) == 0 {
		return nil, sense(IllegalRequest, InvalidOpcode)
	}
	candidates := operations[cdb[0]]
	switch {
	case len(candidates) == 0:
		return nil, &Sense{Key: IllegalRequest, Code: InvalidOpcode, pointer: true, bit: noBit}
	case candidates[0].action == noAction:
		return candidates[0], nil
	case len(cdb) > 1:
		for _, op := range candidates {
			if op.action == int(cdb[1]&0x1f) {
				return op, nil
			}
		}
	}
	return nil, badCDB(1, 4)
}

// load copies what the operation looks at. What it refuses is for after the state
// of the unit: of one that is not ready nobody wants to know what it would take.
func (op *operation) load(c *Command) (refused *Sense) {
	c.cdb = [16]byte{}
	if len(c.CDB) < op.size {
		return badCDB(len(c.CDB), noBit)
	}
	for i, b := range c.CDB[:op.size] {
		if bad := b & op.refuse[i]; bad != 0 && refused == nil {
			refused = badCDB(i, int8(bits.Len8(bad)-1))
		}
		c.cdb[i] = b & op.mask[i]
	}
	return refused
}

// usage is the CDB usage data (SPC-4, 6.35.3).
func (op *operation) usage() []byte {
	b := append([]byte(nil), op.mask[:op.size]...)
	b[0] = op.code
	if op.action != noAction {
		b[1] = b[1]&^0x1f | byte(op.action)
	}
	return b
}

// span is where the CDBs of all sizes have the first block and the number of
// blocks. In that of 6 bytes, 0 blocks are 256.
func (c *Command) span() (lba, count uint64) {
	b := &c.cdb
	switch c.op.size {
	case 6:
		lba = uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
		if count = uint64(b[4]); count == 0 {
			count = 256
		}
	case 10:
		lba, count = uint64(binary.BigEndian.Uint32(b[2:])), uint64(binary.BigEndian.Uint16(b[7:]))
	case 12:
		lba, count = uint64(binary.BigEndian.Uint32(b[2:])), uint64(binary.BigEndian.Uint32(b[6:]))
	default:
		lba, count = binary.BigEndian.Uint64(b[2:]), uint64(binary.BigEndian.Uint32(b[10:]))
	}
	return lba, count
}

// countField is where span finds the count, for field pointers.
func (op *operation) countField() int { return [...]int{6: 4, 10: 7, 12: 6, 16: 10}[op.size] }

// takeSpan sets lba and count, and refuses what is not on the medium. limit
// bounds the count, 0 for none.
func (c *Command) takeSpan(blocks, limit uint64) *Sense {
	c.lba, c.count = c.span()
	if c.lba >= blocks || c.count > blocks-c.lba {
		return outOfRange()
	}
	if limit != 0 && c.count > limit {
		return badCDB(c.op.countField(), noBit)
	}
	return nil
}

// bits lays a mask out: pairs of a byte's index and its bits.
func bitsAt(pairs ...byte) (m [16]byte) {
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

// spanMask is the mask of a CDB with block address and count, and the given bits
// in byte 1.
func spanMask(size int, flags byte) (m [16]byte) {
	full := map[int][]int{6: {2, 5}, 10: {2, 6, 7, 9}, 12: {2, 10}, 16: {2, 14}}[size]
	for ; len(full) > 0; full = full[2:] {
		for i := full[0]; i < full[1]; i++ {
			m[i] = 0xff
		}
	}
	m[1] = flags
	return m
}
