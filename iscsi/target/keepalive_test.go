package target_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/target"
)

// pong answers a ping of the target.
func (i *initiator) pong(a answer) {
	i.t.Helper()
	var n iscsi.NopIn
	must(i.t, n.Decode(&a.BHS))
	if n.InitiatorTaskTag != iscsi.ReservedTag || n.TargetTransferTag == iscsi.ReservedTag {
		i.t.Fatalf("ping %+v", n)
	}
	o := iscsi.NopOut{Immediate: true, InitiatorTaskTag: iscsi.ReservedTag, TargetTransferTag: n.TargetTransferTag, CmdSN: i.cmdSN, ExpStatSN: i.statSN}
	var b iscsi.BHS
	o.Encode(&b)
	i.send(b, nil)
}

// silence is longer than a login takes on a busy machine: no ping comes in the middle of it.
const silence = 200 * time.Millisecond

// 11.19: an initiator that answers pings stays, however idle it is.
func TestIdleInitiatorThatAnswersStays(t *testing.T) {
	p := serve(t, setup{options: target.Options{KeepAlive: silence}})
	i := p.login(t)
	for range 20 { // each is one time of silence; 5 are too many without an answer
		i.pong(i.want(iscsi.OpNopIn))
	}
	i.alive()
}

func TestSilentInitiatorIsCutOff(t *testing.T) {
	p := serve(t, setup{options: target.Options{KeepAlive: silence}})
	i := p.login(t)
	i.want(iscsi.OpNopIn)
	i.wantClosed()
	eventually(t, "its session is gone", func() bool { return len(p.server.Sessions("")) == 0 })
}

func TestIdleDiscoveryIsCutOff(t *testing.T) {
	p := serve(t, setup{options: target.Options{KeepAlive: 20 * time.Millisecond}})
	i := p.dial(t)
	i.discover()
	i.wantClosed()
}

// An initiator that sends all the time answers pings too, and its PDUs say that it is
// there.
func TestBusyInitiatorIsNotTakenForSilent(t *testing.T) {
	const keepAlive = 20 * time.Millisecond
	p := serve(t, setup{options: target.Options{KeepAlive: keepAlive}})
	i := p.login(t)
	n := iscsi.NopOut{Immediate: true, DataLength: 512, InitiatorTaskTag: 5, TargetTransferTag: iscsi.ReservedTag, CmdSN: i.cmdSN}
	var b iscsi.BHS
	n.Encode(&b)
	var many []byte
	for range 32 {
		many = append(many, i.frame(b, nil, make([]byte, 512))...)
	}
	var received atomic.Int64
	go func() {
		for {
			n, err := io.CopyN(io.Discard, i.r, 4096)
			received.Add(n)
			if err != nil {
				return
			}
		}
	}()
	for end := time.Now().Add(40 * keepAlive); time.Now().Before(end); {
		i.raw(many)
	}
	if received.Load() == 0 {
		t.Error("nothing was answered")
	}
}

// An initiator that stops in the middle of something is cut off; so is one that does not
// take its answers.
func TestStalledInitiators(t *testing.T) {
	long := pattern(65536, 1)
	for _, c := range []struct {
		name  string
		stall func(i *initiator)
	}{
		{"in a header", func(i *initiator) { i.raw(make([]byte, 20)) }},
		{"in short data", func(i *initiator) {
			c := command{cdb: write10(0, 8), write: true, expected: 4096, data: long, attached: 4096}
			i.raw(i.frames(&c)[:1000])
		}},
		{"in long data", func(i *initiator) {
			c := command{cdb: write10(0, 128), write: true, expected: 65536, data: long, attached: 65536}
			i.raw(i.frames(&c)[:30_000])
		}},
		{"in data that is dropped", func(i *initiator) {
			b := i.frame(iscsi.BHS{0: 0x1d, 5: 1}, nil, long)
			i.raw(b[:30_000])
		}},
		{"before the data that it announced", func(i *initiator) {
			c := command{cdb: write10(0, 8), write: true, expected: 4096, unsolicited: 4096}
			i.send(i.header(&c), nil)
		}},
		{"before the data that it is asked for", func(i *initiator) {
			c := command{cdb: write10(0, 8), write: true, expected: 4096}
			i.start(&c)
			i.wantR2T(&c)
		}},
		{"with answers that it does not take", func(i *initiator) {
			// Less than the window in all, but far more than sockets hold.
			for range 100 {
				c := command{cdb: read10(0, 2048), read: true, expected: mib}
				i.start(&c)
			}
			time.Sleep(400 * time.Millisecond) // what it is cut off for
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := serve(t, setup{options: target.Options{StallTimeout: 150 * time.Millisecond}})
			i := p.login(t)
			c.stall(i)
			i.wantGone()
			eventually(t, "its session is gone", func() bool { return len(p.server.Sessions("")) == 0 })
			p.login(t).alive()
		})
	}
}

// wantGone is wantClosed for a connection that may be reset.
func (i *initiator) wantGone() {
	i.t.Helper()
	_ = i.nc.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.Copy(io.Discard, i.r); errors.Is(err, os.ErrDeadlineExceeded) {
		i.t.Fatalf("server sent %d bytes and does not hang up", n)
	}
}

// discover logs in for discovery.
func (i *initiator) discover() {
	i.t.Helper()
	l, err := i.tryLogin([]string{"InitiatorName=" + i.name, "SessionType=Discovery", "AuthMethod=None"})
	must(i.t, err)
	if l.Status != iscsi.StatusSuccess {
		i.t.Fatalf("discovery refused: %v", l.Status)
	}
}

// An initiator that goes away in the middle of anything leaves nothing behind: serve
// looks for it.
func TestInitiatorThatDisappears(t *testing.T) {
	p := serve(t, setup{})
	whole := func() []byte {
		i := &initiator{cmdSN: 101, isid: iscsi.ISID{1}}
		return i.frames(&command{cdb: write10(0, 16), write: true, expected: 8192, data: pattern(8192, 1), attached: 2048, unsolicited: 6144, tag: 9})
	}()
	for n := 0; n < len(whole); n += 199 {
		i := p.login(t)
		copy(whole[24:28], []byte{0, 0, byte(i.cmdSN >> 8), byte(i.cmdSN)})
		i.raw(whole[:n])
		if n%2 == 0 {
			must(t, i.nc.(*net.TCPConn).SetLinger(0)) // by a reset
		}
		i.close()
	}
	eventually(t, "all sessions are gone", func() bool { return len(p.server.Sessions("")) == 0 })
}
