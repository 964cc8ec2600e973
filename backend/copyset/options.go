package copyset

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/copyset/raftnet"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// Options of a Replica.
type Options struct {
	ID   backend.CopysetID
	Self backend.ServerID
	// Found, when the replica is new, is the group's first configuration; every
	// founding replica is given the same. Empty for a replica that waits to be
	// added to a group.
	Found []backend.ServerID
	// Store holds the chunks, together with those of the server's other copysets.
	Store *chunkstore.Store
	Log   *raftlog.Group
	Net   *raftnet.Group
	// FS and Dir are where raft snapshots (small files) go.
	FS  disk.FS
	Dir string
	// Peers reads chunks of other replicas: to catch up and to repair.
	Peers Source
	// Heartbeat is raft's own heartbeat and election timeout, behind the net's
	// quicker one. Default 500 ms.
	Heartbeat time.Duration
	// LeaderChanged is told of every change of leader or term that this replica
	// learns of; leader 0 for none, Self once this replica is ready to serve.
	// It must not block.
	LeaderChanged func(id backend.CopysetID, leader backend.ServerID, term uint64)
	// Failed is told once when the replica cannot go on (its disk failed).
	Failed func(id backend.CopysetID, err error)
	// Throttle limits the bytes per second that this replica pulls from others to
	// catch up; shared by the replicas of a disk. Nil for no limit.
	Throttle *rate.Limiter
	// InFlight is how many entries this replica, leading, lets be under way at
	// once; what comes meanwhile is put together into the next one. Default 4.
	InFlight int
	// TrailingBytes says how much of the log a raft snapshot leaves, for followers
	// that are a little behind. Default 16 MiB.
	TrailingBytes func() int64
	// TrailingLogs, unless 0, is how many entries it leaves instead.
	TrailingLogs uint64
	// Unfenced switches the fence off, to show that the checkers notice.
	Unfenced bool
	Logger   *slog.Logger
}

// Source reads what other replicas hold. The chunkserver implements it over gRPC,
// and answers it from Replica.Export.
type Source interface {
	// Export fetches from the replica of server what Replica.Export gives there.
	Export(ctx context.Context, server backend.ServerID, copyset backend.CopysetID, req ExportRequest, emit func(Block) error) (ExportInfo, error)
}

// BlockBytes is the unit of checksums, catch-up and repair.
const BlockBytes = 4096

// ExportRequest asks for a chunk's blocks.
type ExportRequest struct {
	Chunk  backend.ChunkRef
	Volume backend.VolumeID
	// MinApplied: answer only once the replica has applied that index.
	MinApplied uint64
	// First and Count choose blocks; Count 0 means all.
	First, Count int
	// Have are checksums (crc32c; 0 for a hole) of the asker's blocks from First
	// on: blocks that match are left out. Empty: send all that are not holes.
	Have []uint32
}

// Block is one block of a chunk. Hole: it is not allocated. Data is BlockBytes
// long and belongs to the callee until it returns.
type Block struct {
	Index int
	Hole  bool
	Data  []byte
}

// ExportInfo ends an export.
type ExportInfo struct {
	// Exists is false for a chunk that has no file.
	Exists bool
	// Applied is an index that no block is beyond. (MinApplied is what they are
	// not before.)
	Applied uint64
}
