package target_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opencurve/curve-nbd/iscsi/target"
)

// gauge is the value of a metric with that label, or of one without labels.
func gauge(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if l := m.GetLabel(); len(l) == 0 && label == "" || len(l) == 1 && l[0].GetValue() == label {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("there is no metric %s of %q", name, label)
	return 0
}

func TestMetricsFollowWhoIsThere(t *testing.T) {
	reg := prometheus.NewRegistry()
	p := serve(t, setup{options: target.Options{Metrics: reg}, luns: []int{0, 1}})
	want := func(when string, sessions, active, standby, ok, refused float64) {
		t.Helper()
		for _, m := range []struct {
			name, label string
			want        float64
		}{
			{"curve_iscsi_sessions", "", sessions},
			{"curve_iscsi_units", "active", active}, {"curve_iscsi_units", "standby", standby},
			{"curve_iscsi_logins_total", "ok", ok}, {"curve_iscsi_logins_total", "refused", refused},
		} {
			if got := gauge(t, reg, m.name, m.label); got != m.want {
				t.Errorf("%s: %s of %q is %v, want %v", when, m.name, m.label, got, m.want)
			}
		}
	}
	first := p.login(t)
	second := p.loginAs(t, otherName)
	stranger := p.dial(t)
	must(t, errOf(stranger.tryLogin([]string{"InitiatorName=" + initiatorName, "TargetName=iqn.2026-11.io.curve:none", "SessionType=Normal", "AuthMethod=None"})))
	stranger.wantClosed()
	want("two initiators of one target", 2, 2, 0, 2, 1)
	first.close()
	second.close()
	eventually(t, "nobody is there", func() bool {
		return gauge(t, reg, "curve_iscsi_sessions", "") == 0 && gauge(t, reg, "curve_iscsi_units", "active") == 0
	})
}
