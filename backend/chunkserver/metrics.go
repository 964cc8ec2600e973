package chunkserver

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the server's own figures, and what it registered for its parts.
type metrics struct {
	s          *Server
	registered []prometheus.Collector
}

var (
	descOps      = prometheus.NewDesc("curve_chunkserver_operations", "Operations under way.", nil, nil)
	descBytes    = prometheus.NewDesc("curve_chunkserver_operation_bytes", "Payload of the operations under way.", nil, nil)
	descRefused  = prometheus.NewDesc("curve_chunkserver_overload_total", "Operations refused because too many were under way.", nil, nil)
	descStreams  = prometheus.NewDesc("curve_chunkserver_streams", "Streams of clients.", nil, nil)
	descReplicas = prometheus.NewDesc("curve_chunkserver_replicas", "Replicas here, those that do not serve included.", nil, nil)
	descLeaders  = prometheus.NewDesc("curve_chunkserver_leaders", "Copysets led.", nil, nil)
	descFull     = prometheus.NewDesc("curve_chunkserver_disk_full", "1 while the disk is too full for changes.", nil, nil)
	descUnwell   = prometheus.NewDesc("curve_chunkserver_disk_unwell", "1 while the disk hangs or fails, or did so a moment ago.", nil, nil)
	descFree     = prometheus.NewDesc("curve_chunkserver_free_bytes", "Free space of the disk.", nil, nil)
	descUsed     = prometheus.NewDesc("curve_chunkserver_used_bytes", "Space that chunks and log take.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	s := m.s
	gauge := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	flag := func(d *prometheus.Desc, on bool) {
		if on {
			gauge(d, 1)
		} else {
			gauge(d, 0)
		}
	}
	used, free := s.space.figures()
	gauge(descOps, s.io.admission.ops.Load())
	gauge(descBytes, s.io.admission.bytes.Load())
	gauge(descStreams, s.io.streams.Load())
	gauge(descReplicas, int64(len(s.hosts.ids())))
	gauge(descLeaders, int64(len(s.news.led(s.ID()))))
	gauge(descFree, free)
	gauge(descUsed, used)
	flag(descFull, s.space.full.Load())
	flag(descUnwell, s.watch.unwell.Load())
	ch <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(s.io.admission.refused.Load()))
}

// startMetrics registers the server and those of its parts that can be.
func (s *Server) startMetrics() {
	if s.opts.Metrics == nil {
		return
	}
	m := &metrics{s: s}
	s.metrics = m
	for _, part := range []any{m, s.store, s.raftLog, s.net} {
		c, ok := part.(prometheus.Collector)
		if !ok {
			continue
		}
		err := s.opts.Metrics.Register(c)
		if again := (prometheus.AlreadyRegisteredError{}); errors.As(err, &again) {
			continue // another server of this process was first
		}
		if err != nil {
			s.log.Warn("registering metrics", "err", err)
			continue
		}
		m.registered = append(m.registered, c)
	}
}

func (s *Server) stopMetrics() {
	if s.metrics == nil {
		return
	}
	for _, c := range s.metrics.registered {
		s.opts.Metrics.Unregister(c)
	}
}
