package copyset

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

func sampleMeta() *raft.SnapshotMeta {
	return &raft.SnapshotMeta{Index: 11, Term: 3, ConfigurationIndex: 2, Configuration: raft.Configuration{
		Servers: []raft.Server{{ID: "1", Address: "1"}, {Suffrage: raft.Nonvoter, ID: "2", Address: "2"}},
	}}
}

func TestSnapshotFileIsGolden(t *testing.T) {
	raw := encodeSnapshot(5, sampleMeta(), (&state{fence: newFence(), chunks: newChunkSet(), applied: 10}).append(nil))
	want := "4375727665525" + "36e0100000005000000" + "0b00000000000000" + "0300000000000000" + "0200000000000000"
	if got := hex.EncodeToString(raw); got[:len(want)] != want {
		t.Errorf("header is\n%s, expected\n%s", got[:len(want)], want)
	}
	id, meta, data, err := decodeSnapshot(raw)
	if err != nil || id != 5 || meta.Index != 11 || meta.Term != 3 || meta.ConfigurationIndex != 2 || len(meta.Configuration.Servers) != 2 {
		t.Fatalf("%v %+v %v", id, meta, err)
	}
	if !bytes.Equal(data, []byte{stateVersion, 10, 0, 0, 0, 0}) {
		t.Errorf("state %x", data)
	}
}

func TestEveryFlippedByteOfASnapshotIsNoticed(t *testing.T) {
	raw := encodeSnapshot(5, sampleMeta(), sampleState().append(nil))
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x10
		if _, _, _, err := decodeSnapshot(bad); !errors.Is(err, backend.ErrChecksum) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
}

func FuzzDecodeSnapshot(f *testing.F) {
	f.Add(encodeSnapshot(5, sampleMeta(), sampleState().append(nil)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		id, meta, data, err := decodeSnapshot(raw)
		if err != nil {
			return
		}
		if again := encodeSnapshot(id, meta, data); len(again) == len(raw) && !bytes.Equal(again[:40], raw[:40]) {
			t.Error("another header")
		}
	})
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// take makes a snapshot as raft does of the local state.
func take(t *testing.T, s *snapshots, index uint64) error {
	t.Helper()
	to, err := s.Create(raft.SnapshotVersionMax, index, 1, sampleMeta().Configuration, 1, nil)
	if err != nil {
		return err
	}
	to.(*sink).local = true
	st := state{fence: newFence(), chunks: newChunkSet(), applied: index}
	if _, err := to.Write(st.append(nil)); err != nil {
		return err
	}
	return to.Close()
}

var errPowerCut = errors.New("power cut")

// A power cut at every call leaves the last snapshot that was reported, or the one
// under way.
func TestSnapshotsSurviveEveryPowerCut(t *testing.T) {
	const dir = "/d"
	for cut := 1; ; cut++ {
		fs := crashfs.New(crashfs.Options{})
		if err := errors.Join(fs.MkdirAll(dir), fs.SyncAll(dir)); err != nil {
			t.Fatal(err)
		}
		calls := 0
		fs.OnCall(func(c crashfs.Call) error {
			if c.Op.Changes() {
				calls++
			}
			if calls >= cut {
				return errPowerCut
			}
			return nil
		})
		reported, begun := uint64(0), uint64(0)
		func() {
			s, _, err := openSnapshots(fs, dir, 5, quiet())
			if err != nil {
				return
			}
			for index := uint64(1); index <= 4; index++ {
				begun = index
				if take(t, s, index) != nil {
					return
				}
				reported = index
			}
		}()
		done := calls < cut
		after := fs.Crash(uint64(cut))
		s, st, err := openSnapshots(after, dir, 5, quiet())
		if err != nil {
			t.Fatalf("cut %d: %v", cut, err)
		}
		got := uint64(0)
		if st != nil {
			got = s.newest().Index
			if st.applied != got {
				t.Fatalf("cut %d: state of %d in the snapshot of %d", cut, st.applied, got)
			}
		}
		if got < reported || got > begun {
			t.Fatalf("cut %d: snapshot %d is there, expected %d to %d", cut, got, reported, begun)
		}
		if err := take(t, s, 9); err != nil {
			t.Fatalf("cut %d: the next one: %v", cut, err)
		}
		if names, _ := after.ReadDir(dir); len(names) != 1 {
			t.Fatalf("cut %d: %v are left", cut, names)
		}
		if done {
			return
		}
	}
}

func TestOlderSnapshotDoesNotReplaceANewerOne(t *testing.T) {
	s, _, err := openSnapshots(disk.OS(), t.TempDir(), 5, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := take(t, s, 9); err != nil {
		t.Fatal(err)
	}
	if err := take(t, s, 8); err == nil {
		t.Error("a snapshot of entry 8 replaced that of entry 9")
	}
	if got := s.newest().Index; got != 9 {
		t.Errorf("newest is of %d", got)
	}
}

// A replica whose raft snapshot rotted must not come up as one that knows nothing.
func TestRottenSnapshotIsDamage(t *testing.T) {
	g := newRig(t, 3, func(o *Options) { o.TrailingLogs = 1 })
	c := g.client(1)
	for i := range 20 {
		c.write(1, int64(i)*512, pattern(byte(i), 512))
	}
	g.settled()
	m := g.follower()
	if err := m.replica.Load().Snapshot(); err != nil {
		t.Fatal(err)
	}
	g.stop(m.id)
	names, err := os.ReadDir(m.dir + "/raft")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(names, func(e os.DirEntry) bool { _, ok := snapshotNumber(e.Name()); return ok })
	path := m.dir + "/raft/" + names[i].Name()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	g.prepare(m)
	if err := g.open(m); !errors.Is(err, backend.ErrChecksum) {
		t.Errorf("open: %v, expected ErrChecksum", err)
	}
}

// A follower has a tail right behind its raft snapshot that nobody else has. Raft
// itself would not find the entry before the tail.
func TestTailBehindASnapshotIsReplaced(t *testing.T) {
	g := newRig(t, 3, func(o *Options) { o.TrailingLogs = 1 })
	c := g.client(1)
	c.write(1, 0, pattern(1, 512))
	tailTerm := g.leader().replica.Load().raft.Load().CurrentTerm()
	if err := g.leader().replica.Load().TransferLeadership(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		c.write(1, int64(i)*512, pattern(byte(i), 512))
	}
	g.settled()
	m := g.follower()
	if err := m.replica.Load().Snapshot(); err != nil {
		t.Fatal(err)
	}
	g.stop(m.id)
	g.prepare(m)
	last, err := m.log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := openSnapshots(m.fs, m.dir+"/raft", 5, quiet())
	if err != nil {
		t.Fatal(err)
	}
	first, index := s.newest().Index+1, s.newest().Index
	var tail []*raft.Log
	for i := range uint64(5) {
		tail = append(tail, &raft.Log{Index: first + i, Term: tailTerm, Type: raft.LogCommand, Data: sealed(newCommand(0), kindBarrier, 0)})
	}
	if last >= first {
		if err := m.log.DeleteRange(first, last); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.log.StoreLogs(tail); err != nil {
		t.Fatal(err)
	}
	if from, _ := m.log.FirstIndex(); from <= index {
		if err := m.log.DeleteRange(from, index); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		c.write(1, 0, pattern(77, 512)) // none of the leader's entries there is of tailTerm
	}
	if err := g.open(m); err != nil {
		t.Fatal(err)
	}
	c.write(1, 512, pattern(78, 512))
	g.wantSameChunks()
}
