package e2e

import (
	"context"
	"errors"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/audit"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// testTakeOver: a second gateway takes a busy volume. Once it has read from every
// chunk, nothing that the first one writes may land anywhere.
func testTakeOver(f *fleet, g *gateway) {
	const volume, chunks = "taken", faultVolume / backend.DefaultChunkSize
	t := f.t
	load := f.loadOn(g, volume, f.newVolume(g, volume))
	old := g.open(volume)
	newer := f.serve("--take-over", "--owner", "newer")
	load.meter.Mark("take-over")
	conn := newer.open(volume)
	// The first operation of the newer gateway on a copyset shuts the older one out
	// there.
	data := make([]byte, audit.BlockBytes)
	for i := range uint64(chunks) {
		if err := conn.Read(t.Context(), data, i*backend.DefaultChunkSize, 0); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody stopped the load on the older one: it must fail.
	if err := load.outcome(); err == nil {
		t.Error("the load on the older gateway ended without an error")
	} else {
		t.Logf("the load on the older gateway ended with: %.200v", err)
	}
	// All that was acknowledged, by whichever time, is there.
	if err := audit.RecoverAll(t.Context(), load.log, nbdDevice{conn}); err != nil {
		t.Fatal(err)
	}
	for i := range int64(chunks) {
		block := i * backend.DefaultChunkSize / audit.BlockBytes
		if err := oneWrite(old, load.log, block); err == nil {
			t.Errorf("the older gateway wrote block %d", block)
		}
		if err := oneWrite(conn, load.log, block+1); err != nil {
			t.Errorf("the newer gateway: %v", err)
		}
	}
	if err := audit.VerifyAll(t.Context(), load.log, nbdDevice{conn}); err != nil {
		t.Error(err)
	}
	newer.stop()
}

// oneWrite makes a write that is known to have happened, or not.
func oneWrite(conn *client.Conn, log *audit.Log, block int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	data := make([]byte, audit.BlockBytes)
	change, err := log.Write(1000, block, data)
	if err != nil {
		return err
	}
	if err := conn.Write(ctx, data, uint64(block)*audit.BlockBytes, 0); err != nil {
		return errors.Join(err, log.Refuse(change))
	}
	return log.Acknowledge(change, false)
}
