package copyset

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// snapshotAll cuts the logs of all running members.
func (g *rig) snapshotAll() {
	g.t.Helper()
	g.settled()
	for _, m := range g.members {
		if r := m.replica.Load(); r != nil {
			if err := r.Snapshot(); err != nil {
				g.t.Fatalf("snapshot on %d: %v", m.id, err)
			}
		}
	}
}

// wantSameChunks compares every block of every chunk of the running members.
func (g *rig) wantSameChunks() {
	g.t.Helper()
	g.settled()
	l := g.leader()
	for _, m := range g.members {
		r := m.replica.Load()
		if r == nil || m == l {
			continue
		}
		g.until("the replicas have the same chunks", func() bool {
			return len(r.ChunkIDs()) == len(l.replica.Load().ChunkIDs())
		})
		for _, id := range l.replica.Load().ChunkIDs() {
			if a, b := contentOf(g.t, l, id), contentOf(g.t, m, id); !bytes.Equal(a, b) {
				g.t.Errorf("chunk %d differs between members %d and %d", id, l.id, m.id)
			}
		}
	}
}

// contentOf reads a chunk past the replica, from the store.
func contentOf(t testing.TB, m *member, id backend.ChunkID) []byte {
	t.Helper()
	p := make([]byte, testChunkSize)
	op := backend.Op{Kind: backend.OpRead, Volume: testVolume, Epoch: storeEpoch, Chunk: chunkRef(id), Len: testChunkSize, Data: p}
	if err := m.replica.Load().do(&op); err != nil {
		t.Fatalf("chunk %d of member %d: %v", id, m.id, err)
	}
	return p
}

func TestFollowerTooFarBehindPullsOnlyWhatDiffers(t *testing.T) {
	g := newRig(t, 3, func(o *Options) { o.TrailingLogs = 1 })
	c := g.client(1)
	for id := range backend.ChunkID(4) {
		c.write(id, 0, pattern(byte(id+1), testChunkSize))
	}
	g.snapshotAll()
	m := g.follower()
	g.stop(m.id)
	for i := range 5 { // five blocks change, one of them twice; two are freed
		c.write(0, int64(i)*4096, pattern(byte(100+i), 4096))
	}
	c.write(0, 512, pattern(50, 1024))
	if err := c.do(c.change(backend.OpTrim, 1, 8192, nil, 8192)); err != nil {
		t.Fatal(err)
	}
	if err := c.do(c.change(backend.OpTrim, 3, 0, nil, testChunkSize)); err != nil {
		t.Fatal(err)
	}
	c.write(9, 4096, pattern(9, 4096)) // a new chunk of one block
	g.snapshotAll()
	g.exported.Store(0)
	g.start(m, nil)
	g.until("the follower has caught up", func() bool { return m.replica.Load().Pulled() > 0 && !m.replica.Load().installing.Load() })
	g.wantSameChunks()
	if n := m.replica.Load().Pulled(); n != 5+2+1 || g.exported.Load() != n {
		t.Errorf("%d blocks pulled, %d given, expected 8", n, g.exported.Load())
	}
	if st := m.replica.Load().Status(); st.State != backend.ReplicaOK {
		t.Errorf("state %v after catching up", st.State)
	}
	c.write(2, 0, pattern(77, 512)) // it follows on
	g.wantSameChunks()
	g.restart(m.id)
	g.wantSameChunks()
}

func TestSourceThatGoesOnChangingLeavesTheSameChunks(t *testing.T) {
	g := newRig(t, 3, func(o *Options) { o.TrailingLogs = 1 })
	c := g.client(1)
	for id := range backend.ChunkID(8) {
		c.write(id, 0, pattern(byte(id+1), testChunkSize))
	}
	m := g.follower()
	g.stop(m.id)
	for id := range backend.ChunkID(8) {
		c.write(id, 0, pattern(byte(id+11), testChunkSize))
	}
	g.snapshotAll()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			op := c.change(backend.OpWrite, backend.ChunkID(i%9), int64(i*37%120)*512, pattern(byte(i), 512+i%3*512), int64(512+i%3*512))
			if i%13 == 0 {
				op = c.change(backend.OpTrim, backend.ChunkID(i%9), 0, nil, testChunkSize)
			}
			op.Low = op.Seq - min(op.Seq-1, 10)
			if err := c.do(op); err != nil {
				t.Errorf("%v: %v", op.Kind, err)
				return
			}
		}
	}()
	g.start(m, nil)
	g.until("the follower has caught up", func() bool { return m.replica.Load().Pulled() > 0 && !m.replica.Load().installing.Load() })
	close(stop)
	<-stopped
	g.wantSameChunks()
}

// brokenPeers fails every export after some blocks.
type brokenPeers struct {
	peers
	after int
}

var errCutShort = errors.New("connection lost")

func (p brokenPeers) Export(ctx context.Context, s backend.ServerID, id backend.CopysetID, req ExportRequest, emit func(Block) error) (ExportInfo, error) {
	left := p.after
	return p.peers.Export(ctx, s, id, req, func(b Block) error {
		if left--; left < 0 {
			return errCutShort
		}
		return emit(b)
	})
}

func TestInstallationCutShortIsMadeUpFor(t *testing.T) {
	var broken bool
	g := newRig(t, 3, func(o *Options) {
		o.TrailingLogs = 1
		if broken {
			o.Peers = brokenPeers{o.Peers.(peers), 3}
		}
	})
	c := g.client(1)
	c.write(1, 0, pattern(1, testChunkSize))
	g.snapshotAll()
	m := g.follower()
	g.stop(m.id)
	c.write(1, 0, pattern(2, testChunkSize))
	g.snapshotAll()
	broken = true
	g.start(m, nil)
	broken = false
	g.until("some blocks were pulled", func() bool { return m.replica.Load().Pulled() > 3 })
	if st := m.replica.Load().Status(); st.State != backend.ReplicaCatchingUp {
		t.Errorf("state %v while catching up", st.State)
	}
	g.stop(m.id) // in the middle
	g.prepare(m)
	if err := g.open(m); err != nil {
		t.Fatal(err)
	}
	g.until("the follower has caught up", func() bool { return m.replica.Load().Status().State == backend.ReplicaOK })
	g.wantSameChunks()
	c.want(1, 0, pattern(2, testChunkSize))
}

func TestChunkLeftByAnEarlierLifeDoesNotShowThrough(t *testing.T) {
	g := newRig(t, 3, nil)
	for _, m := range g.members { // a stale file that the log knows nothing of
		op := backend.Op{Kind: backend.OpWrite, Volume: testVolume, Epoch: storeEpoch, Chunk: chunkRef(1), Off: 8192, Len: 4096, Data: pattern(66, 4096)}
		if err := m.replica.Load().do(&op); err != nil {
			t.Fatal(err)
		}
	}
	c := g.client(1)
	c.want(1, 8192, make([]byte, 4096))
	exts, err := g.leader().replica.Load().Extents(t.Context(), testVolume, chunkRef(1), 0, testChunkSize, nil)
	if err != nil || len(exts) != 1 || !exts[0].Hole {
		t.Errorf("extents %v, %v; expected one hole", exts, err)
	}
	c.write(1, 0, pattern(1, 512))
	c.want(1, 8192, make([]byte, 4096))
	g.wantSameChunks()
}
