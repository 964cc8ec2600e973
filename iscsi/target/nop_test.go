package target_test

import (
	"bytes"
	"testing"

	"github.com/opencurve/curve-nbd/iscsi"
)

// nop sends a ping and returns its tag.
func (i *initiator) nop(immediate bool, data []byte) uint32 {
	i.t.Helper()
	n := iscsi.NopOut{
		Immediate: immediate, DataLength: len(data), InitiatorTaskTag: i.tag(), TargetTransferTag: iscsi.ReservedTag,
		CmdSN: i.next(immediate), ExpStatSN: i.statSN,
	}
	var b iscsi.BHS
	n.Encode(&b)
	i.send(b, data)
	return n.InitiatorTaskTag
}

// wantNop receives the answer to a ping.
func (i *initiator) wantNop(tag uint32, data []byte) {
	i.t.Helper()
	a := i.want(iscsi.OpNopIn)
	var n iscsi.NopIn
	must(i.t, n.Decode(&a.BHS))
	if n.InitiatorTaskTag != tag || n.TargetTransferTag != iscsi.ReservedTag || !bytes.Equal(a.data, data) {
		i.t.Fatalf("answer %+v with %d bytes; want tag %d with %d bytes", n, len(a.data), tag, len(data))
	}
}

// sync sends a ping and takes all that comes up to its answer.
func (i *initiator) sync() {
	i.t.Helper()
	tag := i.nop(true, nil)
	for a := i.recv(); a.InitiatorTaskTag() != tag; {
		a = i.recv()
	}
}

// 11.18, 11.19.
func TestPingIsEchoed(t *testing.T) {
	p := serve(t, setup{})
	for _, c := range []struct {
		name      string
		immediate bool
		size      int
		keys      []string
		echo      int
	}{
		{"immediate, empty", true, 0, usual, 0},
		{"in order, empty", false, 0, usual, 0},
		{"immediate, odd length", true, 5, usual, 5},
		{"in order, a block", false, 512, usual, 512},
		{"longer than the read buffer", true, 100_001, usual, 100_001},
		{"the longest", false, 262144, usual, 262144},
		{"longer than the initiator receives", true, 5000, []string{"MaxRecvDataSegmentLength=512"}, 512},
		{"with digests, odd length", false, 20_003, append([]string{"HeaderDigest=CRC32C", "DataDigest=CRC32C"}, usual...), 20_003},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := p.login(t, c.keys...)
			data := pattern(c.size, 3)
			i.wantNop(i.nop(c.immediate, data), data[:c.echo])
			i.alive()
		})
	}
}
