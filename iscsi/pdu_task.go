package iscsi

// TaskFunction is what a task management request wants done.
type TaskFunction uint8

// The task management functions of RFC 7143 11.5.1.
const (
	AbortTask        TaskFunction = 1
	AbortTaskSet     TaskFunction = 2
	ClearACA         TaskFunction = 3
	ClearTaskSet     TaskFunction = 4
	LogicalUnitReset TaskFunction = 5
	TargetWarmReset  TaskFunction = 6
	TargetColdReset  TaskFunction = 7
	TaskReassign     TaskFunction = 8
)

// TaskRequest is a Task Management Function Request, RFC 7143 11.5. An unknown
// Function is the target's to answer, with TaskNotSupported.
type TaskRequest struct {
	Immediate         bool
	Function          TaskFunction
	LUN               LUN
	InitiatorTaskTag  uint32
	ReferencedTaskTag uint32 // ReservedTag unless for one task
	CmdSN             uint32
	ExpStatSN         uint32
	RefCmdSN          uint32
	ExpDataSN         uint32
}

// Decode reads t from b.
func (t *TaskRequest) Decode(b *BHS) error {
	if err := b.expect(OpTaskRequest); err != nil {
		return err
	}
	*t = TaskRequest{
		Immediate:         b.Immediate(),
		Function:          TaskFunction(b[1] & 0x7f),
		LUN:               b.lun(),
		InitiatorTaskTag:  b.u32(16),
		ReferencedTaskTag: b.u32(20),
		CmdSN:             b.u32(24),
		ExpStatSN:         b.u32(28),
		RefCmdSN:          b.u32(32),
		ExpDataSN:         b.u32(36),
	}
	return nil
}

// Encode writes t to b.
func (t *TaskRequest) Encode(b *BHS) {
	b.start(OpTaskRequest, t.Immediate, flagFinal|byte(t.Function)&0x7f, t.InitiatorTaskTag)
	b.putLUN(t.LUN)
	b.put32(20, t.ReferencedTaskTag)
	b.put32(24, t.CmdSN)
	b.put32(28, t.ExpStatSN)
	b.put32(32, t.RefCmdSN)
	b.put32(36, t.ExpDataSN)
}

// TaskResult is how a task management function ended.
type TaskResult uint8

// The results of RFC 7143 11.6.1.
const (
	TaskComplete             TaskResult = 0
	TaskUnknown              TaskResult = 1
	TaskLUNUnknown           TaskResult = 2
	TaskStillAllegiant       TaskResult = 3
	TaskReassignNotSupported TaskResult = 4
	TaskNotSupported         TaskResult = 5
	TaskAuthorizationFailed  TaskResult = 6
	TaskFunctionRejected     TaskResult = 255
)

// TaskResponse is a Task Management Function Response, RFC 7143 11.6.
type TaskResponse struct {
	Result           TaskResult
	InitiatorTaskTag uint32
	Window
}

// Encode writes t to b.
func (t *TaskResponse) Encode(b *BHS) {
	b.start(OpTaskResponse, false, flagFinal, t.InitiatorTaskTag)
	b[2] = byte(t.Result)
	t.Window.encode(b)
}

// Decode reads t from b.
func (t *TaskResponse) Decode(b *BHS) error {
	if err := b.expect(OpTaskResponse); err != nil {
		return err
	}
	*t = TaskResponse{Result: TaskResult(b[2]), InitiatorTaskTag: b.u32(16)}
	t.Window.decode(b)
	return nil
}
