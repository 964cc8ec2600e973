package copyset

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// chunkFile finds a chunk's file.
func chunkFile(t testing.TB, m *member, id backend.ChunkID) string {
	t.Helper()
	matches, err := filepath.Glob(m.dir + "/chunks/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range matches {
		if len(filepath.Base(path)) == 16 && filepath.Base(path)[15] == "0123456789abcdef"[id%16] {
			return path
		}
	}
	t.Fatalf("chunk %d of member %d has no file", id, m.id)
	return ""
}

// rot flips bytes of a file on the disk.
func rot(t testing.TB, path string, at int64, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, n)
	if _, err := f.ReadAt(p, at); err != nil {
		t.Fatal(err)
	}
	for i := range p {
		p[i] ^= 0x5a
	}
	if _, err := f.WriteAt(p, at); err != nil {
		t.Fatal(err)
	}
}

// dataAt is where the content of a chunk of testChunkSize begins in its file.
const dataAt = 64 << 10

func TestDamagedBlockIsRepairedWhenRead(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 32<<10))
	g.settled()
	l := g.leader()
	rot(t, chunkFile(t, l, 1), dataAt+4096+7, 3)
	rot(t, chunkFile(t, l, 1), dataAt+3*4096, 1)
	c.want(1, 0, pattern(1, 32<<10))
	if bad, err := l.store.Damaged(t.Context(), chunkRef(1), testVolume, nil); err != nil || len(bad) != 0 {
		t.Errorf("blocks %v are still damaged, %v", bad, err)
	}
	c.write(1, 512, pattern(2, 512))
	c.want(1, 512, pattern(2, 512))
	g.wantSameChunks()
}

func TestDamagedBlockIsRepairedWhenAnEntryNeedsIt(t *testing.T) {
	for _, who := range []string{"leader", "follower"} {
		t.Run("on the "+who, func(t *testing.T) {
			g := newRig(t, 3, nil)
			c := g.client(1)
			c.write(1, 0, pattern(1, 32<<10))
			g.settled()
			m := g.leader()
			if who == "follower" {
				m = g.follower()
			}
			rot(t, chunkFile(t, m, 1), dataAt+4096+7, 3)
			c.write(1, 4096+512, pattern(2, 512)) // part of the block: the rest is read
			c.want(1, 4096+512, pattern(2, 512))
			g.wantSameChunks()
			c.want(1, 4096+1024, pattern(1, 32<<10)[4096+1024:8192])
		})
	}
}

func TestDamagedChunkFileIsMadeAnew(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 32<<10))
	c.write(2, 0, pattern(2, 4096))
	g.settled()
	m := g.leader()
	g.stop(m.id) // the store closes the file clean
	rot(t, chunkFile(t, m, 1), 4096+1, 1)
	g.start(m, nil)
	g.settled()
	if err := g.leader().replica.Load().TransferLeadership(t.Context(), m.id); err != nil {
		t.Fatal(err)
	}
	c.want(1, 0, pattern(1, 32<<10))
	g.wantSameChunks()
	if names, _ := filepath.Glob(m.dir + "/raft/" + mendPrefix + "*"); len(names) != 0 {
		t.Errorf("%v are left", names)
	}
}

func TestRepairCutShortByACrashIsDoneAgain(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 32<<10))
	g.settled()
	m := g.follower()
	g.snapshotAll()
	// As a crash leaves it: the mark is there, the file has lost its content.
	job := &mendJob{ref: chunkRef(1), vol: testVolume, whole: true}
	if err := m.replica.Load().setMendMark(job, true); err != nil {
		t.Fatal(err)
	}
	if err := m.store.Delete(t.Context(), testVolume, []backend.ChunkRef{chunkRef(1)}); err != nil {
		t.Fatal(err)
	}
	r := g.restart(m.id)
	g.until("the repair is done", func() bool { return !r.reads.unknown(1) })
	g.wantSameChunks()
}

func TestDamageThatNobodyCanRepairIsAnsweredAsSuch(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 32<<10))
	g.settled()
	for _, m := range g.members {
		rot(t, chunkFile(t, m, 1), dataAt+4096, 1)
	}
	if err := c.do(c.readOp(1, 4096, make([]byte, 512))); !errors.Is(err, backend.ErrChecksum) {
		t.Errorf("read: %v, expected ErrChecksum", err)
	}
	c.want(1, 8192, pattern(1, 32<<10)[8192:12288])
	c.write(1, 4096, pattern(3, 4096)) // all of the block anew
	c.want(1, 4096, pattern(3, 4096))
}

func TestScrubRepairsWhatNobodyReads(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	for id := range backend.ChunkID(3) {
		c.write(id, 0, pattern(byte(id+1), 32<<10))
	}
	g.settled()
	for _, m := range []*member{g.leader(), g.follower()} {
		rot(t, chunkFile(t, m, 1), dataAt+4096, 1)
		res, err := m.replica.Load().Scrub(t.Context())
		if err != nil || res != (ScrubResult{Chunks: 3, Damaged: 1, Repaired: 1}) {
			t.Errorf("scrub: %+v, %v", res, err)
		}
		if res, err = m.replica.Load().Scrub(t.Context()); err != nil || res.Damaged != 0 {
			t.Errorf("second scrub: %+v, %v", res, err)
		}
	}
	g.wantSameChunks()
}

// A block from a peer that was ahead must not be seen before this replica is there.
func TestReadsOfARepairedChunkWaitForTheFloor(t *testing.T) {
	g := newFakeRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 4096))
	c.write(2, 0, pattern(2, 4096))
	r := g.leader().replica.Load()
	r.reads.setFloor(1, r.Applied()+1)
	read := newCall(c.readOp(1, 0, make([]byte, 512)))
	if r.Try(&read.Op) {
		t.Fatal("Try served a read below the floor")
	}
	r.Submit(&read.Op)
	c.want(2, 0, pattern(2, 4096)) // another chunk is served
	select {
	case <-read.done:
		t.Fatal("a read below the floor was served")
	case <-time.After(20 * time.Millisecond):
	}
	c.write(2, 0, pattern(3, 512))
	select {
	case <-read.done:
	case <-time.After(testTimeout):
		t.Fatal("the read was not started again at the floor")
	}
	if read.Err != nil {
		t.Error(read.Err)
	}
}
