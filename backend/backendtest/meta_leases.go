package backendtest

import (
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

var metaLeaseCases = []metaCase{
	{"EveryExclusiveOpenHasANewEpoch", func(t *testing.T, m backend.Meta) {
		created := mustCreate(t, m, "v", 1)
		if created.Epoch != 0 || created.Owner != "" {
			t.Errorf("never opened, and has epoch %d, owner %q", created.Epoch, created.Owner)
		}
		last := created.Epoch
		for _, owner := range []string{"gw1", "gw2", "gw1"} {
			lease := mustOpen(t, m, "v", owner, backend.OpenExclusive)
			if lease.Epoch <= last || lease.Mode != backend.OpenExclusive || lease.Volume.ID != created.ID {
				t.Errorf("lease %+v after epoch %d", lease, last)
			}
			if v, err := m.Volume(t.Context(), "v"); err != nil || v.Epoch != lease.Epoch || v.Owner != owner || v != lease.Volume {
				t.Errorf("while open: %+v, %v, want the lease's %+v", v, err, lease.Volume)
			}
			mustClose(t, m, lease)
			if v, err := m.Volume(t.Context(), "v"); err != nil || v.Epoch != lease.Epoch || v.Owner != "" {
				t.Errorf("after close: epoch %d, owner %q, %v, want epoch %d and no owner", v.Epoch, v.Owner, err, lease.Epoch)
			}
			last = lease.Epoch
		}
	}},
	{"ModesThatExcludeEachOtherAreBusyAndNameTheHolder", func(t *testing.T, m backend.Meta) {
		for name, c := range map[string]struct {
			held, asked backend.OpenMode
		}{
			"exclusive-exclusive": {backend.OpenExclusive, backend.OpenExclusive},
			"exclusive-shared":    {backend.OpenExclusive, backend.OpenShared},
			"shared-exclusive":    {backend.OpenShared, backend.OpenExclusive},
		} {
			t.Run(name, func(t *testing.T) {
				mustCreate(t, m, name, 1)
				lease := mustOpen(t, m, name, "gateway-1", c.held)
				_, err := m.OpenVolume(t.Context(), name, "gateway-2", c.asked)
				wantErr(t, err, backend.ErrBusy, `"gateway-1"`)
				mustAllocate(t, m, lease, 0) // the refused open took nothing away
				mustClose(t, m, lease)
				mustClose(t, m, mustOpen(t, m, name, "gateway-2", c.asked))
			})
		}
	}},
	{"SameOwnerOpensAgainAndFencesItsEarlierEpoch", func(t *testing.T, m backend.Meta) {
		for _, mode := range []backend.OpenMode{backend.OpenExclusive, backend.OpenShared} {
			name := map[backend.OpenMode]string{backend.OpenExclusive: "ex", backend.OpenShared: "sh"}[mode]
			mustCreate(t, m, name, 2)
			first := mustOpen(t, m, name, "gw", mode)
			second := mustOpen(t, m, name, "gw", mode)
			if second.Epoch <= first.Epoch {
				t.Errorf("epoch %d after %d", second.Epoch, first.Epoch)
			}
			_, err := m.AllocateSegment(t.Context(), first.Volume.ID, first.Epoch, 0)
			wantErr(t, err, backend.ErrStaleEpoch)
			err = m.CloseVolume(t.Context(), first.Volume.ID, first.Epoch)
			wantErr(t, err, backend.ErrStaleEpoch)
			mustAllocate(t, m, second, 0)
			mustClose(t, m, second)
		}
	}},
	{"SharedOpenersAllocateSideBySide", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 4)
		a := mustOpen(t, m, "v", "gw-a", backend.OpenShared)
		b := mustOpen(t, m, "v", "gw-b", backend.OpenShared)
		if a.Epoch != b.Epoch {
			// Chunks serve only the newest epoch they have seen.
			t.Errorf("sharers hold epochs %d and %d: one fences the other", a.Epoch, b.Epoch)
		}
		if v, err := m.Volume(t.Context(), "v"); err != nil || v.Owner != "" {
			t.Errorf("shared volume has the exclusive owner %q, %v", v.Owner, err)
		}
		fromA := mustAllocate(t, m, a, 0)
		fromB := mustAllocate(t, m, b, 0)
		wantSameSegment(t, fromB, fromA)
		mustClose(t, m, a)
		mustAllocate(t, m, b, 1)
		_, err := m.OpenVolume(t.Context(), "v", "gw-c", backend.OpenExclusive)
		wantErr(t, err, backend.ErrBusy, "gw-b")
		mustClose(t, m, b)
		c := mustOpen(t, m, "v", "gw-c", backend.OpenExclusive)
		if c.Epoch <= b.Epoch {
			t.Errorf("epoch %d after %d", c.Epoch, b.Epoch)
		}
	}},
	{"SharerThatCrashedIsFencedWhenItOpensAgain", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 4)
		a := mustOpen(t, m, "v", "gw-a", backend.OpenShared)
		b := mustOpen(t, m, "v", "gw-b", backend.OpenShared)
		a2 := mustOpen(t, m, "v", "gw-a", backend.OpenShared)
		for _, stale := range []backend.Lease{a, b} {
			if stale.Epoch >= a2.Epoch {
				t.Fatalf("epoch %d given again after %d", a2.Epoch, stale.Epoch)
			}
			_, err := m.AllocateSegment(t.Context(), stale.Volume.ID, stale.Epoch, 0)
			wantErr(t, err, backend.ErrStaleEpoch)
		}
		b2 := mustOpen(t, m, "v", "gw-b", backend.OpenShared)
		mustAllocate(t, m, a2, 0)
		mustAllocate(t, m, b2, 1)
	}},
	{"ClosedLeaseAllocatesNothing", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 2)
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		mustAllocate(t, m, lease, 0)
		mustClose(t, m, lease)
		for _, index := range []backend.SegmentIndex{0, 1} {
			_, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, index)
			wantErr(t, err, backend.ErrStaleEpoch)
		}
		mustClose(t, m, lease) // a repeated close is the same close
	}},
	{"EpochsNeverGivenAreInvalid", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 1)
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		_, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch+1, 0)
		wantErr(t, err, backend.ErrInvalid)
		_, err = m.AllocateSegment(t.Context(), lease.Volume.ID, 0, 0)
		wantErr(t, err, backend.ErrStaleEpoch)
		err = m.CloseVolume(t.Context(), lease.Volume.ID, lease.Epoch+1)
		wantErr(t, err, backend.ErrInvalid)
	}},
	{"BadOpensAreRefused", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 1)
		for _, owner := range []string{"", strings.Repeat("o", 10_000), "gw\xff", "gw\n"} {
			_, err := m.OpenVolume(t.Context(), "v", owner, backend.OpenExclusive)
			wantErr(t, err, backend.ErrInvalid, "owner")
		}
		for _, owner := range []string{"", strings.Repeat("o", 10_000), "gw\xff", "gw\n"} {
			wantErr(t, m.KeepAlive(t.Context(), owner), backend.ErrInvalid, "owner")
		}
		_, err := m.OpenVolume(t.Context(), "v", "gw", backend.OpenMode(9))
		wantErr(t, err, backend.ErrInvalid, "mode")
		mustOpen(t, m, "v", "gw", backend.OpenExclusive)
	}},
	{"EveryOpenHasASessionOfItsOwn", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 1)
		mustCreate(t, m, "w", 1)
		seen := map[backend.SessionID]bool{}
		note := func(lease backend.Lease) backend.Lease {
			t.Helper()
			if lease.Session == 0 || seen[lease.Session] {
				t.Errorf("session %d: 0, or given before", lease.Session)
			}
			seen[lease.Session] = true
			return lease
		}
		note(mustOpen(t, m, "v", "gw-a", backend.OpenShared))
		note(mustOpen(t, m, "v", "gw-b", backend.OpenShared)) // joins, under the same epoch
		note(mustOpen(t, m, "v", "gw-b", backend.OpenShared)) // comes back
		mustClose(t, m, note(mustOpen(t, m, "w", "gw-a", backend.OpenExclusive)))
		note(mustOpen(t, m, "w", "gw-a", backend.OpenExclusive))
		note(mustOpen(t, m, "w", "gw-b", backend.OpenTakeOver))
	}},
	{"TakeOverFencesWhoeverHasIt", func(t *testing.T, m backend.Meta) {
		for name, held := range map[string][]backend.OpenMode{
			"free": nil, "exclusive": {backend.OpenExclusive}, "taken": {backend.OpenTakeOver},
			"shared": {backend.OpenShared, backend.OpenShared},
		} {
			t.Run(name, func(t *testing.T) {
				mustCreate(t, m, name, 2)
				var before []backend.Lease
				for i, mode := range held {
					before = append(before, mustOpen(t, m, name, "gw-"+string(rune('a'+i)), mode))
				}
				lease := mustOpen(t, m, name, "taker", backend.OpenTakeOver)
				if lease.Mode != backend.OpenTakeOver || lease.Volume.Owner != "taker" {
					t.Errorf("lease %+v, want one of owner taker", lease)
				}
				for _, old := range before {
					if old.Epoch >= lease.Epoch {
						t.Errorf("epoch %d taken over under epoch %d", old.Epoch, lease.Epoch)
					}
					_, err := m.AllocateSegment(t.Context(), old.Volume.ID, old.Epoch, 0)
					wantErr(t, err, backend.ErrStaleEpoch)
					wantErr(t, m.CloseVolume(t.Context(), old.Volume.ID, old.Epoch), backend.ErrStaleEpoch)
				}
				mustAllocate(t, m, lease, 0)
				_, err := m.OpenVolume(t.Context(), name, "gw-a", backend.OpenExclusive)
				wantErr(t, err, backend.ErrBusy, `"taker"`)
				mustClose(t, m, lease)
			})
		}
	}},
	{"KeepAliveOfAnybodyIsNoError", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 1)
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		for _, owner := range []string{"gw", "gw", "never seen"} {
			if err := m.KeepAlive(t.Context(), owner); err != nil {
				t.Errorf("KeepAlive(%q): %v", owner, err)
			}
		}
		mustAllocate(t, m, lease, 0)
		_, err := m.OpenVolume(t.Context(), "v", "never seen", backend.OpenExclusive)
		wantErr(t, err, backend.ErrBusy, `"gw"`)
	}},
	{"UnknownCopysetsAreNotFound", func(t *testing.T, m backend.Meta) {
		for _, id := range []backend.CopysetID{0, 1 << 31} {
			_, err := m.Copyset(t.Context(), id)
			wantErr(t, err, backend.ErrNotFound)
		}
	}},
}
