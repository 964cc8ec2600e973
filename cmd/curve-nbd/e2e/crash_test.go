package e2e

import (
	"context"
	bin "encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/nbd/client"
)

const (
	crashBlock   = 4096
	crashBlocks  = 16384 // 64 MiB
	crashWorkers = 4     // connections, each with blocks of its own
)

// blockLog knows what each block of a volume may hold. A block is written by
// one worker, one version after the other; a version of its history is a write,
// which carries its number, or a zeroing, which reads as zeros.
//
// After a crash a block must hold a version that is not older than the last one
// that was durable: acknowledged with FUA, or acknowledged before a flush was
// sent that was acknowledged too.
type blockLog struct {
	mu     sync.Mutex
	blocks [crashBlocks]blockHistory
}

type blockHistory struct {
	// first is the version of versions[0], the oldest that may be there.
	first    uint32
	versions []version
	// acked is the newest acknowledged version.
	acked uint32
}

type version struct{ zero bool }

// newest is the version last submitted.
func (h *blockHistory) newest() uint32 { return h.first + uint32(len(h.versions)) - 1 }

// durable drops the versions older than v from what may be there.
func (h *blockHistory) durable(v uint32) {
	if v > h.first {
		h.versions = h.versions[v-h.first:]
		h.first = v
	}
}

func newBlockLog() *blockLog {
	l := &blockLog{}
	for i := range l.blocks {
		l.blocks[i].versions = []version{{zero: true}}
	}
	return l
}

// submit notes a new version of n blocks, and fills data for a write.
func (l *blockLog) submit(block, n int, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range n {
		h := &l.blocks[block+i]
		h.versions = append(h.versions, version{zero: data == nil})
		if data != nil {
			fillBlock(data[i*crashBlock:][:crashBlock], block+i, h.newest())
		}
	}
}

func (l *blockLog) acknowledge(block, n int, durable bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range n {
		h := &l.blocks[block+i]
		h.acked = h.newest()
		if durable {
			h.durable(h.acked)
		}
	}
}

// snapshot returns what was acknowledged of every block, to be durable after a
// flush that starts now.
func (l *blockLog) snapshot() []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	acked := make([]uint32, crashBlocks)
	for i := range l.blocks {
		acked[i] = l.blocks[i].acked
	}
	return acked
}

func (l *blockLog) flushed(acked []uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.blocks {
		l.blocks[i].durable(acked[i])
	}
}

// check holds a block's content against its history, and makes what is there
// the only version that may be there from now on.
func (l *blockLog) check(block int, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &l.blocks[block]
	found, zero, err := readBlock(data, block)
	if err != nil {
		return fmt.Errorf("block %d: %w; versions %d to %d could be there", block, err, h.first, h.newest())
	}
	for i, v := range h.versions {
		if v.zero != zero || (!zero && h.first+uint32(i) != found) {
			continue
		}
		// It was read, and reads do not go back; but it is not durable for that.
		h.versions = h.versions[:i+1]
		h.acked = h.newest()
		return nil
	}
	return fmt.Errorf("block %d holds version %d (zeros: %t), only %d to %d could be there", block, found, zero, h.first, h.newest())
}

// fillBlock makes a block that says what it is: number, version, and a body
// that depends on both, under a checksum.
func fillBlock(b []byte, block int, v uint32) {
	le := bin.LittleEndian
	le.PutUint32(b[4:], uint32(block))
	le.PutUint32(b[8:], v)
	seed := uint64(block)<<32 | uint64(v)
	for i := 16; i < len(b); i += 8 {
		seed = seed*6364136223846793005 + 1442695040888963407
		le.PutUint64(b[i:], seed)
	}
	le.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
}

func readBlock(b []byte, block int) (v uint32, zero bool, err error) {
	zero = true
	for i := 0; i < len(b) && zero; i += 8 {
		zero = bin.LittleEndian.Uint64(b[i:]) == 0
	}
	if zero {
		return 0, true, nil
	}
	le := bin.LittleEndian
	if sum := crc32.ChecksumIEEE(b[4:]); sum != le.Uint32(b) {
		return 0, false, fmt.Errorf("garbage: sum %#x, content %#x", le.Uint32(b), sum)
	}
	if n := le.Uint32(b[4:]); n != uint32(block) {
		return 0, false, fmt.Errorf("the content of block %d", n)
	}
	return le.Uint32(b[8:]), false, nil
}

// load writes, zeroes, trims and flushes its share of the blocks until the
// connection breaks.
func (l *blockLog) load(conn *client.Conn, worker int, rnd *rand.Rand) {
	ctx := context.Background()
	share := crashBlocks / crashWorkers
	data := make([]byte, 32*crashBlock)
	for {
		n := 1 + rnd.IntN(1<<rnd.IntN(6))
		block := worker*share + rnd.IntN(share-n)
		off, length := uint64(block)*crashBlock, uint64(n)*crashBlock
		var flags client.CommandFlags
		if rnd.IntN(8) == 0 {
			flags = client.FlagFUA
		}
		var err error
		switch rnd.IntN(20) {
		case 0:
			acked := l.snapshot()
			if err = conn.Flush(ctx); err == nil {
				l.flushed(acked)
			}
			n = 0
		case 1:
			l.submit(block, n, nil)
			err = conn.WriteZeroes(ctx, off, length, flags)
		case 2:
			l.submit(block, n, nil)
			err = conn.Trim(ctx, off, length, flags)
		default:
			l.submit(block, n, data[:length])
			err = conn.Write(ctx, data[:length], off, flags)
		}
		if err != nil {
			return
		}
		l.acknowledge(block, n, flags != 0)
	}
}

// TestFlushedBlocksSurviveKill9 kills the gateway under load again and again.
// CURVE_TEST_KILLS sets how often.
func TestFlushedBlocksSurviveKill9(t *testing.T) {
	kills := 10
	if s := os.Getenv("CURVE_TEST_KILLS"); s != "" {
		kills, _ = strconv.Atoi(s)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d kills", seed, kills)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dataDir := t.TempDir()
	log := newBlockLog()
	for kill := range kills + 1 {
		g := serve(t, nil, "--data-dir", dataDir, "--nbd-listen", "unix:"+socketDir(t)+"/nbd.sock")
		if kill == 0 {
			g.must("volume", "create", "crash", "--size", strconv.Itoa(crashBlocks*crashBlock))
		}
		log.verify(t, g.open("crash"), kill)
		if t.Failed() || kill == kills {
			return
		}
		var workers sync.WaitGroup
		for w := range crashWorkers {
			conn := g.open("crash")
			own := rand.New(rand.NewPCG(seed, uint64(kill*crashWorkers+w+1)))
			workers.Go(func() { log.load(conn, w, own) })
		}
		// The moment of the kill is the random part of the test, not a wait for
		// anything.
		time.Sleep(time.Duration(20+rnd.IntN(200)) * time.Millisecond)
		g.signal(syscall.SIGKILL)
		workers.Wait()
		g.wait()
	}
}

// verify reads every block.
func (l *blockLog) verify(t *testing.T, conn *client.Conn, kill int) {
	t.Helper()
	const step = 256
	data := make([]byte, step*crashBlock)
	for block := 0; block < crashBlocks; block += step {
		if err := conn.Read(context.Background(), data, uint64(block)*crashBlock, 0); err != nil {
			t.Fatalf("after kill %d: read at block %d: %v", kill, block, err)
		}
		for i := range step {
			if err := l.check(block+i, data[i*crashBlock:][:crashBlock]); err != nil {
				t.Errorf("after kill %d: %v", kill, err)
			}
		}
	}
}

// TestBlockLogSeesLoss proves that the log above is not blind.
func TestBlockLogSeesLoss(t *testing.T) {
	block := make([]byte, crashBlock)
	old := make([]byte, crashBlock)
	cases := []struct {
		name    string
		durable bool
		present []byte
		bad     bool
	}{
		{"unflushed write is there", false, block, false},
		{"unflushed write is lost", false, old, false},
		{"flushed write is lost", true, old, true},
		{"flushed write is there", true, block, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newBlockLog()
			l.submit(7, 1, block)
			l.acknowledge(7, 1, false)
			if c.durable {
				l.flushed(l.snapshot())
			}
			if err := l.check(7, c.present); (err != nil) != c.bad {
				t.Errorf("check says %v", err)
			}
		})
	}
	l := newBlockLog()
	l.submit(7, 1, block)
	block[100] ^= 1
	if l.check(7, block) == nil {
		t.Error("a torn block passed")
	}
	l.submit(8, 1, block)
	if l.check(9, block) == nil {
		t.Error("another block's content passed")
	}
}
