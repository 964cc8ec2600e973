package target

import (
	"log/slog"
	"slices"
	"time"

	"github.com/opencurve/curve-nbd/iscsi"
)

// notice is any reply but a command's: one PDU.
type notice struct {
	session *session
	// encode writes the header, with the window as it is when the PDU goes out.
	encode func(*sender, *iscsi.BHS)
	data   []byte
	// counted: it answers a request that has a place in the window, or among the
	// immediate ones.
	counted, immediate bool
	after              func()
}

func newNotice(encode func(*sender, *iscsi.BHS)) *notice { return &notice{encode: encode} }

// appendTo implements reply.
func (n *notice) appendTo(o *sender) {
	if n.counted && !n.immediate {
		o.maxCmdSN.Add(1)
	}
	if n.encode == nil {
		return
	}
	b := o.head()
	n.encode(o, b)
	o.headDone(b)
	o.data([][]byte{n.data}, 0, int64(len(n.data)))
}

// sent implements reply.
func (n *notice) sent() {
	if n.counted && n.immediate {
		n.session.immediates.Add(-1)
	}
	if n.after != nil {
		n.after()
	}
}

// admit takes the place of a request other than a SCSI command. Unless serve is true
// there is nothing more to do for it. What it is answered with must be of answering.
func (s *session) admit(p *pdu, cmdSN uint32) (serve bool, err error) {
	immediate := p.bhs.Immediate()
	due, err := s.inOrder(cmdSN, immediate)
	switch {
	case err != nil:
		return false, err
	case !due:
		return false, s.skip(p)
	case !s.takePlace(immediate):
		return false, s.reject(p, iscsi.RejectImmediateCommand)
	}
	return true, nil
}

// answering makes n the answer of a request that was admitted.
func (s *session) answering(immediate bool, n *notice) *notice {
	n.session, n.counted, n.immediate = s, true, immediate
	return n
}

// newReject refuses a PDU, whose header it repeats (11.17).
func newReject(bhs *iscsi.BHS, reason iscsi.RejectReason) *notice {
	r := iscsi.Reject{Reason: reason, DataLength: iscsi.BHSSize}
	n := newNotice(func(o *sender, b *iscsi.BHS) {
		r.Window = o.window(true)
		r.Encode(b)
	})
	n.data = slices.Clone(bhs[:])
	return n
}

// complain logs what an initiator does wrong, once a second: it can do so much of it
// that the log would be full of nothing else. The rest is there for who looks closely.
func (s *session) complain(what string, args ...any) { s.note(slog.LevelWarn, what, args...) }

// note is complain of what need not be wrong.
func (s *session) note(level slog.Level, what string, args ...any) {
	now := s.server.clock.Load()
	if s.complained != 0 && now-s.complained < int64(time.Second) {
		level = slog.LevelDebug
	} else {
		s.complained = now
	}
	s.server.log.Log(s.conn.ctx, level, what, args...)
}

// reject refuses a PDU and drops its data.
func (s *session) reject(p *pdu, reason iscsi.RejectReason) error {
	s.complain("PDU rejected", "initiator", s.initiator, "pdu", p.bhs.Opcode(), "reason", reason)
	n := newReject(p.bhs, reason)
	if err := s.skip(p); err != nil {
		return err
	}
	return s.answer(n, 2*iscsi.BHSSize)
}

// refuse rejects a PDU for what is wrong with it. The place of a request that is not
// immediate stays free: the initiator has to fill it (7.3).
func (s *session) refuse(p *pdu, err error) error {
	reason := iscsi.RejectProtocolError
	if bad, ok := err.(*iscsi.PDUError); ok {
		reason = bad.Reason
	}
	s.complain("PDU refused", "initiator", s.initiator, "error", err)
	return s.reject(p, reason)
}
