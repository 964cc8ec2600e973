package chunkserver

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset"
	"github.com/opencurve/curve-nbd/backend/memory"
	"github.com/opencurve/curve-nbd/backend/pb"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// threeServers are servers of which the second leads copyset 4; the others redirect.
func threeServers(t *testing.T) ([]*ioServer, []*scripted) {
	t.Helper()
	var servers []*ioServer
	var replicas []*scripted
	for id := backend.ServerID(1); id <= 3; id++ {
		s, r := serveIO(t, id, ""), &scripted{chunks: memory.New()}
		if id != 2 {
			r.refuse = &backend.NotLeaderError{Copyset: 4}
		}
		s.replicas.set(4, r)
		servers, replicas = append(servers, s), append(replicas, r)
	}
	return servers, replicas
}

func TestCallsFindTheLeader(t *testing.T) {
	for _, tc := range []struct {
		name   string
		script func([]*ioServer, []*scripted)
	}{
		{"it says so", func(s []*ioServer, _ []*scripted) { s[1].news.leaderChanged(4, 2, 5) }},
		{"another says so", func(s []*ioServer, _ []*scripted) { s[2].news.leaderChanged(4, 2, 5) }},
		{"stale news first", func(s []*ioServer, r []*scripted) {
			s[0].news.leaderChanged(4, 3, 4)
			r[2].refuse = &backend.NotLeaderError{Copyset: 4, Leader: 2, Term: 5}
		}},
		{"one is overloaded for a moment", func(s []*ioServer, r []*scripted) {
			s[1].news.leaderChanged(4, 2, 5)
			r[1].refuse = backend.ErrOverload
			time.AfterFunc(20*time.Millisecond, func() { r[1].script(func(r *scripted) { r.refuse = nil }) })
		}},
		{"nobody leads for a moment", func(s []*ioServer, _ []*scripted) {
			time.AfterFunc(20*time.Millisecond, func() { s[1].news.leaderChanged(4, 2, 5) })
		}},
		{"one is dead", func(s []*ioServer, _ []*scripted) {
			s[0].stop()
			s[1].news.leaderChanged(4, 2, 5)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			servers, replicas := threeServers(t)
			ref := backend.ChunkRef{ID: 9, Copyset: 4, Size: backend.DefaultChunkSize}
			replicas[1].chunks.Submit(&backend.Op{Kind: backend.OpWrite, Volume: 7, Chunk: ref, Off: 8192, Len: 4096, Data: make([]byte, 4096)})
			tc.script(servers, replicas)
			c := dialChunks(t, bookOf(servers...), remote.Options{})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got, err := c.Extents(ctx, 7, ref, 4096, 16384, nil)
			want := []backend.Extent{{Length: 4096, Hole: true}, {Length: 4096}, {Length: 8192, Hole: true}}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("extents: %v, %v; want %v", got, err, want)
			}
			if n, err := c.Usage(ctx, []backend.ChunkRef{ref}); err != nil || n <= 0 {
				t.Errorf("usage: %d, %v", n, err)
			}
			if err := c.Delete(ctx, 7, []backend.ChunkRef{ref}); err != nil {
				t.Errorf("delete: %v", err)
			}
			if n, err := c.Usage(ctx, []backend.ChunkRef{ref}); err != nil || n != 0 {
				t.Errorf("usage after delete: %d, %v", n, err)
			}
			if err := c.TransferLeader(ctx, 4, 3); err != nil || !reflect.DeepEqual(replicas[1].transferred, []backend.ServerID{3}) {
				t.Errorf("transfer: %v, %v", replicas[1].transferred, err)
			}
		})
	}
}

func TestCallWithoutALeaderEndsWithItsContext(t *testing.T) {
	servers, _ := threeServers(t)
	c := dialChunks(t, bookOf(servers...), remote.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Usage(ctx, []backend.ChunkRef{{ID: 1, Copyset: 4, Size: 1 << 20}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCallsAreNotRepeatedWhereThatCannotHelp(t *testing.T) {
	s, r := serveMemory(t)
	r.refuse = backend.ErrStaleEpoch
	c := dialChunks(t, bookOf(s), remote.Options{})
	if _, err := c.Extents(t.Context(), 7, backend.ChunkRef{ID: 1, Size: 1 << 20}, 0, 4096, nil); !errors.Is(err, backend.ErrStaleEpoch) {
		t.Errorf("got %v", err)
	}
}

func TestOneServersCallsAnswer(t *testing.T) {
	s, _ := serveMemory(t)
	c := dialChunks(t, bookOf(s), remote.Options{})
	if st, err := c.ServerStatus(t.Context(), 1); err != nil || st.GetServer() != 1 {
		t.Errorf("status: %v, %v", st, err)
	}
	if err := c.Snapshot(t.Context(), 1, 0); err != nil {
		t.Errorf("snapshot: %v", err)
	}
	if got, err := c.Scrub(t.Context(), 1, 0); err != nil || got.GetChunks() != 3 || got.GetDamaged() != 2 || got.GetRepaired() != 1 {
		t.Errorf("scrub: %v, %v", got, err)
	}
	if err := c.Snapshot(t.Context(), 1, 77); !errors.Is(err, backend.ErrNoCopyset) {
		t.Errorf("snapshot of a copyset that is not here: %v", err)
	}
	if err := c.Snapshot(t.Context(), 9, 0); !errors.Is(err, backend.ErrUnreachable) {
		t.Errorf("snapshot on a server that is not there: %v", err)
	}
}

func TestRequestsAreChecked(t *testing.T) {
	c := &control{replicas: newReplicaSet()}
	good := &pb.ChunkRef{Id: 1, Copyset: 4, Size: 1 << 20}
	for name, call := range map[string]func() error{
		"extents of no chunk": func() error { _, err := c.GetExtents(t.Context(), &pb.GetExtentsRequest{Length: 512}); return err },
		"extents past the end": func() error {
			_, err := c.GetExtents(t.Context(), &pb.GetExtentsRequest{Chunk: good, Offset: 1 << 20, Length: 512})
			return err
		},
		"usage across copysets": func() error {
			_, err := c.GetUsage(t.Context(), &pb.GetUsageRequest{Copyset: 5, Chunks: []*pb.ChunkRef{good}})
			return err
		},
		"delete across copysets": func() error {
			_, err := c.DeleteChunks(t.Context(), &pb.DeleteChunksRequest{Copyset: 5, Chunks: []*pb.ChunkRef{good}})
			return err
		},
		"usage of too many": func() error {
			_, err := c.GetUsage(t.Context(), &pb.GetUsageRequest{Chunks: make([]*pb.ChunkRef, maxChunksPerCall+1)})
			return err
		},
		"export past the end": func() error {
			_, err := exportRequest(&pb.ExportChunkRequest{Chunk: good, FirstBlock: 200, BlockCount: 57})
			return pb.ToStatus(err)
		},
		"export with too many checksums": func() error {
			_, err := exportRequest(&pb.ExportChunkRequest{Chunk: good, FirstBlock: 255, Have: make([]uint32, 2)})
			return pb.ToStatus(err)
		},
	} {
		if err := pb.FromStatus("", call()); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestExportArrivesWhole(t *testing.T) {
	s, r := serveMemory(t)
	ref := backend.ChunkRef{ID: 9, Size: 4 << 20}
	var blocks []copyset.Block
	for i := range 600 { // more than go in one message
		b := copyset.Block{Index: i, Hole: i%7 == 3}
		if !b.Hole {
			b.Data = bytes.Repeat([]byte{byte(i)}, copyset.BlockBytes)
		}
		blocks = append(blocks, b)
	}
	var asked copyset.ExportRequest
	r.export = func(req copyset.ExportRequest, emit func(copyset.Block) error) (copyset.ExportInfo, error) {
		asked = req
		data := make([]byte, copyset.BlockBytes)
		for _, b := range blocks {
			if !b.Hole {
				b.Data = data[:copy(data, b.Data)] // its own no longer than emit runs
			}
			if err := emit(b); err != nil {
				return copyset.ExportInfo{}, err
			}
		}
		return copyset.ExportInfo{Exists: true, Applied: 77}, nil
	}
	p := newPeers(func(backend.ServerID) string { return s.address })
	defer p.close()
	want := copyset.ExportRequest{Chunk: ref, Volume: 5, MinApplied: 66, First: 0, Count: 700, Have: []uint32{1, 2, 3}}
	i := 0
	info, err := p.Export(t.Context(), 1, 0, want, func(b copyset.Block) error {
		if w := blocks[i]; b.Index != w.Index || b.Hole != w.Hole || !bytes.Equal(b.Data, w.Data) {
			t.Errorf("block %d is %d, hole %v, %d bytes", i, b.Index, b.Hole, len(b.Data))
		}
		i++
		return nil
	})
	if err != nil || info != (copyset.ExportInfo{Exists: true, Applied: 77}) || i != len(blocks) {
		t.Errorf("got %+v, %v after %d blocks", info, err, i)
	}
	if !reflect.DeepEqual(asked, want) {
		t.Errorf("asked for %+v, want %+v", asked, want)
	}

	stop := errors.New("enough")
	if _, err := p.Export(t.Context(), 1, 0, want, func(copyset.Block) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a callee that wants no more: %v", err)
	}
	narrow := want
	narrow.Count = 10
	if _, err := p.Export(t.Context(), 1, 0, narrow, func(copyset.Block) error { return nil }); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("blocks that were not asked for: %v", err)
	}
	r.export = func(copyset.ExportRequest, func(copyset.Block) error) (copyset.ExportInfo, error) {
		return copyset.ExportInfo{}, backend.ErrChecksum
	}
	if _, err := p.Export(t.Context(), 1, 0, want, func(copyset.Block) error { return nil }); !errors.Is(err, backend.ErrChecksum) {
		t.Errorf("a damaged source: %v", err)
	}
	if _, err := p.Export(t.Context(), 1, 99, want, func(copyset.Block) error { return nil }); !errors.Is(err, backend.ErrNoCopyset) {
		t.Errorf("a copyset that is not there: %v", err)
	}
}
