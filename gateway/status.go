package gateway

import (
	"os"
	"sort"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// Status is what an operator sees of a running gateway.
type Status struct {
	Version   string
	PID       int
	StartedAt time.Time
	DataDir   string
	Listeners []string
	// InFlightRequests and InFlightBytes are the permits out now.
	InFlightRequests, InFlightBytes int64
	// BufferBytes is the memory in payload buffers.
	BufferBytes int64
	Exports     []ExportStatus
}

// ExportStatus is one open export.
type ExportStatus struct {
	Name        string
	SizeBytes   int64
	Epoch       backend.Epoch
	Connections int64
	// Queued requests are in the pipeline; OldestQueued is how long the first
	// of them has waited.
	Queued                int
	OldestQueued          time.Duration
	Reads, Writes         uint64
	ReadBytes, WriteBytes uint64
	Errors                uint64
	// Stalls are the copysets that give no answer.
	Stalls []Stall
	// Lost says why the export serves no more, "" while it does: its volume was
	// opened elsewhere.
	Lost string
}

// Stall is a copyset that gives no answer.
type Stall = volume.Stall

// Status returns a snapshot.
func (g *Gateway) Status() Status {
	g.mu.Lock()
	s := Status{
		Version:   g.opts.Version,
		PID:       os.Getpid(),
		StartedAt: g.started,
		DataDir:   g.opts.DataDir,
		Listeners: append([]string(nil), g.listeners...),
	}
	g.mu.Unlock()
	s.InFlightRequests, s.InFlightBytes = g.limits.InFlight()
	s.BufferBytes = g.buffers.heldBytes()
	for _, e := range g.openExports() {
		s.Exports = append(s.Exports, e.status())
	}
	sort.Slice(s.Exports, func(i, j int) bool { return s.Exports[i].Name < s.Exports[j].Name })
	return s
}

func (e *export) status() ExportStatus {
	queued, oldest := e.volume.Queued()
	s := ExportStatus{
		Name:         e.name,
		SizeBytes:    e.volume.Size(),
		Epoch:        e.volume.Epoch(),
		Connections:  e.stats.connections.Load(),
		Queued:       queued,
		OldestQueued: oldest,
		Reads:        e.stats.requests[backend.OpRead].Load(),
		Writes:       e.stats.requests[backend.OpWrite].Load(),
		ReadBytes:    e.stats.bytes[backend.OpRead].Load(),
		WriteBytes:   e.stats.bytes[backend.OpWrite].Load(),
		Stalls:       e.volume.Stalls(),
	}
	for op := range e.stats.errors {
		s.Errors += e.stats.errors[op].Load()
	}
	if err := e.volume.Lost(); err != nil {
		s.Lost = err.Error()
	}
	return s
}
