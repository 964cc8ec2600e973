package nbd_test

import (
	"bytes"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/nbd"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// goOn serves a socket that was taken from another server.
func goOn(t *testing.T, tg *target, f *os.File) *nbd.Attachment {
	t.Helper()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	handle, err := tg.gateway.Open(t.Context(), testVolume)
	if err != nil {
		t.Fatal(err)
	}
	a, err := tg.server.Attach(conn, handle, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func attachment(t *testing.T, tg *target) (kernelEnd, *nbd.Attachment) {
	t.Helper()
	k, ours := newPair(t)
	handle, err := tg.gateway.Open(t.Context(), testVolume)
	if err != nil {
		t.Fatal(err)
	}
	a, err := tg.server.Attach(ours, handle, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k, a
}

// However much of a request has come when a connection is taken, none is lost and
// none is answered twice.
func TestTakenConnectionGoesOnUnderAnother(t *testing.T) {
	const length = 1 << 20 // larger than what is read at once
	data := bytes.Repeat([]byte{5}, length)
	for name, sent := range map[string]int{"nothing": 0, "half a header": 14, "a header": 28, "some payload": 28 + 4096, "all but a byte": 28 + length - 1} {
		t.Run(name, func(t *testing.T) {
			tg := serve(t, setup{})
			k, a := attachment(t, tg)
			k.send(wireRead, 1, 0, testBlock, nil) // it serves
			k.answer(1, testBlock)
			whole := k.request(wireWrite, 2, 0, length, data)
			k.write(whole[:sent])
			taken := make(chan *os.File, 1)
			go func() { taken <- a.Take() }()
			// The server may not have read any of it yet, and then the next one does.
			var f *os.File
			select {
			case f = <-taken:
				a = goOn(t, tg, f)
			case <-time.After(20 * time.Millisecond):
			}
			k.write(whole[sent:])
			k.answer(2, 0)
			if f == nil {
				a = goOn(t, tg, <-taken)
			}
			k.send(wireRead, 3, 0, length, nil)
			if got := k.answer(3, length); !bytes.Equal(got, data) {
				t.Error("what was written is not there")
			}
			k.send(wireDisconnect, 4, 0, 0, nil)
			<-a.Ended()
		})
	}
}

func TestBrokenConnectionCannotBeTaken(t *testing.T) {
	tg := serve(t, setup{})
	k, a := attachment(t, tg)
	k.nc.Close()
	<-a.Ended()
	if f := a.Take(); f != nil {
		t.Error("a broken connection was taken")
	}
}

// The kernel's own connection is no place to give up at: its device would go.
func TestD9UnknownCommandIsRefusedAndTheDeviceLives(t *testing.T) {
	tg := serve(t, setup{})
	k, ended := attachKernel(t, tg, nil)
	cookie := uint64(0)
	for _, command := range []uint16{7, 8, 9, 255, 0x7fff, 0xffff} {
		cookie++
		k.send(command, cookie, 0, testBlock, nil)
		if code := k.refusal(cookie); code != uint32(unix.EINVAL) {
			t.Errorf("command %d ends with error %d, want EINVAL", command, code)
		}
		cookie++
		k.send(wireRead, cookie, 0, testBlock, nil)
		k.answer(cookie, testBlock)
	}
	select {
	case <-ended:
		t.Error("the connection ended")
	default:
	}
	k.send(wireDisconnect, cookie+1, 0, 0, nil)
	<-ended
}

// A gateway that hands over has its other clients leave first.
func TestAttachedConnectionsOutliveClients(t *testing.T) {
	tg := serve(t, setup{})
	k, a := attachment(t, tg)
	c := connect(t, tg, client.SimpleReplies)
	if err := tg.server.ShutdownClients(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(t.Context()); err == nil {
		t.Error("a client is still served")
	}
	k.send(wireRead, 1, 0, testBlock, nil)
	k.answer(1, testBlock)
	another, _ := attachment(t, tg)
	another.send(wireRead, 1, 0, testBlock, nil)
	another.answer(1, testBlock)
	if err := tg.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-a.Ended()
}
