package copyset

import (
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

// A change that is committed is applied in the end, in order, though the disk had no
// room for it at first and had for a later one of the same blocks.
func TestCommittedChangesWaitForSpaceAndKeepTheirOrder(t *testing.T) {
	g := &rig{t: t, members: make(map[backend.ServerID]*member), leaders: make(map[backend.ServerID]uint64)}
	var refuse, refused atomic.Int64
	found := []backend.ServerID{1, 2, 3}
	for _, id := range found {
		fs := crashfs.New(crashfs.Options{})
		fs.OnCall(func(c crashfs.Call) error {
			// Every other write is refused, so that of two changes of a block the
			// first fails and the second does not.
			if c.Op == crashfs.OpWrite && strings.Contains(c.Path, "/chunks/") && refuse.Load() > 0 && refuse.Add(-1)%2 == 1 {
				refused.Add(1)
				return unix.ENOSPC
			}
			return nil
		})
		m := g.add(id)
		m.dir, m.fs = "/data", fs
	}
	for _, m := range g.members {
		g.start(m, found)
	}
	t.Cleanup(func() {
		refuse.Store(0)
		for id := range g.members {
			g.stop(id)
		}
	})
	c := g.client(1)
	c.write(1, 0, pattern(1, 8192))
	g.settled()
	for round := range 6 {
		l := g.leader().replica.Load()
		l.prop.hold(true) // both changes get into one entry
		refuse.Store(int64(8 + round))
		calls := []*call{
			newCall(c.change(backend.OpWrite, 1, 0, pattern(byte(10+round), 4096), 4096)),
			newCall(c.change(backend.OpWrite, 1, 512, pattern(byte(100+round), 1024), 1024)),
			newCall(c.change(backend.OpWrite, 1, 4096, pattern(byte(50+round), 4096), 4096)),
		}
		for _, one := range calls {
			l.Submit(&one.Op)
		}
		l.prop.hold(false)
		for _, one := range calls {
			<-one.done
			if one.Err != nil {
				t.Fatal(one.Err)
			}
		}
		want := pattern(byte(10+round), 4096)
		copy(want[512:], pattern(byte(100+round), 1024))
		c.want(1, 0, append(want, pattern(byte(50+round), 4096)...))
		g.wantSameChunks()
	}
	if refused.Load() == 0 {
		t.Error("the disk refused nothing")
	}
	for id, m := range g.members {
		if what := m.replica.Load().Trouble(); what != "" {
			t.Errorf("member %d is still in trouble: %s", id, what)
		}
	}
}
