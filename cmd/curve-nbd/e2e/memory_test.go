package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMemoryStaysBoundedUnderManyLargeWrites: 64 clients ask for 2 GiB of
// payload in flight at once; permits let in what is configured.
func TestMemoryStaysBoundedUnderManyLargeWrites(t *testing.T) {
	const clients, depth, size = 64, 32, 1 << 20
	g := serve(t, nil, "--data-dir", t.TempDir(), "--nbd-listen", "unix:"+socketDir(t)+"/nbd.sock")
	g.must("volume", "create", "bulk", "--size", "2G")
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stop := time.Now().Add(3 * time.Second)
	var writers sync.WaitGroup
	for c := range clients {
		conn := g.open("bulk")
		for d := range depth {
			writers.Go(func() {
				for i := 0; time.Now().Before(stop); i++ {
					off := uint64((c*depth+d+i*977)%2048) * size
					if err := conn.Write(ctx, data, off, 0); err != nil {
						t.Errorf("client %d: %v", c, err)
						return
					}
				}
			})
		}
	}
	writers.Wait()
	peak := peakMemory(t, g.cmd.Process.Pid)
	t.Logf("peak resident memory %d MiB", peak>>20)
	if peak > 256<<20 {
		t.Errorf("peak resident memory is %d MiB, limit 256", peak>>20)
	}
}

// peakMemory is a process's largest resident set so far, in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
