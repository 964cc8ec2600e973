package target_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/target"
)

// hangs is when a session that got all its input counts as hung.
const hangs = 10 * time.Second

// pairListener accepts the other ends of socket pairs.
type pairListener struct {
	conns  chan net.Conn
	closed chan struct{}
	inner  net.Listener
}

func (l *pairListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pairListener) Close() error {
	close(l.closed)
	return l.inner.Close()
}

func (l *pairListener) Addr() net.Addr { return l.inner.Addr() }

// dial returns our end of a new pair; the server gets the other.
func (l *pairListener) dial(t testing.TB) *net.UnixConn {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(file)
		file.Close()
		must(t, err)
	}
	l.conns <- conns[1]
	return conns[0].(*net.UnixConn)
}

// serveFuzz starts one server, with little memory, for all inputs of a fuzz target.
func serveFuzz(f *testing.F) (*portal, *pairListener) {
	l := &pairListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	fuzzing := flag.Lookup("test.fuzz").Value.String() != "" // the engine has goroutines of its own
	p := serve(f, setup{
		leaky:   fuzzing,
		luns:    []int{0, 1},
		gateway: gateway.Options{MaxBytes: 4 << 20},
		options: target.Options{LoginTimeout: hangs / 2, StallTimeout: hangs / 2},
		listen:  func(inner net.Listener) net.Listener { l.inner = inner; return l },
	})
	return p, l
}

// enter logs in over conn, with one of the agreements that sessions differ by.
func enter(t testing.TB, p *portal, conn net.Conn, kind uint8) *initiator {
	i := newInitiator(t, conn)
	i.isid[5] = kind
	keys := [][]string{
		usual,
		{"InitialR2T=Yes", "MaxRecvDataSegmentLength=512", "MaxBurstLength=512", "FirstBurstLength=512"},
		{"HeaderDigest=CRC32C", "DataDigest=CRC32C", "InitialR2T=No", "FirstBurstLength=1024", "MaxBurstLength=4096"},
		{"InitialR2T=No", "ImmediateData=No"},
	}[kind%4]
	identity := i.loginKeys()
	if kind&4 != 0 {
		identity = []string{"InitiatorName=" + i.name, "SessionType=Discovery", "AuthMethod=None"}
	}
	l, err := i.tryLogin(identity, keys...)
	must(t, err)
	if l.Status != iscsi.StatusSuccess {
		t.Fatalf("login refused: %v", l.Status)
	}
	if kind&4 == 0 {
		i.ready(0)
	}
	return i
}

// play sends all of b, then says that no more will come, and reads until the server
// hangs up, as it must.
func play(t testing.TB, i *initiator, b []byte) {
	conn := i.nc.(*net.UnixConn)
	must(t, conn.SetDeadline(time.Now().Add(hangs)))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		conn.Write(b) // fails where the server has hung up already
		conn.CloseWrite()
	}()
	_, err := io.Copy(io.Discard, i.r)
	<-sent
	conn.Close()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("server neither answers nor hangs up")
	}
}

// FuzzSession sends any bytes in place of requests.
func FuzzSession(f *testing.F) {
	p, l := serveFuzz(f)
	for kind := range uint8(8) {
		for op := range iscsi.Opcode(8) {
			b := iscsi.BHS{0: byte(op), 1: 0xe1, 7: 8, 19: 9, 22: 2, 27: 101, 32: 0x28}
			f.Add(kind, append(b[:], "payload!"...))
			b[0] |= 0x40
			f.Add(kind, b[:])
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		play(t, enter(t, p, l.dial(t), kind), b)
	})
}

// FuzzRequests makes whole PDUs of the input, with the digests and the serial numbers
// that they must have, so that they come further than any bytes would.
func FuzzRequests(f *testing.F) {
	p, l := serveFuzz(f)
	for kind := range uint8(8) {
		f.Add(kind, []byte{0x01, 0xa1, 0x2a, 0, 0, 8, 16, 1, 0x05, 0x80, 0, 0, 0, 8, 16, 1})
		f.Add(kind, []byte{0x41, 0xc1, 0x28, 0, 0, 32, 64, 2, 0x42, 0x81, 0, 0, 0, 0, 0, 2, 0x42, 0x85, 0, 0, 0, 0, 0, 3})
		f.Add(kind, []byte{0x01, 0x21, 0x8a, 0, 0, 8, 255, 4, 0x05, 0x00, 0, 0, 0, 4, 0, 4, 0x05, 0x80, 0, 0, 4, 4, 0, 4})
		f.Add(kind, []byte{0x00, 0x80, 0, 0, 0, 9, 0, 5, 0x04, 0x80, 0, 0, 0, 20, 0, 6, 0x06, 0x80, 0, 0, 0, 0, 0, 7})
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		i := enter(t, p, l.dial(t), kind)
		var out []byte
		for ; len(b) >= 8 && len(out) < 256*kib; b = b[8:] {
			out = append(out, i.pduOf(b)...)
		}
		play(t, i, out)
	})
}

// pduOf makes a PDU of 8 bytes: opcode, flags, first byte of the CDB or of what is
// there, upper and lower byte of the offset or block, length of the data in units of
// 64, expected length in units of 512, task tag.
func (i *initiator) pduOf(b []byte) []byte {
	h := iscsi.BHS{0: b[0] & 0x7f, 1: b[1], 9: b[7] >> 6, 19: b[7] & 15}
	data := pattern(int(b[5])*64, b[7])
	op := h.Opcode()
	if op == iscsi.OpTaskRequest || op == iscsi.OpLogoutRequest || op == iscsi.OpSnack {
		data = nil
	}
	if op == iscsi.OpTextRequest {
		data = text("SendTargets=", "MaxRecvDataSegmentLength=512", string(pattern(int(b[5]), 0)))
	}
	h[5], h[6], h[7] = 0, byte(len(data)>>8), byte(len(data))
	binary.BigEndian.PutUint32(h[28:], i.statSN)
	switch op {
	case iscsi.OpDataOut:
		binary.BigEndian.PutUint32(h[20:], uint32(int32(int8(b[2]))-1)) // the reserved tag, or one of the first
		h[39] = b[6]                                                    // DataSN
		h[42], h[43] = b[3], b[4]
		return i.frame(h, nil, data)
	case iscsi.OpScsiCommand:
		binary.BigEndian.PutUint32(h[20:], uint32(b[6])*512)
		h[32], h[36], h[37], h[40] = b[2], b[3], b[4], b[6]
	case iscsi.OpTaskRequest:
		h[23] = b[2] & 15
	default:
		binary.BigEndian.PutUint32(h[20:], uint32(int32(int8(b[2]))-1))
	}
	binary.BigEndian.PutUint32(h[24:], i.next(h.Immediate()))
	return i.frame(h, nil, data)
}
