package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

// powerCuts drives a store through a random schedule and cuts the power before
// every call that it makes to the file system.
type powerCuts struct {
	rng  *rand.Rand
	opts chunkstore.Options
	// life counts how often the power came back.
	life   uint64
	fs     *crashfs.FS
	store  *chunkstore.Store
	model  *model
	writes uint64
	// deeper makes some of the machines that come back run on and crash again.
	deeper bool
	trace  []string

	// mu guards what power cuts on the store's goroutines share.
	mu     sync.Mutex
	cutRng *rand.Rand
	cuts   int
	err    error
}

func smallOptions() chunkstore.Options {
	return chunkstore.Options{
		WriteWorkers: 2, ReadWorkers: 1, FlushWorkers: 1, SyncWorkers: 2, QueueDepth: 32, MaxOpenChunks: 4,
		CleanAfter: time.Hour, Logger: quiet,
	}
}

const storeDir = "/data/chunks"

func newPowerCuts(seed uint64, unit int, bug string) *powerCuts {
	p := &powerCuts{
		rng: rand.New(rand.NewPCG(seed, 2)), cutRng: rand.New(rand.NewPCG(seed, 4)), opts: smallOptions().WithBug(bug),
		fs: crashfs.New(crashfs.Options{Unit: unit, MissEvery: 5}), model: newModel(unit, 6), deeper: true,
	}
	return p
}

// run opens the store, takes steps, and closes it; it returns the first broken
// promise.
func (p *powerCuts) run(steps int) error {
	p.hook()
	defer func() { p.fs.OnCall(nil) }()
	if err := p.open(); err != nil {
		return err
	}
	defer func() { _ = p.store.Close() }() // of what a broken promise left open
	for range steps {
		if err := p.step(); err != nil {
			return fmt.Errorf("%w\ntrace: %v", err, p.trace)
		}
		if err := p.failure(); err != nil {
			return fmt.Errorf("%w\ntrace: %v", err, p.trace)
		}
	}
	if err := p.store.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	p.model.settleVolume(0)
	p.cut(p.fs, "at the end")
	return p.failure()
}

func (p *powerCuts) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *powerCuts) hook() {
	var mkdirs atomic.Int32
	machine := p.fs
	p.fs.OnCall(func(c crashfs.Call) error {
		// Making the 256 directories is cut once in a while, all else always.
		if c.Op.Changes() && (c.Op != crashfs.OpMkdir || mkdirs.Add(1)%64 == 0) {
			p.cut(machine, c.String())
		}
		return nil
	})
}

// cut starts a machine from what the disk might hold and checks it. The running
// one goes on.
func (p *powerCuts) cut(machine *crashfs.FS, where string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts++
	if p.err != nil {
		return
	}
	seed := p.cutRng.Uint64()
	survivor := machine.Crash(seed)
	after := &powerCuts{
		rng: rand.New(rand.NewPCG(seed, 3)), cutRng: rand.New(rand.NewPCG(seed, 5)),
		opts: p.opts, fs: survivor, life: p.life + 1, writes: (p.life + 1) << 32,
		model: p.model.clone(), // after the crash: what is submitted meanwhile is allowed too
	}
	if err := after.recover(p.deeper && p.cuts%16 == 0); err != nil {
		p.err = fmt.Errorf("power cut %d, before %s: %w", p.cuts, where, err)
	}
}

// recover opens the store after a power cut and checks every chunk. With goOn
// it is used further, crashing again at every step.
func (p *powerCuts) recover(goOn bool) error {
	if goOn {
		p.hook() // power may fail during recovery
	}
	if err := p.open(); err != nil {
		return err
	}
	defer func() {
		p.fs.OnCall(nil)
		_ = p.store.Close()
	}()
	buf := make([]byte, modelChunkSize)
	for _, c := range p.model.chunks {
		if err := p.read(c, buf); err != nil {
			return fmt.Errorf("%v after the power came back: %w", c.ref.ID, err)
		}
		p.model.mu.Lock() // adopt changes what power cuts meanwhile look at
		chunk := *c
		p.model.mu.Unlock()
		if err := p.model.adopt(&chunk, buf); err != nil {
			return err
		}
		p.model.mu.Lock()
		*c = chunk
		p.model.mu.Unlock()
	}
	if !goOn {
		return p.failure()
	}
	for range 12 {
		if err := p.step(); err != nil {
			return fmt.Errorf("second life: %w\ntrace: %v", err, p.trace)
		}
	}
	err := p.store.Close()
	p.model.settleVolume(0)
	p.cut(p.fs, "at the end of the second life")
	p.fs.OnCall(nil)
	return errors.Join(err, p.failure())
}

func (p *powerCuts) open() error {
	s, err := chunkstore.Open(p.fs, storeDir, p.opts)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	p.store = s
	return nil
}

func (p *powerCuts) read(c *modelChunk, buf []byte) error {
	return backendtest.Do(p.store, &backend.Op{Kind: backend.OpRead, Volume: c.volume, Chunk: c.ref, Len: int64(len(buf)), Data: buf})
}

// step does one random thing.
func (p *powerCuts) step() error {
	c := p.model.chunks[p.rng.IntN(len(p.model.chunks))]
	switch n := p.rng.IntN(100); {
	case n < 40:
		return p.change(c, backend.OpWrite, 0)
	case n < 46:
		return p.change(c, backend.OpWrite, backend.FlagFUA)
	case n < 52:
		return p.change(c, backend.OpTrim, backend.Flags(p.rng.IntN(2))*backend.FlagFUA)
	case n < 57:
		return p.change(c, backend.OpZero, []backend.Flags{0, backend.FlagNoHole, backend.FlagNoHole | backend.FlagFUA}[p.rng.IntN(3)])
	case n < 61:
		return p.trimWhole(c)
	case n < 66:
		return p.batch()
	case n < 76:
		return p.flush(c.volume)
	case n < 86:
		return p.check(c)
	case n < 89:
		p.note("evict all")
		p.store.EvictAll()
		return nil
	case n < 94:
		p.note("clean all")
		p.store.CleanAll()
		return nil
	case n < 96:
		return p.delete(c)
	case n < 99:
		return p.kill()
	}
	return p.reopen()
}

func (p *powerCuts) note(format string, args ...any) {
	p.trace = append(p.trace, fmt.Sprintf(format, args...))
}

func (p *powerCuts) newChange(c *modelChunk, kind backend.OpKind, flags backend.Flags) *backend.Op {
	unit := int64(p.model.unit) // a write smaller than the disk's unit may tear it
	length := (p.rng.Int64N(24*512/unit) + 1) * unit
	off := p.rng.Int64N((modelChunkSize-length)/unit+1) * unit
	op := &backend.Op{Kind: kind, Flags: flags, Volume: c.volume, Chunk: c.ref, Off: off, Len: length}
	if kind == backend.OpWrite {
		p.writes++
		op.Data = make([]byte, length)
		if p.rng.IntN(12) != 0 { // else it is a write of zeros
			fill(op.Data, p.writes, off)
		}
	}
	p.note("%v/%d %#x+%d of %d (write %d)", kind, flags, off, length, c.ref.ID, p.writes)
	return op
}

func (p *powerCuts) change(c *modelChunk, kind backend.OpKind, flags backend.Flags) error {
	op := p.newChange(c, kind, flags)
	p.model.submitted(c, op)
	do := backendtest.Do
	if p.rng.IntN(3) == 0 {
		do = backendtest.SubmitAndWait
	}
	if err := do(p.store, op); err != nil {
		return err
	}
	if flags.Has(backend.FlagFUA) {
		p.model.durable(c, op.Off, op.Len)
	}
	return nil
}

func (p *powerCuts) trimWhole(c *modelChunk) error {
	op := &backend.Op{Kind: backend.OpTrim, Volume: c.volume, Chunk: c.ref, Len: modelChunkSize}
	if p.rng.IntN(3) == 0 {
		op.Flags = backend.FlagFUA
	}
	p.note("trim whole/%d of %d", op.Flags, c.ref.ID)
	p.model.submitted(c, op)
	if err := backendtest.Do(p.store, op); err != nil {
		return err
	}
	if op.Flags.Has(backend.FlagFUA) {
		p.model.settle(c)
	}
	return nil
}

type batchDone struct{ wg sync.WaitGroup }

func (b *batchDone) OpDone(*backend.Op) { b.wg.Done() }

// batch has many changes in flight, of one chunk and of others.
func (p *powerCuts) batch() error {
	p.note("batch:")
	var done batchDone
	var ops []*backend.Op
	var chunks []*modelChunk
	for range 2 + p.rng.IntN(8) {
		c := p.model.chunks[p.rng.IntN(len(p.model.chunks))]
		flags := backend.Flags(p.rng.IntN(2)) * backend.FlagFUA
		op := p.newChange(c, []backend.OpKind{backend.OpWrite, backend.OpWrite, backend.OpZero, backend.OpTrim}[p.rng.IntN(4)], flags)
		op.Done = &done
		p.model.submitted(c, op)
		done.wg.Add(1)
		p.store.Submit(op)
		ops, chunks = append(ops, op), append(chunks, c)
	}
	done.wg.Wait()
	for i, op := range ops {
		if op.Err != nil {
			return op.Err
		}
		// What a later one of the batch changed again is as durable as that one.
		overlaps := func(later *backend.Op) bool {
			return later.Chunk == op.Chunk && later.Off < op.Off+op.Len && op.Off < later.Off+later.Len
		}
		if op.Flags.Has(backend.FlagFUA) && !slices.ContainsFunc(ops[i+1:], overlaps) {
			p.model.durable(chunks[i], op.Off, op.Len)
		}
	}
	return nil
}

func (p *powerCuts) flush(vol backend.VolumeID) error {
	p.note("flush %v", vol)
	if err := backendtest.Do(p.store, &backend.Op{Kind: backend.OpFlush, Volume: vol}); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	p.model.settleVolume(vol)
	return nil
}

func (p *powerCuts) check(c *modelChunk) error {
	p.note("check %d", c.ref.ID)
	buf := make([]byte, modelChunkSize)
	if err := p.read(c, buf); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if !bytes.Equal(buf, c.now) {
		return fmt.Errorf("%v does not hold what was written last", c.ref.ID)
	}
	return nil
}

func (p *powerCuts) delete(c *modelChunk) error {
	p.note("delete %d", c.ref.ID)
	p.model.submitted(c, &backend.Op{Kind: backend.OpTrim, Len: modelChunkSize})
	if err := p.store.Delete(context.Background(), c.volume, []backend.ChunkRef{c.ref}); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	p.model.settle(c)
	return nil
}

// kill ends the process and starts the next: nothing acknowledged is lost, and
// once it is up, all of that is durable.
func (p *powerCuts) kill() error {
	p.note("kill")
	old := p.store
	p.fs = p.fs.Kill()
	p.hook()
	_ = old.Close() // on a dead machine: only ends its goroutines
	if err := p.open(); err != nil {
		return err
	}
	p.model.settleVolume(0)
	return nil
}

func (p *powerCuts) reopen() error {
	p.note("close and open")
	if err := p.store.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	p.model.settleVolume(0)
	if p.rng.IntN(2) == 0 {
		return p.open()
	}
	// As one process hands over to the next.
	p.note("with an inventory")
	inventory, err := chunkstore.DecodeInventory(p.store.Inventory().Encode(nil))
	if err != nil {
		return err
	}
	p.opts.Inherited = inventory
	err = p.open()
	p.opts.Inherited = nil
	return err
}

var schedules = flag.Uint64("schedules", 3, "random schedules of the power-cut test for each disk")

func TestFlushedBlocksSurviveEveryPowerCut(t *testing.T) {
	for _, unit := range []int{512, 4096} {
		t.Run(fmt.Sprintf("unit=%d", unit), func(t *testing.T) {
			t.Parallel()
			total := 0
			for seed := range *schedules {
				p := newPowerCuts(seed, unit, "")
				if err := p.run(250); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				total += p.cuts
			}
			t.Logf("%d power cuts in first lives", total)
			if want := 500 * int(*schedules); total < want {
				t.Errorf("only %d power cuts, expected %d at least", total, want)
			}
		})
	}
}

// TestPowerCutTestNoticesPlantedBugs breaks the store in the ways that the test
// above is there to notice.
func TestPowerCutTestNoticesPlantedBugs(t *testing.T) {
	for _, bug := range chunkstore.PlantedBugs {
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(10) {
				p := newPowerCuts(seed, 512, bug)
				p.deeper = false
				if err := p.run(250); err != nil {
					first, _, _ := bytes.Cut([]byte(err.Error()), []byte("\n"))
					t.Logf("noticed with seed %d: %s", seed, first)
					return
				}
			}
			t.Error("not noticed in any schedule")
		})
	}
}
