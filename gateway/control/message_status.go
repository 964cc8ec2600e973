package control

import (
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/control/controlpb"
)

func statusMessage(s gateway.Status) *controlpb.Status {
	m := &controlpb.Status{
		Version:          s.Version,
		Pid:              int64(s.PID),
		StartedAtNs:      timeToNs(s.StartedAt),
		DataDir:          s.DataDir,
		Listeners:        s.Listeners,
		InFlightRequests: s.InFlightRequests,
		InFlightBytes:    s.InFlightBytes,
		BufferBytes:      s.BufferBytes,
		Exports:          make([]*controlpb.Export, len(s.Exports)),
	}
	for i, e := range s.Exports {
		m.Exports[i] = &controlpb.Export{
			Name:           e.Name,
			SizeBytes:      e.SizeBytes,
			Epoch:          uint64(e.Epoch),
			Connections:    e.Connections,
			Queued:         int64(e.Queued),
			OldestQueuedNs: int64(e.OldestQueued),
			Reads:          e.Reads,
			Writes:         e.Writes,
			ReadBytes:      e.ReadBytes,
			WriteBytes:     e.WriteBytes,
			Errors:         e.Errors,
		}
	}
	return m
}

func statusOf(m *controlpb.Status) gateway.Status {
	s := gateway.Status{
		Version:          m.GetVersion(),
		PID:              int(m.GetPid()),
		StartedAt:        nsToTime(m.GetStartedAtNs()),
		DataDir:          m.GetDataDir(),
		Listeners:        m.GetListeners(),
		InFlightRequests: m.GetInFlightRequests(),
		InFlightBytes:    m.GetInFlightBytes(),
		BufferBytes:      m.GetBufferBytes(),
		Exports:          make([]gateway.ExportStatus, len(m.GetExports())),
	}
	for i, e := range m.GetExports() {
		s.Exports[i] = gateway.ExportStatus{
			Name:         e.GetName(),
			SizeBytes:    e.GetSizeBytes(),
			Epoch:        backend.Epoch(e.GetEpoch()),
			Connections:  e.GetConnections(),
			Queued:       int(e.GetQueued()),
			OldestQueued: time.Duration(e.GetOldestQueuedNs()),
			Reads:        e.GetReads(),
			Writes:       e.GetWrites(),
			ReadBytes:    e.GetReadBytes(),
			WriteBytes:   e.GetWriteBytes(),
			Errors:       e.GetErrors(),
		}
	}
	return s
}
