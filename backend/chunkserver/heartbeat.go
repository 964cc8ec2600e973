package chunkserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// reportGap is the least time between two reports: leaderships that change
	// together go into one.
	reportGap = 100 * time.Millisecond
	// mdsTimeout bounds one call to the MDS.
	mdsTimeout = 3 * time.Second
	// registerRetry is how often a new chunkserver asks for its id.
	registerRetry = 500 * time.Millisecond
)

// reportSoon has the MDS told without waiting for the next turn. It does not block.
func (s *Server) reportSoon() {
	select {
	case s.report <- struct{}{}:
	default:
	}
}

func (s *Server) info() backend.ServerInfo {
	return backend.ServerInfo{
		ID: s.ID(), UUID: s.UUID(), Address: s.address, PeerAddress: s.peerAddress,
		Zone: s.opts.Zone, PID: os.Getpid(),
	}
}

// register makes the server known to the MDS under its UUID.
func (s *Server) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, mdsTimeout)
	defer cancel()
	got, err := s.opts.Topology.Register(ctx, s.info())
	if err != nil {
		return err
	}
	id := s.dir.identity
	switch {
	case got.ID == 0:
		return fmt.Errorf("%w: the MDS answered without an id", backend.ErrInvalid)
	case id.Server == got.ID:
		return nil
	case id.Server != 0:
		return fmt.Errorf("%w: the MDS says that this is %v, the data directory %s that it is %v: is this another cluster's MDS?",
			backend.ErrInvalid, got.ID, s.dir.path, id.Server)
	}
	id.Server = got.ID
	return s.dir.setIdentity(id)
}

// registerFirst asks for an id until there is one.
func (s *Server) registerFirst(ctx context.Context) error {
	ticker := time.NewTicker(registerRetry)
	defer ticker.Stop()
	for said := ""; ; {
		err := s.register(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, backend.ErrInvalid) || errors.Is(err, backend.ErrBusy) {
			return fmt.Errorf("register at the MDS: %w", err)
		}
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			s.log.Warn("waiting for the MDS to register this new chunkserver", "err", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("register at the MDS: %w; last: %w", ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// runReports registers, then reports regularly and whenever asked to.
func (s *Server) runReports(registered bool) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	gap := time.NewTimer(0)
	defer gap.Stop()
	reached := true
	for {
		select {
		case <-s.life.Done():
			return
		case <-timer.C:
		case <-s.report:
		}
		select {
		case <-s.life.Done():
			return
		case <-gap.C:
		}
		err := s.reportOnce(&registered)
		if s.life.Err() != nil {
			return
		}
		if (err == nil) != reached {
			reached = err == nil
			if reached {
				s.log.Info("the MDS answers again")
			} else {
				s.log.Warn("reporting to the MDS", "err", err)
			}
		}
		gap.Reset(reportGap)
		timer.Reset(s.opts.ReportEvery)
	}
}

func (s *Server) reportOnce(registered *bool) error {
	if !*registered {
		if err := s.register(s.life); err != nil {
			return err
		}
		*registered = true
	}
	ctx, cancel := context.WithTimeout(s.life, mdsTimeout)
	defer cancel()
	orders, err := s.opts.Topology.Heartbeat(ctx, s.makeReport())
	if errors.Is(err, backend.ErrNotFound) {
		*registered = false
		s.reportSoon()
	}
	if err != nil {
		return err
	}
	s.obey(orders)
	return nil
}

func (s *Server) makeReport() backend.Report {
	used, free := s.space.figures()
	r := backend.Report{
		Server: s.ID(), UUID: s.UUID(), UsedBytes: used, FreeBytes: free,
		Trouble: s.troubleText(), Draining: s.draining.Load(),
	}
	for _, id := range s.hosts.ids() {
		r.Replicas = append(r.Replicas, s.replicaStatus(id))
	}
	return r
}

// replicaStatus is what is reported of a replica, one that does not serve included.
func (s *Server) replicaStatus(id backend.CopysetID) backend.ReplicaStatus {
	if r := s.replicas.get(id); r != nil {
		st := r.Status()
		st.Copyset = id
		return st
	}
	return backend.ReplicaStatus{Copyset: id, State: backend.ReplicaDamaged}
}

// troubleText is what is wrong with the server and its replicas, in words.
func (s *Server) troubleText() string {
	text := s.trouble.String()
	for _, id := range s.replicas.ids() {
		// Optional: what holds a replica up is worth saying where it is known.
		r, ok := s.replicas.get(id).(interface{ Trouble() string })
		if !ok {
			continue
		}
		if what := r.Trouble(); what != "" {
			if text != "" {
				text += "; "
			}
			text += fmt.Sprintf("%v: %s", id, what)
		}
	}
	return text
}
