package copyset

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend/disk"
)

// slowDisk takes its time for each sync, once it is told to.
type slowDisk struct {
	disk.FS
	sync atomic.Int64 // a time.Duration
}

type slowFile struct {
	disk.File
	disk *slowDisk
}

func (d *slowDisk) Open(path string) (disk.File, error)   { return d.slow(d.FS.Open(path)) }
func (d *slowDisk) Create(path string) (disk.File, error) { return d.slow(d.FS.Create(path)) }

func (d *slowDisk) slow(f disk.File, err error) (disk.File, error) {
	if err != nil {
		return nil, err
	}
	return &slowFile{f, d}, nil
}

func (f *slowFile) SyncData() error {
	time.Sleep(time.Duration(f.disk.sync.Load()))
	return f.File.SyncData()
}

// A vote waits for the disk. Where that takes long, candidates wait longer for each
// other, and for the votes.
func TestALeaderIsReplacedOnSlowDisks(t *testing.T) {
	trials := 2
	if testing.Short() {
		trials = 1
	}
	slow := &slowDisk{FS: disk.OS()}
	g := buildRig(t, 3, &rig{fs: slow})
	c := g.client(1)
	c.write(1, 0, pattern(1, 4096))
	for _, sync := range []time.Duration{20 * time.Millisecond, 200 * time.Millisecond} {
		slow.sync.Store(int64(sync))
		for range trials {
			for i := range 10 { // by which the log learns how slow the disk is
				c.write(1, int64(i)*512, pattern(byte(i), 512))
			}
			old := g.leader()
			term := old.replica.Load().raft.Load().CurrentTerm()
			g.stop(old.id)
			start := time.Now()
			next := g.leader()
			took, terms := time.Since(start), next.replica.Load().raft.Load().CurrentTerm()-term
			t.Logf("%v a sync: a leader after %v and %d terms", sync, took, terms)
			if terms > 8 {
				t.Errorf("%v a sync: %d terms for one leader", sync, terms)
			}
			c.write(1, 0, pattern(2, 512))
			g.start(old, nil)
		}
	}
}
