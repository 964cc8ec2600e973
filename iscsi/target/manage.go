package target

import (
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/iscsi"
)

// taskRequest serves a Task Management Function Request (11.5). The answer comes when
// no command that the function ends is in execution any more: the initiator may then
// rely on nothing of them happening later.
func (s *session) taskRequest(p *pdu) error {
	var r iscsi.TaskRequest
	if err := r.Decode(p.bhs); err != nil {
		return s.refuse(p, err)
	}
	serve, err := s.admit(p, r.CmdSN)
	if !serve {
		return err
	}
	s.note(slog.LevelInfo, "task management", "initiator", s.initiator, "target", s.target, "function", r.Function, "lun", r.LUN)
	// What was answered must not come behind the answer to this: the initiator would
	// take it for that of another task.
	if err := s.flush(); err != nil {
		return err
	}
	s.writer.Begin()
	finish := func(result iscsi.TaskResult) { s.writer.Finish(s.taskAnswer(&r, result)) }
	switch r.Function {
	case iscsi.AbortTask:
		s.abortTask(&r)
		return nil
	case iscsi.TargetWarmReset, iscsi.TargetColdReset:
		s.resetTarget(&r)
		return nil
	case iscsi.AbortTaskSet, iscsi.ClearTaskSet, iscsi.LogicalUnitReset:
	case iscsi.ClearACA: // there is never an ACA
		finish(iscsi.TaskComplete)
		return nil
	case iscsi.TaskReassign:
		finish(iscsi.TaskReassignNotSupported)
		return nil
	default:
		finish(iscsi.TaskNotSupported)
		return nil
	}
	l := s.units.present(r.LUN)
	if l == nil {
		finish(iscsi.TaskLUNUnknown)
		return nil
	}
	done := s.endTasks(func(t *task) bool { return t.lun == l }, func() {
		l.letGo()
		finish(iscsi.TaskComplete)
	})
	switch r.Function {
	case iscsi.AbortTaskSet:
		l.unit.AbortTaskSet(l.nexus, done)
	case iscsi.ClearTaskSet:
		l.unit.ClearTaskSet(l.nexus, done)
	default:
		l.reset(done)
	}
	return nil
}

func (s *session) taskAnswer(r *iscsi.TaskRequest, result iscsi.TaskResult) *notice {
	a := iscsi.TaskResponse{Result: result, InitiatorTaskTag: r.InitiatorTaskTag}
	return s.answering(r.Immediate, newNotice(func(o *sender, b *iscsi.BHS) {
		a.Window = o.window(true)
		a.Encode(b)
	}))
}

// abortTask ends one command. The writer has begun for the answer.
func (s *session) abortTask(r *iscsi.TaskRequest) {
	s.mu.Lock()
	t := s.tasks[r.ReferencedTaskTag]
	switch {
	case t == nil:
		s.mu.Unlock()
		// A command that was sent before this request and never received counts as
		// received, and as aborted (11.6.1): so an initiator fills the place of one
		// that was rejected. One that is over does not exist.
		result := iscsi.TaskUnknown
		if next := s.expCmdSN.Load(); r.RefCmdSN == next && iscsi.SNBefore(next, r.CmdSN) {
			s.expCmdSN.Store(next + 1)
			s.sender.maxCmdSN.Add(1)
			result = iscsi.TaskComplete
		}
		s.writer.Finish(s.taskAnswer(r, result))
	case t.phase == phaseExecuting:
		t.lun.unit.Abort(&t.command)
		answer := s.taskAnswer(r, iscsi.TaskComplete)
		t.waiters = append(t.waiters, func() { s.writer.Finish(answer) })
		s.mu.Unlock()
	default:
		// Before anybody gives it room, and has it executed.
		dropped := s.takeWaiting(func(x *task) bool { return x == t })
		s.mu.Unlock()
		s.forget(dropped)
		s.writer.Finish(s.taskAnswer(r, iscsi.TaskComplete))
	}
}

// resetTarget resets every unit that the session sees; a cold reset then ends all
// sessions with the target.
func (s *session) resetTarget(r *iscsi.TaskRequest) {
	cold := r.Function == iscsi.TargetColdReset
	answer := s.taskAnswer(r, iscsi.TaskComplete)
	if cold {
		answer.after = func() {
			for _, x := range s.server.sessions.of(s.target) {
				x.conn.drain()
			}
		}
	}
	var held []*lun
	for _, l := range s.units.all() {
		if l.hold() {
			held = append(held, l)
		}
	}
	done := countdown(len(held)+1, s.endTasks(func(*task) bool { return true }, func() { s.writer.Finish(answer) }))
	for _, l := range held {
		l.reset(func() {
			l.letGo()
			done()
		})
	}
	done()
}

// endTasks ends tasks that are not in execution yet, and returns what is to be called when
// the units have ended the others: once those have left the table too, which is somewhat
// later, answer is called. From then on the initiator may use their tags again.
func (s *session) endTasks(which func(*task) bool, answer func()) (done func()) {
	s.mu.Lock()
	dropped := s.takeWaiting(which)
	var executing []*task
	for _, t := range s.tasks {
		if which(t) {
			executing = append(executing, t)
		}
	}
	done = countdown(len(executing)+1, answer)
	for _, t := range executing {
		t.waiters = append(t.waiters, done)
	}
	s.mu.Unlock()
	s.forget(dropped)
	return done
}

// reset resets a unit for its session, whose own commands end without an answer.
func (l *lun) reset(done func()) {
	l.unit.AbortTaskSet(l.nexus, func() {})
	l.unit.Reset(done)
}

// dropWaiting ends tasks that are not in execution yet. They get no answer.
func (s *session) dropWaiting(which func(*task) bool) {
	s.mu.Lock()
	dropped := s.takeWaiting(which)
	s.mu.Unlock()
	s.forget(dropped)
}

// takeWaiting takes tasks that are not in execution out of where they wait, for forget.
// With session.mu held.
func (s *session) takeWaiting(which func(*task) bool) (dropped []*task) {
	for tag, t := range s.tasks {
		if t.phase != phaseExecuting && which(t) {
			dropped = append(dropped, t)
			delete(s.tasks, tag)
		}
	}
	s.starved.queue = slices.DeleteFunc(s.starved.queue, func(t *task) bool { return slices.Contains(dropped, t) })
	return dropped
}

// forget forgets tasks that get no answer.
func (s *session) forget(tasks []*task) {
	for _, t := range tasks {
		if !t.immediate {
			s.sender.maxCmdSN.Add(1)
		}
		t.lun.unit.Unreported(&t.command)
		t.free()
	}
}

// countdown returns a function that calls last when it is called for the nth time.
func countdown(n int, last func()) func() {
	var left atomic.Int64
	left.Store(int64(n))
	return func() {
		if left.Add(-1) == 0 {
			last()
		}
	}
}
