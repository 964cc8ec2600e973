package scsi

import (
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

// Direction is which way a command's data goes.
type Direction uint8

// Directions.
const (
	NoData  Direction = iota
	DataIn            // to the initiator
	DataOut           // from the initiator
)

// Attribute is how a command stands in its task set. The unit reorders as it
// likes, which the control mode page says; the attribute changes nothing.
type Attribute uint8

// Task attributes.
const (
	Simple Attribute = iota
	Ordered
	HeadOfQueue
	ACA
)

// Completer is told when a command is complete.
type Completer interface{ CommandDone(*Command) }

// Command is one SCSI command. The transport owns it, except between Execute
// and completion, and may use it again after Reset.
type Command struct {
	// CDB is what the initiator sent; Nexus is the path it came on.
	CDB       []byte
	Nexus     *Nexus
	Attribute Attribute
	// ExpectedOut and ExpectedIn are the bytes that the initiator means to send
	// and to receive.
	ExpectedOut, ExpectedIn int64
	// Done is told of the completion that Execute does not report. It must not
	// block.
	Done Completer

	// Direction and Transfer are set by Plan: the bytes that are to be moved.
	Direction Direction
	Transfer  int64
	// Asked is what the CDB asks for where Transfer is less, since the initiator
	// sends less.
	Asked int64

	// Out is the payload, for Execute: at least Transfer bytes; what follows
	// is not looked at. In is the room for the answer: as long as the smaller
	// of Transfer and ExpectedIn. Every slice but the last of what counts is a
	// multiple of the block size.
	Out, In [][]byte

	// Status is the outcome. InLen is how much there is for the initiator: as
	// much of it as has room is in In, so it may be more than ExpectedIn.
	Status Status
	InLen  int64
	// Aborted: task management ended the command, or its path is gone: see Unanswered.
	Aborted bool

	sense      [maxSense]byte
	senseBytes int

	unit *Unit
	op   *operation
	cdb  [16]byte // what the operation's mask lets through
	// access is what reservations look at, when it is planned and when it is executed.
	access accessClass
	lba    uint64
	count  uint64 // blocks
	flags  backend.Flags
	exact  bool // the initiator must mean to send Transfer bytes, no more

	abort     atomic.Bool
	epoch     uint64 // of the nexus, when planned
	attention Code   // that the answer tells

	// The rest belongs to the execution.
	next    step
	inline  bool // still on the goroutine of Execute
	final   bool // next does no IO
	scratch []byte
	cursor  int64
	tail    []byte // a block of which the initiator takes a part
	request volume.Request
	parts   []volume.Request // instead of request, when multi is set
	multi   bool
	tried   volume.Request // of a Try; in vain, where inVain is set
	inVain  bool
	pending atomic.Int32
	mount   *mount // what it has entered
	copying *copying
	room    *scratchRoom // that scratch is from
	// unlocked: it needs no lock, though others of its operation do.
	unlocked bool
	hold     hold
	tally    gateway.Tally
}

// Reset prepares the command for another use. It keeps memory that is worth it.
func (c *Command) Reset() {
	c.CDB, c.Nexus, c.Attribute, c.ExpectedOut, c.ExpectedIn, c.Done = nil, nil, 0, 0, 0, nil
	clear(c.Out)
	clear(c.In)
	c.Out, c.In = c.Out[:0], c.In[:0]
	c.abort.Store(false)
	c.clear()
}

// clear forgets the last use, for Plan.
func (c *Command) clear() {
	c.Direction, c.Transfer, c.Asked = NoData, 0, 0
	c.Status, c.InLen, c.Aborted, c.senseBytes = Good, 0, false, 0
	c.unit, c.op, c.lba, c.count, c.flags, c.exact = nil, nil, 0, 0, 0, false
	c.access, c.attention = 0, 0
	c.next, c.inline, c.final = nil, false, false
	c.scratch, c.cursor, c.tail, c.mount = nil, 0, nil, nil
	if c.multi {
		for i := range c.parts {
			c.parts[i].Reset()
		}
		c.multi = false
	}
	c.hold, c.copying, c.unlocked, c.inVain = hold{}, nil, false, false
}

// Unanswered says that the command ends without an answer, as its own initiator has
// ended it and learns of that otherwise. Where somebody else has, Status tells.
func (c *Command) Unanswered() bool { return c.Aborted && c.Status == Good }

// Sense is the sense data of a command that ended with CheckCondition.
func (c *Command) Sense() []byte { return c.sense[:c.senseBytes] }

// fail ends the command with sense data.
func (c *Command) fail(s *Sense) verdict {
	c.Status, c.InLen = CheckCondition, 0
	c.senseBytes = s.encode(&c.sense, c.unit != nil && c.unit.descriptorSense.Load())
	return done
}

// Name of the command, for logs and metrics.
func (c *Command) Name() string {
	if c.op == nil {
		return "UNKNOWN"
	}
	return c.op.name
}

// allocate takes an allocation length: the room for parameter data, of which
// there is never more than maxParameter.
func (c *Command) allocate(length uint32) {
	c.Direction, c.Transfer = DataIn, int64(min(length, maxParameter))
}

// reply answers with parameter data.
func (c *Command) reply(data []byte) verdict {
	c.InLen = min(int64(len(data)), c.Transfer)
	data = data[:c.InLen]
	for _, room := range c.In {
		data = data[copy(room, data):]
	}
	return done
}

// parameters returns the payload as one slice.
func (c *Command) parameters() []byte {
	n := c.Transfer
	if len(c.Out) > 0 && int64(len(c.Out[0])) >= n {
		return c.Out[0][:n]
	}
	all := make([]byte, 0, n)
	for _, b := range c.Out {
		all = append(all, b[:min(int64(len(b)), n-int64(len(all)))]...)
	}
	return all
}

// outAt calls visit for the stretches of the payload that make up n bytes from
// off, until it returns false. at counts from off.
func (c *Command) outAt(off, n int64, visit func(at int64, b []byte) bool) {
	at := int64(0)
	for _, b := range c.Out {
		if off >= int64(len(b)) {
			off -= int64(len(b))
			continue
		}
		b = b[off:]
		off = 0
		b = b[:min(int64(len(b)), n-at)]
		if len(b) == 0 || !visit(at, b) {
			return
		}
		at += int64(len(b))
	}
}

// lengthOf adds up slices.
func lengthOf(slices [][]byte) (n int64) {
	for _, b := range slices {
		n += int64(len(b))
	}
	return n
}
