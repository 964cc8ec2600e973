package audit_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend/audit"
)

// memory is a device that keeps its promises.
type memory struct {
	mu   sync.Mutex
	data []byte
}

func (m *memory) Read(_ context.Context, p []byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(p, m.data[off:])
	return nil
}

func (m *memory) Write(_ context.Context, p []byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.data[off:], p)
	return nil
}

func (m *memory) Close() error { return nil }

// A load runs while something is done to the storage; afterwards every block is
// read again.
func Example() {
	const blocks = 1024
	dev := &memory{data: make([]byte, blocks*audit.BlockBytes)}
	log, err := audit.NewLog(audit.LogOptions{Volume: 7, Blocks: blocks, Seed: 1})
	if err != nil {
		panic(err)
	}
	meter := audit.NewMeter()
	load := audit.Workload{
		Open:    func(context.Context, int) (audit.Device, error) { return dev, nil },
		Workers: 2, Depth: 4, Reads: 0.5, Log: log, Meter: meter, Seed: 1,
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	time.AfterFunc(20*time.Millisecond, func() { meter.Mark("leader killed") })
	outcome, err := load.Run(ctx, time.Second)
	if err != nil {
		panic(err)
	}
	fmt.Println("wrong or failed:", outcome.Err())
	fmt.Println("at the end:", audit.VerifyAll(context.Background(), log, dev))
	for _, e := range outcome.Stalls.Marked {
		fmt.Println("after", e.Name, "no stall over a second:", e.Stall < time.Second)
	}
	// Output:
	// wrong or failed: <nil>
	// at the end: <nil>
	// after leader killed no stall over a second: true
}
