package chunkstore

import "sync/atomic"

// Stats counts what a store did since it was opened.
type Stats struct {
	// Inline and Queued count operations completed by Try and by Submit.
	Inline, Queued int64
	// OpenChunks is how many chunks are open now, Chunks how many exist.
	OpenChunks, Chunks int64
	// Opens, Evictions and Cleans count chunks brought into memory, put out of
	// it, and freed of their dirty mark.
	Opens, Evictions, Cleans int64
	// DirtyMarks counts syncs that only set a dirty mark.
	DirtyMarks int64
	// FileSyncs and DirSyncs count syncs for flushes, FUA and cleaning.
	FileSyncs, DirSyncs int64
	// FlushRuns counts flushes done; FlushOps those asked for.
	FlushRuns, FlushOps int64
	// ReconciledChunks were found dirty after a crash; AdoptedBlocks are the
	// blocks in them whose table entry was computed anew.
	ReconciledChunks, AdoptedBlocks int64
	// LostCreations were files whose creation a crash had undone.
	LostCreations int64
	// ChecksumErrors counts damage met; PoisonedChunks counts failed syncs.
	ChecksumErrors, PoisonedChunks int64
}

type counters struct {
	inline, queued                  atomic.Int64
	open, chunks                    atomic.Int64
	opens, evictions, cleans        atomic.Int64
	dirtyMarks, fileSyncs, dirSyncs atomic.Int64
	flushRuns, flushOps             atomic.Int64
	reconciled, adopted, lost       atomic.Int64
	checksum, poisoned              atomic.Int64
}

// Stats returns the counters; each is exact, together they may be of slightly
// different moments.
func (s *Store) Stats() Stats {
	n := &s.counters
	return Stats{
		Inline: n.inline.Load(), Queued: n.queued.Load(),
		OpenChunks: n.open.Load(), Chunks: n.chunks.Load(),
		Opens: n.opens.Load(), Evictions: n.evictions.Load(), Cleans: n.cleans.Load(),
		DirtyMarks: n.dirtyMarks.Load(), FileSyncs: n.fileSyncs.Load(), DirSyncs: n.dirSyncs.Load(),
		FlushRuns: n.flushRuns.Load(), FlushOps: n.flushOps.Load(),
		ReconciledChunks: n.reconciled.Load(), AdoptedBlocks: n.adopted.Load(), LostCreations: n.lost.Load(),
		ChecksumErrors: n.checksum.Load(), PoisonedChunks: n.poisoned.Load(),
	}
}
