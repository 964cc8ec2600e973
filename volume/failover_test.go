package volume

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/opencurve/curve-nbd/backend"
)

var rewrite = flag.Bool("rewrite", false, "write what testdata/failover/*.txt do as what they are expected to do")

// TestFailover plays testdata/failover/*.txt. A script is commands; where
// something happened up to the moment when everything waits, that follows between
// a line "----" and an empty one:
//
//	leader csN term=T [copyset=C]   news: csN leads. cs0: the leader of T stepped down
//	lost csN                        the connection to csN broke
//	write|read|flush NAME [chunk=I] submits a request of one block
//	writes N                        submits N writes without names
//	answer NAME ERROR [leader=csN term=T]   completes what was sent; ok for success
//	answer-writes                   completes the writes without names that are out
//	wait DURATION                   lets time pass
//	peers N...                      what Meta says of the copysets from now on
//	meta up|down, block csN, unblock csN (Submit to it waits)
//	open [deadline=D], close [within=D], show, stalls
func TestFailover(t *testing.T) {
	files, err := filepath.Glob("testdata/failover/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	reasons := make(map[string]float64)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = playScript(t, string(text), reasons) })
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("%s: want\n%s\ngot\n%s\n(after a look at it, -rewrite makes it the expectation)", file, text, got)
			}
		})
	}
	for _, row := range append(retryTable, retryRow{reason: reasonTakenBack}) {
		if row.action != retryNever && row.action != retryLost && reasons[row.reason] == 0 {
			t.Errorf("no script sends an operation again for %q", row.reason)
		}
	}
}

// playScript runs a script and returns it with the outcome.
func playScript(t *testing.T, text string, reasons map[string]float64) string {
	p := newPlayer(t)
	var out strings.Builder
	expectation := false // from a line "----" to the next empty one
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "":
			expectation = false
		case expectation:
		case line == "----":
			expectation = true
		case strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		default:
			if err := p.do(strings.Fields(line)); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			synctest.Wait()
			fmt.Fprintln(&out, line)
			if happened := p.trace.take(); happened != "" {
				fmt.Fprintf(&out, "----\n%s\n", happened)
			}
		}
	}
	p.end()
	for reason, c := range p.stats.retries {
		reasons[reason] += testutil.ToFloat64(c)
	}
	return out.String()
}

// player carries a script out.
type player struct {
	t        *testing.T
	trace    *trace
	replicas *scriptedReplicas
	meta     *scriptedMeta
	stats    *Stats
	volume   *Volume
	next     int64 // requests submitted: each has a block of its own
	jobs     sync.WaitGroup
	mu       sync.Mutex
	undone   int // guarded by mu
}

func newPlayer(t *testing.T) *player {
	tr := &trace{began: time.Now()}
	return &player{
		t:     t,
		trace: tr,
		replicas: &scriptedReplicas{trace: tr, fail: t.Errorf, out: make(map[string]*backend.Op),
			names: make(map[int64]string), blocked: make(map[backend.ServerID]chan struct{})},
		meta:  &scriptedMeta{trace: tr, peers: []backend.ServerID{1, 2, 3}},
		stats: NewStats(nil),
	}
}

// end closes what the script left open; everything must have an outcome then.
func (p *player) end() {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := p.volume.Close(ended); err != nil && !errors.Is(err, backend.ErrClosed) &&
		!errors.Is(err, backend.ErrStaleEpoch) && !errors.Is(err, backend.ErrIO) {
		p.t.Error(err)
	}
	p.jobs.Wait()
	if p.undone != 0 {
		p.t.Errorf("%d requests have no outcome", p.undone)
	}
}

// option finds key=value among the words.
func option(words []string, key, other string) string {
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			return v
		}
	}
	return other
}

func number(s string) uint64 {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "cs"), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

func (p *player) do(w []string) error {
	switch w[0] {
	case "open":
		return p.open(w)
	case "leader":
		id, term := backend.CopysetID(number(option(w, "copyset", "1"))), number(option(w, "term", ""))
		leader := backend.ServerID(number(w[1]))
		if p.volume == nil {
			p.replicas.known = append(p.replicas.known, routeNewsOf{id, leader, term})
			return nil
		}
		p.replicas.watcher.LeaderIs(id, leader, term)
	case "lost":
		p.replicas.watcher.ServerLost(backend.ServerID(number(w[1])))
	case "write", "read", "flush":
		p.submit(w[0], w[1], number(option(w, "chunk", "0")))
	case "writes":
		for range number(w[1]) {
			p.submit("write", "", 0)
		}
	case "answer":
		if !p.replicas.answer(w[1], scriptError(w)) {
			p.trace.add(kindDone, "nobody waits for the answer to %s", w[1])
		}
	case "answer-writes":
		p.answerWrites()
	case "wait":
		time.Sleep(duration(w[1]))
	case "close":
		p.close(option(w, "within", "1h"))
	default:
		return p.arrange(w)
	}
	return nil
}

// arrange does the commands that set the scene or show it.
func (p *player) arrange(w []string) error {
	switch w[0] {
	case "peers":
		p.meta.mu.Lock()
		p.meta.peers = nil
		for _, s := range w[1:] {
			p.meta.peers = append(p.meta.peers, backend.ServerID(number(s)))
		}
		p.meta.mu.Unlock()
	case "meta":
		p.meta.mu.Lock()
		p.meta.down = w[1] == "down"
		p.meta.mu.Unlock()
	case "block":
		p.replicas.mu.Lock()
		p.replicas.blocked[backend.ServerID(number(w[1]))] = make(chan struct{})
		p.replicas.mu.Unlock()
	case "unblock":
		p.replicas.mu.Lock()
		close(p.replicas.blocked[backend.ServerID(number(w[1]))])
		delete(p.replicas.blocked, backend.ServerID(number(w[1])))
		p.replicas.mu.Unlock()
	case "show":
		p.show()
	case "stalls":
		for _, s := range p.volume.Stalls() {
			p.trace.add(kindLog, "copyset %d: %d waiting for %v, for %s; leader cs%d term %d",
				s.Copyset, s.Waiting, time.Since(s.Since), s.For, s.Leader, s.Term)
		}
	default:
		return errors.New("no such command")
	}
	return nil
}

func (p *player) open(w []string) error {
	v, err := Open(ctx, p.meta, p.replicas, "v", Options{Owner: "test", Stats: p.stats, jitterSeed: 1,
		Log: slog.New(traceHandler{trace: p.trace}), Deadline: duration(option(w, "deadline", "0s"))})
	if err != nil {
		return err
	}
	p.volume = v
	return v.cache.ask(ctx, 0, false)
}

type doneFunc func(*Request)

func (f doneFunc) RequestDone(r *Request) { f(r) }

func (p *player) submit(kind, name string, chunk uint64) {
	perChunk := scriptGeometry.ChunkSize / 4096
	off := (int64(chunk)+p.next/perChunk*2)*scriptGeometry.ChunkSize + p.next%perChunk*4096
	p.next++
	r := &Request{Op: map[string]backend.OpKind{"write": backend.OpWrite, "read": backend.OpRead, "flush": backend.OpFlush}[kind]}
	if r.Op != backend.OpFlush {
		r.Off, r.Len, r.Data = off, 4096, make([]byte, 4096)
	}
	p.replicas.mu.Lock()
	if name != "" {
		p.replicas.names[off] = name
	}
	p.replicas.mu.Unlock()
	p.mu.Lock()
	p.undone++
	p.mu.Unlock()
	r.Done = doneFunc(func(r *Request) {
		if name != "" {
			p.trace.add(kindDone, "done %s: %v", name, okOr(r.Err))
		}
		p.mu.Lock()
		p.undone--
		p.mu.Unlock()
	})
	if name == "" {
		p.volume.Submit(r)
		return
	}
	p.jobs.Go(func() { p.volume.Submit(r) }) // it may have to wait
}

func okOr(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

func (p *player) answerWrites() {
	p.replicas.mu.Lock()
	var names []string
	for name := range p.replicas.out {
		if _, err := strconv.Atoi(name); err == nil {
			names = append(names, name)
		}
	}
	p.replicas.mu.Unlock()
	slices.SortFunc(names, func(a, b string) int { return int(number(a)) - int(number(b)) })
	for _, name := range names {
		p.replicas.answer(name, nil)
	}
	p.trace.add(kindDone, "%d writes answered", len(names))
}

func (p *player) close(within string) {
	limit, cancel := context.WithTimeout(ctx, duration(within))
	p.jobs.Go(func() {
		defer cancel()
		p.trace.add(kindDone, "closed: %v", okOr(p.volume.Close(limit)))
	})
}

// show tells the state of the used copysets and the counters that are not zero.
func (p *player) show() {
	for id := backend.CopysetID(1); id <= 2; id++ {
		if c := p.volume.router.copysets.Load().byID[id]; c != nil {
			c.mu.Lock()
			p.trace.add(kindLog, "copyset %d: %v; %d operations; low %d given %d", id, &c.route, c.count, c.fence.low(), c.fence.given)
			c.mu.Unlock()
		}
	}
	counts := fmt.Sprintf("redirects %v timeouts %v searches %v leader changes %v", testutil.ToFloat64(p.stats.redirects),
		testutil.ToFloat64(p.stats.timeouts), testutil.ToFloat64(p.stats.searches), testutil.ToFloat64(p.stats.leaderChanges))
	for _, row := range append(retryTable, retryRow{reason: reasonTakenBack}) {
		if n := testutil.ToFloat64(p.stats.retries[row.reason]); n > 0 {
			counts += fmt.Sprintf("; retries %s %v", row.reason, n)
		}
	}
	g := p.stats.gauges()
	p.trace.add(kindLog, "%s; parked %d leaderless %d longest %v", counts, g.parked, g.leaderless, g.longest)
}

var scriptErrors = map[string]error{
	"ok": nil, "no-copyset": backend.ErrNoCopyset, "unreachable": backend.ErrUnreachable,
	"unknown": backend.ErrOutcomeUnknown, "overload": backend.ErrOverload, "no-space": backend.ErrNoSpace,
	"io": backend.ErrIO, "checksum": backend.ErrChecksum, "stale-epoch": backend.ErrStaleEpoch,
	"invalid": backend.ErrInvalid, "not-supported": backend.ErrNotSupported, "surprise": errors.New("surprise"),
}

func scriptError(w []string) error {
	if w[2] == "not-leader" {
		return &backend.NotLeaderError{Copyset: 1, Leader: backend.ServerID(number(option(w, "leader", "cs0"))), Term: number(option(w, "term", "0"))}
	}
	err, ok := scriptErrors[w[2]]
	if !ok {
		panic(w[2])
	}
	return err
}
