package raftlog

import "github.com/prometheus/client_golang/prometheus"

// meters count what the writer does.
type meters struct {
	batches, bytes prometheus.Counter
	syncs          prometheus.Histogram
	gauges         []gauge
}

// gauge is read from the log when it is collected.
type gauge struct {
	desc *prometheus.Desc
	of   func(*Log) float64
}

func newMeters() *meters {
	const prefix = "curve_raftlog_"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	of := func(name, help string, read func(*Log) float64) gauge {
		return gauge{prometheus.NewDesc(prefix+name, help, nil, nil), read}
	}
	locked := func(read func(*Log) int64) func(*Log) float64 {
		return func(l *Log) float64 {
			l.mu.Lock()
			defer l.mu.Unlock()
			return float64(read(l))
		}
	}
	return &meters{
		batches: counter("batches_total", "Writes of batches of records."),
		bytes:   counter("written_bytes_total", "Bytes written, padding included."),
		syncs: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "sync_seconds", Help: "Time that syncs took.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18),
		}),
		gauges: []gauge{
			of("queued_bytes", "Bytes queued and not yet durable.", locked(func(l *Log) int64 { return l.queued })),
			of("cached_bytes", "Bytes of entries kept in memory.", locked(func(l *Log) int64 { return l.cache.bytes })),
			of("segments", "Segments in use.", locked(func(l *Log) int64 { return int64(len(l.segs)) })),
			of("live_bytes", "Bytes of records that are needed.", locked((*Log).liveBytes)),
			of("damaged_groups", "Groups that must be rebuilt. Alert on any.", locked((*Log).damagedGroups)),
			of("spare_segments", "Segments ready for use.", func(l *Log) float64 { return float64(l.pool.count()) }),
			of("stalled_seconds", "How long the write under way has been running.", func(l *Log) float64 { return l.Stalled().Seconds() }),
		},
	}
}

func (l *Log) liveBytes() int64 {
	var n int64
	for _, s := range l.segs {
		n += s.live
	}
	return n
}

func (l *Log) damagedGroups() int64 {
	var n int64
	for _, g := range l.groups {
		if g.damage != nil {
			n++
		}
	}
	return n
}

// Describe implements prometheus.Collector.
func (l *Log) Describe(ch chan<- *prometheus.Desc) {
	l.meters.batches.Describe(ch)
	l.meters.bytes.Describe(ch)
	l.meters.syncs.Describe(ch)
	for _, g := range l.meters.gauges {
		ch <- g.desc
	}
}

// Collect implements prometheus.Collector.
func (l *Log) Collect(ch chan<- prometheus.Metric) {
	l.meters.batches.Collect(ch)
	l.meters.bytes.Collect(ch)
	l.meters.syncs.Collect(ch)
	for _, g := range l.meters.gauges {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.of(l))
	}
}
