package target

import (
	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
	"github.com/opencurve/curve-nbd/volume"
)

// scsiCommand serves a SCSI Command PDU.
func (s *session) scsiCommand(p *pdu) error {
	var c iscsi.ScsiCommand
	if err := c.Decode(p.bhs); err != nil {
		return s.refuse(p, err)
	}
	due, err := s.inOrder(c.CmdSN, c.Immediate)
	if err != nil {
		return err
	}
	if !due {
		return s.skip(p)
	}
	extra, err := iscsi.ParseCommandAHS(p.ahs)
	if err != nil {
		return s.refuse(p, err)
	}
	if s.underWay(c.InitiatorTaskTag) { // 11.2.1.8
		return s.reject(p, iscsi.RejectTaskInProgress)
	}
	if !s.takePlace(c.Immediate) {
		return s.reject(p, iscsi.RejectImmediateCommand)
	}
	t := newTask(s)
	t.took(&c)
	t.command.CDB = t.cdb[:len(c.CDB)+copy(t.cdb[len(c.CDB):], extra.ExtendedCDB)]
	t.command.ExpectedIn = int64(t.expectedIn())
	t.began = s.arrived()
	if t.lun = s.units.find(c.LUN); t.lun == nil {
		t.free()
		return errOver
	}
	t.command.Nexus = t.lun.nexus
	planned := t.lun.unit.Plan(&t.command)
	switch {
	case t.write:
		return s.startWrite(t, p, &c, planned)
	case !planned:
		return s.answer(t, iscsi.BHSSize)
	default:
		return s.startRead(t)
	}
}

// took fills a task from the header of its command.
func (t *task) took(c *iscsi.ScsiCommand) {
	t.itt, t.field, t.expected = c.InitiatorTaskTag, c.LUN, c.ExpectedDataLength
	t.read, t.write, t.immediate = c.Read, c.Write, c.Immediate
	copy(t.cdb[:], c.CDB[:])
	t.command.CDB = t.cdb[:len(c.CDB)]
	t.command.Done = t
	if c.Write {
		t.command.ExpectedOut = int64(c.ExpectedDataLength)
	}
	switch c.Attribute {
	case iscsi.AttrOrdered:
		t.command.Attribute = scsi.Ordered
	case iscsi.AttrHeadOfQueue:
		t.command.Attribute = scsi.HeadOfQueue
	case iscsi.AttrACA:
		t.command.Attribute = scsi.ACA
	}
}

// answerRoom is how much memory the answer of a command takes.
func (t *task) answerRoom() int64 {
	if t.command.Direction != scsi.DataIn {
		return 0
	}
	return min(t.command.Transfer, int64(t.expectedIn()))
}

// startRead does a command that sends nothing. Small reads go straight into the
// batch, if they are done at once.
func (s *session) startRead(t *task) error {
	n := t.answerRoom()
	if n > 0 && n <= arenaRead {
		size := s.digests.frameSize(int(n))
		if frame := s.batch.frame(t.lun, size); frame != nil {
			at := s.digests.headerSize()
			t.command.In = append(t.command.In, frame[at:at+int(n)])
			if t.lun.unit.Try(&t.command) {
				t.frame = frame
				s.batch.commit(size)
				return s.answer(t, size)
			}
			t.command.In = t.command.In[:0]
		}
	}
	if !t.getRoom(&t.command.In, n) {
		return s.starve(t)
	}
	return s.execute(t)
}

// execute gives a task, which has everything it needs, to its unit.
func (s *session) execute(t *task) error {
	if t.began.IsZero() {
		t.began = volume.Now()
	}
	s.register(t, phaseExecuting)
	s.writer.Begin()
	if !t.lun.unit.Execute(&t.command) {
		return nil
	}
	s.writer.Drop()
	return s.answer(t, iscsi.BHSSize+int(t.dataIn()))
}

// register makes a task known, in a phase.
func (s *session) register(t *task, in phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.phase = in
	s.tasks[t.itt] = t
}

// underWay says that a task has that tag which is not answered at once.
func (s *session) underWay(itt uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tasks[itt] != nil
}
