package target_test

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
	"github.com/opencurve/curve-nbd/iscsi/target"
)

// What has crashed or wedged another target: a PDU each, after which this one goes on.
func TestPDUsThatBroughtAnotherTargetDown(t *testing.T) {
	p := serve(t, setup{})
	other := p.loginAs(t, otherName)
	orWrite := append([]byte{0x8b}, make([]byte, 15)...)
	orWrite[13] = 1
	unmap := []byte{0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}
	for _, c := range []struct {
		name string
		c    command
	}{
		{"ORWRITE(16)", command{cdb: orWrite, write: true, expected: 512, data: pattern(512, 1), attached: 512}},
		{"ORWRITE(16) without data", command{cdb: orWrite}},
		{"UNMAP without data", command{cdb: unmap}},
		{"UNMAP without data, but W", command{cdb: unmap, write: true}},
		{"PERSISTENT RESERVE OUT without data", command{cdb: []byte{0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0}}},
		{"MODE SENSE(6) with a short buffer", command{cdb: []byte{0x1a, 0, 0x3f, 0, 2, 0}, read: true, expected: 2}},
		{"MODE SENSE(6) with no buffer", command{cdb: []byte{0x1a, 0, 0x3f, 0, 255, 0}}},
		{"MODE SENSE(10) with a short buffer", command{cdb: []byte{0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 5, 0}, read: true, expected: 1}},
		{"READ CAPACITY(10) with W", command{cdb: append([]byte{0x25}, make([]byte, 9)...), write: true, expected: 8, data: pattern(8, 1), attached: 8}},
		{"READ CAPACITY(16) with W", command{cdb: []byte{0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, write: true, expected: 32, data: pattern(32, 1), attached: 32}},
		{"INQUIRY with W", command{cdb: inquiry(96), write: true, expected: 96, data: pattern(96, 1), attached: 96}},
		{"REQUEST SENSE with W", command{cdb: []byte{3, 0, 0, 0, 18, 0}, write: true, expected: 18, data: pattern(18, 1), attached: 18}},
		{"PREVENT ALLOW MEDIUM REMOVAL", command{cdb: []byte{0x1e, 0, 0, 0, 1, 0}}},
		{"TEST UNIT READY of 4 GiB", command{cdb: testUnitReady(), read: true, expected: 1<<32 - 1}},
		{"WRITE of 4 GiB", command{cdb: write10(0, 1), write: true, expected: 1<<32 - 512, data: pattern(4096, 1), attached: 4096}},
		{"an opcode that there is not", command{cdb: []byte{0xff, 0, 0, 0, 0, 0}}},
		{"a bidirectional command", command{cdb: read10(0, 1), read: true, write: true, expected: 512, data: pattern(512, 1), attached: 512,
			ahs: (&iscsi.CommandAHS{HasBidi: true, BidiReadLength: 1 << 31}).Append(nil)}},
		{"an extended CDB", command{cdb: append([]byte{0x7f}, make([]byte, 15)...), ahs: (&iscsi.CommandAHS{ExtendedCDB: pattern(244, 1)}).Append(nil)}},
		{"both", command{cdb: read10(0, 1), read: true, expected: 512, ahs: (&iscsi.CommandAHS{ExtendedCDB: pattern(13, 1), HasBidi: true}).Append(nil)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := heap()
			i := p.login(t)
			for range 20 {
				again := c.c
				i.do(again)
			}
			if grown := heap() - before; grown > 64<<20 {
				t.Errorf("%d MiB more memory", grown>>20)
			}
			i.ready(0)
			i.close()
			other.t = t
			other.alive()
		})
	}
	other.t = t
	t.Run("Data-Out longer than expected", func(t *testing.T) {
		i := p.login(t)
		w := command{cdb: write10(0, 1), write: true, expected: 512}
		i.start(&w)
		r := i.wantR2T(&w)
		i.out(&w, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: 65536, Final: true})
		i.finish(&w).wants(t, checkCondition, incorrectDataAmount)
		i.alive()
	})
}

// Any header with a place in the window, seeded: the session goes on, or ends; never
// anybody else's.
func TestRandomHeadersAfterLogin(t *testing.T) {
	p := serve(t, setup{luns: []int{0, 1}})
	other := p.loginAs(t, otherName)
	for seed := range uint64(150) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		i := p.login(t)
		var out []byte
		for range 60 {
			var b iscsi.BHS
			for n := range b {
				b[n] = byte(rnd.Uint32())
			}
			b[0] = byte(rnd.IntN(7)) | byte(rnd.IntN(4)/3)<<6
			b[4], b[5], b[6], b[7] = 0, 0, byte(rnd.IntN(2)), byte(rnd.Uint32())&^3
			if op := b.Opcode(); op == iscsi.OpTaskRequest || op == iscsi.OpLogoutRequest {
				b[6], b[7] = 0, 0
			}
			copy(b[8:16], make([]byte, 8))
			b[9], b[16], b[17], b[18] = byte(rnd.IntN(3)), 0, 0, 0
			b[20], b[21] = 0, byte(rnd.IntN(2))
			binary.BigEndian.PutUint32(b[24:], i.next(b.Immediate() || b.Opcode() == iscsi.OpDataOut))
			b[36] = 0
			out = append(append(out, b[:]...), make([]byte, b.DataLength())...)
		}
		go func() {
			_, _ = i.nc.Write(out)
			_ = i.nc.(*net.TCPConn).CloseWrite()
		}()
		i.wantGone()
		i.close()
	}
	other.sync() // it may have been told of a reset by one of them
}

// 6.3: who sends something else in the middle of a login is told before the connection ends.
func TestOtherPDUsDuringLogin(t *testing.T) {
	p := serve(t, setup{})
	i := p.dial(t)
	i.agreed = make(map[string]string)
	if l, err := i.loginStep(i.loginRequest(iscsi.StageSecurity, iscsi.StageOperational), text(i.loginKeys()...)); err != nil || l.Status != iscsi.StatusSuccess {
		t.Fatal(l.Status, err)
	}
	n := iscsi.NopOut{Immediate: true, InitiatorTaskTag: 5, TargetTransferTag: iscsi.ReservedTag, CmdSN: i.cmdSN}
	var b iscsi.BHS
	n.Encode(&b)
	i.send(b, nil)
	a, err := i.read()
	must(t, err)
	var l iscsi.LoginResponse
	must(t, l.Decode(&a.BHS))
	if l.Status != iscsi.StatusInvalidDuringLogin || l.InitiatorTaskTag != 7 || l.StatSN != i.statSN {
		t.Errorf("answered %+v", l)
	}
	i.wantClosed()
}

func TestBytesBeforeLogin(t *testing.T) {
	p := serve(t, setup{})
	login := func(change func(*iscsi.BHS)) []byte {
		i := &initiator{}
		l := i.loginRequest(iscsi.StageSecurity, iscsi.StageOperational)
		var b iscsi.BHS
		l.Encode(&b)
		change(&b)
		return b[:]
	}
	for _, c := range []struct {
		name string
		b    []byte
	}{
		{"another protocol", []byte("GET / HTTP/1.1\r\nHost: localhost:3260\r\nUser-Agent: somebody\r\n\r\n")},
		{"a text request", append([]byte{4, 0x80}, make([]byte, 46)...)},
		{"a command", append([]byte{1, 0x80}, make([]byte, 46)...)},
		{"16 MiB announced", login(func(b *iscsi.BHS) { b[5], b[6], b[7] = 255, 255, 255 })},
		{"an AHS", login(func(b *iscsi.BHS) { b[4] = 255 })},
		{"a stage that there is not", append(login(func(b *iscsi.BHS) { b[1] = 0x88 | 2 }), text("x=y")...)},
		{"text without end", append(login(func(b *iscsi.BHS) { b[1], b[7] = 0x87, 100 }), pattern(100, 255)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := p.dial(t)
			i.raw(c.b)
			i.wantGone()
		})
	}
	p.login(t).alive()
}

// Half-open logins, each with a part of as much as a login may announce.
func TestHalfOpenLoginsAreDropped(t *testing.T) {
	const count = 1000
	p := serve(t, setup{options: target.Options{LoginTimeout: time.Second, MaxConnections: count + 10}})
	before := heap()
	i := &initiator{}
	l := i.loginRequest(iscsi.StageSecurity, iscsi.StageOperational)
	l.DataLength = 8192
	var b iscsi.BHS
	l.Encode(&b)
	part := append(b[:], make([]byte, 4000)...)
	conns := make([]net.Conn, 0, count)
	for range count {
		nc, err := net.Dial("tcp", p.address)
		must(t, err)
		defer nc.Close()
		if _, err := nc.Write(part); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, nc)
	}
	if grown := heap() - before; grown > 200<<20 {
		t.Errorf("%d MiB of memory for %d half-open logins", grown>>20, count)
	}
	p.login(t).alive() // there is room beside them
	for _, nc := range conns {
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := nc.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Fatalf("half-open login ends with %v", err)
		}
	}
}

func TestTooManyConnections(t *testing.T) {
	p := serve(t, setup{options: target.Options{MaxConnections: 3}})
	a, b := p.login(t), p.loginAs(t, otherName)
	half := p.dial(t)
	half.raw(make([]byte, 10))
	eventually(t, "the fourth is closed", func() bool {
		nc, err := net.Dial("tcp", p.address)
		must(t, err)
		defer nc.Close()
		_ = nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err = nc.Read(make([]byte, 1))
		return err == io.EOF
	})
	a.alive()
	b.alive()
}

// logins is how many TestManyLogins does; CURVE_LONG=1 asks for 100 000.
func logins() int {
	if os.Getenv("CURVE_LONG") != "" {
		return 100_000
	}
	return 2000
}

// Logins leave nothing behind, and the last are as fast as the first.
func TestManyLogins(t *testing.T) {
	p := serve(t, setup{})
	once := func(n int) {
		nc, err := net.Dial("tcp", p.address)
		must(t, err)
		defer nc.Close()
		i := &initiator{t: t, nc: nc, r: newInitiatorReader(nc), name: initiatorName, isid: iscsi.ISID{5: byte(n), 4: byte(n >> 8), 3: byte(n >> 16)}, cmdSN: 1}
		switch n % 4 {
		case 0:
			i.discover()
			i.ask("SendTargets=All")
		case 1:
			l, err := i.tryLogin([]string{"InitiatorName=" + i.name, "TargetName=iqn.2026-11.io.curve:nobody", "SessionType=Normal", "AuthMethod=None"})
			must(t, err)
			if l.Status != iscsi.StatusNotFound {
				t.Fatal(l.Status)
			}
			return
		case 2:
			i.login()
			return // without a word
		default:
			i.login()
		}
		if got := i.logout(iscsi.LogoutSession, 0); got != iscsi.LogoutDone {
			t.Fatalf("logout says %d", got)
		}
	}
	fds := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	settled := func() bool { return len(p.server.Sessions("")) == 0 }
	for n := range 100 {
		once(n)
	}
	eventually(t, "the sessions are over", settled)
	all, part := logins(), logins()/20
	var first, last time.Duration
	goroutines, files, memory := runtime.NumGoroutine(), fds(), heap()
	for n := range all {
		began := time.Now()
		once(n)
		if took := time.Since(began); n < part {
			first += took
		} else if n >= all-part {
			last += took
		}
	}
	eventually(t, "the sessions are over", settled)
	eventually(t, "goroutines and files are gone", func() bool { return runtime.NumGoroutine() <= goroutines+2 && fds() <= files+2 })
	grown := heap() - memory
	t.Logf("%d logins, %v each at first, %v at last, %d KiB of memory more", all, first/time.Duration(part), last/time.Duration(part), grown>>10)
	if grown > 8<<20 {
		t.Errorf("%d KiB of memory more", grown>>10)
	}
	if last > 5*first {
		t.Errorf("the last %d logins took %v, the first %v", part, last, first)
	}
}

// Logins, discovery and changes of the configuration while another session does IO.
func TestLoginsDuringIO(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			other := p.dial(t)
			other.name = otherName
			other.isid[5] = byte(n)
			if n%3 == 0 {
				other.discover()
				other.ask("SendTargets=All")
			} else if l, err := other.tryLogin(other.loginKeys()); err != nil || l.Status != iscsi.StatusSuccess {
				t.Errorf("login: %v %v", l.Status, err)
			}
			other.close()
			_, _ = p.registry.Allow(t.Context(), targetName, registry.AnyInitiator, nil)
		}
	}()
	for n := range 300 {
		i.store(0, n, pattern(4096, byte(n)))
		i.load(0, n, 8)
	}
	close(stop)
	<-done
}
