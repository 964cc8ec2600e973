package gateway

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opencurve/curve-nbd/backend"
)

// opCount is the number of values that backend.OpKind takes.
const opCount = int(backend.OpFlush) + 1

// Tally is what a front end did since it last reported, by operation. It has no
// lock: a connection keeps one for a batch of requests and reports it whole, so
// that counting costs the hot path a few plain additions.
type Tally struct {
	requests, errors, bytes [opCount]uint64
}

// Add counts one request of an operation and its payload bytes.
func (t *Tally) Add(op backend.OpKind, bytes int64, err error) {
	t.requests[op]++
	if err != nil {
		t.errors[op]++
		return
	}
	t.bytes[op] += uint64(bytes)
}

// exportStats are the counters of one export. They outlive its open, so that a
// series does not vanish when the last client leaves.
type exportStats struct {
	requests, errors, bytes [opCount]atomic.Uint64
	connections             atomic.Int64
}

// stats is the gateway's prometheus.Collector.
type stats struct {
	gateway *Gateway
	latency [opCount]prometheus.Observer

	mu      sync.Mutex // guards exports
	exports map[string]*exportStats
}

var (
	descRequests    = desc("curve_volume_requests_total", "Requests served, by operation.", "volume", "op")
	descErrors      = desc("curve_volume_errors_total", "Requests answered with an error, by operation.", "volume", "op")
	descBytes       = desc("curve_volume_bytes_total", "Payload or range bytes of requests served, by operation.", "volume", "op")
	descConnections = desc("curve_volume_connections", "Client connections.", "volume")
	descSize        = desc("curve_volume_size_bytes", "Size of an open volume.", "volume")
	descQueued      = desc("curve_volume_queued_requests", "Requests that went through the queues and are not complete.", "volume")
	descOldest      = desc("curve_io_oldest_inflight_seconds", "Age of the oldest request that is not complete: a stall shows here.", "volume")
	descInFlight    = desc("curve_gateway_inflight_requests", "Permits out, in requests.")
	descInBytes     = desc("curve_gateway_inflight_bytes", "Permits out, in bytes.")
	descBuffers     = desc("curve_gateway_buffer_bytes", "Memory in payload buffers, lent and kept.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func newStats(g *Gateway, reg prometheus.Registerer) *stats {
	s := &stats{gateway: g, exports: make(map[string]*exportStats)}
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "curve_gateway_request_seconds",
		Help:    "Latency of requests from their arrival to their reply.",
		Buckets: prometheus.ExponentialBuckets(4e-6, 4, 12), // 4 us to 17 s
	}, []string{"op"})
	for op := range opCount {
		s.latency[op] = h.WithLabelValues(backend.OpKind(op).String())
	}
	if reg != nil {
		reg.MustRegister(h, s)
	}
	return s
}

// forExport returns the counters of a name, for its whole life.
func (s *stats) forExport(name string) *exportStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.exports[name]
	if e == nil {
		e = &exportStats{}
		s.exports[name] = e
	}
	return e
}

// forget drops the counters of a volume that was removed.
func (s *stats) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.exports, name)
}

// Describe implements prometheus.Collector.
func (s *stats) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descRequests, descErrors, descBytes, descConnections, descSize,
		descQueued, descOldest, descInFlight, descInBytes, descBuffers} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *stats) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s.mu.Lock()
	for name, e := range s.exports {
		gauge(descConnections, float64(e.connections.Load()), name)
		for op := int(backend.OpRead); op < opCount; op++ {
			label := backend.OpKind(op).String()
			counter := func(d *prometheus.Desc, v uint64) {
				ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), name, label)
			}
			counter(descRequests, e.requests[op].Load())
			counter(descErrors, e.errors[op].Load())
			counter(descBytes, e.bytes[op].Load())
		}
	}
	s.mu.Unlock()
	for _, e := range s.gateway.openExports() {
		n, oldest := e.volume.Queued()
		gauge(descSize, float64(e.volume.Size()), e.name)
		gauge(descQueued, float64(n), e.name)
		gauge(descOldest, oldest.Seconds(), e.name)
	}
	n, bytes := s.gateway.limits.InFlight()
	gauge(descInFlight, float64(n))
	gauge(descInBytes, float64(bytes))
	gauge(descBuffers, float64(s.gateway.buffers.heldBytes()))
}
