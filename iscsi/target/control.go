package target

import (
	"errors"
	"slices"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
)

// nopOut answers a ping with its data, or takes the answer to one of ours (11.18).
func (s *session) nopOut(p *pdu) error {
	var n iscsi.NopOut
	if err := n.Decode(p.bhs); err != nil {
		return s.refuse(p, err)
	}
	if n.InitiatorTaskTag == iscsi.ReservedTag {
		// It wants no answer, and has no place in the window.
		return s.skip(p)
	}
	serve, err := s.admit(p, n.CmdSN)
	if !serve {
		return err
	}
	data := make([]byte, p.size)
	if p.buffered() {
		copy(data, p.data)
	} else if err := s.receive(p, [][]byte{data}, 0); err != nil {
		return err
	}
	data = data[:min(len(data), int(s.sender.maxData))]
	reply := iscsi.NopIn{
		DataLength: len(data), LUN: n.LUN,
		InitiatorTaskTag: n.InitiatorTaskTag, TargetTransferTag: iscsi.ReservedTag,
	}
	answer := newNotice(func(o *sender, b *iscsi.BHS) {
		reply.Window = o.window(true)
		reply.Encode(b)
	})
	answer.data = data
	return s.answer(s.answering(n.Immediate, answer), iscsi.BHSSize+len(data))
}

// answerTimes is how often KeepAlive an initiator may take to answer a ping: it may
// stand still for a minute, as a machine does that is moved or debugged, and find its
// session as it was.
const answerTimes = 4

// keepAlive asks an initiator that was silent for long whether it is there, and cuts
// it off if it does not say.
func (s *session) keepAlive(clock int64) {
	limit := int64(s.server.opts.KeepAlive)
	heard := s.conn.heard.Load()
	s.mu.Lock()
	pinged := s.pinged
	if heard >= pinged { // the clock is coarse: an answer may come within one tick
		pinged, s.pinged = 0, 0
	}
	ask := pinged == 0 && clock-heard > limit
	if ask {
		s.pinged = clock
	}
	owed := false
	for _, t := range s.tasks {
		since := t.awaited.Load()
		owed = owed || since != 0 && clock-since > int64(s.server.opts.StallTimeout)
	}
	s.mu.Unlock()
	switch {
	case owed:
		s.conn.abort("does not send the data of a write")
	case pinged != 0 && clock-pinged > answerTimes*limit:
		s.conn.abort("does not answer")
	case ask && s.discovery: // which has no pings (4.3)
		s.conn.abort("discovery session is idle")
	case ask:
		s.post(s.ping())
	}
}

// ping is a NOP-In that wants an answer. It takes no StatSN (11.19.3).
func (s *session) ping() *notice {
	s.mu.Lock()
	if s.transfer++; s.transfer == iscsi.ReservedTag {
		s.transfer = 1
	}
	tag := s.transfer
	s.mu.Unlock()
	return newNotice(func(o *sender, b *iscsi.BHS) {
		n := iscsi.NopIn{InitiatorTaskTag: iscsi.ReservedTag, TargetTransferTag: tag, Window: o.window(false)}
		n.Encode(b)
	})
}

// askLogout says that the target is going away (11.9.1).
func (s *session) askLogout() {
	s.post(newNotice(func(o *sender, b *iscsi.BHS) {
		a := iscsi.AsyncMessage{Event: iscsi.AsyncLogoutRequested, Parameter3: 1, Window: o.window(true)}
		a.Encode(b)
	}))
}

// lunsEvent reports that the list of units has changed (11.9.1, event 0), to initiators
// that listen; the others see the unit attention.
func (s *session) lunsEvent() *notice {
	code := scsi.LUNsChanged
	sense := []byte{0, 18, 0x70, 0, byte(scsi.UnitAttention), 0, 0, 0, 0, 10, 0, 0, 0, 0, byte(code >> 8), byte(code), 0, 0, 0, 0}
	n := newNotice(func(o *sender, b *iscsi.BHS) {
		a := iscsi.AsyncMessage{Event: iscsi.AsyncScsiEvent, DataLength: len(sense), Window: o.window(true)}
		a.Encode(b)
	})
	n.data = sense
	return n
}

// logoutRequest ends the session (11.14). It is answered when nothing is under way any
// more.
func (s *session) logoutRequest(p *pdu) error {
	var l iscsi.LogoutRequest
	if err := l.Decode(p.bhs); err != nil {
		return s.refuse(p, err)
	}
	if l.Reason > iscsi.LogoutRecovery {
		return s.reject(p, iscsi.RejectInvalidField)
	}
	serve, err := s.admit(p, l.CmdSN)
	if !serve {
		return err
	}
	result := iscsi.LogoutDone
	switch {
	case l.Reason == iscsi.LogoutRecovery:
		result = iscsi.LogoutRecoveryNotSupported
	case l.Reason == iscsi.LogoutConnection && l.CID != s.cid:
		result = iscsi.LogoutCIDNotFound
	}
	if result != iscsi.LogoutDone {
		return s.answer(s.answering(l.Immediate, logoutAnswer(&l, result)), iscsi.BHSSize)
	}
	s.logout = &l
	return errOver
}

func logoutAnswer(l *iscsi.LogoutRequest, result iscsi.LogoutResult) *notice {
	r := iscsi.LogoutResponse{Result: result, InitiatorTaskTag: l.InitiatorTaskTag}
	return newNotice(func(o *sender, b *iscsi.BHS) {
		r.Window = o.window(true)
		r.Encode(b)
	})
}

// answerLogout sends the last PDU of a session.
func (s *session) answerLogout() {
	_ = s.sender.send([]reply{logoutAnswer(s.logout, iscsi.LogoutDone)})
}

// exchange is a text request that takes several PDUs, either way (11.10).
type exchange struct {
	in  *iscsi.TextBuffer
	out []byte // what was not sent yet
	tag uint32 // by which the initiator goes on, 0 for none
}

var errText = errors.New("text exchange out of order")

// textRequest serves a Text Request: SendTargets, and what may be declared anew.
func (s *session) textRequest(p *pdu) error {
	var r iscsi.TextRequest
	if err := r.Decode(p.bhs); err != nil {
		return s.refuse(p, err)
	}
	if !p.buffered() { // 16 KiB are more than any text we take
		return s.reject(p, iscsi.RejectOutOfResources)
	}
	if due, err := s.inOrder(r.CmdSN, r.Immediate); !due {
		return err
	}
	answer, err := s.exchangeText(&r, p.data)
	if err != nil {
		s.exchange = exchange{}
		return s.refuse(p, err)
	}
	if !s.takePlace(r.Immediate) {
		return s.reject(p, iscsi.RejectImmediateCommand)
	}
	return s.answer(s.answering(r.Immediate, answer), iscsi.BHSSize+len(answer.data))
}

func (s *session) exchangeText(r *iscsi.TextRequest, text []byte) (*notice, error) {
	x := &s.exchange
	switch {
	case r.TargetTransferTag == iscsi.ReservedTag: // a new exchange ends an old one (11.10.4)
		*x = exchange{in: iscsi.NewTextBuffer(iscsi.DefaultTextLimits)}
	case x.in == nil || r.TargetTransferTag != x.tag:
		return nil, errText
	}
	if len(x.out) > 0 {
		if len(text) > 0 {
			return nil, errText
		}
		return s.textAnswer(r), nil
	}
	if err := x.in.Add(text); err != nil {
		return nil, err
	}
	if !r.Continue {
		pairs, err := x.in.Pairs()
		if err != nil {
			return nil, err
		}
		answers, err := s.negotiation.Receive(iscsi.PhaseFullFeature, pairs)
		if err != nil {
			return nil, err
		}
		x.out = iscsi.AppendText(nil, answers...)
		if which, asked := s.negotiation.SendTargets(); asked {
			x.out = iscsi.AppendTargets(x.out, s.sendTargets(which))
		}
		s.renegotiated()
	}
	return s.textAnswer(r), nil
}

// renegotiated takes what the initiator has declared anew over.
func (s *session) renegotiated() {
	if p, err := s.negotiation.Parameters(); err == nil {
		s.conn.out.Lock()
		s.sender.maxData = p.MaxSendDataSegmentLength
		s.conn.out.Unlock()
	}
}

// textAnswer is the next piece of the answer, and says how to go on.
func (s *session) textAnswer(r *iscsi.TextRequest) *notice {
	x := &s.exchange
	data, rest := iscsi.CutText(x.out, int(s.sender.maxData))
	x.out = rest
	answer := iscsi.TextResponse{
		Final: r.Final && len(rest) == 0, Continue: len(rest) > 0, DataLength: len(data),
		LUN: r.LUN, InitiatorTaskTag: r.InitiatorTaskTag, TargetTransferTag: iscsi.ReservedTag,
	}
	if answer.Final {
		*x = exchange{}
	} else {
		x.tag++
		answer.TargetTransferTag = x.tag
	}
	n := newNotice(func(o *sender, b *iscsi.BHS) {
		answer.Window = o.window(true)
		answer.Encode(b)
	})
	n.data = data
	return n
}

// sendTargets lists targets: all that the initiator may use, in a discovery session;
// else its own (appendix C).
func (s *session) sendTargets(which string) []iscsi.DiscoveredTarget {
	portals := s.conn.portals()
	if !s.discovery {
		if name, err := iscsi.ParseName(which); which != "" && (err != nil || name != s.target) {
			return nil
		}
		return []iscsi.DiscoveredTarget{{Name: s.target, Portals: portals}}
	}
	name, _ := iscsi.ParseName(which)
	var found []iscsi.DiscoveredTarget
	for _, t := range s.server.directory.Targets() {
		if which != iscsi.SendTargetsAll && t.Name != name {
			continue
		}
		if _, allowed := t.Sees(s.initiator); allowed {
			found = append(found, iscsi.DiscoveredTarget{Name: t.Name, Portals: portals})
		}
	}
	slices.SortFunc(found, func(a, b iscsi.DiscoveredTarget) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return found
}
