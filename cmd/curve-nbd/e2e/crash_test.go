package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/audit"
	"github.com/opencurve/curve-nbd/nbd/client"
)

const (
	crashBlock   = audit.BlockBytes
	crashBlocks  = 16384 // 64 MiB
	crashWorkers = 4     // connections, each with blocks of its own
)

// crashLoad writes, zeroes, trims and flushes a worker's share of the blocks until
// the connection breaks.
func crashLoad(l *audit.Log, conn *client.Conn, worker int, rnd *rand.Rand) error {
	const share = crashBlocks / crashWorkers
	data := make([]byte, 32*crashBlock)
	for {
		n := 1 + rnd.IntN(1<<rnd.IntN(6))
		block := int64(worker*share + rnd.IntN(share-n))
		var flags client.CommandFlags
		if rnd.IntN(8) == 0 {
			flags = client.FlagFUA
		}
		change, err := crashChange(l, conn, uint32(worker), block, data[:n*crashBlock], flags, rnd.IntN(20))
		if err != nil {
			return err
		}
		if change.Blocks == 0 {
			continue
		}
		if err := l.Acknowledge(change, flags != 0); err != nil {
			return err
		}
	}
}

// crashChange makes one change, or flushes, which is no Change.
func crashChange(l *audit.Log, conn *client.Conn, worker uint32, block int64, data []byte, flags client.CommandFlags, kind int) (change audit.Change, err error) {
	ctx := context.Background()
	off, length := uint64(block)*crashBlock, uint64(len(data))
	switch kind {
	case 0:
		barrier := l.Flush()
		if err := conn.Flush(ctx); err != nil {
			return change, err
		}
		return change, l.Flushed(barrier)
	case 1, 2:
		if change, err = l.Zero(worker, block, len(data)/crashBlock); err != nil {
			return change, err
		}
		if kind == 1 {
			return change, conn.WriteZeroes(ctx, off, length, flags)
		}
		return change, conn.Trim(ctx, off, length, flags)
	}
	if change, err = l.Write(worker, block, data); err != nil {
		return change, err
	}
	return change, conn.Write(ctx, data, off, flags)
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
	log, err := audit.NewLog(audit.LogOptions{Blocks: crashBlocks, Seed: seed, Cached: true})
	if err != nil {
		t.Fatal(err)
	}
	for kill := range kills + 1 {
		g := serve(t, nil, "--data-dir", dataDir, "--nbd-listen", "unix:"+socketDir(t)+"/nbd.sock")
		if kill == 0 {
			g.must("volume", "create", "crash", "--size", strconv.Itoa(crashBlocks*crashBlock))
		}
		if err := audit.RecoverAll(t.Context(), log, nbdDevice{g.open("crash")}); err != nil {
			t.Fatalf("after kill %d: %v", kill, err)
		}
		if kill == kills {
			return
		}
		var workers sync.WaitGroup
		for w := range crashWorkers {
			conn := g.open("crash")
			own := rand.New(rand.NewPCG(seed, uint64(kill*crashWorkers+w+1)))
			workers.Go(func() {
				if err := crashLoad(log, conn, w, own); errors.Is(err, backend.ErrInvalid) {
					t.Errorf("worker %d: %v", w, err)
				}
			})
		}
		// The moment of the kill is the random part of the test, not a wait for
		// anything.
		time.Sleep(time.Duration(20+rnd.IntN(200)) * time.Millisecond)
		g.signal(syscall.SIGKILL)
		workers.Wait()
		g.wait()
	}
}
