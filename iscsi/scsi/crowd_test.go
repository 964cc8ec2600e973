package scsi

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// Initiators that come and go, write, compare, reserve, preempt each other and
// reset the unit, all at once: every command ends, and so does every task
// management function.
func TestACrowdThatDoesNotAgree(t *testing.T) {
	t.Run("inline", func(t *testing.T) { crowd(t, rigOptions{}) })
	t.Run("submitted", func(t *testing.T) {
		later := &faulty{}
		later.hold = func(r *volume.Request) bool {
			go later.Medium.Submit(r)
			return true
		}
		crowd(t, rigOptions{wrap: func(m Medium) Medium { later.Medium = m; return later }})
	})
}

func crowd(t *testing.T, o rigOptions) {
	o.unit.SanitizeRate = fast
	r := newRig(t, o)
	r.tries = true
	medium := r.unit.mount.Load().Medium
	const initiators, rounds = 6, 150
	var all, functions sync.WaitGroup
	for i := range initiators {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			name := fmt.Sprintf("iqn.crowd:%d,i,0x1", i)
			key := uint64(i + 1)
			n := r.unit.Attach(name, Port{ID: 1})
			function := func(f func(done func())) {
				functions.Add(1)
				f(functions.Done)
			}
			for range rounds {
				lba := uint64(random.IntN(64))
				victim := uint64(random.IntN(initiators) + 1)
				kind := allTypes[random.IntN(len(allTypes))]
				switch random.IntN(17) {
				case 0:
					function(r.unit.Reset)
				case 1:
					function(func(done func()) { r.unit.ClearTaskSet(n, done) })
				case 2:
					function(func(done func()) { r.unit.Detach(n, done) })
					n = r.unit.Attach(name, Port{ID: 1})
				case 3:
					cdb, list := prOut(saRegisterAndIgnore, 0, 0, key, 0)
					r.do(n, cdb, list, 0)
				case 4:
					cdb, list := prOut(saReserve, kind, key, 0, 0)
					r.do(n, cdb, list, 0)
				case 5:
					cdb, list := prOut(saPreemptAndAbort, kind, key, victim, 0)
					r.do(n, cdb, list, 0)
				case 6:
					cdb, list := prOut(saClear, 0, key, 0, 0)
					r.do(n, cdb, list, 0)
				case 7:
					r.do(n, span16(opOrWrite16, 0, lba, 600), filled(600, 1), 0)
				case 8:
					r.do(n, span16(opVerify16, 0, lba, 4096), nil, 0)
				case 9:
					r.do(n, span16(opWriteSame16, 0, lba, 2048), filled(1, 3), 0)
				case 10:
					r.do(n, unmapCDB(2), unmapData(lba, 8, 100+lba, 100), 0)
				case 11:
					list := copyOrder{id: byte(lba), units: [][]byte{nameOf(r.unit)}, segments: [][]byte{segmentOf(0, 0, lba, lba+300, 1500)}}.list()
					r.do(n, copyCDB(len(list)), list, 0)
				case 12:
					r.do(n, sanitizeCDB(saBlockErase, sanitizeImmediate, 0), nil, 0)
				case 13:
					function(r.unit.Deactivate)
					// Who is first gives it back.
					if err := r.unit.Activate(t.Context(), medium); err != nil && !errors.Is(err, backend.ErrBusy) {
						t.Error(err)
					}
				case 14:
					r.do(n, span16(opWrite16, 0, lba, 4), filled(4, 2), 0)
				default:
					r.do(n, compareCDB(lba, 4), filled(8, 1), 0)
				}
			}
			r.unit.Detach(n, nil)
		})
	}
	all.Wait()
	functions.Wait()
	u := r.unit
	u.background.Wait()
	if users := u.mount.Load().users.Load(); users != 1 {
		t.Errorf("%d hold the medium", users)
	}
	if u.ranges.held.first != nil || u.ranges.waiting.first != nil || u.ranges.exclusive != 0 {
		t.Error("a range is still locked")
	}
	for _, room := range []*scratchRoom{&u.scratch, &u.bulk, &u.copyRoom} {
		if room.out != 0 || len(room.waiting) != 0 {
			t.Errorf("%d pieces of scratch memory are out", room.out)
		}
	}
}
