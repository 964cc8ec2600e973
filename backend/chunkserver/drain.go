package chunkserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// drainAtOnce bounds the leaderships handed over together: each stalls its
	// copyset for a moment.
	drainAtOnce = 4
	// drainAttempts bounds the hand-overs of one copyset, and drainAttempt the time
	// of one. Where the others stop too, there may be no
	// new leader to wait for: that this server leads no longer is enough.
	drainAttempts = 3
	drainAttempt  = time.Second
	// drainRetry is the pause between two rounds; news of the last one arrive meanwhile.
	drainRetry = 50 * time.Millisecond
	// drainReport bounds how long the MDS may hold up a drain.
	drainReport = 500 * time.Millisecond
)

// Drain hands every leadership over, then closes the server. When ctx ends it closes
// all the same; the error says what was still led.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	serves := s.grpc != nil && !s.closed
	s.mu.Unlock()
	if !serves {
		return s.Close()
	}
	s.draining.Store(true)
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	var told errgroup.Group
	told.Go(func() error { s.reportDraining(ctx); return nil })
	err := s.handAllOver(ctx)
	told.Wait()
	return errors.Join(err, s.Close())
}

// reportDraining tells the MDS now: the server may be gone before the next report.
func (s *Server) reportDraining(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainReport)
	defer cancel()
	if _, err := s.opts.Topology.Heartbeat(ctx, s.makeReport()); err != nil {
		s.log.Warn("telling the MDS that this chunkserver is draining", "err", err)
	}
}

// handAllOver repeats until nothing is led: one may be won while another is lost.
// What keeps coming back is kept: servers that stop together would hand it round
// among themselves, each waiting for the others to take it.
func (s *Server) handAllOver(ctx context.Context) error {
	var last error
	attempts := make(map[backend.CopysetID]int)
	for round := 0; ; round++ {
		led := slices.DeleteFunc(s.news.led(s.ID()), func(l ledCopyset) bool {
			return s.alone(l.id) || attempts[l.id] == drainAttempts
		})
		if len(led) == 0 {
			if last != nil {
				s.log.Warn("stopping without having handed every leadership over", "err", last)
			}
			return nil
		}
		if round > 0 {
			timer := time.NewTimer(drainRetry)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("drain: %d copysets are still led here: %w; last: %w", len(led), err, last)
		}
		var work errgroup.Group
		work.SetLimit(drainAtOnce)
		for _, l := range led {
			attempts[l.id]++
			work.Go(func() error { return s.handOver(ctx, l.id) })
		}
		last = work.Wait()
	}
}

func (s *Server) handOver(ctx context.Context, id backend.CopysetID) error {
	r := s.replicas.get(id)
	if r == nil {
		s.news.forget(id)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, drainAttempt)
	defer cancel()
	return r.TransferLeadership(ctx, 0)
}

// alone says whether a copyset has no other voter that could take over.
func (s *Server) alone(id backend.CopysetID) bool {
	r := s.replicas.get(id)
	return r != nil && len(r.Status().Voters) < 2
}
