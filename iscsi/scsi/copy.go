package scsi

import (
	"encoding/binary"
	"slices"

	"github.com/opencurve/curve-nbd/backend"
)

// copying is an EXTENDED COPY under way.
type copying struct {
	copyList
	own  *mount // that the command came in by
	done uint64 // segments
	at   int64  // bytes of the next that are copied
	n    int64  // bytes of the piece
	sum  int64  // bytes copied in all
}

func decodeExtendedCopy(u *Unit, c *Command, _ uint64) *Sense {
	n := binary.BigEndian.Uint32(c.cdb[10:])
	if n == 0 {
		return nil
	}
	if n < copyHeader || n > copyHeader+2*maxCopyList {
		return sense(IllegalRequest, ParameterListLength)
	}
	c.Direction, c.Transfer = DataOut, int64(n)
	return nil
}

func executeExtendedCopy(u *Unit, c *Command) verdict {
	if c.Transfer == 0 {
		return done
	}
	l, s := u.parseCopy(c.Nexus, c.parameters())
	if s != nil {
		return c.fail(s)
	}
	job := &copying{copyList: *l, own: c.mount}
	if !c.Nexus.copies.begin(job) {
		return c.fail(sense(IllegalRequest, OperationInProgress))
	}
	c.copying = job
	if s := job.enter(c.Nexus); s != nil {
		return c.fail(s)
	}
	switch {
	case c.aborted(): // or the paths there may be those of its initiator's next session
		return done
	case job.early():
		c.Status = Busy
		return done
	}
	c.next = copyNext
	if !u.copyRoom.take(c) {
		return wait
	}
	return copyNext(u, c)
}

// enter takes hold of the media, as far as the initiator may use them.
func (j *copying) enter(n *Nexus) *Sense {
	for i := range j.ends {
		if !j.ends[i].enter(n) {
			return sense(CopyAborted, CopyUnitUnreachable)
		}
	}
	for i := range j.segments {
		s := &j.segments[i]
		if !s.allowed() {
			return sense(CopyAborted, CopyUnitUnreachable)
		}
		if why := s.to.unit.writable(); why != nil {
			return why
		}
	}
	return nil
}

// enter makes the copy one of the commands of the initiator's path to the unit: what
// ends those ends it too, and waits for it.
func (e *end) enter(n *Nexus) bool {
	m, path := e.unit.mount.Load(), e.unit.pathOf(n)
	if m == nil || path == nil || !m.enter() {
		return false
	}
	e.mount, e.path, e.epoch = m, path, path.join()
	return true
}

// pathOf is the path to this unit of an initiator with a path to one of the target's
// units; nil for none.
func (u *Unit) pathOf(n *Nexus) *Nexus {
	if n.unit == u {
		return n
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	i := slices.IndexFunc(u.nexuses, func(p *Nexus) bool { return p.initiator == n.initiator && p.port == n.port })
	if i < 0 {
		return nil
	}
	return u.nexuses[i]
}

// early says that one of the paths has to wait for the one before it.
func (j *copying) early() bool {
	return slices.ContainsFunc(j.ends, func(e end) bool { return e.path.gate.closed() })
}

// allowed says whether reservations let the initiator copy a segment.
func (s *segment) allowed() bool { return s.from.path.may(accessRead) && s.to.path.may(accessWrite) }

// stopped says why the copy must not go on with its segment.
func (j *copying) stopped() *Sense {
	over := func(e end) bool { return e.path.epoch.Load() != e.epoch }
	if slices.ContainsFunc(j.ends, over) || !j.segments[j.done].allowed() {
		return sense(CopyAborted, CopyUnitUnreachable)
	}
	return nil
}

// leave is the end of a copy, whatever came of it.
func (j *copying) leave(c *Command) {
	c.Nexus.copies.end(j, int(j.done) == len(j.segments))
	for i := range j.ends {
		if e := &j.ends[i]; e.mount != nil {
			e.mount.leave()
			e.path.leave(e.epoch)
		}
	}
	c.mount = j.own
}

// copyNext takes the next piece: its blocks are held while they are read, then,
// at the other end, while they are written, so that COMPARE AND WRITE and the
// like are whole for a copy too, and wait for a piece of it at most.
func copyNext(u *Unit, c *Command) verdict {
	j := c.copying
	for int(j.done) < len(j.segments) && j.at == j.bytes() {
		j.done, j.at = j.done+1, 0
	}
	if int(j.done) == len(j.segments) {
		return done
	}
	s := &j.segments[j.done]
	j.n = min(j.bytes()-j.at, scratchSize)
	c.next = copyRead
	if !s.from.unit.lockBytes(c, j.offset(s.source), j.n) {
		return wait
	}
	return copyRead(u, c)
}

func (j *copying) bytes() int64 {
	s := &j.segments[j.done]
	return int64(s.count) * s.from.unit.blockSize
}

// offset is where the piece is at an end. Where a segment is copied onto itself
// the pieces go from its last to its first if they must.
func (j *copying) offset(lba uint64) int64 {
	s := &j.segments[j.done]
	at := j.at
	if s.from.unit == s.to.unit && s.target > s.source && s.target < s.source+s.count {
		at = j.bytes() - j.at - j.n
	}
	return int64(lba)*s.from.unit.blockSize + at
}

func (u *Unit) lockBytes(c *Command, off, n int64) bool {
	return u.lock(c, uint64(off/u.blockSize), uint64((off+n)/u.blockSize), false)
}

func copyRead(_ *Unit, c *Command) verdict {
	j := c.copying
	s := &j.segments[j.done]
	c.mount = s.from.mount
	return c.want(backend.OpRead, j.offset(s.source), j.n, c.scratch[:j.n], copyHasRead)
}

func copyHasRead(u *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s.copied())
	}
	j := c.copying
	s := &j.segments[j.done]
	c.hold.release()
	c.next = copyWrite
	if !s.to.unit.lockBytes(c, j.offset(s.target), j.n) {
		return wait
	}
	return copyWrite(u, c)
}

// copyWrite leaves a hole where it has read one.
func copyWrite(_ *Unit, c *Command) verdict {
	j := c.copying
	s := &j.segments[j.done]
	c.mount = s.to.mount
	c.flags = s.to.unit.writeFlags(false)
	if c.request.Hole {
		return c.want(backend.OpZero, j.offset(s.target), j.n, nil, copyHasWritten)
	}
	return c.want(backend.OpWrite, j.offset(s.target), j.n, c.scratch[:j.n], copyHasWritten)
}

func copyHasWritten(u *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s.copied())
	}
	j := c.copying
	c.hold.release()
	j.at += j.n
	j.sum += j.n
	return copyNext(u, c)
}

// copied is the sense of a request as that of the copy. One that another path may
// do better stays as it is.
func (s *Sense) copied() *Sense {
	if s.Key == NotReady {
		return s
	}
	return sense(CopyAborted, s.Code)
}
