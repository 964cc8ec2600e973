package target

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what a server tells of itself; what its volumes do is the gateway's to
// tell.
type metrics struct {
	logins *prometheus.CounterVec
}

func newMetrics(s *Server, reg prometheus.Registerer) metrics {
	m := metrics{logins: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "curve_iscsi_logins_total",
		Help: "Logins of initiators, by outcome: ok, refused, or broken off.",
	}, []string{"outcome"})}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.logins,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "curve_iscsi_sessions", Help: "Sessions of initiators, without those of discovery.",
		}, func() float64 { return float64(len(s.sessions.of(""))) }),
		unitsGauge(s, "active", true),
		unitsGauge(s, "standby", false),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "curve_iscsi_spill_bytes", Help: "Memory for data that initiators sent unasked while there was no room.",
		}, func() float64 { return float64(s.spill.used.Load()) }),
	)
	return m
}

// unitsGauge tells of two gateways which one has the volumes; that none has one is what
// somebody should be woken for.
func unitsGauge(s *Server, state string, active bool) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "curve_iscsi_units", Help: "Logical units that initiators have open here: active, or in standby while another gateway has the volume.",
		ConstLabels: prometheus.Labels{"state": state},
	}, func() float64 { return float64(s.units.count(active)) })
}

// count is how many units are open here that are active, or that are not.
func (us *units) count(active bool) (n int) {
	us.mu.Lock()
	defer us.mu.Unlock()
	for _, u := range us.open {
		if u.ready && u.Active() == active {
			n++
		}
	}
	return n
}

const (
	loginOK      = "ok"
	loginRefused = "refused"
	loginBroken  = "broken off"
)
