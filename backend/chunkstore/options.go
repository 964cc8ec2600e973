package chunkstore

import (
	"log/slog"
	"time"
)

// Options of a Store. Zero values stand for the defaults.
type Options struct {
	// MaxOpenChunks bounds the chunks kept open, each a file descriptor and
	// 4 bytes per 4 KiB of chunk. Exceeded only while all of them are in use.
	// Default 2048.
	MaxOpenChunks int
	// CleanAfter is how long a chunk must have been idle before its dirty mark
	// is taken off. Default 30 s.
	CleanAfter time.Duration
	// WriteWorkers, ReadWorkers, FlushWorkers and SyncWorkers are goroutines:
	// changes run at once, reads run at once, volumes flushed at once, files
	// synced at once. Defaults 16, 16, 4, 16.
	WriteWorkers, ReadWorkers, FlushWorkers, SyncWorkers int
	// QueueDepth bounds the operations that wait: for each write worker, for
	// all read workers together, and for all flushes together. Default 256.
	QueueDepth int
	// Inherited is the Inventory of the store that had the directory until now, if
	// it is known: it spares Open the listing of the directory, and the sync.
	Inherited *Inventory
	// Logger hears of recoveries and of failing disks. Default slog.Default().
	Logger *slog.Logger

	// planted breaks the store on purpose, to show that the tests would notice.
	planted plantedBugs
}

type plantedBugs struct {
	skipDirtyMark  bool
	skipTableWrite bool
	skipDirSync    bool
	skipOpenSync   bool
	skipDataSync   bool
	skipReconcile  bool
}

func (o Options) withDefaults() Options {
	set := func(v *int, to int) {
		if *v <= 0 {
			*v = to
		}
	}
	set(&o.MaxOpenChunks, 2048)
	set(&o.WriteWorkers, 16)
	set(&o.ReadWorkers, 16)
	set(&o.FlushWorkers, 4)
	set(&o.SyncWorkers, 16)
	set(&o.QueueDepth, 256)
	if o.CleanAfter <= 0 {
		o.CleanAfter = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}
