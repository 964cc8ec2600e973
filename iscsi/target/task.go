package target

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
	"github.com/opencurve/curve-nbd/volume"
)

// phase is where a task is. All but executing ones are the session's own.
type phase uint8

const (
	// phaseNew tasks are known to the reader only.
	phaseNew phase = iota
	// phaseUnsolicited tasks get data that was not asked for.
	phaseUnsolicited
	// phaseStarved tasks wait for room.
	phaseStarved
	// phaseSolicited tasks get the data of an R2T.
	phaseSolicited
	// phaseExecuting tasks are with their unit, or about to be answered.
	phaseExecuting
)

// task is a SCSI command from its PDU to its answer.
type task struct {
	session   *session
	command   scsi.Command
	lun       *lun
	field     iscsi.LUN // as the initiator wrote it
	cdb       [iscsi.MaxCDB]byte
	itt       uint32
	expected  uint32 // how much the initiator means to move
	read      bool
	write     bool
	immediate bool

	// frame is the room for the answer of a small read: header, data, digests.
	frame   []byte
	buffers []*gateway.Buffer
	lender  *medium // of the buffers
	spilled int64   // bytes taken from the server's spill

	// began is when the command came; zero while nobody has asked.
	began time.Time

	// Guarded by session.mu once the task is in session.tasks; in the phases of
	// data the reader alone uses what follows.
	phase   phase
	refused bool // answered without being executed, once its data has passed
	// need is the payload in bytes, room what there is memory for, received what
	// has come of it; end is where the sequence ends that comes now.
	need, room, received, end uint32
	dataSN                    uint32 // of the next Data-Out
	tag                       uint32 // of the R2T, or ReservedTag
	r2ts                      uint32 // sent so far
	// waiters are called when the task is over, with its tag free.
	waiters []func()
	// awaited is the server's clock when data was last asked for or came, 0 while none
	// is awaited.
	awaited atomic.Int64
}

var taskPool = sync.Pool{New: func() any { return new(task) }}

func newTask(s *session) *task {
	t := taskPool.Get().(*task)
	t.session = s
	return t
}

// CommandDone implements scsi.Completer.
func (t *task) CommandDone(*scsi.Command) { t.session.writer.Finish(t) }

// sent implements reply: the task is over.
func (t *task) sent() {
	s := t.session
	s.settled(t) // it is not yet if sending was not tried
	for _, over := range t.waiters {
		over()
	}
	t.waiters = nil
	t.observe()
	s.traffic.count(&t.command)
	t.free()
}

// observe notes how long the command took.
func (t *task) observe() {
	if t.lun == nil || t.began.IsZero() {
		return
	}
	kind, m := t.command.Kind(), t.lun.unit.medium.Load()
	if kind != 0 && m != nil {
		m.Observe(kind, volume.Now().Sub(t.began))
	}
}

// free gives everything back.
func (t *task) free() {
	t.returnRoom()
	if t.immediate {
		t.session.immediates.Add(-1)
	}
	if t.lun != nil {
		t.lun.letGo()
	}
	t.command.Reset()
	t.session, t.lun, t.frame = nil, nil, nil
	t.field, t.itt, t.expected = iscsi.LUN{}, 0, 0
	t.read, t.write, t.immediate, t.refused = false, false, false, false
	t.phase, t.began = phaseNew, time.Time{}
	t.awaited.Store(0)
	t.need, t.room, t.received, t.end, t.dataSN, t.tag, t.r2ts = 0, 0, 0, 0, 0, 0, 0
	taskPool.Put(t)
}
