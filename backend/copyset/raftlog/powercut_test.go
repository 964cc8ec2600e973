package raftlog_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

// state is what all groups hold at one point of the schedule. Not changed once
// it is in a history.
type state map[backend.CopysetID]*reference

func (s state) with(id backend.CopysetID, change func(*reference)) state {
	next := make(state, len(s)+1)
	for other, ref := range s {
		next[other] = ref
	}
	if next[id] == nil {
		next[id] = newReference()
	}
	next[id] = next[id].clone()
	change(next[id])
	return next
}

func (s state) of(id backend.CopysetID) *reference {
	if ref := s[id]; ref != nil {
		return ref
	}
	return newReference()
}

// powerCuts drives a log through a random schedule and cuts the power before
// every call that it makes to the file system. What comes back must be what the
// schedule made up to some record, and that no earlier than the last one known to
// be durable.
type powerCuts struct {
	rng    *rand.Rand
	opts   raftlog.Options
	fs     *crashfs.FS
	log    *raftlog.Log
	term   uint64
	deeper bool
	// floods makes most steps floods.
	floods bool
	trace  []string

	// mu guards the rest, which power cuts on the log's goroutines look at.
	mu     sync.Mutex
	cutRng *rand.Rand
	cuts   int
	err    error
	// history is the states since the last durable one, which it begins with;
	// passed counts those before.
	history []state
	passed  int
	// changing is the group that a call in progress changes.
	changing backend.CopysetID
	// groups are asked what they promise, once it is known what they hold.
	groups map[backend.CopysetID]*raftlog.Group
}

const powerCutGroups = 4

func newPowerCuts(seed uint64, unit int, blocking bool, bug string) *powerCuts {
	opts := smallOptions().WithBug(bug).WithIdle(200 * time.Microsecond)
	opts.Blocking = blocking
	return &powerCuts{
		rng: rand.New(rand.NewPCG(seed, 2)), cutRng: rand.New(rand.NewPCG(seed, 4)), opts: opts,
		fs: newMachine(crashfs.Options{Unit: unit}), term: 1, deeper: true, history: []state{{}},
	}
}

func (p *powerCuts) run(steps int) error {
	p.hook()
	defer func() { p.fs.OnCall(nil) }()
	if err := p.open(); err != nil {
		return err
	}
	defer func() { _ = p.log.Close() }()
	p.settle(p.now())
	for range steps {
		if err := errors.Join(p.step(), p.failure()); err != nil {
			return fmt.Errorf("%w\ntrace: %v", err, p.trace)
		}
	}
	if err := p.log.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	p.durable(p.point())
	p.cut(p.fs, "at the end")
	return p.failure()
}

func (p *powerCuts) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *powerCuts) hook() {
	machine := p.fs
	p.fs.OnCall(func(c crashfs.Call) error {
		if c.Op.Changes() {
			p.cut(machine, c.String())
		}
		return nil
	})
}

func (p *powerCuts) open() error {
	l, err := raftlog.Open(p.fs, logDir, p.opts)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	p.log = l
	if d := l.Damaged(); len(d) > 0 || l.Lost() != nil {
		p.fs.OnCall(nil)
		_ = l.Close()
		return fmt.Errorf("a power cut is taken for damage: %v, %v", d, l.Lost())
	}
	return nil
}

// now is the state as submitted.
func (p *powerCuts) now() state {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.history[len(p.history)-1]
}

// point counts the states made so far.
func (p *powerCuts) point() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed + len(p.history) - 1
}

// durable notes that nothing up to point may be lost any more.
func (p *powerCuts) durable(point int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := point - p.passed; n > 0 {
		p.history, p.passed = p.history[n:], point
	}
}

// will announces a record that is about to be queued.
func (p *powerCuts) will(id backend.CopysetID, change func(*reference)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changing = id
	p.history = append(p.history, p.history[len(p.history)-1].with(id, change))
}

func (p *powerCuts) did() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changing = 0
}

// cut starts a machine from what the disk might hold, and checks it. The running
// one goes on.
func (p *powerCuts) cut(machine *crashfs.FS, where string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts++
	if p.err != nil {
		return
	}
	promised := make(map[backend.CopysetID]uint64)
	for id, g := range p.groups {
		if id != p.changing {
			promised[id] = g.Durable()
		}
	}
	seed := p.cutRng.Uint64()
	after := &powerCuts{
		rng: rand.New(rand.NewPCG(seed, 3)), cutRng: rand.New(rand.NewPCG(seed, 5)), opts: p.opts,
		fs: machine.Crash(seed), term: p.term + 100, history: append([]state(nil), p.history...),
	}
	if err := after.recover(promised, p.deeper && p.cuts%32 == 0); err != nil {
		p.err = fmt.Errorf("power cut %d, before %s: %w", p.cuts, where, err)
	}
}

func (p *powerCuts) recover(promised map[backend.CopysetID]uint64, goOn bool) error {
	if goOn {
		p.hook() // the power may fail during recovery
	}
	if err := p.open(); err != nil {
		return err
	}
	defer func() {
		p.fs.OnCall(nil)
		_ = p.log.Close()
	}()
	found, err := p.adopt()
	if err != nil {
		return err
	}
	latest := p.now()
	for id, durable := range promised {
		if err := keeps(latest.of(id), found.of(id), durable); err != nil {
			return fmt.Errorf("%v said that %d was durable: %w", id, durable, err)
		}
	}
	p.settle(found)
	if !goOn {
		return p.failure()
	}
	for range 10 {
		if err := errors.Join(p.step(), p.failure()); err != nil {
			return fmt.Errorf("second life: %w\ntrace: %v", err, p.trace)
		}
	}
	err = p.log.Close()
	p.durable(p.point())
	p.cut(p.fs, "at the end of the second life")
	p.fs.OnCall(nil)
	return errors.Join(err, p.failure())
}

// settle makes what was found after a crash the only state there is.
func (p *powerCuts) settle(found state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history = []state{found}
	p.groups = make(map[backend.CopysetID]*raftlog.Group)
	for id := backend.CopysetID(1); id <= powerCutGroups; id++ {
		p.groups[id] = p.log.Group(id)
	}
}

// keeps says whether a group that had want has kept the entries up to durable.
func keeps(want, got *reference, durable uint64) error {
	for i := max(want.first, got.first); i <= min(durable, want.last); i++ {
		if log, ok := got.entries[i]; !ok || !sameEntry(log, want.entries[i]) {
			return fmt.Errorf("entry %d is gone or another: %s, expected %s", i, brief(log), brief(want.entries[i]))
		}
	}
	if !want.empty() && !got.empty() && got.first > want.first {
		return fmt.Errorf("it begins with entry %d, expected %d", got.first, want.first)
	}
	return nil
}

// adopt finds the state in the history that the log is in.
func (p *powerCuts) adopt() (state, error) {
	found := make(state)
	for id := backend.CopysetID(1); id <= powerCutGroups; id++ {
		ref, err := readGroup(p.log.Group(id))
		if err != nil {
			return nil, fmt.Errorf("%v: %w", id, err)
		}
		found[id] = ref
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var why error
	for i := len(p.history) - 1; i >= 0; i-- {
		if why = p.history[i].same(found); why == nil {
			return p.history[i], nil
		}
	}
	return nil, fmt.Errorf("none of the %d states that there may be; the oldest differs in: %w", len(p.history), why)
}

func (s state) same(found state) error {
	for id, got := range found {
		want := s.of(id)
		if want.empty() != got.empty() || !want.empty() && (want.first != got.first || want.last != got.last) {
			return fmt.Errorf("%v: entries %d to %d, expected %d to %d", id, got.first, got.last, want.first, want.last)
		}
		for i, log := range want.entries {
			if !sameEntry(log, got.entries[i]) {
				return fmt.Errorf("%v: entry %d is %s, expected %s", id, i, brief(got.entries[i]), brief(log))
			}
		}
		for _, key := range stableKeys {
			if a, b := want.stable[key], got.stable[key]; !bytes.Equal(a, b) {
				return fmt.Errorf("%v: value %q is %x, expected %x", id, key, b, a)
			}
		}
	}
	return nil
}

var stableKeys = []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"}

// readGroup reads all that a group holds.
func readGroup(g *raftlog.Group) (*reference, error) {
	ref := newReference()
	first, err1 := g.FirstIndex()
	last, err2 := g.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if last > 0 {
		ref.first, ref.last = first, last
	}
	for i := ref.first; i <= ref.last; i++ {
		var log raft.Log
		if err := g.GetLog(i, &log); err != nil {
			return nil, fmt.Errorf("entry %d of %d to %d: %w", i, first, last, err)
		}
		ref.entries[i] = log
	}
	for _, key := range stableKeys {
		val, err := g.Get([]byte(key))
		if err == nil {
			ref.stable[key] = val
		} else if err.Error() != "not found" {
			return nil, err
		}
	}
	return ref, nil
}

var schedules = flag.Uint64("schedules", 2, "random schedules of the power-cut test for each disk")

func TestDurableRecordsSurviveEveryPowerCut(t *testing.T) {
	for _, c := range []struct {
		name     string
		unit     int
		blocking bool
		steps    int
	}{{"overlapped, unit=512", 512, false, 150}, {"overlapped, unit=4096", 4096, false, 150}, {"blocking, unit=512", 512, true, 70}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			total := 0
			for seed := range *schedules {
				p := newPowerCuts(seed, c.unit, c.blocking, "")
				p.floods = seed%2 == 1 && !c.blocking
				if err := p.run(c.steps); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				total += p.cuts
			}
			t.Logf("%d power cuts in first lives", total)
			if want := 200 * int(*schedules); total < want {
				t.Errorf("only %d power cuts, expected %d at least", total, want)
			}
		})
	}
}

// TestPowerCutTestNoticesPlantedBugs breaks the log in the ways that the test
// above is there to notice.
func TestPowerCutTestNoticesPlantedBugs(t *testing.T) {
	for _, bug := range raftlog.PlantedBugs {
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(20) {
				p := newPowerCuts(seed, 512, false, bug)
				p.floods = bug == "free before durable" || bug == "skip reset"
				if err := p.run(200); err != nil {
					first, _, _ := bytes.Cut([]byte(err.Error()), []byte("\n"))
					t.Logf("noticed with seed %d: %s", seed, first)
					return
				}
			}
			t.Error("not noticed in any schedule")
		})
	}
}
