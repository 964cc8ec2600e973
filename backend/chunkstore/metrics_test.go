package chunkstore_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
)

func TestMetricsShowWhatTheStoreDid(t *testing.T) {
	s := openOnDisk(t)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s)
	ref := backend.ChunkRef{ID: 1, Size: backend.DefaultChunkSize}
	for _, op := range []*backend.Op{
		{Kind: backend.OpWrite, Volume: 1, Chunk: ref, Len: 4096, Data: make([]byte, 4096)},
		{Kind: backend.OpFlush, Volume: 1},
	} {
		if err := backendtest.Do(s, op); err != nil {
			t.Fatal(err)
		}
	}
	want := `# HELP curve_chunkstore_checksum_errors_total Damage met: data that does not match its checksum. Alert on any.
# TYPE curve_chunkstore_checksum_errors_total counter
curve_chunkstore_checksum_errors_total 0
# HELP curve_chunkstore_chunks Chunk files.
# TYPE curve_chunkstore_chunks gauge
curve_chunkstore_chunks 1
# HELP curve_chunkstore_flush_runs_total Flushes done; one serves all that waited for it.
# TYPE curve_chunkstore_flush_runs_total counter
curve_chunkstore_flush_runs_total 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want),
		"curve_chunkstore_checksum_errors_total", "curve_chunkstore_chunks", "curve_chunkstore_flush_runs_total"); err != nil {
		t.Error(err)
	}
}
