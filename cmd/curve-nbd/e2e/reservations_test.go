package e2e

import (
	"bytes"
	"syscall"
	"testing"
)

const (
	host2 = "iqn.1993-08.org.debian:01:host2"

	key1, key2 = 0x1111, 0x2222

	prRegister, prReserve, prClear, prPreemptAndAbort = 0, 1, 3, 5
)

// gatewayPair is two gateways of a cluster that serve one unit, of which the first has
// the volume.
type gatewayPair struct {
	t     *testing.T
	sides [2]*gateway
}

func serveTwice(t *testing.T) *gatewayPair {
	c := clusterUp(t)
	p := &gatewayPair{t: t}
	for n := range p.sides {
		p.sides[n] = c.serve("--iscsi-listen", "127.0.0.1:0", "--iscsi-portal-group", itoa(n+1), "--owner", "side "+itoa(n+1))
	}
	g := p.sides[0]
	g.must("volume", "create", "disk", "--size", "256M", "--block-size", "512")
	g.must("target", "create", vm1)
	g.must("lun", "add", vm1, "disk")
	g.must("acl", "add", vm1, "any")
	p.sides[1].must("lun", "list", vm1) // it knows of it now
	return p
}

// hosts are two with a path to each side and a key on each; the first of them has
// reserved the unit, and written.
func (p *gatewayPair) hosts(off int64, data []byte) (one, two [2]*initiator) {
	p.t.Helper()
	for n, side := range p.sides {
		one[n], two[n] = side.login(p.t, host1), side.login(p.t, host2)
	}
	for n := range p.sides {
		one[n].order(prRegister, 0, key1)
		two[n].order(prRegister, 0, key2)
	}
	one[1].order(prReserve, key1, 0)
	if r := one[0].do(write10(off), data, 0); r.status != scsiGood {
		p.t.Fatalf("write: status %#x, sense %x", r.status, r.sense)
	}
	return one, two
}

// TestFencingThroughTheOtherGateway: a host that was preempted through the gateway that
// has not got the volume does not write through the one that has.
func TestFencingThroughTheOtherGateway(t *testing.T) {
	t.Parallel()
	p := serveTwice(t)
	const off = 17 << 20
	before, after := bytes.Repeat([]byte{1}, 512), bytes.Repeat([]byte{2}, 512)
	one, two := p.hosts(off, before)
	two[1].order(prPreemptAndAbort, key2, key1)
	if r := one[0].do(write10(off), after, 0); r.status != scsiConflict {
		t.Errorf("a write of the fenced host: status %#x, sense %x", r.status, r.sense)
	}
	if r := two[0].do(read10(off), nil, 512); r.status != scsiGood || !bytes.Equal(r.data, before) {
		t.Errorf("status %#x, sense %x, data %.4x", r.status, r.sense, r.data)
	}
	two[0].order(prClear, key2, 0)
	if r := one[1].do([]byte{0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0}, nil, 64); r.status != scsiGood || len(r.data) != 8 {
		t.Errorf("after CLEAR there are keys: status %#x, %x", r.status, r.data)
	}
}

// TestFencingWhileTheGatewayIsStopped: the gateway with the volume stands still, with a
// write in its socket. Once the host was preempted through the other one, that write
// does not land any more, wherever it goes.
func TestFencingWhileTheGatewayIsStopped(t *testing.T) {
	t.Parallel()
	p := serveTwice(t)
	const off = 33 << 20
	before, after := bytes.Repeat([]byte{1}, 512), bytes.Repeat([]byte{2}, 512)
	one, two := p.hosts(off, before)
	p.sides[0].standStill()
	one[0].start(write10(off), after, 0)
	two[1].order(prPreemptAndAbort, key2, key1)
	p.sides[0].signal(syscall.SIGCONT)
	if r := one[0].finish(); r.status == scsiGood {
		t.Error("the fenced host has written")
	} else {
		t.Logf("the write ended with status %#x, sense %x", r.status, r.sense)
	}
	if r := two[1].do(read10(off), nil, 512); r.status != scsiGood || !bytes.Equal(r.data, before) {
		t.Errorf("status %#x, sense %x, data %.4x", r.status, r.sense, r.data)
	}
	if r := one[0].do(write10(off), after, 0); r.status == scsiGood {
		t.Error("the fenced host writes")
	}
}
