package scsi

import (
	"context"
	"testing"

	"github.com/opencurve/curve-nbd/volume"
)

// A command that a reset ends without a status is one whose initiator is told of
// the reset afterwards, however many resets there are at once.
func TestNoCommandEndsUntold(t *testing.T) {
	held := make(chan *volume.Request, 1)
	_, wrap := heldMedium(held)
	r := newRig(t, rigOptions{wrap: wrap})
	_, slow := r.start(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1))
	resets := make(chan struct{}, 2)
	for range 2 {
		r.unit.Reset(func() { resets <- struct{}{} })
	}
	r.fails(r.a, turCDB, nil, 0, UnitAttention, DeviceReset)
	c := &Command{CDB: turCDB, Nexus: r.a}
	if !r.unit.Plan(c) {
		t.Fatalf("sense % x", c.Sense())
	}
	q := <-held
	q.Done.RequestDone(q)
	<-slow
	<-resets
	<-resets
	if !r.unit.Execute(c) || !c.Aborted {
		t.Fatal("the second reset did not end the command")
	}
	r.fails(r.a, turCDB, nil, 0, UnitAttention, DeviceReset)
}

func TestAnUnreportedAttentionIsToldAgain(t *testing.T) {
	r := newRig(t, rigOptions{})
	for name, cdb := range map[string][]byte{
		"by TEST UNIT READY": turCDB,
		"by REQUEST SENSE":   {opRequestSense, 0, 0, 0, 18, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r.unit.LUNsChanged()
			r.b.attentions.take()
			r.a.attentions.add(CapacityChanged)
			a := r.do(r.a, cdb, nil, 18)
			r.unit.Unreported(a.Command)
			r.unit.Unreported(a.Command)
			r.fails(r.a, turCDB, nil, 0, UnitAttention, LUNsChanged)
			r.fails(r.a, turCDB, nil, 0, UnitAttention, CapacityChanged)
			r.good(r.a, turCDB, nil, 0)
		})
	}
	t.Run("not where a reset stands for it", func(t *testing.T) {
		r.unit.LUNsChanged()
		r.b.attentions.take()
		a := r.do(r.a, turCDB, nil, 0)
		r.unit.LoseNexus(r.a, func() {})
		r.unit.Unreported(a.Command)
		r.fails(r.a, turCDB, nil, 0, UnitAttention, NexusLoss)
		r.good(r.a, turCDB, nil, 0)
	})
}

func TestANewPathBeginsWithOneAttention(t *testing.T) {
	r := newRig(t, rigOptions{})
	if _, err := r.gateway.ResizeVolume(context.Background(), "v", 2*testSize); err != nil {
		t.Fatal(err)
	}
	n := r.unit.Attach("iqn.c,i,0x1", Port{ID: 1})
	r.fails(n, turCDB, nil, 0, UnitAttention, PowerOnReset)
	r.good(n, turCDB, nil, 0)
	r.fails(r.a, turCDB, nil, 0, UnitAttention, CapacityChanged)
}
