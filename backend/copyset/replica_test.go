package copyset

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLeaderWritesReadsZeroesAndTrims(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	data := pattern(1, 16<<10)
	c.write(1, 0, data)
	c.want(1, 0, data)
	c.write(1, 4096+512, data[:512])
	c.want(1, 4096+512, data[:512])
	if err := c.do(c.change(backend.OpZero, 1, 0, nil, 4096)); err != nil {
		t.Fatal(err)
	}
	c.want(1, 0, make([]byte, 4096))
	c.want(1, 8192, data[8192:])
	if err := c.do(c.change(backend.OpTrim, 1, 0, nil, testChunkSize)); err != nil {
		t.Fatal(err)
	}
	c.want(1, 0, make([]byte, testChunkSize))
	if ids := g.leader().replica.Load().ChunkIDs(); len(ids) != 0 {
		t.Errorf("chunks %v after the only one was trimmed", ids)
	}
}

func TestFollowersRefuseWithAHint(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 4096))
	l, f := g.leader(), g.follower()
	g.until("the follower knows", func() bool { id, _ := f.replica.Load().life.known(); return id == l.id })
	for _, op := range []backend.Op{c.readOp(1, 0, make([]byte, 512)), c.change(backend.OpTrim, 1, 0, nil, 512)} {
		err := c.once(f, op)
		var hint *backend.NotLeaderError
		if !errors.As(err, &hint) || hint.Leader != l.id || hint.Copyset != 5 || hint.Term == 0 {
			t.Errorf("%v on a follower: %v, expected a hint to %v", op.Kind, err, l.id)
		}
	}
}

func TestAcknowledgedWritesSurviveTheLeader(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	for i := range 20 {
		c.write(backend.ChunkID(i%3), int64(i)*512, pattern(byte(i), 512))
	}
	old := g.leader()
	g.stop(old.id)
	for i := range 20 {
		c.want(backend.ChunkID(i%3), int64(i)*512, pattern(byte(i), 512))
	}
	if g.leader() == old {
		t.Error("the stopped leader leads")
	}
}

func TestLateDuplicateIsAnsweredAndNotApplied(t *testing.T) {
	for _, unfenced := range []bool{false, true} {
		name := map[bool]string{false: "fenced", true: "unfenced, so that the test is seen to see"}[unfenced]
		t.Run(name, func(t *testing.T) {
			for _, change := range []bool{false, true} {
				g := newRig(t, 3, func(o *Options) { o.Unfenced = unfenced })
				c := g.client(1)
				late := c.change(backend.OpWrite, 1, 0, pattern(1, 4096), 4096)
				if err := c.do(late); err != nil {
					t.Fatal(err)
				}
				c.write(1, 0, pattern(9, 4096))
				if change {
					g.stop(g.leader().id)
				}
				if err := c.do(late); err != nil {
					t.Fatalf("late duplicate: %v, expected it to be answered as done", err)
				}
				if unfenced {
					c.want(1, 0, pattern(1, 4096))
				} else {
					c.want(1, 0, pattern(9, 4096))
				}
			}
		})
	}
}

func TestNewEpochFencesTheOlder(t *testing.T) {
	for _, first := range []string{"read", "write", "flush"} {
		t.Run("by a "+first, func(t *testing.T) {
			g := newRig(t, 3, nil)
			old, c := g.client(1), g.client(2)
			old.write(1, 0, pattern(1, 4096))
			var err error
			switch first {
			case "read":
				c.want(1, 0, pattern(1, 4096))
			case "write":
				c.write(1, 4096, pattern(2, 4096))
			case "flush":
				err = c.do(backend.Op{Kind: backend.OpFlush, Volume: testVolume, Epoch: 2})
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := old.do(old.change(backend.OpWrite, 1, 0, pattern(3, 512), 512)); !errors.Is(err, backend.ErrStaleEpoch) {
				t.Errorf("write of the older epoch: %v", err)
			}
			if err := old.do(old.readOp(1, 0, make([]byte, 512))); !errors.Is(err, backend.ErrStaleEpoch) {
				t.Errorf("read of the older epoch: %v", err)
			}
			if old.once(g.leader(), backend.Op{Kind: backend.OpFlush, Volume: testVolume, Epoch: 1}) == nil {
				t.Error("flush of the older epoch succeeded")
			}
			g.stop(g.leader().id) // the fence is replicated
			if err := old.do(old.change(backend.OpWrite, 1, 0, pattern(3, 512), 512)); !errors.Is(err, backend.ErrStaleEpoch) {
				t.Errorf("write of the older epoch after a leader change: %v", err)
			}
			c.want(1, 0, pattern(1, 4096))
		})
	}
}

func TestRestartReplaysOverTheSnapshot(t *testing.T) {
	g := newRig(t, 3, func(o *Options) { o.TrailingLogs = 1 })
	c := g.client(1)
	for i := range 30 {
		c.write(backend.ChunkID(i%4), int64(i)*512, pattern(byte(i), 512))
		if i == 10 || i == 20 {
			g.settled()
			for _, m := range g.members {
				if err := m.replica.Load().Snapshot(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	late := c.change(backend.OpWrite, 0, 0, pattern(99, 512), 512)
	late.Seq = 1
	for id := range g.members {
		g.stop(id)
	}
	for _, m := range g.members {
		g.start(m, nil)
	}
	for i := range 30 {
		c.want(backend.ChunkID(i%4), int64(i)*512, pattern(byte(i), 512))
	}
	if err := c.do(late); err != nil {
		t.Fatal(err)
	}
	c.want(0, 0, pattern(0, 512))
	if first, _ := g.leader().log.FirstIndex(); first < 5 {
		t.Errorf("the log begins at %d: the snapshots have not cut it", first)
	}
}
