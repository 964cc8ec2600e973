package copyset

import (
	"context"
	"log/slog"
	"time"

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
	// Applied is an index that the blocks are at or beyond, never before.
	Applied uint64
}

// Replica is this server's member of a copyset.
type Replica struct{}

// Open starts the replica: it loads the last raft snapshot's state, replays the
// log and joins the group.
func Open(o Options) (*Replica, error) { panic("skeleton") }

// Submit serves op if this replica leads: op completes at op.Done with its
// outcome, or with ErrNotLeader (*backend.NotLeaderError with a hint),
// ErrOutcomeUnknown, ErrOverload, ErrNoSpace. Never blocks. A change's Data is
// not referenced any more when Submit returns.
func (r *Replica) Submit(op *backend.Op) { panic("skeleton") }

// Try is Submit for a read that needs no waiting; false when it would.
func (r *Replica) Try(op *backend.Op) bool { panic("skeleton") }

// Extents, Usage and Delete are backend.Chunks', served by the leader only.
func (r *Replica) Extents(ctx context.Context, vol backend.VolumeID, chunk backend.ChunkRef, off, length int64, dst []backend.Extent) ([]backend.Extent, error) {
	panic("skeleton")
}
func (r *Replica) Usage(ctx context.Context, chunks []backend.ChunkRef) (int64, error) {
	panic("skeleton")
}
func (r *Replica) Delete(ctx context.Context, vol backend.VolumeID, chunks []backend.ChunkRef) error {
	panic("skeleton")
}

// Export gives a chunk's blocks to another replica.
func (r *Replica) Export(ctx context.Context, req ExportRequest, emit func(Block) error) (ExportInfo, error) {
	panic("skeleton")
}

// ChunkIDs lists the chunks that the copyset holds here.
func (r *Replica) ChunkIDs() []backend.ChunkID { panic("skeleton") }

// Status is what the chunkserver reports.
func (r *Replica) Status() backend.ReplicaStatus { panic("skeleton") }

// TransferLeadership hands leadership over to a voter, 0 for whichever is most up
// to date, and returns when that one leads.
func (r *Replica) TransferLeadership(ctx context.Context, to backend.ServerID) error {
	panic("skeleton")
}

// Reconcile, on the leader, takes the configuration one step towards want:
// damaged members out first, then missing ones in as learners, promoted once they
// have caught up, then members not wanted out (itself last, after handing over).
// On others it does nothing. done says that nothing is left to do.
func (r *Replica) Reconcile(ctx context.Context, want, rebuild []backend.ServerID) (done bool, err error) {
	panic("skeleton")
}

// Snapshot makes the chunks durable up to what is applied and cuts the log.
func (r *Replica) Snapshot() error { panic("skeleton") }

// Scrub reads and verifies every chunk, repairing from peers what is damaged.
func (r *Replica) Scrub(ctx context.Context) (ScrubResult, error) { panic("skeleton") }

// ScrubResult counts what a scrub found.
type ScrubResult struct{ Chunks, Damaged, Repaired int }

// Full tells the replica that its disk is (or is no longer) too full for changes:
// as a leader it then answers them with ErrNoSpace.
func (r *Replica) Full(full bool) { panic("skeleton") }

// Close stops the replica. Operations in flight complete with ErrOutcomeUnknown.
func (r *Replica) Close() error { panic("skeleton") }
