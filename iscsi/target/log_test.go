package target_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
	"github.com/opencurve/curve-nbd/iscsi/target"
)

// logged is what a server has logged.
type logged struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// has says whether there is a line with all of these words.
func (l *logged) has(words ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		found := true
		for _, w := range words {
			found = found && strings.Contains(line, w)
		}
		if found {
			return true
		}
	}
	return false
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Who is told by an initiator that it "cannot log in" has the log alone to see which
// initiator that is, of which target, and what to do.
func TestLogSaysWhoDidNotGetIn(t *testing.T) {
	l := new(logged)
	p := serve(t, setup{options: target.Options{Logger: slog.New(slog.NewTextHandler(l, nil))}})
	must(t, errOf(p.registry.Create(t.Context(), "iqn.2026-11.io.curve:closed", "")))
	chap := "iqn.2026-11.io.curve:chap"
	must(t, errOf(p.registry.Create(t.Context(), chap, "")))
	must(t, errOf(p.registry.Allow(t.Context(), chap, registry.AnyInitiator, nil)))
	must(t, errOf(p.registry.SetUser(t.Context(), chap, registry.Credential{Name: "u", Secret: iscsi.NewSecret("open-sesame-1234")})))
	from := func(i *initiator) string { return "remote=" + i.nc.LocalAddr().String() }
	for _, c := range []struct {
		name, target string
		words        []string
	}{
		{"no such target", "iqn.2026-11.io.curve:nobody", []string{"target=iqn.2026-11.io.curve:nobody", "0x0203"}},
		{"not allowed", "iqn.2026-11.io.curve:closed", []string{"initiator=" + initiatorName, "target=iqn.2026-11.io.curve:closed", "0x0202", "acl add"}},
		{"no proof", chap, []string{"initiator=" + initiatorName, "target=" + chap, "0x0201"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := p.dial(t)
			must(t, errOf(i.tryLogin([]string{"InitiatorName=" + i.name, "TargetName=" + c.target, "SessionType=Normal", "AuthMethod=None"})))
			i.wantClosed()
			words := append(c.words, "login refused", from(i))
			eventually(t, "the log says "+strings.Join(words, " "), func() bool { return l.has(words...) })
		})
	}
	t.Run("leaves in mid-login", func(t *testing.T) { // as one does that finds our own proof wrong
		i := p.dial(t)
		i.agreed = make(map[string]string)
		must(t, errOf(i.loginStep(i.loginRequest(iscsi.StageSecurity, iscsi.StageOperational), text(i.loginKeys()...))))
		i.close()
		words := []string{"broke its login off", from(i), "initiator=" + initiatorName, "target=" + targetName}
		eventually(t, "the log says "+strings.Join(words, " "), func() bool { return l.has(words...) })
	})
	t.Run("says nothing", func(t *testing.T) { // as who looks whether the port is open
		i := p.dial(t)
		i.close()
		p.login(t) // whoever came before was let in before
		p.stop()
		if l.has(from(i)) {
			t.Errorf("the log has\n%s", l)
		}
	})
}
