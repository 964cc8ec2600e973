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
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "curve_iscsi_spill_bytes", Help: "Memory for data that initiators sent unasked while there was no room.",
		}, func() float64 { return float64(s.spill.used.Load()) }),
	)
	return m
}

const (
	loginOK      = "ok"
	loginRefused = "refused"
	loginBroken  = "broken off"
)
