package chunkstore_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

func TestInventoryIsOfStoresThatWereClosedInOrder(t *testing.T) {
	fs := crashfs.New(crashfs.Options{})
	s, err := chunkstore.Open(fs, storeDir, chunkstore.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	write := &backend.Op{Kind: backend.OpWrite, Volume: 1, Chunk: testChunk, Len: block, Data: content(1, block)}
	if err := backendtest.Do(s, write); err != nil {
		t.Fatal(err)
	}
	if s.Inventory() != nil {
		t.Error("of an open store")
	}
	// What was not flushed is durable by the time there is an inventory.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	inventory := s.Inventory()
	if inventory == nil {
		t.Fatal("none of a closed store")
	}
	for name, machine := range map[string]*crashfs.FS{"at once": fs, "after a power cut": fs.Crash(1)} {
		next, err := chunkstore.Open(machine, storeDir, chunkstore.Options{Logger: quiet, Inherited: inventory})
		if err != nil {
			t.Fatal(err)
		}
		if n := next.Stats().Chunks; n != 1 {
			t.Errorf("%s: %d chunks", name, n)
		}
		read := &backend.Op{Kind: backend.OpRead, Volume: 1, Chunk: testChunk, Len: block, Data: make([]byte, block)}
		if err := backendtest.Do(next, read); err != nil || !bytes.Equal(read.Data, write.Data) {
			t.Errorf("%s: read: %v", name, err)
		}
		if err := next.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSettleMakesDurableWhatIsInMemory(t *testing.T) {
	fs := crashfs.New(crashfs.Options{})
	s, err := chunkstore.Open(fs, storeDir, chunkstore.Options{Logger: quiet, CleanAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	write := &backend.Op{Kind: backend.OpWrite, Volume: 1, Chunk: testChunk, Len: block, Data: content(1, block)}
	if err := backendtest.Do(s, write); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := chunkstore.Open(fs.Crash(1), storeDir, chunkstore.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	read := &backend.Op{Kind: backend.OpRead, Volume: 1, Chunk: testChunk, Len: block, Data: make([]byte, block)}
	if err := backendtest.Do(after, read); err != nil || !bytes.Equal(read.Data, write.Data) {
		t.Errorf("read after a power cut: error %v", err)
	}
	if n := after.Stats().ReconciledChunks; n != 0 {
		t.Errorf("%d chunks reconciled", n)
	}
	if err := backendtest.Do(s, write); err != nil {
		t.Errorf("a settled store goes on: %v", err)
	}
}
