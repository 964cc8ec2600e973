package raftlog_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

func TestMetricsShowWhatTheLogDid(t *testing.T) {
	l := mustOpen(t, newMachine(crashfs.Options{}), smallOptions())
	defer func() { _ = l.Close() }()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(l)
	g := l.Group(1)
	if err := errors.Join(g.StoreLog(entry(1, 1000)), g.WaitDurable(1)); err != nil {
		t.Fatal(err)
	}
	want := `# HELP curve_raftlog_batches_total Writes of batches of records.
# TYPE curve_raftlog_batches_total counter
curve_raftlog_batches_total 2
# HELP curve_raftlog_live_bytes Bytes of records that are needed.
# TYPE curve_raftlog_live_bytes gauge
curve_raftlog_live_bytes 1056
# HELP curve_raftlog_queued_bytes Bytes queued and not yet durable.
# TYPE curve_raftlog_queued_bytes gauge
curve_raftlog_queued_bytes 0
# HELP curve_raftlog_segments Segments in use.
# TYPE curve_raftlog_segments gauge
curve_raftlog_segments 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want),
		"curve_raftlog_batches_total", "curve_raftlog_live_bytes", "curve_raftlog_queued_bytes", "curve_raftlog_segments"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg); err != nil || n < 10 {
		t.Errorf("%d metrics, %v", n, err)
	}
}
