package embedded_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
)

func TestSecondGatewayIsToldWhoHasTheDirectory(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, roleHold, dir)
	if got := c.line(); got != "open" {
		t.Fatalf("child says %q", got)
	}
	_, err := embedded.Open(dir, embedded.Options{Log: quiet})
	if want := fmt.Sprintf("in use by pid %d (test child)", c.Process.Pid); !errors.Is(err, backend.ErrBusy) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("second open: %v, want ErrBusy with %q and the directory", err, want)
	}
	c.stdin.Close()
	if err := c.Wait(); err != nil {
		t.Fatalf("child: %v", err)
	}
	b := openDir(t, dir, embedded.Options{})
	_, err = embedded.Open(dir, embedded.Options{Log: quiet})
	if want := fmt.Sprintf("pid %d (gateway)", os.Getpid()); !errors.Is(err, backend.ErrBusy) || !strings.Contains(err.Error(), want) {
		t.Errorf("second open in this process: %v, want ErrBusy with %q", err, want)
	}
	closeBackend(t, b)
}

func TestLockOfAKilledGatewayIsFree(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, roleHold, dir)
	if got := c.line(); got != "open" {
		t.Fatalf("child says %q", got)
	}
	c.kill()
	openDir(t, dir, embedded.Options{})
}

// acked is what children were told is done.
type acked struct {
	volumes map[backend.VolumeID]string
	epochs  map[backend.VolumeID]backend.Epoch
	chunks  map[backend.ChunkID]string // first chunk of a segment -> segment
}

// note takes one line of a child. An id that was handed out before is an error.
func (a *acked) note(line string) error {
	var id backend.VolumeID
	var name string
	var n, first uint64
	if _, err := fmt.Sscanf(line, "volume %d %s", &id, &name); err == nil {
		if other, ok := a.volumes[id]; ok {
			return fmt.Errorf("%s was handed out for %s and for %s", id, other, name)
		}
		a.volumes[id] = name
		return nil
	}
	if _, err := fmt.Sscanf(line, "epoch %d %d", &id, &n); err == nil {
		a.epochs[id] = backend.Epoch(n)
		return nil
	}
	if _, err := fmt.Sscanf(line, "segment %d %d %d", &id, &n, &first); err != nil {
		return fmt.Errorf("line %q: %w", line, err)
	}
	segment := fmt.Sprintf("segment %d of %s", n, id)
	if other, ok := a.chunks[backend.ChunkID(first)]; ok {
		return fmt.Errorf("chunk %d was handed out for %s and for %s", first, other, segment)
	}
	a.chunks[backend.ChunkID(first)] = segment
	return nil
}

// check compares what was acknowledged with what is there.
func (a *acked) check(t *testing.T, b *embedded.Backend) {
	t.Helper()
	found := map[backend.ChunkID]string{}
	all := map[backend.ChunkID]bool{}
	for id, name := range a.volumes {
		v, err := b.Meta().Volume(t.Context(), name)
		if err != nil || v.ID != id || v.Epoch < a.epochs[id] || v.Owner != "" {
			t.Errorf("acknowledged %s as %s with epoch %d: found %+v, %v", name, id, a.epochs[id], v, err)
			continue
		}
		segments, err := b.Meta().Segments(t.Context(), id)
		if err != nil {
			t.Error(err)
		}
		for _, s := range segments {
			found[s.Chunks[0].ID] = fmt.Sprintf("segment %d of %s", s.Index, id)
			for _, c := range s.Chunks {
				if all[c.ID] {
					t.Errorf("%s is in two segments", c.ID)
				}
				all[c.ID] = true
			}
		}
	}
	for id, segment := range a.chunks {
		if found[id] != segment {
			t.Errorf("acknowledged %s at chunk %d: found %q there", segment, id, found[id])
		}
	}
}

func TestAcknowledgedMetadataSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	a := &acked{volumes: map[backend.VolumeID]string{}, epochs: map[backend.VolumeID]backend.Epoch{}, chunks: map[backend.ChunkID]string{}}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	rounds := 30
	if testing.Short() {
		rounds = 4
	}
	for round := range rounds {
		c := startChild(t, roleWork, dir)
		if got := c.line(); got != "open" {
			t.Fatalf("round %d: child says %q", round, got)
		}
		var lines []string
		for range 1 + random.IntN(60) {
			line := c.line()
			if line == "" {
				t.Fatalf("round %d: child ended by itself", round)
			}
			lines = append(lines, line)
		}
		// A kill may cut the last line short; what was not said to its end was
		// not acknowledged.
		rest := c.killAndDrain()
		if len(rest) > 0 {
			rest = rest[:len(rest)-1]
		}
		for _, line := range append(lines, rest...) {
			if err := a.note(line); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		b := openDir(t, dir, embedded.Options{})
		a.check(t, b)
		closeBackend(t, b)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	if len(a.volumes) < rounds/2 || len(a.chunks) < rounds {
		t.Errorf("only %d volumes and %d segments were acknowledged: the test is too weak", len(a.volumes), len(a.chunks))
	}
}
