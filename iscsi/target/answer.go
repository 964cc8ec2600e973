package target

import (
	"encoding/binary"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
)

// appendTo implements reply: the answer of a command (11.4, 11.7). Data and status go
// in one PDU where that can be.
func (t *task) appendTo(o *sender) {
	o.session.settled(t)
	if !t.immediate {
		o.maxCmdSN.Add(1)
	}
	c := &t.command
	if c.Unanswered() {
		return
	}
	n := t.dataIn()
	switch {
	case n > 0 && t.frame != nil && n <= int64(min(o.maxData, o.session.params.MaxBurstLength)):
		t.appendFrame(o, n)
	case n > 0:
		sent := t.appendData(o, n)
		if c.Status != scsi.Good {
			t.appendResponse(o, sent)
		}
	default:
		t.appendResponse(o, t.r2ts)
	}
}

// expectedIn is how much the initiator means to read. No command of ours moves data
// both ways.
func (t *task) expectedIn() uint32 {
	if t.read && !t.write {
		return t.expected
	}
	return 0
}

// dataIn is how much is sent.
func (t *task) dataIn() int64 { return min(t.command.InLen, int64(t.expectedIn())) }

// residual is what the command moved, or would have, against what was expected.
func (t *task) residual() iscsi.Residual {
	c := &t.command
	switch {
	case t.write && c.Direction == scsi.DataOut && (c.Status == scsi.Good || t.expected < uint32(c.Asked)):
		return iscsi.ResidualOf(t.expected, uint64(c.Asked))
	case t.write:
		return iscsi.ResidualOf(t.expected, 0)
	}
	if c.Direction == scsi.DataOut { // it sends nothing of what it should
		return iscsi.ResidualOf(t.expectedIn(), uint64(c.Asked))
	}
	return iscsi.ResidualOf(t.expectedIn(), uint64(c.InLen))
}

// appendFrame answers a small read, whose data lies in its frame already.
func (t *task) appendFrame(o *sender, n int64) {
	d := o.session.digests
	bhs := (*iscsi.BHS)(t.frame[:iscsi.BHSSize])
	last := t.lastData(o, 0, uint32(n), 0)
	last.Encode(bhs)
	size := d.headerSize()
	if d.header {
		iscsi.PutDigest(t.frame[iscsi.BHSSize:], iscsi.HeaderDigest(bhs, nil))
	}
	end := size + iscsi.Padded(int(n))
	clear(t.frame[size+int(n) : end])
	if d.data {
		iscsi.PutDigest(t.frame[end:], iscsi.DataDigestOf(t.frame[size:end]))
		end += iscsi.DigestSize
	}
	o.add(t.frame[:end])
}

// lastData is the Data-In PDU that carries the status too.
func (t *task) lastData(o *sender, off, n, sn uint32) iscsi.DataIn {
	return iscsi.DataIn{
		Final: true, HasStatus: true, Status: byte(t.command.Status),
		DataLength: int(n), InitiatorTaskTag: t.itt, TargetTransferTag: iscsi.ReservedTag,
		Window: o.window(true), DataSN: sn, BufferOffset: off, Residual: t.residual(),
	}
}

// appendData sends n bytes in as many PDUs as it takes: none longer than the
// initiator receives, sequences no longer than MaxBurstLength. It returns how many.
func (t *task) appendData(o *sender, n int64) (sent uint32) {
	burst := int64(o.session.params.MaxBurstLength)
	for off := int64(0); off < n; sent++ {
		part := min(n-off, int64(o.maxData), burst-off%burst)
		last := off+part == n
		b := o.head()
		d := iscsi.DataIn{
			Final:      last || (off+part)%burst == 0,
			DataLength: int(part), InitiatorTaskTag: t.itt, TargetTransferTag: iscsi.ReservedTag,
			Window: o.window(false), DataSN: sent, BufferOffset: uint32(off),
		}
		d.StatSN = 0 // reserved without status
		if last && t.command.Status == scsi.Good {
			d = t.lastData(o, uint32(off), uint32(part), sent)
		}
		d.Encode(b)
		o.headDone(b)
		o.data(t.command.In, off, part)
		off += part
	}
	return sent
}

// appendResponse sends a response without data, but for sense data.
func (t *task) appendResponse(o *sender, dataSN uint32) {
	c := &t.command
	sense := c.Sense()
	n := 0
	if len(sense) > 0 {
		n = 2 + len(sense)
	}
	r := iscsi.ScsiResponse{
		Response: iscsi.CommandCompleted, Status: byte(c.Status), DataLength: n,
		InitiatorTaskTag: t.itt, Window: o.window(true), ExpDataSN: dataSN,
		Residual: t.residual(),
	}
	b := o.head()
	r.Encode(b)
	o.headDone(b)
	if n > 0 {
		data := o.take(n)
		binary.BigEndian.PutUint16(data, uint16(len(sense)))
		copy(data[2:], sense)
		o.data([][]byte{data}, 0, int64(n))
	}
}
