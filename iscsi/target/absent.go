package target

import "github.com/opencurve/curve-nbd/iscsi/scsi"

// planAbsent answers a command for a unit that is not there.
func (s *session) planAbsent(t *task) bool {
	t.command.Fail(scsi.IllegalRequest, 0x2500)
	return false
}
