package faults

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// echoServer answers every line with itself, and tells the lines it received.
type echoServer struct {
	addr     string
	lines    chan string
	listener net.Listener

	mu    sync.Mutex
	conns []net.Conn
}

func startEcho(t *testing.T, addr string) *echoServer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	e := &echoServer{addr: l.Addr().String(), lines: make(chan string, 1000), listener: l}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.conns = append(e.conns, c)
			e.mu.Unlock()
			running.Go(func() {
				for s := bufio.NewScanner(c); s.Scan(); {
					e.lines <- s.Text()
					fmt.Fprintln(c, s.Text())
				}
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		e.stop()
		running.Wait()
	})
	return e
}

// stop is what the death of its process does.
func (e *echoServer) stop() {
	e.listener.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.conns {
		abort(c.(*net.TCPConn))
	}
}

type echoClient struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) *echoClient {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &echoClient{Conn: c, in: bufio.NewReader(c)}
}

func (c *echoClient) say(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(c, line); err != nil {
		t.Fatal(err)
	}
}

func (c *echoClient) hear(t *testing.T, want string) {
	t.Helper()
	if got, err := c.in.ReadString('\n'); err != nil || got != want+"\n" {
		t.Fatalf("%q, %v; want %q", got, err, want)
	}
}

func (e *echoServer) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-e.lines:
		if got != want {
			t.Fatalf("received %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("%q did not arrive", want)
	}
}

// silent checks that nothing arrives for a while: shown again by what comes first
// once the rule is lifted.
func (e *echoServer) silent(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case got := <-e.lines:
		t.Fatalf("%q arrived", got)
	case <-time.After(d):
	}
}

func startProxy(t *testing.T, target string) (*Network, *Proxy) {
	t.Helper()
	n := NewNetwork(1)
	t.Cleanup(n.Close)
	p, err := n.Listen("server", target)
	if err != nil {
		t.Fatal(err)
	}
	return n, p
}

const aWhile = 50 * time.Millisecond

func TestHeldBytesArriveInOrderOnceHealed(t *testing.T) {
	e := startEcho(t, "127.0.0.1:0")
	n, p := startProxy(t, e.addr)
	c := dial(t, p.Addr())
	c.say(t, "one")
	c.hear(t, "one")
	e.expect(t, "one")

	n.Set(Anyone, "server", Rule{Hold: true})
	c.say(t, "two")
	c.say(t, "three")
	e.silent(t, aWhile)
	n.Heal()
	e.expect(t, "two")
	e.expect(t, "three")
	c.hear(t, "two")
	c.hear(t, "three")
}

func TestOneWayBlockLetsTheOtherWayPass(t *testing.T) {
	e := startEcho(t, "127.0.0.1:0")
	n, p := startProxy(t, e.addr)
	c := dial(t, p.Addr())
	c.say(t, "one")
	c.hear(t, "one")
	e.expect(t, "one")
	n.Set("server", Anyone, Rule{Hold: true})
	c.say(t, "two")
	e.expect(t, "two")
	if err := c.SetReadDeadline(time.Now().Add(aWhile)); err != nil {
		t.Fatal(err)
	}
	if b, err := c.in.ReadByte(); err == nil {
		t.Fatalf("byte %q came back", b)
	}
	n.Heal()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	c.hear(t, "two")
}

// A partition hides that the other end died.
func TestPartitionHidesTheEndOfAConnection(t *testing.T) {
	e := startEcho(t, "127.0.0.1:0")
	n, p := startProxy(t, e.addr)
	c := dial(t, p.Addr())
	c.say(t, "one")
	c.hear(t, "one")
	n.Block(Anyone, "server")
	e.stop()
	if err := c.SetReadDeadline(time.Now().Add(aWhile)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := c.in.ReadByte(); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("during the partition: %v", err)
	}
	n.Heal()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.in.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after it: %v, want a reset", err)
	}
}

func TestConnectionsOfAPartitionComeAboutOnceItHeals(t *testing.T) {
	e := startEcho(t, "127.0.0.1:0")
	n, p := startProxy(t, e.addr)
	n.Set("server", Anyone, Rule{Hold: true})
	c := dial(t, p.Addr())
	c.say(t, "one")
	e.silent(t, aWhile)
	n.Heal()
	e.expect(t, "one")
	c.hear(t, "one")
}

func TestCutResetsConnections(t *testing.T) {
	e := startEcho(t, "127.0.0.1:0")
	n, p := startProxy(t, e.addr)
	c := dial(t, p.Addr())
	c.say(t, "one")
	c.hear(t, "one")
	n.Cut("server", Anyone)
	if _, err := c.in.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	c = dial(t, p.Addr())
	c.say(t, "two")
	c.hear(t, "two")
}

func TestRefusalAndReturn(t *testing.T) {
	e := startEcho(t, "127.0.0.1:0")
	_, p := startProxy(t, e.addr)
	old := dial(t, p.Addr())
	old.say(t, "one")
	old.hear(t, "one")
	for range 3 {
		if err := p.Refuse(true); err != nil {
			t.Fatal(err)
		}
		if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("%v, want it refused", err)
		}
		if err := p.Refuse(false); err != nil {
			t.Fatal(err)
		}
		c := dial(t, p.Addr())
		c.say(t, "two")
		c.hear(t, "two")
	}
	old.say(t, "three")
	old.hear(t, "three")
}

// Who watches for refused connections must see them through the proxy too.
func TestProxyOfADeadServerRefuses(t *testing.T) {
	e := startEcho(t, "127.0.0.1:0")
	_, p := startProxy(t, e.addr)
	c := dial(t, p.Addr())
	c.say(t, "one")
	c.hear(t, "one")
	e.stop()
	eventually(t, "refused", func() bool {
		c, err := net.Dial("tcp", p.Addr())
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	startEcho(t, e.addr)
	eventually(t, "accepted again", func() bool {
		c, err := net.Dial("tcp", p.Addr())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	c = dial(t, p.Addr())
	c.say(t, "two")
	c.hear(t, "two")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s after %v", what, patience)
		}
	}
}

func TestDelayAndLimit(t *testing.T) {
	e := startEcho(t, "127.0.0.1:0")
	n, p := startProxy(t, e.addr)
	c := dial(t, p.Addr())
	round := func() time.Duration {
		begun := time.Now()
		c.say(t, strings.Repeat("x", 1000))
		c.hear(t, strings.Repeat("x", 1000))
		return time.Since(begun)
	}
	n.Set(Anyone, "server", Rule{Delay: 60 * time.Millisecond, Jitter: 5 * time.Millisecond})
	n.Set("server", Anyone, Rule{Delay: 40 * time.Millisecond})
	if d := round(); d < 100*time.Millisecond {
		t.Errorf("a round of %v, with 100ms of delay", d)
	}
	n.Set(Anyone, "server", Rule{BytesPerSecond: 10_000})
	n.Set("server", Anyone, Rule{})
	if d := round(); d < 100*time.Millisecond {
		t.Errorf("1000 bytes took %v at 10000 a second", d)
	}
}

// Two processes dial the same proxy; a rule for one of them spares the other.
func TestRulesTellDialersApart(t *testing.T) {
	e := startEcho(t, "127.0.0.1:0")
	n := NewNetwork(1)
	t.Cleanup(n.Close)
	p, err := n.Listen("server", e.addr)
	if err != nil {
		t.Fatal(err)
	}
	// The children dial when they start, which is before their numbers are known:
	// so their connections wait in a partition of all.
	n.Block(Anyone, "server")
	a, b := startChild(t, "dial "+p.Addr()), startChild(t, "dial "+p.Addr())
	n.Identify(a.Pid, "a")
	n.Identify(b.Pid, "b")
	n.Heal()
	a.echo(t, "a1")
	b.echo(t, "b1")
	e.expect(t, "a1")
	e.expect(t, "b1")
	// Once more, with numbers known.
	n.Cut(Anyone, Anyone)
	if _, err := a.out.ReadByte(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	late := startChild(t, "dial "+p.Addr())
	n.Identify(late.Pid, "late")
	late.echo(t, "l1")
	e.expect(t, "l1")
}

func TestDialersAreIdentified(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := startChild(t, "dial "+l.Addr().String())
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	n := NewNetwork(1)
	defer n.Close()
	if got := n.dialer(server); got != Anyone {
		t.Errorf("a stranger is %q", got)
	}
	n.Identify(1, "init")
	n.Identify(c.Pid, "child")
	if got := n.dialer(server); got != "child" {
		t.Errorf("the child is %q", got)
	}
}
