package scsi

import "context"

// NewAbsent returns what answers for the LUNs of a target that no unit has: a
// unit that is used, and closed, as any other. It answers INQUIRY, REPORT LUNS,
// so that LUN 0 does where no unit has that number, and REQUEST SENSE; all else
// ends with LOGICAL UNIT NOT SUPPORTED. luns is that of Options.
func NewAbsent(luns func(*Nexus) []uint64) *Unit {
	u := &Unit{absent: true, luns: luns, blockSize: 512, reservations: NewMemoryStore()}
	if luns == nil {
		u.luns = func(*Nexus) []uint64 { return nil }
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	u.worker = startWorker(u.resumed)
	return u
}

func notSupported() *Sense { return sense(IllegalRequest, UnitNotSupported) }

// planAbsent is plan for a unit that is not there: it has no state, so no unit
// attentions either.
func (u *Unit) planAbsent(c *Command) *Sense {
	op, _ := find(c.CDB)
	if op == nil || !op.quiet {
		return notSupported()
	}
	c.op = op
	if s := op.load(c); s != nil {
		return s
	}
	return op.decode(u, c, 0)
}

// absentType is peripheral qualifier 3 with device type 1Fh: no unit can be
// here.
const absentType = 0x7f
