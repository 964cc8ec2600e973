package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// readyPoll is how often a start looks whether its servers are ready.
	readyPoll = 20 * time.Millisecond
	// maxLogTail is how much of a server's log is read to find out what it says,
	// in bytes.
	maxLogTail = 64 << 10
)

// clusterStarter starts servers of a locked cluster.
type clusterStarter struct {
	*clusterDir
	program string
	// notes tells people what happens.
	notes io.Writer
}

// startedMember is a server just started, or one that ran already (child nil).
type startedMember struct {
	*member
	child *child
	// logFrom is where its log began this time, in bytes.
	logFrom int64
}

// exitedError is a server that ended before it was ready. It is of the kind that
// the server's own exit code says.
type exitedError struct {
	id, logFile, said string
	code              int
}

func (e *exitedError) Error() string {
	return fmt.Sprintf("%s ended with exit code %d: %s; see %s", e.id, e.code, e.said, e.logFile)
}

func (e *exitedError) Unwrap() error {
	for _, row := range exitTable {
		if row.code == e.code {
			return row.err
		}
	}
	return nil
}

// start starts one server if it does not run.
func (s *clusterStarter) start(m *member) (startedMember, error) {
	started := startedMember{member: m}
	if m.Process.alive() {
		return started, nil
	}
	logFile := s.logFile(m)
	if info, err := os.Stat(logFile); err == nil && info.Size() <= maxLogBytes {
		started.logFrom = info.Size()
	}
	child, err := spawn(s.program, s.serverArgs(m), s.path, logFile, s.share())
	if err != nil {
		return started, fmt.Errorf("start %s: %w", m.ID, err)
	}
	started.child = child
	m.Process = child.processID
	fmt.Fprintf(s.notes, "started %s, pid %d\n", m.ID, child.PID)
	// Before anything else: a process that cluster.json does not know is lost.
	if err := s.save(); err != nil {
		return started, err
	}
	return started, nil
}

// share gives each chunkserver its part of the processors. Left to itself, each
// of them would wake idle threads on all, in the way of the others: with three on
// two processors 15 % of the 4k writes and 30 % of the 4k reads were lost to that.
func (s *clusterStarter) share() string {
	n := runtime.GOMAXPROCS(0) / max(1, len(s.file.of(roleChunkserver)))
	return fmt.Sprintf("GOMAXPROCS=%d", max(1, n))
}

// serverArgs is the command line of a server. A configuration file is for this
// program's user, not for every server of a playground at once.
func (s *clusterStarter) serverArgs(m *member) []string {
	args := []string{"--config", os.DevNull, "--data-dir", s.dataDir(m), "--listen", m.Address, "--http-listen", m.HTTPAddress}
	if m.Role == roleMDS {
		return append([]string{"mds"}, append(args,
			"--copysets", fmt.Sprint(s.file.Copysets),
			"--replicas", fmt.Sprint(s.file.Replicas),
			"--min-servers", fmt.Sprint(len(s.file.of(roleChunkserver))))...)
	}
	args = append([]string{"chunkserver"}, append(args,
		"--mds", strings.Join(s.file.mdsAddresses(), ","),
		"--peer-listen", m.PeerAddress,
		// Each is a machine of its own, as far as placement is concerned.
		"--zone", m.ID)...)
	return append(args, s.file.ChunkserverFlags...)
}

// startAll starts what does not run of the members with these ids, all if there
// are none: the MDS first, since the others ask it; then the chunkservers.
func (s *clusterStarter) startAll(ctx context.Context, ids ...string) error {
	wanted, err := s.file.selection(ids)
	if err != nil {
		return err
	}
	var chunkservers []*member
	for _, m := range wanted {
		if m.Role == roleChunkserver {
			chunkservers = append(chunkservers, m)
			continue
		}
		if err := s.startAndWait(ctx, m); err != nil {
			return err
		}
	}
	return s.startAndWait(ctx, chunkservers...)
}

// startAndWait starts servers together and waits until all are ready.
func (s *clusterStarter) startAndWait(ctx context.Context, members ...*member) error {
	var started []startedMember
	for _, m := range members {
		one, err := s.start(m)
		if err != nil {
			return err
		}
		started = append(started, one)
	}
	for _, one := range started {
		if err := s.awaitReady(ctx, one); err != nil {
			return err
		}
	}
	return nil
}

// awaitReady waits until the server has said where it listens.
func (s *clusterStarter) awaitReady(ctx context.Context, m startedMember) error {
	if m.child == nil {
		return nil
	}
	ready := []byte(fmt.Sprintf("listening %s ", m.Role))
	for tick := time.NewTicker(readyPoll); ; {
		log, err := readTail(s.logFile(m.member), m.logFrom)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", m.ID, err)
		}
		if bytes.HasPrefix(log, ready) || bytes.Contains(log, append([]byte("\n"), ready...)) {
			tick.Stop()
			return nil
		}
		select {
		case <-m.child.exited:
			tick.Stop()
			return s.exited(m)
		case <-ctx.Done():
			tick.Stop()
			return notInTime(ctx, fmt.Sprintf("%s is not ready: it said %q; see %s", m.ID, lastLine(log), s.logFile(m.member)))
		case <-tick.C:
		}
	}
}

// exited says how a server ended.
func (s *clusterStarter) exited(m startedMember) error {
	log, err := readTail(s.logFile(m.member), m.logFrom)
	if err != nil {
		log = []byte(err.Error())
	}
	return &exitedError{id: m.ID, logFile: s.logFile(m.member), said: lastLine(log), code: m.child.code}
}

// notInTime is a wait that ended without what was waited for.
func notInTime(ctx context.Context, what string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: not in time: %s", errDegraded, what)
	}
	return fmt.Errorf("%w: %s", ctx.Err(), what)
}

// readTail reads a log from an offset on, or its end if that is too much.
func readTail(name string, from int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from = max(from, info.Size()-maxLogTail)
	return io.ReadAll(io.NewSectionReader(f, from, maxLogTail))
}

func lastLine(log []byte) string {
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return lines[len(lines)-1]
}

// selection returns the members with these ids, or all, in the cluster's order.
func (f *clusterFile) selection(ids []string) ([]*member, error) {
	var found []*member
	if len(ids) == 0 {
		for i := range f.Members {
			found = append(found, &f.Members[i])
		}
		return found, nil
	}
	for _, id := range ids {
		m, err := f.member(id)
		if err != nil {
			return nil, err
		}
		found = append(found, m)
	}
	return found, nil
}

// isBusy says whether a server found its port taken.
func isBusy(err error) bool {
	var exited *exitedError
	return errors.As(err, &exited) && errors.Is(err, backend.ErrBusy)
}
