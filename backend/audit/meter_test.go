package audit

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const ms = time.Millisecond

func TestStallIsTimeInFlightWithoutCompletion(t *testing.T) {
	cases := []struct {
		name          string
		run           func(m *Meter)
		stall, slower time.Duration
	}{
		{"nothing ever in flight", func(*Meter) { time.Sleep(time.Hour) }, 0, 0},
		{"one request", func(m *Meter) {
			time.Sleep(time.Hour)
			k := m.Submit()
			time.Sleep(70 * ms)
			m.Complete(k)
		}, 70 * ms, 70 * ms},
		{"idleness between requests is no stall", func(m *Meter) {
			for range 3 {
				k := m.Submit()
				time.Sleep(5 * ms)
				m.Complete(k)
				time.Sleep(time.Minute)
			}
		}, 5 * ms, 5 * ms},
		{"a slow request among quick ones is slow, and no stall", func(m *Meter) {
			slow := m.Submit()
			for range 10 {
				k := m.Submit()
				time.Sleep(10 * ms)
				m.Complete(k)
			}
			m.Complete(slow)
		}, 10 * ms, 100 * ms},
		{"requests submitted during a stall do not end it", func(m *Meter) {
			a := m.Submit()
			time.Sleep(2 * time.Second)
			b := m.Submit()
			time.Sleep(time.Second)
			m.Complete(b)
			m.Complete(a)
		}, 3 * time.Second, 3 * time.Second},
		{"a stall that is going on counts", func(m *Meter) {
			m.Submit()
			time.Sleep(3 * time.Second)
		}, 3 * time.Second, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := NewMeter()
				c.run(m)
				if s := m.Stalls(); s.Longest != c.stall || s.Slowest != c.slower {
					t.Errorf("longest stall %v, slowest %v; want %v, %v", s.Longest, s.Slowest, c.stall, c.slower)
				}
			})
		})
	}
}

func TestStallsAreCountedToTheEventBeforeThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMeter()
		request := func(took time.Duration) {
			k := m.Submit()
			time.Sleep(took)
			m.Complete(k)
		}
		request(1 * ms)
		for i, stall := range []time.Duration{300 * ms, 100 * ms, 200 * ms} {
			m.Mark("kill")
			request(stall)
			m.Mark("restart")
			request(time.Duration(i) * ms)
		}
		s := m.Stalls()
		if len(s.Marked) != 6 || s.Longest != 300*ms {
			t.Fatalf("%+v", s)
		}
		kills := s.Only("kill")
		for p, want := range map[float64]time.Duration{0: 100 * ms, 33: 100 * ms, 50: 200 * ms, 67: 300 * ms, 100: 300 * ms} {
			if got := kills.Percentile(p); got != want {
				t.Errorf("p%v is %v, want %v", p, got, want)
			}
		}
		if restarts := s.Only("restart"); restarts.Longest != 2*ms || len(restarts.Marked) != 3 {
			t.Errorf("restarts: %v", restarts)
		}
	})
}

func TestStallAcrossAMarkCountsOnBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMeter()
		m.Mark("first")
		k := m.Submit()
		time.Sleep(400 * ms)
		m.Mark("second")
		time.Sleep(100 * ms)
		m.Complete(k)
		e := m.Events()
		if e[1].Stall != 400*ms || e[2].Stall != 500*ms {
			t.Errorf("first %v, second %v; want 400ms, 500ms", e[1].Stall, e[2].Stall)
		}
	})
}

func TestMeterCountsEveryRequestOfManyGoroutines(t *testing.T) {
	m := NewMeter()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10_000 {
				m.Complete(m.Submit())
			}
		})
	}
	all.Wait()
	if n, _ := m.InFlight(); n != 0 {
		t.Errorf("%d in flight", n)
	}
	if e := m.Events(); e[0].Completed != 80_000 {
		t.Errorf("%d completed", e[0].Completed)
	}
}

func TestMeterDoesNotAllocatePerRequest(t *testing.T) {
	m := NewMeter()
	if n := testing.AllocsPerRun(1000, func() { m.Complete(m.Submit()) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMeter(b *testing.B) {
	m := NewMeter()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Complete(m.Submit())
		}
	})
}

// echoVariable makes this test binary a process that answers IO.
const echoVariable = "AUDIT_TEST_ECHO"

func TestMain(m *testing.M) {
	if os.Getenv(echoVariable) != "" {
		_, _ = io.Copy(os.Stdout, os.Stdin)
		return
	}
	os.Exit(m.Run())
}

// TestStoppedProcessReadsAsItsStop stops a process that answers IO, for three
// seconds of real time.
func TestStoppedProcessReadsAsItsStop(t *testing.T) {
	t.Parallel()
	const planted, tolerance = 3 * time.Second, 100 * ms
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), echoVariable+"=1")
	in, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	m := NewMeter()
	quit, progress := make(chan struct{}), make(chan struct{})
	var client sync.WaitGroup
	client.Go(func() {
		replies := bufio.NewReader(out)
		for {
			k := m.Submit()
			if _, err := in.Write([]byte{1}); err != nil {
				t.Error(err)
				return
			}
			if _, err := replies.ReadByte(); err != nil {
				t.Error(err)
				return
			}
			m.Complete(k)
			select {
			case <-quit:
				return
			case progress <- struct{}{}:
			default:
			}
		}
	})
	for range 100 {
		<-progress
	}
	m.Mark("stop")
	signal := func(s syscall.Signal) {
		if err := server.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	time.Sleep(planted) // the stall that is planted
	signal(syscall.SIGCONT)
	for range 100 {
		<-progress
	}
	close(quit)
	client.Wait()
	in.Close()
	if err := server.Wait(); err != nil {
		t.Error(err)
	}
	if s := m.Stalls(); s.Longest < planted-tolerance || s.Longest > planted+tolerance || s.Marked[0].Stall != s.Longest {
		t.Errorf("a stop of %v reads as %v", planted, s)
	}
}
