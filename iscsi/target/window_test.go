package target_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/iscsi"
)

// 4.2.2.1: what is outside of the window is dropped without a word.
func TestCommandWindow(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	window := i.maxCmdSN - i.cmdSN + 1
	if window < 32 {
		t.Fatalf("window of %d commands", window)
	}
	for _, c := range []struct {
		name  string
		cmdSN func() uint32
	}{
		{"just before", func() uint32 { return i.cmdSN - 1 }},
		{"long before", func() uint32 { return i.cmdSN - 1000 }},
		{"just behind", func() uint32 { return i.maxCmdSN + 1 }},
		{"far behind", func() uint32 { return i.maxCmdSN + 1000 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			i.t = t
			was, wrong := i.cmdSN, c.cmdSN()
			for _, dropped := range []command{
				{cdb: testUnitReady()},
				{cdb: write10(0, 8), write: true, expected: 4096, data: pattern(4096, 1), attached: 4096},
				{cdb: write10(0, 64), write: true, expected: 32768, data: pattern(32768, 1), attached: 32768},
			} {
				i.cmdSN = wrong
				i.start(&dropped)
			}
			i.cmdSN = was
			i.alive() // the first answer is that of the command in its place
		})
	}
	t.Run("a gap ends the connection", func(t *testing.T) {
		i.t = t
		i.cmdSN++
		c := command{cdb: testUnitReady()}
		i.start(&c)
		i.wantClosed()
	})
}

// A command holds its place in the window until it is answered; then the window goes on.
func TestWindowClosesAndOpens(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	i.store(0, 0, pattern(4096, 1))
	window := int(i.maxCmdSN - i.cmdSN + 1)
	p.chunks.close()
	tags := make(map[uint32]bool)
	for range window {
		c := command{cdb: read10(0, 8), read: true, expected: 4096}
		i.start(&c)
		tags[c.tag] = true
	}
	over := command{cdb: testUnitReady()}
	i.start(&over) // behind the window: dropped
	i.cmdSN--
	// Immediate requests have no place in it.
	i.wantNop(i.nop(true, []byte("there?")), []byte("there?"))
	if i.maxCmdSN != i.cmdSN-1 {
		t.Fatalf("MaxCmdSN %d with commands up to %d under way", i.maxCmdSN, i.cmdSN-1)
	}
	p.chunks.open()
	for range window {
		a := i.want(iscsi.OpDataIn)
		if tag := a.InitiatorTaskTag(); !tags[tag] || a.BHS[3] != good {
			t.Fatalf("answer %x", a.BHS)
		}
		delete(tags, a.InitiatorTaskTag())
	}
	i.alive()
	if got := int(i.maxCmdSN - i.cmdSN + 1); got != window {
		t.Fatalf("window of %d commands, it was %d", got, window)
	}
}

// recv checks the order of StatSN on each of the answers.
func TestPipelinedCommandsAreAllAnsweredInOrderOfStatSN(t *testing.T) {
	p := serve(t, setup{luns: []int{0, 1}})
	i := p.login(t)
	i.ready(1)
	var b []byte
	want := make(map[uint32]bool)
	for n := range 60 {
		for _, c := range []command{
			{cdb: testUnitReady()},
			{cdb: read10(n, 1), read: true, expected: 512, lun: n % 2},
			{cdb: []byte{0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0}}, // SYNCHRONIZE CACHE: not done at once
			{cdb: testUnitReady(), immediate: n%8 == 0},
		} {
			b = append(b, i.frames(&c)...)
			want[c.tag] = true
		}
		if n%20 < 19 {
			continue
		}
		i.raw(b)
		for b = b[:0]; len(want) > 0; {
			a := i.recv()
			if !want[a.InitiatorTaskTag()] || a.BHS[3] != good {
				t.Fatalf("answer %x", a.BHS)
			}
			delete(want, a.InitiatorTaskTag())
		}
	}
}

// Everything that counts starts again behind 2^32-1 (RFC 1982), in the middle of whatever
// is under way.
func TestSerialNumbersStartAgain(t *testing.T) {
	p := serve(t, setup{})
	at := func(t *testing.T, cmdSN, statSN uint32) *initiator {
		i := p.dial(t)
		i.cmdSN, i.statSN, i.itt = cmdSN, statSN, 0xffffff00
		i.login()
		return i
	}
	t.Run("one after the other", func(t *testing.T) {
		i := at(t, 0xfffffff0, 0xfffffffa)
		data := pattern(64*kib, 3)
		for n := range 32 {
			w := command{cdb: write10(n*128, 128), write: true, expected: len(data), data: data, attached: 4096, unsolicited: 4096}
			if r := i.do(w); r.status != good || len(r.r2ts) == 0 {
				t.Fatalf("%v, with %d R2T", r, len(r.r2ts))
			}
			if !bytes.Equal(i.load(0, n*128, 128), data) {
				t.Fatal("not what was written")
			}
		}
		if i.cmdSN > 1000 || i.statSN > 1000 {
			t.Fatalf("CmdSN %#x and StatSN %#x have not started again", i.cmdSN, i.statSN)
		}
	})
	t.Run("a full window across it", func(t *testing.T) {
		i := at(t, 0xffffffc0, 0xfffffff0)
		i.store(0, 0, pattern(4096, 1))
		p.chunks.close()
		all := make(map[uint32]*command)
		for range 128 {
			c := &command{cdb: read10(0, 8), read: true, expected: 4096}
			i.start(c)
			all[c.tag] = c
		}
		for _, wrong := range []uint32{i.cmdSN, i.cmdSN + 1000, i.cmdSN - 129, i.cmdSN - 1000} {
			was := i.cmdSN
			i.cmdSN = wrong
			i.start(&command{cdb: testUnitReady()}) // dropped
			i.cmdSN = was
		}
		i.quiet()
		p.chunks.open()
		for len(all) > 0 {
			a := i.want(iscsi.OpDataIn)
			if all[a.InitiatorTaskTag()] == nil || a.BHS[3] != good {
				t.Fatalf("answer %x", a.BHS)
			}
			delete(all, a.InitiatorTaskTag())
		}
		if i.cmdSN > 1000 || i.maxCmdSN != i.cmdSN+127 {
			t.Fatalf("next CmdSN %#x, window up to %#x", i.cmdSN, i.maxCmdSN)
		}
		i.alive()
	})
	t.Run("a gap that is plugged, and an abort", func(t *testing.T) {
		i := at(t, 0xfffffff0, 0xfffffff0)
		for i.cmdSN != 0xffffffff {
			i.alive()
		}
		c := command{cdb: testUnitReady()}
		b := i.header(&c)
		b[1] |= 7
		i.send(b, nil)
		i.wantReject(iscsi.RejectInvalidField, b)
		if got := i.abort(c.tag, i.cmdSN-1); got != iscsi.TaskComplete {
			t.Fatalf("abort says %d", got)
		}
		i.alive()
		if got := i.abort(c.tag, 0xffffffff); got != iscsi.TaskUnknown {
			t.Fatalf("abort of what is over says %d", got)
		}
	})
}

func TestImmediateCommandsTakeNoPlace(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	before := i.cmdSN
	for range 300 { // more than could be under way, if one were not given back
		i.do(command{cdb: testUnitReady(), immediate: true}).wants(t, good, 0)
		i.wantNop(i.nop(true, nil), nil)
	}
	if i.cmdSN != before {
		t.Fatal("the test counts wrongly")
	}
	i.alive()
}

// slowReturn is a listener of connections whose writes return long after the bytes are on
// their way, as those of a goroutine do that has lost its processor meanwhile.
type slowReturn struct{ net.Listener }

// Accept implements net.Listener.
func (l slowReturn) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	return slowReturnConn{nc}, err
}

type slowReturnConn struct{ net.Conn }

// Write implements net.Conn.
func (c slowReturnConn) Write(b []byte) (int, error) {
	defer time.Sleep(5 * time.Millisecond)
	return c.Conn.Write(b)
}

// A tag is free once its command is answered, for an initiator that is as quick as can be:
// Linux has no other when its queue is full.
func TestTagIsUsedAgainAtOnce(t *testing.T) {
	p := serve(t, setup{listen: func(l net.Listener) net.Listener { return slowReturn{l} }})
	i := p.login(t)
	for range 10 {
		c := i.stalledRead(p, 0)
		p.chunks.open()
		i.finish(c).wants(t, good, 0)
		i.do(command{cdb: testUnitReady(), tag: c.tag}).wants(t, good, 0)
		w := command{cdb: write10(0, 8), write: true, expected: 4096, data: pattern(4096, 1), tag: c.tag}
		i.do(w).wants(t, good, 0)
	}
}

// 11.2.1.8: a tag is of one task at a time.
func TestTagOfATaskUnderWayIsRejected(t *testing.T) {
	for _, c := range []struct {
		name   string
		second command
	}{
		{"a read", command{cdb: read10(0, 8), read: true, expected: 4096}},
		{"done at once", command{cdb: testUnitReady()}},
		{"a write", command{cdb: write10(8, 8), write: true, expected: 4096, data: pattern(4096, 1), attached: 4096}},
		{"a write with long data", command{cdb: write10(8, 64), write: true, expected: 32768, data: pattern(32768, 1), attached: 32768}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := serve(t, setup{})
			i := p.login(t)
			i.store(0, 0, pattern(4096, 1))
			p.chunks.close()
			first := command{cdb: read10(0, 8), read: true, expected: 4096}
			i.start(&first)
			p.chunks.wait(t)
			c.second.tag = first.tag
			b := i.header(&c.second)
			i.send(b, c.second.data)
			i.wantReject(iscsi.RejectTaskInProgress, b)
			// 7.3: its CmdSN was not received, and has to be plugged.
			i.cmdSN--
			p.chunks.open()
			i.finish(&first).wants(t, good, 0)
			i.alive()
		})
	}
}
