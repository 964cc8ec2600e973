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

func TestPlaceholder(t *testing.T) {}
