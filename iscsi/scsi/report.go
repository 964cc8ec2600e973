package scsi

import "encoding/binary"

// Reporting options of REPORT SUPPORTED OPERATION CODES.
const (
	reportAll         = 0
	reportCode        = 1 // one without service actions
	reportAction      = 2 // one with
	reportEither      = 3
	reportTimeouts    = 0x80 // RCTD
	timeoutDescriptor = 12
)

func executeReportOpcodes(u *Unit, c *Command) verdict {
	timeouts := c.cdb[2]&reportTimeouts != 0
	if c.cdb[2]&7 == reportAll {
		return c.reply(u.everyOperation(timeouts))
	}
	code, action := c.cdb[3], int(binary.BigEndian.Uint16(c.cdb[4:]))
	candidates := operations[code]
	actions := len(candidates) > 0 && candidates[0].action != noAction
	switch option := c.cdb[2] & 7; {
	case option > reportEither:
		return c.fail(badCDB(2, 2))
	case option == reportCode && actions:
		return c.fail(badCDB(2, 2))
	case option == reportAction && len(candidates) > 0 && !actions:
		return c.fail(badCDB(2, 2))
	}
	for _, op := range candidates {
		if op.action == action || !actions && (action == 0 || c.cdb[2]&7 == reportCode) {
			return c.reply(u.oneOperation(op, timeouts))
		}
	}
	const notSupported = 1
	return c.reply([]byte{0, notSupported, 0, 0})
}

func (u *Unit) everyOperation(timeouts bool) []byte {
	b := make([]byte, 4)
	for _, candidates := range operations {
		for _, op := range candidates {
			var flags byte
			action := uint16(0)
			if op.action != noAction {
				flags, action = 0x01, uint16(op.action)
			}
			if timeouts {
				flags |= 0x02
			}
			b = append(b, op.code, 0, byte(action>>8), byte(action), 0, flags, 0, byte(op.size))
			if timeouts {
				b = op.appendTimeouts(b)
			}
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func (u *Unit) oneOperation(op *operation, timeouts bool) []byte {
	const supported = 3
	usage := op.usage()
	if op.code == opStartStopUnit && !u.removable {
		usage[4] &^= loadEject
	}
	b := append([]byte{0, supported, 0, byte(op.size)}, usage...)
	if timeouts {
		b[1] |= 0x80
		b = op.appendTimeouts(b)
	}
	return b
}

// appendTimeouts appends the command timeouts descriptor: nominal, which nobody
// can say, and recommended.
func (op *operation) appendTimeouts(b []byte) []byte {
	b = append(b, 0, timeoutDescriptor-2, 0, 0, 0, 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, op.seconds)
}

// executeReportTaskFunctions names what task.go does: ABORT TASK, ABORT TASK SET,
// CLEAR TASK SET, LOGICAL UNIT RESET and I_T NEXUS RESET.
func executeReportTaskFunctions(_ *Unit, c *Command) verdict {
	const basic, nexusReset = 0x80 | 0x40 | 0x10 | 0x08, 0x01
	b := []byte{basic, nexusReset, 0, 0}
	if c.cdb[2]&0x80 != 0 { // REPD: with timeouts, none of which we know
		b[3] = 12
		b = append(b, make([]byte, 12)...)
	}
	return c.reply(b)
}
