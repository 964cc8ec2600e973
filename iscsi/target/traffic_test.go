package target_test

import (
	"testing"

	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// Of two initiators of one unit an operator has to see which one does what.
func TestSessionsTellWhatTheirInitiatorsDo(t *testing.T) {
	p := serve(t, setup{})
	busy, idle := p.loginAs(t, initiatorName), p.loginAs(t, otherName)
	busy.ready(0)
	idle.ready(0)
	busy.store(0, 0, pattern(64*kib, 1))
	busy.load(0, 0, 8)
	busy.load(0, 8, 256)
	if r := busy.do(command{cdb: read10(volumeSize/blockSize, 1), read: true, expected: blockSize}); r.status != checkCondition {
		t.Fatalf("a read behind the end: %v", r)
	}

	session := func(initiator string) (found registry.SessionInfo) {
		for _, s := range p.server.Sessions(targetName) {
			if s.Initiator == initiator {
				found = s
			}
		}
		return found
	}
	got := session(initiatorName)
	if got.Target != targetName || got.Address != busy.nc.LocalAddr().String() || got.User != "" || got.Since.IsZero() {
		t.Errorf("who it is: %+v", got)
	}
	want := registry.Traffic{Reads: 2, ReadBytes: 264 * blockSize, Writes: 1, WriteBytes: 64 * kib}
	// A command is counted when its answer is out, which its initiator may see before.
	eventually(t, "all is counted", func() bool { return session(initiatorName).Traffic == want })
	if idle := session(otherName); idle.Traffic != (registry.Traffic{}) {
		t.Errorf("an initiator that did nothing: %+v", idle.Traffic)
	}
}
