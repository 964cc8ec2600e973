package target

import (
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi/registry"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
)

// traffic is what an initiator has read and written in a session. What volumes do is
// counted by the gateway; this tells which initiator it is for.
type traffic struct {
	reads, writes, readBytes, writeBytes atomic.Uint64
}

// count adds a command that was answered.
func (t *traffic) count(c *scsi.Command) {
	if c.Status != scsi.Good || c.Aborted {
		return
	}
	switch c.Kind() {
	case backend.OpRead:
		t.reads.Add(1)
		t.readBytes.Add(uint64(c.InLen))
	case backend.OpWrite:
		t.writes.Add(1)
		if c.Direction == scsi.DataOut {
			t.writeBytes.Add(uint64(c.Transfer))
		}
	}
}

func (t *traffic) soFar() registry.Traffic {
	return registry.Traffic{
		Reads: t.reads.Load(), Writes: t.writes.Load(),
		ReadBytes: t.readBytes.Load(), WriteBytes: t.writeBytes.Load(),
	}
}
