package target_test

import (
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// hangChange brings the sessions to where they wait for a unit that cannot be opened: its
// volume stalls while it is closed.
func (p *portal) hangChange(t *testing.T, i *initiator) {
	t.Helper()
	i.store(1, 0, pattern(4096, 1))
	p.chunks.close()
	must(t, errOf(p.registry.RemoveUnit(t.Context(), targetName, "1", true)))
	p.chunks.wait(t) // the flush of its closing
	must(t, errOf(p.registry.AddUnit(t.Context(), targetName, registry.Unit{Number: 1, Volume: volumeOf(1)})))
	eventually(t, "the unit is awaited", func() bool {
		stacks := make([]byte, mib)
		return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*units).acquire(")
	})
}

// A unit that cannot be opened yet keeps nobody from being thrown out.
func TestAccessIsRemovedWhileAUnitIsAwaited(t *testing.T) {
	p := serve(t, setup{luns: []int{0, 1}})
	i, other := p.login(t), p.loginAs(t, otherName)
	i.ready(1)
	p.hangChange(t, i)
	must(t, errOf(p.registry.Disallow(t.Context(), targetName, registry.AnyInitiator)))
	i.wantClosed()
	other.wantClosed()
	p.chunks.open()
}

// Nor from leaving.
func TestLogoutWhileAUnitIsAwaited(t *testing.T) {
	p := serve(t, setup{luns: []int{0, 1}})
	i := p.login(t)
	i.ready(1)
	p.hangChange(t, i)
	i.want(iscsi.OpAsyncMessage) // that it is gone
	if got := i.logout(iscsi.LogoutSession, 0); got != iscsi.LogoutDone {
		t.Fatalf("logout says %d", got)
	}
	p.chunks.open()
	i.wantClosed()
}

// Another volume under the same number is news, also where both changes are seen at once:
// they were made at another gateway.
func TestAnotherVolumeUnderTheSameNumberIsTold(t *testing.T) {
	p := serve(t, setup{luns: []int{0, 1}})
	i := p.login(t)
	i.ready(1)
	p.addVolume(t, 2)
	elsewhere := registry.New(p.meta, registry.Options{Poll: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	defer elsewhere.Close()
	must(t, elsewhere.Refresh(t.Context()))
	must(t, errOf(elsewhere.RemoveUnit(t.Context(), targetName, "1", true)))
	must(t, errOf(elsewhere.AddUnit(t.Context(), targetName, registry.Unit{Number: 1, Volume: volumeOf(2)})))
	must(t, p.registry.Refresh(t.Context()))
	i.wantLUNsChanged()
}
