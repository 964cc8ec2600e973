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
			Stalls:         stallMessages(e.Stalls),
			Lost:           e.Lost,
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
			Stalls:       stallsOf(e.GetStalls()),
			Lost:         e.GetLost(),
		}
	}
	return s
}

func stallMessages(stalls []gateway.Stall) (m []*controlpb.Stall) {
	for _, s := range stalls {
		m = append(m, &controlpb.Stall{
			Copyset: uint32(s.Copyset),
			SinceNs: timeToNs(s.Since),
			Waiting: int64(s.Waiting),
			For:     s.For,
			Leader:  uint32(s.Leader),
			Term:    s.Term,
		})
	}
	return m
}

func stallsOf(m []*controlpb.Stall) (stalls []gateway.Stall) {
	for _, s := range m {
		stalls = append(stalls, gateway.Stall{
			Copyset: backend.CopysetID(s.GetCopyset()),
			Since:   nsToTime(s.GetSinceNs()),
			Waiting: int(s.GetWaiting()),
			For:     s.GetFor(),
			Leader:  backend.ServerID(s.GetLeader()),
			Term:    s.GetTerm(),
		})
	}
	return stalls
}
