package target_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/memory"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/iscsi/target"
)

const (
	busy                = 0x08
	reservationConflict = 0x18

	register, reserve, preempt, preemptAndAbort = 0, 1, 4, 5
	registrantsOnly                             = 5 // may write

	leaseTTL = time.Hour // of pairs: as good as for ever, unless the clock is turned
)

// pair is two gateways of one cluster, the first of which has the volume.
type pair struct {
	t     testing.TB
	meta  *mds.MDS
	links [2]*link
	sides [2]*portal
	// ahead is by how much the clock of the metadata is turned, in nanoseconds.
	ahead atomic.Int64
}

// link is a gateway's way to the metadata.
type link struct {
	backend.Meta
	cut atomic.Bool
}

func (l *link) err() error {
	if l.cut.Load() {
		return fmt.Errorf("%w: the link is cut", backend.ErrUnreachable)
	}
	return nil
}

// KeepAlive implements backend.Meta; the others are those that two gateways use.
func (l *link) KeepAlive(ctx context.Context, owner string) error {
	if err := l.err(); err != nil {
		return err
	}
	return l.Meta.KeepAlive(ctx, owner)
}

func (l *link) Volume(ctx context.Context, name string) (backend.VolumeInfo, error) {
	if err := l.err(); err != nil {
		return backend.VolumeInfo{}, err
	}
	return l.Meta.Volume(ctx, name)
}

func (l *link) Record(ctx context.Context, key string) (backend.Record, error) {
	if err := l.err(); err != nil {
		return backend.Record{}, err
	}
	return l.Meta.Record(ctx, key)
}

func (l *link) RecordChanges(ctx context.Context, prefix string, mark uint64) ([]backend.Record, uint64, error) {
	if err := l.err(); err != nil {
		return nil, 0, err
	}
	return l.Meta.RecordChanges(ctx, prefix, mark)
}

func (l *link) Close() error { return nil }

func newPair(t testing.TB) *pair {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	p := &pair{t: t}
	var err error
	p.meta, err = mds.New(mds.NewMemStore(), mds.Options{LeaseTTL: leaseTTL, Now: func() time.Time {
		return time.Now().Add(time.Duration(p.ahead.Load()))
	}})
	must(t, err)
	t.Cleanup(func() { _ = p.meta.Close() })
	chunks := memory.New()
	for n := range p.sides {
		p.links[n] = &link{Meta: p.meta}
		s := setup{gateway: gateway.Options{Owner: fmt.Sprint("gateway ", n+1)}}
		s.options = target.Options{Shared: true, Records: p.links[n], PortalGroup: uint16(n + 1)}
		side := newPortal(p.links[n], chunks, s)
		if n == 0 {
			side.makeTarget(t, s)
		} else {
			must(t, side.registry.Refresh(t.Context()))
		}
		side.listen(t, s, func() error { return nil })
		p.sides[n] = side
	}
	return p
}

// path logs in at a side: who logs in first at the first one makes it the active one.
func (p *pair) path(side int, name string) *initiator {
	p.t.Helper()
	i := p.sides[side].dial(p.t)
	i.name = name
	l, err := i.tryLogin(i.loginKeys(), usual...)
	must(p.t, err)
	if l.TSIH == 0 {
		p.t.Fatalf("login at side %d: %v", side, l.Status)
	}
	i.settled()
	return i
}

// settled takes the unit attentions that wait for the initiator, and returns how TEST
// UNIT READY ends then.
func (i *initiator) settled() result {
	i.t.Helper()
	for range 16 {
		if r := i.do(command{cdb: testUnitReady()}); r.status != checkCondition || r.sense[2]&0xf != 6 {
			return r
		}
	}
	i.t.Fatal("one unit attention after the other")
	return result{}
}

// order gives a PERSISTENT RESERVE OUT.
func (i *initiator) order(action byte, key, actionKey uint64) result {
	i.t.Helper()
	list := binary.BigEndian.AppendUint64(nil, key)
	list = binary.BigEndian.AppendUint64(list, actionKey)
	list = append(list, make([]byte, 8)...)
	cdb := []byte{0x5f, action, registrantsOnly, 0, 0, 0, 0, 0, byte(len(list)), 0}
	return i.do(command{cdb: cdb, write: true, expected: len(list), data: list})
}

func (i *initiator) ordered(action byte, key, actionKey uint64) {
	i.t.Helper()
	i.order(action, key, actionKey).wants(i.t, good, 0)
}

// insists gives an order until it is neither BUSY nor in the way of a unit attention.
func (i *initiator) insists(action byte, key, actionKey uint64) {
	i.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		r := i.order(action, key, actionKey)
		if r.status == busy || r.status == checkCondition && r.sense[2]&0xf == 6 {
			continue
		}
		r.wants(i.t, good, 0)
		return
	}
	i.t.Fatalf("action %d is busy for ever", action)
}

// fenced checks that no write gets through, after whatever there is to be told.
func (i *initiator) fenced() {
	i.t.Helper()
	data := pattern(blockSize, 0xbb)
	for range 16 {
		r := i.do(command{cdb: write10(0, 1), write: true, expected: blockSize, data: data, attached: blockSize})
		if r.status != checkCondition || r.sense[2]&0xf != 6 {
			r.wants(i.t, reservationConflict, 0)
			return
		}
	}
	i.t.Fatal("one unit attention after the other")
}

const keyOfHost1, keyOfHost2 = 0xaaaa, 0xbbbb

// hosts are two with a path to each side, registered everywhere, and the first of them
// holds a reservation.
func (p *pair) hosts() (host1, host2 [2]*initiator) {
	p.t.Helper()
	for side := range p.sides {
		host1[side] = p.path(side, initiatorName)
		host2[side] = p.path(side, otherName)
	}
	for side := range p.sides {
		host1[side].ordered(register, 0, keyOfHost1)
		host2[side].ordered(register, 0, keyOfHost2)
	}
	host1[1].ordered(reserve, keyOfHost1, 0)
	return host1, host2
}

// An order through the gateway in standby is enforced at the active one when it is
// answered.
func TestOrdersThroughTheGatewayInStandby(t *testing.T) {
	for name, action := range map[string]byte{"PREEMPT": preempt, "PREEMPT AND ABORT": preemptAndAbort} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			host1, host2 := p.hosts()
			stranger := p.path(0, initiatorName+"-stranger")
			stranger.fenced()
			before := pattern(blockSize, 1)
			host1[0].settled().wants(t, good, 0)
			host1[0].store(0, 0, before)

			host2[1].ordered(action, keyOfHost2, keyOfHost1)
			host1[0].fenced()
			host2[0].settled().wants(t, good, 0)
			if string(host2[0].load(0, 0, 1)) != string(before) {
				t.Error("what was fenced off has written")
			}
			host1[1].settled().wants(t, checkCondition, 0x040b)
			host2[0].store(0, 0, pattern(blockSize, 2))
		})
	}
}

// Many initiators give orders at both gateways at once, and each gets through.
// Multipath takes no path of another size into a device.
func TestBothGatewaysSayWhatSizeTheVolumeHas(t *testing.T) {
	p := newPair(t)
	active, standby := p.path(0, initiatorName), p.path(1, otherName)
	_, err := p.sides[0].gateway.ResizeVolume(t.Context(), volumeOf(0), 2*volumeSize)
	must(t, err)
	for _, i := range []*initiator{active, standby} {
		eventually(t, "the new size is known", func() bool {
			i.settled()
			r := i.do(command{cdb: []byte{0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, read: true, expected: 8})
			return r.status == good && binary.BigEndian.Uint32(r.data) == 2*volumeSize/blockSize-1
		})
	}
}

func TestOrdersAtBothGatewaysAtOnce(t *testing.T) {
	p := newPair(t)
	var paths []*initiator
	for n := range 4 {
		paths = append(paths, p.path(n%2, fmt.Sprint(initiatorName, "-", n)))
	}
	var all sync.WaitGroup
	for n, i := range paths {
		key := uint64(n + 1)
		all.Go(func() {
			for range 3 {
				i.insists(register, 0, key)
				i.insists(register, key, 0)
			}
			i.insists(register, 0, key)
		})
	}
	all.Wait()
	for side, i := range paths[:2] {
		keys := i.do(command{cdb: []byte{0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0}, read: true, expected: 256})
		if n := binary.BigEndian.Uint32(keys.data[4:]); n != 8*4 {
			t.Errorf("side %d tells %d bytes of keys", side, n)
		}
	}
}

// Nobody confirms: BUSY within the time that tools have, and the same order succeeds
// once somebody does.
func TestAnOrderWhileTheActiveGatewayIsSilent(t *testing.T) {
	p := newPair(t)
	host1, host2 := p.hosts()
	host2[1].settled()
	host1[0].settled()
	p.links[0].cut.Store(true)
	for range 2 {
		began := time.Now()
		host2[1].order(preemptAndAbort, keyOfHost2, keyOfHost1).wants(t, busy, 0)
		if took := time.Since(began); took > 1900*time.Millisecond {
			t.Errorf("busy after %v; mpathpersist has given up", took)
		}
	}
	host1[0].store(0, 0, pattern(blockSize, 1)) // nothing was promised yet
	p.links[0].cut.Store(false)
	host2[1].insists(preemptAndAbort, keyOfHost2, keyOfHost1)
	host1[0].fenced()
}

// The active gateway dies: the order is complete when the other one has the volume, and
// enforces it.
func TestAnOrderWhileTheActiveGatewayIsDead(t *testing.T) {
	p := newPair(t)
	host1, host2 := p.hosts()
	p.links[0].cut.Store(true)
	host2[1].settled()
	host2[1].order(preemptAndAbort, keyOfHost2, keyOfHost1).wants(t, busy, 0)
	p.ahead.Store(int64(2 * leaseTTL))
	host2[1].insists(preemptAndAbort, keyOfHost2, keyOfHost1)
	host2[1].settled().wants(t, good, 0)
	host1[1].fenced()
	host2[1].store(0, 0, pattern(blockSize, 2))
}

// The active gateway closes the volume while the other one waits for it.
func TestAnOrderWhileTheActiveGatewayStops(t *testing.T) {
	p := newPair(t)
	host1, host2 := p.hosts()
	host2[1].settled()
	p.links[0].cut.Store(true) // so that it says nothing more
	host2[1].order(preemptAndAbort, keyOfHost2, keyOfHost1).wants(t, busy, 0)
	p.sides[0].stop()
	host2[1].insists(preemptAndAbort, keyOfHost2, keyOfHost1)
	host1[1].fenced()
}

// A write that the order has to abort is with a volume that stalls: until it is over the
// order is BUSY, and others are enforced meanwhile.
func TestAnOrderWhileTheVolumeStalls(t *testing.T) {
	p := newPair(t)
	host1, host2 := p.hosts()
	host3 := p.path(0, initiatorName+"-3")
	host3.ordered(register, 0, 0xcccc)
	host1[0].settled()
	host2[1].settled()
	p.sides[0].chunks.close()
	data := pattern(blockSize, 1)
	host1[0].start(&command{cdb: write10(0, 1), write: true, expected: blockSize, data: data, attached: blockSize})
	p.sides[0].chunks.wait(t)
	host2[1].order(preemptAndAbort, keyOfHost2, keyOfHost1).wants(t, busy, 0)
	host2[1].order(preempt, keyOfHost2, 0xcccc).wants(t, busy, 0)
	host3.fenced()
	p.sides[0].chunks.open()
	host2[1].insists(preempt, keyOfHost2, 0xcccc)
}

// A gateway that has lost the volume, and does not know, promises nothing.
func TestAnOrderAtAGatewayThatLostTheVolume(t *testing.T) {
	p := newPair(t)
	i := p.path(0, initiatorName)
	i.store(0, 0, pattern(blockSize, 1))
	lease, err := p.meta.OpenVolume(t.Context(), volumeOf(0), "somebody else", backend.OpenTakeOver)
	must(t, err)
	i.order(register, 0, keyOfHost1).wants(t, busy, 0)
	if r := i.settled(); r.code() != 0x040b {
		t.Errorf("the gateway is not in standby: %v", r)
	}
	must(t, p.meta.CloseVolume(t.Context(), lease.Volume.ID, lease.Epoch))
	i.insists(register, 0, keyOfHost1)
	i.ready(0)
}

// Reservations go with the volume, and not before it is gone for good.
func TestReservationsOfRemovedVolumesAreForgotten(t *testing.T) {
	p := newPair(t)
	p.path(0, initiatorName).ordered(register, 0, keyOfHost1)
	used, err := p.meta.Volume(t.Context(), volumeOf(0))
	must(t, err)
	var ids []backend.VolumeID
	for _, name := range []string{"kept", "recycled", "purged"} {
		v, err := p.meta.CreateVolume(t.Context(), backend.VolumeSpec{Name: name, Size: volumeSize, Geometry: backend.DefaultGeometry()})
		must(t, err)
		ids = append(ids, v.ID)
		for _, kind := range []string{"iscsi-pr", "iscsi-pr-enforced"} {
			_, err = p.meta.PutRecord(t.Context(), fmt.Sprintf("%s/%d", kind, v.ID), []byte("{}"), 0)
			must(t, err)
		}
		if name == "kept" {
			continue
		}
		_, err = p.meta.RemoveVolume(t.Context(), name)
		must(t, err)
		if name == "purged" {
			_, err = p.meta.PurgeVolume(t.Context(), v.ID)
			must(t, err)
			must(t, p.meta.PurgeDone(t.Context(), v.ID))
		}
	}
	must(t, p.sides[1].server.DropForgotten(t.Context()))
	var left []string
	records, err := p.meta.Records(t.Context(), "iscsi-pr/")
	must(t, err)
	for _, r := range records {
		left = append(left, r.Key)
	}
	if want := fmt.Sprintf("iscsi-pr/%d iscsi-pr/%d iscsi-pr/%d", used.ID, ids[0], ids[1]); strings.Join(left, " ") != want {
		t.Errorf("records %v, want %s", left, want)
	}
	if records, err := p.meta.Records(t.Context(), "iscsi-pr-enforced/"); err != nil || len(records) < 2 || strings.HasSuffix(records[len(records)-1].Key, fmt.Sprint("/", ids[2])) {
		t.Errorf("records of what is enforced: %v, %v", records, err)
	}
}
