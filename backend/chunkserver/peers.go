package chunkserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// peerIdle is how long an unused connection to another chunkserver is kept.
const peerIdle = time.Minute

// peers reads what other chunkservers hold; it is the copysets' Source.
type peers struct {
	// address looks a chunkserver up in the address book, "" for unknown.
	address func(backend.ServerID) string

	// mu guards the fields below.
	mu     sync.Mutex
	conns  map[backend.ServerID]peerConn
	closed bool
}

type peerConn struct {
	address string
	conn    *grpc.ClientConn
}

var _ copyset.Source = (*peers)(nil)

func newPeers(address func(backend.ServerID) string) *peers {
	return &peers{address: address, conns: make(map[backend.ServerID]peerConn)}
}

// client returns a connection to a chunkserver, at the address it has now.
func (p *peers) client(id backend.ServerID) (pb.ChunkClient, error) {
	address := p.address(id)
	if address == "" {
		return nil, fmt.Errorf("%w: the address of %v is not known", backend.ErrUnreachable, id)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fmt.Errorf("chunkserver: %w", backend.ErrClosed)
	}
	have := p.conns[id]
	if have.conn != nil && have.address == address {
		return pb.NewChunkClient(have.conn), nil
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithIdleTimeout(peerIdle),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxControlMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("%w: %v at %s: %w", backend.ErrUnreachable, id, address, err)
	}
	if have.conn != nil {
		have.conn.Close()
	}
	p.conns[id] = peerConn{address: address, conn: conn}
	return pb.NewChunkClient(conn), nil
}

// Export implements copyset.Source.
func (p *peers) Export(ctx context.Context, server backend.ServerID, id backend.CopysetID, req copyset.ExportRequest, emit func(copyset.Block) error) (copyset.ExportInfo, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when emit fails
	client, err := p.client(server)
	if err != nil {
		return copyset.ExportInfo{}, err
	}
	ref := req.Chunk
	ref.Copyset = id
	stream, err := client.ExportChunk(ctx, &pb.ExportChunkRequest{
		Chunk:  &pb.ChunkRef{Id: uint64(ref.ID), Copyset: uint32(ref.Copyset), Size: ref.Size},
		Volume: uint64(req.Volume), MinApplied: req.MinApplied,
		FirstBlock: uint32(req.First), BlockCount: uint32(req.Count), Have: req.Have,
	})
	if err != nil {
		return copyset.ExportInfo{}, pb.FromStatus(server.String(), err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return copyset.ExportInfo{}, fmt.Errorf("%w: the export of %v by %v ended early", backend.ErrUnreachable, ref.ID, server)
		}
		if err != nil {
			return copyset.ExportInfo{}, pb.FromStatus(server.String(), err)
		}
		if done := m.GetDone(); done != nil {
			return copyset.ExportInfo{Exists: done.GetExists(), Applied: done.GetApplied()}, nil
		}
		for _, b := range m.GetBlocks() {
			block, err := exportedBlock(b, req)
			if err != nil {
				return copyset.ExportInfo{}, fmt.Errorf("%v sent %v: %w", server, ref.ID, err)
			}
			if err := emit(block); err != nil {
				return copyset.ExportInfo{}, err
			}
		}
	}
}

// knowsNewerLeader says whether a chunkserver knows of a leader of a copyset in a newer
// term.
func (p *peers) knowsNewerLeader(ctx context.Context, server backend.ServerID, id backend.CopysetID, term uint64) bool {
	client, err := p.client(server)
	if err != nil {
		return false
	}
	st, err := client.GetServerStatus(ctx, &pb.GetServerStatusRequest{})
	if err != nil {
		return false
	}
	for _, r := range st.GetReplicas() {
		if r.GetCopyset() == uint32(id) {
			return r.GetTerm() > term && r.GetLeader() != 0
		}
	}
	return false
}

// exportedBlock checks a block that a peer sent.
func exportedBlock(b *pb.ExportChunkReply_Block, req copyset.ExportRequest) (copyset.Block, error) {
	limit := int(req.Chunk.Size / copyset.BlockBytes)
	if req.Count > 0 {
		limit = req.First + req.Count
	}
	index, data := int(b.GetIndex()), b.GetData()
	switch {
	case index < req.First || index >= limit:
		return copyset.Block{}, fmt.Errorf("%w: block %d, asked for were %d to %d", backend.ErrInvalid, index, req.First, limit)
	case len(data) != 0 && len(data) != copyset.BlockBytes:
		return copyset.Block{}, fmt.Errorf("%w: block %d of %d bytes, expected %d", backend.ErrInvalid, index, len(data), copyset.BlockBytes)
	}
	return copyset.Block{Index: index, Hole: len(data) == 0, Data: data}, nil
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.conns {
		c.conn.Close()
	}
}
