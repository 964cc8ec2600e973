package scsi

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
)

// sanitizeState is how the unit stands to SANITIZE (SBC-3, 4.11).
type sanitizeState uint32

const (
	sanitizeNone sanitizeState = iota
	// sanitizeFailed and sanitizeMayExit: one did not come to its end. Nothing is
	// to be read or written then until another does, or, in the second state,
	// EXIT FAILURE MODE. The numbers are those of Reservations.Sanitize.
	sanitizeFailed
	sanitizeMayExit
	sanitizeRunning
)

// sanitizer is the part of a unit that SANITIZE is about.
type sanitizer struct {
	state    atomic.Uint32
	progress atomic.Uint32 // of 65536
	rate     int64         // bytes in a second
}

func (s *sanitizer) is() sanitizeState { return sanitizeState(s.state.Load()) }

// sense is what most commands end with, nil for none.
func (s *sanitizer) sense() *Sense {
	switch s.is() {
	case sanitizeRunning:
		return &Sense{Key: NotReady, Code: NotReadySanitize, inProgress: true, progress: uint16(s.progress.Load())}
	case sanitizeFailed, sanitizeMayExit:
		return sense(MediumError, SanitizeFailed)
	}
	return nil
}

// sanitized says why an operation is not for a unit that is being sanitized, or
// that failed to be.
func (u *Unit) sanitized(op *operation) *Sense {
	if op.quiet || op.calm || op.code == opSanitize && u.sanitize.is() != sanitizeRunning {
		return nil
	}
	return u.sanitize.sense()
}

// Bits of byte 1 of the CDB.
const (
	sanitizeImmediate = 0x80
	sanitizeZoned     = 0x40 // ZNR
	sanitizeExit      = 0x20 // AUSE
)

// overwriteHeader is the size of what precedes the pattern in the parameter list
// of OVERWRITE: flags and count, reserved, the length of the pattern (2).
const overwriteHeader = 4

func decodeOverwrite(u *Unit, c *Command, _ uint64) *Sense {
	if s := u.writable(); s != nil {
		return s
	}
	n := int64(binary.BigEndian.Uint16(c.cdb[7:]))
	if n <= overwriteHeader || n > overwriteHeader+u.blockSize {
		return badCDB(7, noBit)
	}
	c.Direction, c.Transfer = DataOut, n
	return nil
}

// decodeErase is for those that have no parameters.
func decodeErase(u *Unit, c *Command, _ uint64) *Sense {
	if s := u.writable(); s != nil {
		return s
	}
	if binary.BigEndian.Uint16(c.cdb[7:]) != 0 {
		return badCDB(7, noBit)
	}
	return nil
}

// sanitation is one SANITIZE.
type sanitation struct {
	immediate bool
	mark      sanitizeState // what the unit is in until it has succeeded
	// pattern is a block of OVERWRITE; nil to erase. passes is how often, invert
	// whether every other pass writes the complement.
	pattern []byte
	passes  int64
	invert  bool
}

func sanitationOf(c *Command) sanitation {
	s := sanitation{immediate: c.cdb[1]&sanitizeImmediate != 0, mark: sanitizeFailed, passes: 1}
	if c.cdb[1]&sanitizeExit != 0 {
		s.mark = sanitizeMayExit
	}
	return s
}

func executeErase(u *Unit, c *Command) verdict { return u.beginSanitize(c, sanitationOf(c)) }

func executeOverwrite(u *Unit, c *Command) verdict {
	const invert, test, count = 0x80, 0x60, 0x1f
	b, s := c.parameters(), sanitationOf(c)
	n := int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case b[0]&test != 0:
		return c.fail(badData(0, 6))
	case b[0]&count == 0:
		return c.fail(badData(0, 4))
	case n == 0 || n != len(b)-overwriteHeader:
		return c.fail(badData(2, noBit))
	}
	s.passes, s.invert = int64(b[0]&count), b[0]&invert != 0
	s.pattern = make([]byte, u.blockSize)
	for at := 0; at < len(s.pattern); at += n {
		copy(s.pattern[at:], b[overwriteHeader:])
	}
	return u.beginSanitize(c, s)
}

func (u *Unit) beginSanitize(c *Command, s sanitation) verdict {
	if before := u.sanitize.is(); before == sanitizeRunning || !u.sanitize.state.CompareAndSwap(uint32(before), uint32(sanitizeRunning)) {
		return c.fail(&Sense{Key: NotReady, Code: NotReadySanitize, inProgress: true})
	}
	if s := u.noMedium(); s != nil { // it was ejected since the command was planned
		u.endSanitize()
		return c.fail(s)
	}
	u.sanitize.progress.Store(0)
	c.inline = false
	over := u.busy()
	u.background.Go(func() {
		u.runSanitize(c, s)
		over()
	})
	return wait
}

// executeExitFailure leaves the state that a failed SANITIZE with AUSE has left
// the unit in.
func executeExitFailure(u *Unit, c *Command) verdict {
	switch u.sanitize.is() {
	case sanitizeFailed:
		return c.fail(badCDB(1, 4))
	case sanitizeMayExit:
		if err := u.markSanitize(sanitizeNone); err != nil {
			return c.fail(sense(HardwareError, InternalTargetFailure))
		}
		u.sanitize.state.CompareAndSwap(uint32(sanitizeMayExit), uint32(sanitizeNone))
	}
	return done
}

// markSanitize notes in the stored state that a SANITIZE has begun and not
// ended, so that none is taken for complete that a crash or a takeover has cut
// short.
func (u *Unit) markSanitize(mark sanitizeState) error {
	u.prOrder.Lock()
	defer u.prOrder.Unlock()
	s, err := u.carryOut(u.ctx, func(r Reservations) (Reservations, *refusal) {
		r.Sanitize = byte(mark)
		return r, nil
	})
	if err == nil {
		u.adopt(s.state, nil)
	}
	return err
}

// recallSanitize takes the state from what is stored, unless it is this unit's
// own doing. With u.mu held.
func (u *Unit) recallSanitize() {
	stored := u.storedSanitize()
	for _, now := range []sanitizeState{sanitizeNone, sanitizeFailed, sanitizeMayExit} {
		if u.sanitize.state.CompareAndSwap(uint32(now), uint32(stored)) {
			return
		}
	}
}

// storedSanitize is the state without a SANITIZE of this unit's own. In standby
// that says enough. With u.mu held.
func (u *Unit) storedSanitize() sanitizeState {
	if u.mount.Load() == nil {
		return sanitizeNone
	}
	return sanitizeState(u.persist.Sanitize)
}

// endSanitize ends sanitizeRunning.
func (u *Unit) endSanitize() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sanitize.state.Store(uint32(u.storedSanitize()))
}

// passOf is the buffer that a pass writes over and over.
func (s *sanitation) passOf(pass int64, b []byte) {
	block := s.pattern
	if s.invert && pass%2 == 1 {
		block = slices.Clone(block)
		for i := range block {
			block[i] = ^block[i]
		}
	}
	for at := 0; at < len(b); at += len(block) {
		copy(b[at:], block)
	}
}
