package scsi

import (
	"errors"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// A SANITIZE goes over the medium in pieces, one after the other, so that it
// takes no more of what units share than one slow client does.
const (
	sanitizePiece = 1 << 20 // written
	erasePiece    = 64 << 20
	// defaultSanitizeRate is about that of a disk.
	defaultSanitizeRate = 128 << 20
)

// errCutShort: the unit was closed, or has lost its medium.
var errCutShort = errors.New("sanitize was cut short")

// sanitizing is a SANITIZE under way.
type sanitizing struct {
	sanitation
	unit    *Unit
	mount   *mount
	command *Command // that waits for the end; nil for none
	request volume.Request
	ended   chan struct{} // a token for each request that is complete
	began   time.Time
	written int64 // since then
	timer   *time.Timer
}

// RequestDone implements volume.Completer.
func (s *sanitizing) RequestDone(*volume.Request) { s.ended <- struct{}{} }

// runSanitize does a SANITIZE and completes its command: at once for one that is
// immediate, else at the end. It goes on without the command where that is
// aborted.
func (u *Unit) runSanitize(c *Command, what sanitation) {
	s := &sanitizing{sanitation: what, unit: u, mount: c.mount, command: c, ended: make(chan struct{}, 1)}
	if !s.mount.enter() {
		u.endSanitize()
		s.complete(standby())
		return
	}
	if err := u.markSanitize(what.mark); err != nil {
		u.endSanitize()
		s.mount.leave()
		s.complete(sense(HardwareError, InternalTargetFailure))
		return
	}
	if s.immediate {
		s.complete(nil)
	}
	err := s.run()
	if err == nil {
		err = u.markSanitize(sanitizeNone)
	}
	s.mount.failed(err)
	gone := s.mount.gone.Load()
	u.endSanitize()
	s.mount.leave()
	switch {
	case err == nil:
		s.complete(nil)
	case gone:
		s.complete(standby())
	default:
		s.complete(sense(MediumError, SanitizeFailed))
	}
}

// complete ends the command, if one still waits.
func (s *sanitizing) complete(why *Sense) {
	if s.command == nil {
		return
	}
	if why != nil {
		s.command.fail(why)
	}
	s.unit.complete(s.command)
	s.command = nil
}

func (s *sanitizing) run() error {
	if err := s.unit.quiesce(); err != nil {
		return err
	}
	size := s.mount.Info().Size
	s.began = time.Now()
	s.timer = time.NewTimer(0)
	defer s.timer.Stop()
	var err error
	if s.pattern == nil {
		err = s.pass(backend.OpTrim, size, erasePiece, nil, 0)
	} else {
		data := make([]byte, sanitizePiece)
		for pass := int64(0); pass < s.passes && err == nil; pass++ {
			s.passOf(pass, data)
			err = s.pass(backend.OpWrite, size, sanitizePiece, data, pass)
		}
	}
	if err == nil {
		err = s.do(backend.OpFlush, 0, 0, nil)
	}
	return err
}

// quiesce waits for the commands that hold blocks. Those that come later find the
// unit being sanitized, or its medium ejected, once they have theirs.
func (u *Unit) quiesce() error {
	done := make(barrierDone, 1)
	b := &Command{Nexus: &Nexus{unit: u}, Done: done}
	b.unit, b.op, b.count = u, &barrier, uint64(u.size.Load()/u.blockSize)
	if !u.Execute(b) {
		<-done
	}
	if b.Status != Good {
		return errCutShort
	}
	return nil
}

// barrier holds every block, for no time.
var barrier = operation{name: "SANITIZE", size: 10, ready: true, empty: true, calm: true, lock: lockExclusive, execute: executeNothing}

type barrierDone chan struct{}

func (d barrierDone) CommandDone(*Command) { d <- struct{}{} }

// pass goes over the medium once.
func (s *sanitizing) pass(op backend.OpKind, size, piece int64, data []byte, pass int64) error {
	for off := int64(0); off < size; off += piece {
		n := min(piece, size-off)
		if data != nil {
			data = data[:n]
		}
		if err := s.do(op, off, n, data); err != nil {
			return err
		}
		done := float64(pass*size+off+n) / float64(s.passes*size)
		s.unit.sanitize.progress.Store(min(uint32(done*65536), 65535))
		if data != nil {
			s.written += n
			s.pace()
		}
	}
	return nil
}

// do runs one request.
func (s *sanitizing) do(op backend.OpKind, off, n int64, data []byte) error {
	s.letGo()
	if s.mount.gone.Load() || s.unit.ctx.Err() != nil {
		return errCutShort
	}
	r := &s.request
	r.Reset()
	r.Op, r.Off, r.Len, r.Data, r.Done = op, off, n, data, s
	s.mount.Submit(r)
	<-s.ended
	return r.Err
}

// pace waits until as much time has gone by as the rate asks for.
func (s *sanitizing) pace() {
	due := s.began.Add(time.Duration(float64(s.written) / float64(s.unit.sanitize.rate) * float64(time.Second)))
	for left := time.Until(due); left > 0 && !s.mount.gone.Load(); left = time.Until(due) {
		s.timer.Reset(min(left, lookUp))
		select {
		case <-s.timer.C:
		case <-s.unit.ctx.Done():
			return
		}
		s.letGo()
	}
}

// lookUp is how long nothing is looked at while a slow rate is waited for.
const lookUp = 50 * time.Millisecond

// letGo ends the command if it is aborted.
func (s *sanitizing) letGo() {
	if s.command != nil && s.command.aborted() {
		s.complete(nil)
	}
}
