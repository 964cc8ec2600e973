package target_test

import (
	"testing"

	"github.com/opencurve/curve-nbd/iscsi"
)

// manage sends an immediate task management request.
func (i *initiator) manage(r iscsi.TaskRequest) (tag uint32) {
	i.t.Helper()
	r.Immediate, r.InitiatorTaskTag, r.CmdSN, r.ExpStatSN = true, i.tag(), i.cmdSN, i.statSN
	if r.Function != iscsi.AbortTask {
		r.ReferencedTaskTag = iscsi.ReservedTag
	}
	var b iscsi.BHS
	r.Encode(&b)
	i.send(b, nil)
	return r.InitiatorTaskTag
}

// managed receives the answer to a task management request.
func (i *initiator) managed(tag uint32) iscsi.TaskResult {
	i.t.Helper()
	a := i.want(iscsi.OpTaskResponse)
	var r iscsi.TaskResponse
	must(i.t, r.Decode(&a.BHS))
	if r.InitiatorTaskTag != tag {
		i.t.Fatalf("answer to task management %d, want %d", r.InitiatorTaskTag, tag)
	}
	return r.Result
}

// abort aborts a task, and waits for the answer.
func (i *initiator) abort(tag, cmdSN uint32) iscsi.TaskResult {
	i.t.Helper()
	return i.managed(i.manage(iscsi.TaskRequest{Function: iscsi.AbortTask, ReferencedTaskTag: tag, RefCmdSN: cmdSN}))
}

// stalledRead has a read in execution that does not end before the gate opens.
func (i *initiator) stalledRead(p *portal, lun int) *command {
	i.t.Helper()
	i.store(lun, 0, pattern(4096, 1))
	p.chunks.close()
	c := &command{cdb: read10(0, 8), read: true, expected: 4096, lun: lun}
	i.start(c)
	p.chunks.wait(i.t)
	return c
}

// quiet checks that a ping is the next that is answered.
func (i *initiator) quiet() {
	i.t.Helper()
	i.wantNop(i.nop(true, []byte("quiet?")), []byte("quiet?"))
}

// 11.5, 11.6: the answer comes when nothing of the commands can happen any more.
func TestTaskManagementWaitsForCommandsInExecution(t *testing.T) {
	for _, f := range []iscsi.TaskFunction{
		iscsi.AbortTask, iscsi.AbortTaskSet, iscsi.ClearTaskSet, iscsi.LogicalUnitReset, iscsi.TargetWarmReset,
	} {
		t.Run(names[f], func(t *testing.T) {
			p := serve(t, setup{})
			i := p.login(t)
			c := i.stalledRead(p, 0)
			tag := i.manage(iscsi.TaskRequest{Function: f, ReferencedTaskTag: c.tag, RefCmdSN: i.cmdSN - 1})
			i.quiet()
			go p.chunks.open() // commands end there
			// The command itself is never answered, and its tag is free.
			if got := i.managed(tag); got != iscsi.TaskComplete {
				t.Fatalf("result %d", got)
			}
			i.do(command{cdb: inquiry(36), read: true, expected: 36, tag: c.tag}).wants(t, good, 0)
			i.ready(0)
			if got := int(i.maxCmdSN - i.cmdSN + 1); got != 128 {
				t.Errorf("window of %d commands afterwards", got)
			}
		})
	}
}

var names = map[iscsi.TaskFunction]string{
	iscsi.AbortTask: "ABORT TASK", iscsi.AbortTaskSet: "ABORT TASK SET", iscsi.ClearTaskSet: "CLEAR TASK SET",
	iscsi.LogicalUnitReset: "LOGICAL UNIT RESET", iscsi.TargetWarmReset: "TARGET WARM RESET", iscsi.TargetColdReset: "TARGET COLD RESET",
}

func TestTaskManagementEndsCommandsThatWaitForData(t *testing.T) {
	for _, f := range []iscsi.TaskFunction{
		iscsi.AbortTask, iscsi.AbortTaskSet, iscsi.ClearTaskSet, iscsi.LogicalUnitReset, iscsi.TargetWarmReset,
	} {
		for _, unasked := range []int{0, 4096} {
			t.Run(names[f], func(t *testing.T) {
				p := serve(t, setup{})
				i := p.login(t)
				w := command{cdb: write10(0, 16), write: true, expected: 8192, data: pattern(8192, 9), unsolicited: unasked}
				ttt := iscsi.ReservedTag
				if unasked == 0 {
					i.start(&w)
					ttt = i.wantR2T(&w).TargetTransferTag
				} else {
					i.send(i.header(&w), nil) // and none of the data that it announces
				}
				if got := i.managed(i.manage(iscsi.TaskRequest{Function: f, ReferencedTaskTag: w.tag, RefCmdSN: i.cmdSN - 1})); got != iscsi.TaskComplete {
					t.Fatalf("result %d", got)
				}
				i.raw(i.dataOut(&w, ttt, 0, 8192, 4096)) // comes late, and is dropped
				i.ready(0)
				if b := i.load(0, 0, 16); b[5] != 0 {
					t.Error("data of an ended command was written")
				}
				if got := int(i.maxCmdSN - i.cmdSN + 1); got != 128 {
					t.Errorf("window of %d commands afterwards", got)
				}
			})
		}
	}
}

func TestTaskManagementWithoutEffect(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	for _, c := range []struct {
		name string
		r    iscsi.TaskRequest
		want iscsi.TaskResult
	}{
		{"abort of no task", iscsi.TaskRequest{Function: iscsi.AbortTask, ReferencedTaskTag: 99, RefCmdSN: i.cmdSN - 1}, iscsi.TaskUnknown},
		{"abort of a task to come", iscsi.TaskRequest{Function: iscsi.AbortTask, ReferencedTaskTag: 99, RefCmdSN: i.cmdSN + 5}, iscsi.TaskUnknown},
		{"clear ACA", iscsi.TaskRequest{Function: iscsi.ClearACA}, iscsi.TaskComplete},
		{"task reassign", iscsi.TaskRequest{Function: iscsi.TaskReassign}, iscsi.TaskReassignNotSupported},
		{"no function", iscsi.TaskRequest{}, iscsi.TaskNotSupported},
		{"unknown function", iscsi.TaskRequest{Function: 42}, iscsi.TaskNotSupported},
		{"abort task set of no unit", iscsi.TaskRequest{Function: iscsi.AbortTaskSet, LUN: lunOf(7)}, iscsi.TaskLUNUnknown},
		{"reset of no unit", iscsi.TaskRequest{Function: iscsi.LogicalUnitReset, LUN: lunOf(300)}, iscsi.TaskLUNUnknown},
		{"reset of a strange LUN", iscsi.TaskRequest{Function: iscsi.LogicalUnitReset, LUN: iscsi.LUN{0xc1, 1}}, iscsi.TaskLUNUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			i.t = t
			if got := i.managed(i.manage(c.r)); got != c.want {
				t.Errorf("result %d, want %d", got, c.want)
			}
			i.alive()
		})
	}
}

// The answer to a command that is over comes before that of the request that asks for
// its end, or the initiator takes it for another's.
func TestTaskManagementComesBehindAnswers(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	for range 200 {
		c := command{cdb: testUnitReady()}
		b := i.frames(&c)
		r := iscsi.TaskRequest{
			Immediate: true, Function: iscsi.AbortTask, InitiatorTaskTag: i.tag(), ReferencedTaskTag: c.tag,
			CmdSN: i.cmdSN, RefCmdSN: i.cmdSN - 1, ExpStatSN: i.statSN,
		}
		var h iscsi.BHS
		r.Encode(&h)
		i.raw(append(b, h[:]...))
		i.finish(&c).wants(t, good, 0)
		if got := i.managed(r.InitiatorTaskTag); got != iscsi.TaskUnknown {
			t.Fatalf("result %d", got)
		}
	}
}

// A reset is of all sessions: theirs are ended too, and they are told.
func TestResetIsSeenByOtherSessions(t *testing.T) {
	for _, f := range []iscsi.TaskFunction{iscsi.LogicalUnitReset, iscsi.TargetWarmReset} {
		t.Run(names[f], func(t *testing.T) {
			p := serve(t, setup{})
			i, other := p.login(t), p.loginAs(t, otherName)
			w := command{cdb: write10(0, 16), write: true, expected: 8192, data: pattern(8192, 9)}
			other.start(&w)
			r := other.wantR2T(&w)
			w.asked = 1
			i.stalledRead(p, 0)
			executing := command{cdb: read10(0, 8), read: true, expected: 4096}
			other.start(&executing)
			other.quiet()
			tag := i.manage(iscsi.TaskRequest{Function: f})
			i.quiet()
			p.chunks.open()
			if got := i.managed(tag); got != iscsi.TaskComplete {
				t.Fatalf("result %d", got)
			}
			// Its commands are not left without an answer, or it would find out by its own
			// patience, and begin to reset the unit itself.
			other.finish(&executing).wants(t, taskAborted, 0)
			other.raw(other.dataOut(&w, r.TargetTransferTag, 0, 8192, 4096))
			other.finish(&w).wants(t, taskAborted, 0)
			other.do(command{cdb: testUnitReady()}).wants(t, checkCondition, 0x2903)
			other.alive()
			if b := other.load(0, 0, 16); b[5] == w.data[5] {
				t.Error("a write that was begun before the reset was carried out")
			}
			i.ready(0)
		})
	}
}

// Commands that get the room they wait for just when they are aborted: what is said to be
// over is not answered afterwards.
func TestAbortOfCommandsThatAreJustGivenRoom(t *testing.T) {
	p := serve(t, setup{gateway: smallGateway})
	i := p.login(t)
	i.store(0, 0, pattern(mib, 1))
	for range 40 {
		aborts := make(map[uint32]uint32) // by the tag of the request, what it is to end
		over := make(map[uint32]bool)
		var b []byte
		var reads []*command
		for range 24 {
			c := &command{cdb: read10(0, 2048), read: true, expected: mib}
			b = append(b, i.frames(c)...)
			reads = append(reads, c)
		}
		for n, c := range reads[4:] {
			r := iscsi.TaskRequest{
				Immediate: true, Function: iscsi.AbortTask, InitiatorTaskTag: i.tag(), ReferencedTaskTag: c.tag,
				CmdSN: i.cmdSN, RefCmdSN: i.cmdSN - 20 + uint32(n), ExpStatSN: i.statSN,
			}
			aborts[r.InitiatorTaskTag] = c.tag
			var h iscsi.BHS
			r.Encode(&h)
			b = append(b, h[:]...)
		}
		i.raw(b)
		ping := uint32(0)
		for ping == 0 || !over[ping] {
			a := i.recv()
			tag := a.InitiatorTaskTag()
			if over[tag] {
				t.Fatalf("%v of a command that is over", a.Opcode())
			}
			over[tag] = a.Opcode() != iscsi.OpDataIn || a.BHS[1]&1 != 0
			if ended, ok := aborts[tag]; ok {
				over[ended] = true
				delete(aborts, tag)
			}
			if len(aborts) == 0 && i.maxCmdSN-i.cmdSN == 127 && ping == 0 {
				ping = i.nop(true, nil)
			}
		}
	}
}

func TestColdResetEndsAllSessions(t *testing.T) {
	p := serve(t, setup{})
	i, other := p.login(t), p.loginAs(t, otherName)
	if got := i.managed(i.manage(iscsi.TaskRequest{Function: iscsi.TargetColdReset})); got != iscsi.TaskComplete {
		t.Fatalf("result %d", got)
	}
	i.wantClosed()
	other.wantClosed()
	p.login(t).alive()
}
