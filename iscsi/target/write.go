package target

import (
	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
)

// What goes wrong with the data of a write (11.4.7.2).
const (
	codeUnsolicited     scsi.Code = 0x0c0c
	codeIncorrectAmount scsi.Code = 0x0c0d
)

// startWrite brings the payload of a command that sends data. planned says that it is
// to be executed; else its status is set, and its data is dropped.
func (s *session) startWrite(t *task, p *pdu, c *iscsi.ScsiCommand, planned bool) error {
	t.refused = !planned
	if planned && t.command.Direction == scsi.DataOut {
		t.need = uint32(t.command.Transfer)
	}
	// What may come unasked: the immediate data, and with F not set Data-Out PDUs up
	// to FirstBurstLength in all.
	t.end, t.tag = uint32(p.size), iscsi.ReservedTag
	if !c.Final {
		if s.params.InitialR2T {
			return s.faulty(t, p, codeUnsolicited)
		}
		t.end = min(s.params.FirstBurstLength, t.expected)
	}
	if !s.params.ImmediateData && p.size > 0 || uint32(p.size) > s.params.FirstBurstLength {
		return s.faulty(t, p, codeUnsolicited)
	}
	if c.Final && planned && p.buffered() && uint32(p.size) >= t.need && t.need > 0 {
		t.command.Out = append(t.command.Out, p.data[:t.need])
		if t.lun.unit.Try(&t.command) {
			t.command.Out = t.command.Out[:0]
			return s.answer(t, iscsi.BHSSize)
		}
		t.command.Out = t.command.Out[:0]
	}
	if planned && !s.roomFor(t) {
		t.command.Status, t.refused = scsi.TaskSetFull, true
	}
	if t.refused {
		t.need, t.room = 0, 0
	}
	if err := s.takeData(t, p); err != nil {
		t.free()
		return err
	}
	if c.Final {
		return s.afterData(t)
	}
	t.await()
	s.register(t, phaseUnsolicited)
	return nil
}

// await notes that data is asked for, or has come and is not all.
func (t *task) await() { t.awaited.Store(t.session.server.clock.Load()) }

// roomFor gets room for all of the payload, or at least for what comes unasked.
func (s *session) roomFor(t *task) bool {
	if t.getRoom(&t.command.Out, int64(t.need)) {
		t.room = t.need
		return true
	}
	first := min(t.end, t.need)
	if first == 0 {
		return true
	}
	// Whole blocks, or the unit could not take it apart from the rest.
	t.room = min((first+4095)&^4095, t.need)
	return t.getRoom(&t.command.Out, int64(t.room)) || t.getSpill(&t.command.Out, int64(t.room), maxUnasked)
}

// takeData brings the data of a PDU to where it belongs.
func (s *session) takeData(t *task, p *pdu) error {
	off := int64(t.received)
	t.received += uint32(p.size)
	if t.refused || off >= int64(t.need) {
		return s.skip(p)
	}
	if !p.buffered() {
		return s.receive(p, t.command.Out, off)
	}
	place(p, t.command.Out, off)
	return nil
}

// afterData goes on when a sequence of data is complete.
func (s *session) afterData(t *task) error {
	switch {
	case t.refused:
		s.settled(t)
		return s.answer(t, iscsi.BHSSize)
	case t.received >= t.need:
		return s.execute(t)
	case t.room < t.need:
		return s.starve(t)
	}
	s.register(t, phaseSolicited)
	s.mu.Lock()
	r := t.nextR2T()
	s.mu.Unlock()
	return s.answer(r, iscsi.BHSSize)
}

// nextR2T asks for what comes next. With session.mu held.
func (t *task) nextR2T() *notice {
	s := t.session
	if s.transfer++; s.transfer == iscsi.ReservedTag {
		s.transfer = 1
	}
	t.tag = s.transfer
	n := min(s.params.MaxBurstLength, t.need-t.received)
	t.end, t.dataSN = t.received+n, 0
	t.await()
	r := iscsi.R2T{
		LUN: t.field, InitiatorTaskTag: t.itt, TargetTransferTag: t.tag,
		R2TSN: t.r2ts, BufferOffset: t.received, DesiredLength: n,
	}
	t.r2ts++
	return newNotice(func(o *sender, b *iscsi.BHS) {
		r.Window = o.window(false)
		r.Encode(b)
	})
}

// dataOut serves a Data-Out PDU.
func (s *session) dataOut(p *pdu) error {
	var d iscsi.DataOut
	if err := d.Decode(p.bhs); err != nil {
		return s.refuse(p, err)
	}
	s.mu.Lock()
	t := s.tasks[d.InitiatorTaskTag]
	wanted := t != nil && (t.phase == phaseUnsolicited || t.phase == phaseSolicited) && t.tag == d.TargetTransferTag
	s.mu.Unlock()
	if !wanted { // its command was aborted, or has failed already
		return s.skip(p)
	}
	switch {
	case d.DataSN != t.dataSN, d.BufferOffset != t.received:
		return s.faulty(t, p, codeIncorrectAmount)
	case d.End() > uint64(t.end):
		return s.faulty(t, p, codeIncorrectAmount)
	case d.Final && t.phase == phaseSolicited && d.End() < uint64(t.end):
		return s.faulty(t, p, codeIncorrectAmount)
	}
	t.dataSN++
	if err := s.takeData(t, p); err != nil {
		return err
	}
	if !d.Final {
		t.await()
		return nil
	}
	t.awaited.Store(0)
	return s.afterData(t)
}

// faulty ends a command whose data is not what was agreed on. More of it is dropped.
func (s *session) faulty(t *task, p *pdu, code scsi.Code) error {
	if !t.refused {
		t.command.Fail(scsi.AbortedCommand, code)
	}
	s.settled(t)
	s.complain("an initiator sends data that was not agreed on", "initiator", s.initiator, "target", s.target, "code", code)
	if err := s.skip(p); err != nil {
		t.free()
		return err
	}
	return s.answer(t, iscsi.BHSSize)
}

// settled takes a task that is about to be answered out of the table: no data is
// wanted for it any more, and with the answer the initiator may use its tag again.
func (s *session) settled(t *task) {
	if t.phase == phaseNew {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, t.itt)
	t.phase = phaseNew
}
