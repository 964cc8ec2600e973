package chunkserver

import (
	"context"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset"
	"github.com/opencurve/curve-nbd/backend/pb"
)

const (
	// maxChunksPerCall bounds the chunks named in one request.
	maxChunksPerCall = 1 << 16
	// exportBlocks are sent in one message.
	exportBlocks = 256
)

// control serves the unary calls of chunk.proto.
type control struct {
	pb.UnimplementedChunkServer
	replicas *replicaSet
	// status describes the server.
	status func() *pb.ServerStatus
}

func refOf(m *pb.ChunkRef) backend.ChunkRef {
	return backend.ChunkRef{ID: backend.ChunkID(m.GetId()), Copyset: backend.CopysetID(m.GetCopyset()), Size: m.GetSize()}
}

// refsOf checks that all chunks are of the copyset, so that one replica can serve
// the request.
func refsOf(messages []*pb.ChunkRef, id backend.CopysetID) ([]backend.ChunkRef, error) {
	if len(messages) > maxChunksPerCall {
		return nil, fmt.Errorf("%w: %d chunks in one request, at most %d", backend.ErrInvalid, len(messages), maxChunksPerCall)
	}
	refs := make([]backend.ChunkRef, len(messages))
	for i, m := range messages {
		if refs[i] = refOf(m); refs[i].Copyset != id {
			return nil, fmt.Errorf("%w: %v is of %v, the request for %v", backend.ErrInvalid, refs[i].ID, refs[i].Copyset, id)
		}
	}
	return refs, nil
}

// GetExtents implements pb.ChunkServer.
func (c *control) GetExtents(ctx context.Context, req *pb.GetExtentsRequest) (*pb.GetExtentsReply, error) {
	ref := refOf(req.GetChunk())
	if err := ref.CheckRange(req.GetOffset(), req.GetLength()); err != nil {
		return nil, pb.ToStatus(err)
	}
	r, err := c.replicas.find(ref.Copyset)
	if err != nil {
		return nil, pb.ToStatus(err)
	}
	extents, err := r.Extents(ctx, backend.VolumeID(req.GetVolume()), ref, req.GetOffset(), req.GetLength(), nil)
	if err != nil {
		return nil, pb.ToStatus(stopping(err))
	}
	reply := &pb.GetExtentsReply{FirstHole: len(extents) > 0 && extents[0].Hole}
	for _, e := range extents {
		reply.Lengths = append(reply.Lengths, e.Length)
	}
	return reply, nil
}

// GetUsage implements pb.ChunkServer.
func (c *control) GetUsage(ctx context.Context, req *pb.GetUsageRequest) (*pb.GetUsageReply, error) {
	id := backend.CopysetID(req.GetCopyset())
	refs, err := refsOf(req.GetChunks(), id)
	if err != nil {
		return nil, pb.ToStatus(err)
	}
	r, err := c.replicas.find(id)
	if err != nil {
		return nil, pb.ToStatus(err)
	}
	n, err := r.Usage(ctx, refs)
	if err != nil {
		return nil, pb.ToStatus(stopping(err))
	}
	return &pb.GetUsageReply{Bytes: n}, nil
}

// DeleteChunks implements pb.ChunkServer.
func (c *control) DeleteChunks(ctx context.Context, req *pb.DeleteChunksRequest) (*pb.DeleteChunksReply, error) {
	id := backend.CopysetID(req.GetCopyset())
	refs, err := refsOf(req.GetChunks(), id)
	if err != nil {
		return nil, pb.ToStatus(err)
	}
	r, err := c.replicas.find(id)
	if err != nil {
		return nil, pb.ToStatus(err)
	}
	if err := r.Delete(ctx, backend.VolumeID(req.GetVolume()), refs); err != nil {
		return nil, pb.ToStatus(stopping(err))
	}
	return &pb.DeleteChunksReply{}, nil
}

// TransferLeader implements pb.ChunkServer.
func (c *control) TransferLeader(ctx context.Context, req *pb.TransferLeaderRequest) (*pb.TransferLeaderReply, error) {
	r, err := c.replicas.find(backend.CopysetID(req.GetCopyset()))
	if err != nil {
		return nil, pb.ToStatus(err)
	}
	if err := r.TransferLeadership(ctx, backend.ServerID(req.GetTo())); err != nil {
		return nil, pb.ToStatus(stopping(err))
	}
	return &pb.TransferLeaderReply{}, nil
}

// GetServerStatus implements pb.ChunkServer.
func (c *control) GetServerStatus(context.Context, *pb.GetServerStatusRequest) (*pb.ServerStatus, error) {
	return c.status(), nil
}

// SnapshotCopyset implements pb.ChunkServer.
func (c *control) SnapshotCopyset(_ context.Context, req *pb.SnapshotCopysetRequest) (*pb.SnapshotCopysetReply, error) {
	r, err := c.replicas.find(backend.CopysetID(req.GetCopyset()))
	if err != nil {
		return nil, pb.ToStatus(err)
	}
	if err := r.Snapshot(); err != nil {
		return nil, pb.ToStatus(stopping(err))
	}
	return &pb.SnapshotCopysetReply{}, nil
}

// ScrubCopyset implements pb.ChunkServer.
func (c *control) ScrubCopyset(ctx context.Context, req *pb.ScrubCopysetRequest) (*pb.ScrubCopysetReply, error) {
	r, err := c.replicas.find(backend.CopysetID(req.GetCopyset()))
	if err != nil {
		return nil, pb.ToStatus(err)
	}
	result, err := r.Scrub(ctx)
	if err != nil {
		return nil, pb.ToStatus(stopping(err))
	}
	return &pb.ScrubCopysetReply{Chunks: int64(result.Chunks), Damaged: int64(result.Damaged), Repaired: int64(result.Repaired)}, nil
}

// ExportChunk implements pb.ChunkServer.
func (c *control) ExportChunk(m *pb.ExportChunkRequest, stream pb.Chunk_ExportChunkServer) error {
	req, err := exportRequest(m)
	if err != nil {
		return pb.ToStatus(err)
	}
	r, err := c.replicas.find(req.Chunk.Copyset)
	if err != nil {
		return pb.ToStatus(err)
	}
	out := exportSender{stream: stream}
	info, err := r.Export(stream.Context(), req, out.add)
	if err == nil {
		err = out.flush()
	}
	if err != nil {
		return pb.ToStatus(stopping(err))
	}
	return stream.Send(&pb.ExportChunkReply{Done: &pb.ExportChunkReply_Done{Exists: info.Exists, Applied: info.Applied}})
}

func exportRequest(m *pb.ExportChunkRequest) (copyset.ExportRequest, error) {
	req := copyset.ExportRequest{
		Chunk: refOf(m.GetChunk()), Volume: backend.VolumeID(m.GetVolume()), MinApplied: m.GetMinApplied(),
		First: int(m.GetFirstBlock()), Count: int(m.GetBlockCount()), Have: m.GetHave(),
	}
	if !backend.ValidChunkSize(req.Chunk.Size) {
		return req, fmt.Errorf("%w: export of a chunk of size %d", backend.ErrInvalid, req.Chunk.Size)
	}
	blocks := int(req.Chunk.Size / copyset.BlockBytes)
	if req.First > blocks || req.Count > blocks-req.First || len(req.Have) > blocks-req.First {
		return req, fmt.Errorf("%w: export of %d blocks from %d, with %d checksums, of a chunk of %d", backend.ErrInvalid, req.Count, req.First, len(req.Have), blocks)
	}
	return req, nil
}

// exportSender gathers blocks into messages.
type exportSender struct {
	stream  pb.Chunk_ExportChunkServer
	message pb.ExportChunkReply
	data    []byte // of the message's blocks
}

func (s *exportSender) add(b copyset.Block) error {
	block := &pb.ExportChunkReply_Block{Index: uint32(b.Index)}
	if !b.Hole {
		if len(b.Data) != copyset.BlockBytes {
			return fmt.Errorf("%w: block %d has %d bytes, expected %d", backend.ErrIO, b.Index, len(b.Data), copyset.BlockBytes)
		}
		if s.data == nil {
			s.data = make([]byte, 0, exportBlocks*copyset.BlockBytes)
		}
		from := len(s.data)
		s.data = append(s.data, b.Data...)
		block.Data = s.data[from:]
	}
	s.message.Blocks = append(s.message.Blocks, block)
	if len(s.message.Blocks) == exportBlocks {
		return s.flush()
	}
	return nil
}

func (s *exportSender) flush() error {
	if len(s.message.Blocks) == 0 {
		return nil
	}
	err := s.stream.Send(&s.message)
	s.message.Blocks, s.data = s.message.Blocks[:0], s.data[:0]
	return err
}

// stopping turns a closed replica into a server that does not answer any more: what
// is closed is not the caller's.
func stopping(err error) error {
	if pb.StatusOf(err) == pb.StatusClosed {
		return fmt.Errorf("%w: the chunkserver is stopping", backend.ErrUnreachable)
	}
	return err
}
