package target_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// TestLoginFindsWhatWasJustAddedAtAnotherGateway: initiators take "no such target" and
// "not allowed" for final, so nobody is told either of what is there already.
func TestLoginFindsWhatWasJustAddedAtAnotherGateway(t *testing.T) {
	p := serve(t, setup{})
	other := registry.New(p.meta, registry.Options{Poll: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	defer other.Close()
	const fresh = "iqn.2026-11.io.curve:fresh"
	login := func() iscsi.LoginStatus {
		t.Helper()
		i := p.dial(t)
		defer i.close()
		l, err := i.tryLogin([]string{"InitiatorName=" + i.name, "TargetName=" + fresh, "SessionType=Normal", "AuthMethod=None"}, usual...)
		must(t, err)
		return l.Status
	}
	if got := login(); got != iscsi.StatusNotFound {
		t.Errorf("at a target that there is not: %v", got)
	}
	_, err := other.Create(t.Context(), fresh, "")
	must(t, err)
	if got := login(); got != iscsi.StatusNotAuthorized {
		t.Errorf("at a target that lets nobody in: %v", got)
	}
	_, err = other.Allow(t.Context(), fresh, initiatorName, nil)
	must(t, err)
	if got := login(); got != iscsi.StatusSuccess {
		t.Errorf("right after the initiator was let in: %v", got)
	}
}

// TestNewsInAnAnswerThatIsNotSentAreTold: what a unit has to say stays to be said where
// the command that was to tell it is aborted.
func TestNewsInAnAnswerThatIsNotSentAreTold(t *testing.T) {
	p := serve(t, setup{})
	i := p.dial(t)
	l, err := i.tryLogin(i.loginKeys(), usual...)
	must(t, err)
	if l.Status != iscsi.StatusSuccess {
		t.Fatal(l.Status)
	}
	// The first command of a session is refused with the news that it begins; its answer
	// comes when its data has passed.
	c := &command{cdb: write10(0, 8), write: true, expected: 4096, data: make([]byte, 4096), unsolicited: 4096}
	h := i.header(c)
	i.send(h, nil)
	if got := i.abort(c.tag, i.cmdSN-1); got != iscsi.TaskComplete {
		t.Fatalf("ABORT TASK: %v", got)
	}
	if r := i.do(command{cdb: testUnitReady()}); r.status != checkCondition || r.code() != 0x2900 {
		t.Errorf("%v, want the unit attention", r)
	}
}
