package chunkstore

import "github.com/prometheus/client_golang/prometheus"

// metric is one counter or gauge of Stats.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(Stats) int64
}

func newMetric(name, help string, kind prometheus.ValueType, of func(Stats) int64) metric {
	return metric{prometheus.NewDesc("curve_chunkstore_"+name, help, nil, nil), kind, of}
}

const (
	counts = prometheus.CounterValue
	gauges = prometheus.GaugeValue
)

var metrics = []metric{
	newMetric("chunks", "Chunk files.", gauges, func(s Stats) int64 { return s.Chunks }),
	newMetric("open_chunks", "Chunks open now.", gauges, func(s Stats) int64 { return s.OpenChunks }),
	newMetric("inline_operations_total", "Operations that did not have to wait.", counts, func(s Stats) int64 { return s.Inline }),
	newMetric("queued_operations_total", "Operations that went through the store's queues.", counts, func(s Stats) int64 { return s.Queued }),
	newMetric("flushes_total", "Flushes asked for.", counts, func(s Stats) int64 { return s.FlushOps }),
	newMetric("flush_runs_total", "Flushes done; one serves all that waited for it.", counts, func(s Stats) int64 { return s.FlushRuns }),
	newMetric("file_syncs_total", "Chunk files synced.", counts, func(s Stats) int64 { return s.FileSyncs }),
	newMetric("dirty_marks_total", "Syncs that only marked a clean chunk as being written.", counts, func(s Stats) int64 { return s.DirtyMarks }),
	newMetric("evictions_total", "Chunks closed to make room for others.", counts, func(s Stats) int64 { return s.Evictions }),
	newMetric("reconciled_chunks_total", "Chunks found half-written after a crash.", counts, func(s Stats) int64 { return s.ReconciledChunks }),
	newMetric("checksum_errors_total", "Damage met: data that does not match its checksum. Alert on any.", counts, func(s Stats) int64 { return s.ChecksumErrors }),
	newMetric("poisoned_chunks_total", "Failed syncs, after which a chunk refuses changes. Alert on any.", counts, func(s Stats) int64 { return s.PoisonedChunks }),
}

// Describe implements prometheus.Collector.
func (s *Store) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (s *Store) Collect(ch chan<- prometheus.Metric) {
	stats := s.Stats()
	for _, m := range metrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.of(stats)))
	}
}
