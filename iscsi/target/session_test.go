package target_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// logout sends a request and returns its result.
func (i *initiator) logout(reason iscsi.LogoutReason, cid uint16) iscsi.LogoutResult {
	i.t.Helper()
	l := iscsi.LogoutRequest{Reason: reason, InitiatorTaskTag: i.tag(), CID: cid, CmdSN: i.next(false), ExpStatSN: i.statSN}
	var b iscsi.BHS
	l.Encode(&b)
	i.send(b, nil)
	a := i.want(iscsi.OpLogoutResponse)
	var r iscsi.LogoutResponse
	must(i.t, r.Decode(&a.BHS))
	return r.Result
}

// 11.14, 11.15.
func TestLogout(t *testing.T) {
	p := serve(t, setup{})
	for _, c := range []struct {
		name   string
		reason iscsi.LogoutReason
		cid    uint16
		want   iscsi.LogoutResult
	}{
		{"of the session", iscsi.LogoutSession, 0, iscsi.LogoutDone},
		{"of the connection", iscsi.LogoutConnection, 3, iscsi.LogoutDone},
		{"of another connection", iscsi.LogoutConnection, 4, iscsi.LogoutCIDNotFound},
		{"for recovery", iscsi.LogoutRecovery, 3, iscsi.LogoutRecoveryNotSupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := p.dial(t)
			i.cid = 3
			i.login()
			if got := i.logout(c.reason, c.cid); got != c.want {
				t.Fatalf("result %d, want %d", got, c.want)
			}
			if c.want != iscsi.LogoutDone {
				i.alive()
				return
			}
			i.wantClosed()
			if n := len(p.server.Sessions("")); n != 0 {
				t.Errorf("%d sessions afterwards", n)
			}
		})
	}
}

// connectionKeys are what may be offered for a connection that opens no session.
var connectionKeys = []string{"MaxRecvDataSegmentLength=262144"}

// 6.3.5: a session that takes the place of another begins at once, but on a unit where a
// command of the old one is in execution its own wait for that. The other units, and what
// only looks, do not wait.
func TestReinstatementKeepsTheOrder(t *testing.T) {
	for _, how := range []string{"session", "connection"} {
		t.Run(how, func(t *testing.T) {
			p := serve(t, setup{luns: []int{0, 1}})
			old := p.login(t)
			old.store(0, 0, pattern(4096, 1))
			v, err := p.gateway.Volume(t.Context(), volumeOf(0))
			must(t, err)
			p.chunks.closeFor(v.ID)
			w := command{cdb: write10(0, 8), write: true, expected: 4096, data: pattern(4096, 2), attached: 4096}
			old.start(&w)
			p.chunks.wait(t)

			i := p.dial(t)
			keys := usual
			if how == "connection" {
				i.tsih = old.tsih
				keys = connectionKeys
			}
			l, err := i.tryLogin(i.loginKeys(), keys...)
			must(t, err)
			if l.Status != iscsi.StatusSuccess {
				t.Fatalf("status %v", l.Status)
			}
			old.wantClosed()
			if how == "connection" && i.tsih != old.tsih {
				t.Errorf("session %d, want %d", i.tsih, old.tsih)
			}
			i.ready(0)
			i.ready(1)
			i.store(1, 0, pattern(4096, 7))
			if !bytes.Equal(i.load(1, 0, 8), pattern(4096, 7)) {
				t.Error("the other unit has lost a write")
			}
			// What the session agreed on holds for its new connection too.
			next := command{cdb: write10(0, 128), write: true, expected: 65536, data: pattern(65536, 3), attached: 4096, unsolicited: 61440}
			i.start(&next)
			read := command{cdb: read10(0, 8), read: true, expected: 4096}
			i.start(&read)
			i.quiet()
			if got := i.abort(read.tag, i.cmdSN-1); got != iscsi.TaskComplete {
				t.Errorf("ABORT TASK of a command that waits: %d", got)
			}
			p.chunks.open()
			i.finish(&next).wants(t, good, 0)
			if !bytes.Equal(i.load(0, 0, 128), pattern(65536, 3)) {
				t.Error("something of the old session has come late")
			}
			if n := len(p.server.Sessions("")); n != 1 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

// An initiator that comes back again and again while its volume stalls leaves nothing
// behind but the first of its commands.
func TestReinstatementAgainAndAgain(t *testing.T) {
	p := serve(t, setup{})
	p.login(t).stalledRead(p, 0)
	for range 5 {
		i := p.login(t)
		i.start(&command{cdb: read10(0, 8), read: true, expected: 4096})
		i.quiet()
	}
	last := p.login(t)
	read := command{cdb: read10(0, 8), read: true, expected: 4096}
	last.start(&read)
	last.quiet()
	p.chunks.mu.Lock()
	if n := len(p.chunks.held); n != 1 {
		t.Errorf("%d commands have come to the backend", n)
	}
	p.chunks.mu.Unlock()
	p.chunks.open()
	last.finish(&read).wants(t, good, 0)
}

func TestSessionsOfOtherNamesAndISIDsStay(t *testing.T) {
	p := serve(t, setup{})
	i, other := p.login(t), p.loginAs(t, otherName)
	third := p.dial(t)
	third.isid[5]++
	third.login()
	i.alive()
	other.alive()
	third.alive()
	if n := len(p.server.Sessions(targetName)); n != 3 {
		t.Errorf("%d sessions", n)
	}
}

// 11.13.5.
func TestRefusedLogins(t *testing.T) {
	p := serve(t, setup{})
	alive := p.login(t)
	must(t, errOf(p.registry.Create(t.Context(), "iqn.2026-11.io.curve:closed", "")))
	chap := "iqn.2026-11.io.curve:chap"
	must(t, errOf(p.registry.Create(t.Context(), chap, "")))
	must(t, errOf(p.registry.Allow(t.Context(), chap, registry.AnyInitiator, nil)))
	secret := iscsi.NewSecret("open-sesame-1234")
	must(t, errOf(p.registry.SetUser(t.Context(), chap, registry.Credential{Name: "u", Secret: secret})))
	for _, c := range []struct {
		name   string
		target string
		change func(*initiator)
		want   iscsi.LoginStatus
	}{
		{"no such target", "iqn.2026-11.io.curve:nobody", nil, iscsi.StatusNotFound},
		{"not allowed", "iqn.2026-11.io.curve:closed", nil, iscsi.StatusNotAuthorized},
		{"no proof", chap, nil, iscsi.StatusAuthFailed},
		{"a session that there is not", targetName, func(i *initiator) { i.tsih = 0x7777 }, iscsi.StatusNoSession},
		{"another's session", targetName, func(i *initiator) { i.tsih, i.name = alive.tsih, otherName }, iscsi.StatusNoSession},
		{"a session of another ISID", targetName, func(i *initiator) { i.tsih, i.isid = alive.tsih, iscsi.ISID{1} }, iscsi.StatusNoSession},
		{"a second connection", targetName, func(i *initiator) { i.tsih, i.cid = alive.tsih, 9 }, iscsi.StatusTooManyConnections},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := p.dial(t)
			if c.change != nil {
				c.change(i)
			}
			l, err := i.tryLogin([]string{"InitiatorName=" + i.name, "TargetName=" + c.target, "SessionType=Normal", "AuthMethod=None"}, connectionKeys...)
			must(t, err)
			if l.Status != c.want {
				t.Errorf("status %v, want %v", l.Status, c.want)
			}
			i.wantClosed()
			alive.t = t
			alive.alive()
		})
	}
	alive.t = t
}

func errOf[T any](_ T, err error) error { return err }

func TestTargetChangesWhileLoggedIn(t *testing.T) {
	t.Run("unit added and removed", func(t *testing.T) {
		p := serve(t, setup{luns: []int{0, 300}})
		i := p.login(t)
		i.ready(300)
		i.do(command{cdb: testUnitReady(), lun: 1}).wants(t, checkCondition, lunNotSupported)
		i.do(command{cdb: testUnitReady(), lun: 301}).wants(t, checkCondition, lunNotSupported)
		p.addUnit(t, 1)
		i.wantLUNsChanged()
		i.ready(1)
		i.store(1, 0, pattern(4096, 4))
		must(t, errOf(p.registry.RemoveUnit(t.Context(), targetName, "1", true)))
		i.wantLUNsChanged()
		i.do(command{cdb: testUnitReady(), lun: 1}).wants(t, checkCondition, lunNotSupported)
		i.ready(300)
	})
	for _, c := range []struct {
		name   string
		change func(context.Context, *registry.Registry) error
	}{
		{"access removed", func(ctx context.Context, r *registry.Registry) error {
			return errOf(r.Disallow(ctx, targetName, registry.AnyInitiator))
		}},
		{"target removed", func(ctx context.Context, r *registry.Registry) error { return r.Remove(ctx, targetName, true) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := serve(t, setup{})
			i := p.login(t)
			discovery := p.dial(t)
			discovery.discover()
			c.change(t.Context(), p.registry)
			i.wantClosed()
			if got, _ := discovery.ask("SendTargets=All"); got != nil {
				t.Errorf("discovery still shows %q", got)
			}
		})
	}
}

// A unit that is taken away under its commands leaves none of them without an answer.
func TestCommandsOfARemovedUnitAreAnswered(t *testing.T) {
	p := serve(t, setup{gateway: smallGateway, luns: []int{0, 1}})
	i := p.login(t)
	i.ready(1)
	asked := command{cdb: write10(0, 16), write: true, expected: 8192, data: pattern(8192, 9), lun: 1}
	i.start(&asked)
	r := i.wantR2T(&asked)
	asked.asked = 1
	announced := command{cdb: write10(0, 16), write: true, expected: 8192, data: pattern(8192, 9), lun: 1, unsolicited: 8192}
	i.send(i.header(&announced), nil)
	reads := []*command{i.stalledRead(p, 1)}
	for range 20 { // more than there is room for
		c := &command{cdb: read10(0, 2048), read: true, expected: mib, lun: 1}
		i.start(c)
		reads = append(reads, c)
	}
	i.quiet()
	must(t, errOf(p.registry.RemoveUnit(t.Context(), targetName, "1", true)))
	i.want(iscsi.OpAsyncMessage)
	i.raw(i.dataOut(&asked, r.TargetTransferTag, 0, 8192, 4096))
	i.finish(&asked).wants(t, checkCondition, lunNotSupported)
	i.raw(i.dataOut(&announced, iscsi.ReservedTag, 0, 8192, 4096))
	i.finish(&announced).wants(t, checkCondition, lunNotSupported)
	p.chunks.open()
	ends := make(map[uint32]result)
	for len(ends) < len(reads) {
		a := i.want(iscsi.OpScsiResponse)
		var r result
		i.take(new(command), &r, a)
		r.wants(t, checkCondition, lunNotSupported)
		ends[a.InitiatorTaskTag()] = r
	}
	for _, c := range reads {
		if _, ended := ends[c.tag]; !ended {
			t.Errorf("no answer for tag %d", c.tag)
		}
	}
	i.ready(0)
	if got := i.maxCmdSN - i.cmdSN + 1; got != 128 {
		t.Errorf("window of %d commands afterwards", got)
	}
}

// wantLUNsChanged receives the message that the units are others, and takes the unit
// attentions of unit 0.
func (i *initiator) wantLUNsChanged() {
	i.t.Helper()
	i.want(iscsi.OpAsyncMessage)
	i.do(command{cdb: testUnitReady()}).wants(i.t, checkCondition, lunsChanged)
	i.ready(0)
}

// Changes in quick succession, while initiators come and go: what stays is the last.
func TestTargetChangesAndLoginsAtOnce(t *testing.T) {
	p := serve(t, setup{})
	p.addUnit(t, 1)
	i := p.login(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			p.registry.RemoveUnit(context.Background(), targetName, "1", true)
			p.registry.AddUnit(context.Background(), targetName, registry.Unit{Number: 1, Volume: volumeOf(1)})
			p.server.Sessions("")
		}
	}()
	for n := range 20 {
		other := p.dial(t)
		other.isid[5] = byte(100 + n)
		if l, err := other.tryLogin(other.loginKeys()); err != nil || l.Status != iscsi.StatusSuccess {
			t.Errorf("login: %v %v", l.Status, err)
		}
		other.close()
	}
	<-done
	last := p.dial(t)
	last.isid[4]++
	last.login()
	last.ready(1)
	// i has not read meanwhile: its messages come first.
	eventually(t, "the unit is seen again", func() bool {
		c := command{cdb: testUnitReady(), lun: 1}
		i.start(&c)
		for {
			a := i.recv()
			if a.Opcode() == iscsi.OpAsyncMessage {
				continue
			}
			return a.BHS[3] == good
		}
	})
}

func TestDrain(t *testing.T) {
	t.Run("commands that were read are carried out", func(t *testing.T) {
		p := serve(t, setup{})
		i := p.login(t)
		c := i.stalledRead(p, 0)
		drained := make(chan error, 1)
		go func() { drained <- p.server.Drain(t.Context()) }()
		a := i.want(iscsi.OpAsyncMessage)
		if a.BHS[36] != byte(iscsi.AsyncLogoutRequested) {
			t.Fatalf("message %x", a.BHS)
		}
		time.Sleep(600 * time.Millisecond) // longer than initiators may take to log out
		p.chunks.open()
		i.finish(c).wants(t, good, 0)
		must(t, <-drained)
		i.wantClosed()
	})
	t.Run("initiators that log out are let go at once", func(t *testing.T) {
		p := serve(t, setup{})
		i := p.login(t)
		drained := make(chan error, 1)
		go func() { drained <- p.server.Drain(t.Context()) }()
		i.want(iscsi.OpAsyncMessage)
		if got := i.logout(iscsi.LogoutSession, 0); got != iscsi.LogoutDone {
			t.Fatalf("logout says %d", got)
		}
		must(t, <-drained)
	})
	t.Run("what takes too long is cut", func(t *testing.T) {
		p := serve(t, setup{})
		i := p.login(t)
		i.stalledRead(p, 0)
		half := p.dial(t)
		half.raw(make([]byte, 20))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := p.server.Drain(ctx); err == nil {
			t.Error("no error though a command is in execution")
		}
		i.wantClosed()
		half.wantClosed()
	})
}
