package stream

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"
)

// script is a connection's side that does as it is told and notes it.
type script struct {
	sending Sending
	hold    chan struct{} // what Send and SendRest wait for

	mu  sync.Mutex
	did []string
}

func (s *script) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.did = append(s.did, what)
}

func (s *script) Send(answers []string) {
	<-s.hold
	for _, a := range answers {
		s.note("sent " + a)
	}
}

func (s *script) SendNow(a string) Sending {
	if s.sending != Declined {
		s.note("now " + a)
	}
	return s.sending
}

func (s *script) SendRest(a string) {
	<-s.hold
	s.note("rest of " + a)
}

func TestWriterSendsFromWhereAnAnswerFinished(t *testing.T) {
	for _, tc := range []struct {
		name    string
		sending Sending
		finish  []string // in this order, all begun before
		want    []string
	}{
		{"alone", Sent, []string{"a"}, []string{"now a"}},
		{"alone, and the peer is slow", Begun, []string{"a"}, []string{"now a", "rest of a"}},
		{"alone, and somebody else writes", Declined, []string{"a"}, []string{"sent a"}},
		{"with others under way", Sent, []string{"a", "b", "c"}, []string{"sent a", "sent b", "sent c"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{sending: tc.sending, hold: make(chan struct{})}
				var w Writer[string]
				w.Init(s)
				for range tc.finish {
					w.Begin()
				}
				for _, a := range tc.finish {
					w.Finish(a) // never waits
				}
				if got := w.Busy(); got != (tc.sending != Sent || len(tc.finish) > 1) {
					t.Errorf("busy: %v", got)
				}
				close(s.hold)
				w.Close()
				if len(s.did) != len(tc.want) {
					t.Fatalf("did %q, expected %q", s.did, tc.want)
				}
				for i := range tc.want {
					if s.did[i] != tc.want[i] {
						t.Errorf("did %q, expected %q", s.did, tc.want)
					}
				}
			})
		})
	}
}

func TestWriterEndsWhatIsBegunBeforeOtherAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{sending: Begun, hold: make(chan struct{})}
		var w Writer[string]
		w.Init(s)
		w.Begin()
		w.Finish("a")
		w.Begin()
		w.Finish("b")
		close(s.hold)
		w.Close()
		if want := "now a, rest of a, sent b"; len(s.did) != 3 || s.did[0] != "now a" || s.did[1] != "rest of a" || s.did[2] != "sent b" {
			t.Errorf("did %q, expected %s", s.did, want)
		}
	})
}

func TestWriterCloseWaitsForWhatIsUnderWay(t *testing.T) {
	for _, end := range []struct {
		name string
		do   func(*Writer[string])
	}{
		{"answered", func(w *Writer[string]) { w.Finish("a") }},
		{"dropped", func(w *Writer[string]) { w.Drop() }},
	} {
		t.Run(end.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{sending: Sent, hold: make(chan struct{})}
				var w Writer[string]
				w.Init(s)
				w.Begin()
				var closed atomic.Bool
				go func() {
					w.Close()
					closed.Store(true)
				}()
				synctest.Wait()
				if closed.Load() {
					t.Error("closed with an answer under way")
				}
				end.do(&w)
				synctest.Wait()
				if !closed.Load() {
					t.Error("not closed though nothing is under way")
				}
			})
		})
	}
	var unused Writer[string]
	unused.Close()
}

// TestOutputWritesNowWhatThePeerTakes: never more than that, and the rest once the
// peer goes on; until then nobody else writes.
func TestOutputWritesNowWhatThePeerTakes(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, there := connOf(t, fds[0]), connOf(t, fds[1])
	var clock atomic.Int64
	clock.Store(1)
	out := NewOutput(here, &clock)

	out.Lock()
	if all, err := out.WriteNow([][]byte{[]byte("short")}); !all || err != nil {
		t.Errorf("a short reply: all %v, error %v", all, err)
	}
	long := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // more than any socket holds
	all, err := out.WriteNow([][]byte{long[:1<<20], long[1<<20:]})
	if all || err != nil {
		t.Fatalf("a reply longer than the socket's buffer: all %v, error %v", all, err)
	}
	if out.TryLock() {
		t.Error("somebody else can write in the middle of a reply")
	}
	if !out.Stalled(2) {
		t.Error("a reply that the peer does not take is no stall")
	}
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(there)
		got <- b
	}()
	if err := out.WriteRest(); err != nil {
		t.Error(err)
	}
	out.Unlock()
	if out.Stalled(2) {
		t.Error("a stall though all is taken")
	}
	_ = here.Close()
	if b := <-got; string(b[:5]) != "short" || !bytes.Equal(b[5:], bytes.Repeat([]byte("0123456789abcdef"), 1<<18)) {
		t.Errorf("the peer got %d bytes that are not what was written", len(b))
	}
	out.Lock()
	defer out.Unlock()
	if _, err := out.WriteNow([][]byte{[]byte("late")}); err == nil {
		t.Error("a closed connection takes a reply")
	}
}

func connOf(t *testing.T, fd int) net.Conn {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
