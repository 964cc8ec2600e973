package registry_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// The log is what tells who looks for the reason of a trouble that somebody has changed
// something, and what.
func TestChangesAreLogged(t *testing.T) {
	var text strings.Builder
	r := open(t, openMeta(t), registry.Options{Logger: slog.New(slog.NewTextHandler(&text, nil))})
	mustCreate(t, r, vm1)
	mustAdd(t, r, "pg", 3)
	for _, c := range []struct {
		do    func() error
		words []string
	}{
		{func() error {
			_, err := r.AddUnit(t.Context(), vm1, registry.Unit{Volume: "logs", Number: 5})
			return err
		}, []string{"unit added", "unit=5", "volume=logs"}},
		{func() error { _, err := r.Allow(t.Context(), vm1, host1, []int{3, 5}); return err }, []string{"let in", "initiator=" + host1, "units=\"[3 5]\""}},
		{func() error { _, err := r.RemoveUnit(t.Context(), vm1, "5", true); return err }, []string{"unit removed", "unit=5", "forced=true"}},
		{func() error { _, err := r.Disallow(t.Context(), vm1, host1); return err }, []string{"no more", "initiator=" + host1}},
		{func() error {
			_, err := r.SetUser(t.Context(), vm1, registry.Credential{Name: "u", Secret: secret(secretText)})
			return err
		}, []string{"user set", "user=u"}},
		{func() error { _, err := r.RemoveUser(t.Context(), vm1, "u"); return err }, []string{"user removed", "user=u"}},
		{func() error {
			_, err := r.SetMutual(t.Context(), vm1, registry.Credential{Name: "m", Secret: secret(secretText)})
			return err
		}, []string{"mutual", "set", "user=m"}},
		{func() error { _, err := r.ClearMutual(t.Context(), vm1); return err }, []string{"mutual", "removed"}},
		{func() error { return r.Remove(t.Context(), vm1, false) }, []string{"target removed"}},
	} {
		text.Reset()
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		for _, w := range append(c.words, "target="+vm1) {
			if !strings.Contains(text.String(), w) {
				t.Errorf("the log does not say %q: %s", w, text.String())
			}
		}
		if strings.Contains(text.String(), secretText) {
			t.Errorf("the log has the secret: %s", text.String())
		}
	}
	text.Reset()
	if _, err := r.Disallow(t.Context(), vm1, host1); err == nil || text.Len() != 0 {
		t.Errorf("a change that failed: %v, and the log has %s", err, text.String())
	}
}
