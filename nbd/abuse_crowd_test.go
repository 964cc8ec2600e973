package nbd_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/nbd"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// openFiles counts the file descriptors of this process.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestTenThousandConnectsLeaveNothing(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		tg := serve(t, setup{network: network})
		polite := connect(t, tg, client.SimpleReplies)
		alive(t, polite)
		files, goroutines := openFiles(t), runtime.NumGoroutine()
		endings := [][]byte{
			nil,
			{0, 0},
			client.AppendOption([]byte{0, 0, 0, 3}, client.OptAbort, nil),
			client.AppendOption([]byte{0, 0, 0, 3}, client.OptGo, client.AppendInfoRequest(nil, testVolume)),
			client.AppendOption([]byte{0, 0, 0, 1}, client.OptExportName, []byte(testVolume)),
		}
		var crowd sync.WaitGroup
		for worker := range 8 {
			crowd.Go(func() {
				for i := range 10000 / 8 {
					conn, err := net.Dial(tg.Network, tg.Address)
					for errors.Is(err, syscall.EAGAIN) { // a unix socket's backlog is full
						runtime.Gosched()
						conn, err = net.Dial(tg.Network, tg.Address)
					}
					if err != nil {
						t.Error(err)
						return
					}
					conn.Write(endings[(worker+i)%len(endings)])
					conn.Close()
				}
			})
		}
		gone := make(chan struct{})
		go func() { crowd.Wait(); close(gone) }()
		for busy := true; busy; {
			select {
			case <-gone:
				busy = false
			default:
				alive(t, polite)
			}
		}
		eventually(t, "descriptors and goroutines are back", func() bool {
			return openFiles(t) <= files && runtime.NumGoroutine() <= goroutines
		})
		alive(t, polite)
	}
}

func TestConnectionCapTurnsAwayTheRest(t *testing.T) {
	const limit, rest = 50, 150
	tg := serve(t, setup{nbd: nbd.Options{MaxConnections: limit}})
	polite := connect(t, tg, client.SimpleReplies)
	var conns []net.Conn
	greeted := 0
	for range limit - 1 + rest {
		conn := plain(t, tg)
		conns = append(conns, conn)
		b := make([]byte, 18)
		if n, err := conn.Read(b); err == nil && n == 18 {
			greeted++
		}
	}
	if greeted != limit-1 {
		t.Fatalf("%d of the others greeted, want %d", greeted, limit-1)
	}
	alive(t, polite)
	for _, conn := range conns {
		conn.Close()
	}
	eventually(t, "a newcomer is served again", func() bool {
		h, err := client.Dial(t.Context(), tg.Network, tg.Address)
		if err == nil {
			h.Close()
		}
		return err == nil
	})
	alive(t, polite)
}

func TestThousandIdleClientsCostLittle(t *testing.T) {
	const greeting, attached = 1000, 500
	for _, network := range []string{"unix", "tcp"} {
		tg := serve(t, setup{network: network, nbd: nbd.Options{MaxConnections: 4096, HandshakeTimeout: time.Minute}})
		var before, now runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var conns []net.Conn
		for range greeting {
			conns = append(conns, plain(t, tg))
		}
		request := client.AppendOption([]byte{0, 0, 0, 3}, client.OptGo, client.AppendInfoRequest(nil, testVolume))
		reply := make([]byte, 18+20+2+10+20+2+12+20)
		for range attached {
			conn := plain(t, tg)
			_, err := conn.Write(request)
			must(t, err)
			for n := 0; n < len(reply); {
				got, err := conn.Read(reply[n:])
				must(t, err)
				n += got
			}
			conns = append(conns, conn)
		}
		started := time.Now()
		alive(t, connect(t, tg, client.SimpleReplies))
		if took := time.Since(started); took > time.Second {
			t.Errorf("a new client waited %v", took)
		}
		runtime.GC()
		runtime.ReadMemStats(&now)
		used := int64(now.HeapAlloc+now.StackInuse) - int64(before.HeapAlloc+before.StackInuse)
		if each := used / (greeting + attached); each > 40<<10 {
			t.Errorf("%d bytes for each idle connection, want at most 40 KiB", each)
		}
		for _, conn := range conns {
			conn.Close()
		}
	}
}

// scarceListener fails as Accept does when the process is out of descriptors.
type scarceListener struct {
	net.Listener
	failures atomic.Int32
}

func (l *scarceListener) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestAcceptGoesOnWhenDescriptorsAreBack(t *testing.T) {
	l := &scarceListener{}
	l.failures.Store(5)
	tg := serve(t, setup{listen: func(inner net.Listener) net.Listener { l.Listener = inner; return l }})
	c := connect(t, tg, client.SimpleReplies)
	alive(t, c)
	if left := l.failures.Load(); left > -1 {
		t.Fatalf("%d failures left", left)
	}
}

func TestShutdownEndsAListenerThatIsOutOfDescriptors(t *testing.T) {
	l := &scarceListener{}
	l.failures.Store(1 << 30)
	tg := serve(t, setup{listen: func(inner net.Listener) net.Listener { l.Listener = inner; return l }})
	tg.stop() // waits for Serve
}

func TestListenerThatBreaksEndsServe(t *testing.T) {
	tg := serve(t, setup{})
	l := listen(t, "unix")
	must(t, l.Close())
	if err := tg.server.Serve(l); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("Serve on a closed listener: %v", err)
	}
}

func TestServeAfterShutdownReturns(t *testing.T) {
	tg := serve(t, setup{})
	tg.stop()
	if err := tg.server.Serve(listen(t, "unix")); err != nil {
		t.Fatal(err)
	}
}

func TestOneServerServesManyListeners(t *testing.T) {
	tg := serve(t, setup{network: "unix"})
	var others sync.WaitGroup
	defer others.Wait()
	defer tg.stop()
	for _, network := range []string{"tcp", "unix", "tcp"} {
		l := listen(t, network)
		others.Go(func() {
			if err := tg.server.Serve(l); err != nil {
				t.Error(err)
			}
		})
		other := &target{Target: client.Target{Network: l.Addr().Network(), Address: l.Addr().String(), Export: testVolume}}
		c := connect(t, other, client.StructuredReplies)
		must(t, c.Write(within(t), []byte(fmt.Sprintf("%-512s", network)), 0, 0))
		c.Close()
	}
}
