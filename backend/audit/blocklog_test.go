package audit

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func newTestLog(t *testing.T, o LogOptions) *Log {
	t.Helper()
	o.Volume, o.Blocks, o.Seed = 7, 64, 99
	l, err := NewLog(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// script makes changes to one block of a log and remembers their contents.
type script struct {
	t       *testing.T
	l       *Log
	block   int64
	content [][]byte // by version, from 0
	changes []Change
}

func newScript(t *testing.T, l *Log, block int64) *script {
	return &script{t: t, l: l, block: block, content: [][]byte{make([]byte, BlockBytes)}, changes: []Change{{}}}
}

func (s *script) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) write() {
	s.t.Helper()
	data := make([]byte, BlockBytes)
	c, err := s.l.Write(uint32(len(s.changes)), s.block, data)
	s.check(err)
	s.content, s.changes = append(s.content, data), append(s.changes, c)
}

func (s *script) zero() {
	s.t.Helper()
	c, err := s.l.Zero(uint32(len(s.changes)), s.block, 1)
	s.check(err)
	s.content, s.changes = append(s.content, make([]byte, BlockBytes)), append(s.changes, c)
}

func (s *script) ack(version int) { s.t.Helper(); s.check(s.l.Acknowledge(s.changes[version], false)) }
func (s *script) ackFUA(version int) {
	s.t.Helper()
	s.check(s.l.Acknowledge(s.changes[version], true))
}
func (s *script) refuse(version int) { s.t.Helper(); s.check(s.l.Refuse(s.changes[version])) }
func (s *script) flush()             { s.t.Helper(); s.check(s.l.Flushed(s.l.Flush())) }

func (s *script) read(data []byte) error {
	s.t.Helper()
	r, err := s.l.BeginRead(s.block, 1)
	s.check(err)
	return r.Verify(data)
}

// verdictOf is 0 for what passed.
func verdictOf(t *testing.T, err error) Verdict {
	t.Helper()
	if err == nil {
		return 0
	}
	var m *Mismatch
	if !errors.As(err, &m) {
		t.Fatalf("not a mismatch: %v", err)
	}
	return m.Verdict
}

func TestReadSeesAcknowledgedOrLater(t *testing.T) {
	cases := []struct {
		name string
		run  func(s *script)
		// want by version read.
		want []Verdict
	}{
		{"never written", func(*script) {}, []Verdict{0}},
		{"in flight", func(s *script) { s.write() }, []Verdict{0, 0}},
		{"acknowledged", func(s *script) { s.write(); s.ack(1) }, []Verdict{Lost, 0}},
		{"one acknowledged, one in flight", func(s *script) { s.write(); s.ack(1); s.write() }, []Verdict{Lost, 0, 0}},
		{"a write of unknown outcome before an acknowledged one", func(s *script) { s.write(); s.write(); s.ack(2) }, []Verdict{Lost, Lost, 0}},
		{"zeroed", func(s *script) { s.write(); s.ack(1); s.zero(); s.ack(2) }, []Verdict{0, Lost, 0}},
		{"zeroing in flight", func(s *script) { s.write(); s.ack(1); s.zero() }, []Verdict{0, 0, 0}},
		{"refused", func(s *script) { s.write(); s.ack(1); s.write(); s.refuse(2) }, []Verdict{Lost, 0, Unsubmitted}},
		{"many overwrites", func(s *script) {
			for v := 1; v <= 100; v++ {
				s.write()
				s.ack(v)
			}
			s.content = [][]byte{s.content[0], s.content[1], s.content[99], s.content[100]}
		}, []Verdict{Lost, Lost, Lost, 0}},
	}
	for _, c := range cases {
		for i, want := range c.want {
			t.Run(c.name, func(t *testing.T) {
				s := newScript(t, newTestLog(t, LogOptions{}), 5)
				c.run(s)
				if got := verdictOf(t, s.read(s.content[i])); got != want {
					t.Errorf("content %d: %v, want %v", i, got, want)
				}
			})
		}
	}
}

func TestReadThatBeganBeforeAnAcknowledgementMaySeeOlder(t *testing.T) {
	s := newScript(t, newTestLog(t, LogOptions{}), 5)
	s.write()
	s.ack(1)
	s.write()
	early, err := s.l.BeginRead(s.block, 1)
	s.check(err)
	s.ack(2)
	if err := early.Verify(s.content[1]); err != nil {
		t.Error(err)
	}
	if got := verdictOf(t, s.read(s.content[1])); got != Lost {
		t.Errorf("a read that began later: %v, want %v", got, Lost)
	}
}

func TestReadsDoNotGoBack(t *testing.T) {
	for _, shared := range []bool{false, true} {
		s := newScript(t, newTestLog(t, LogOptions{Shared: shared}), 5)
		s.write()
		s.ack(1)
		s.write() // never answered
		s.check(s.read(s.content[1]))
		s.check(s.read(s.content[2]))
		if got := verdictOf(t, s.read(s.content[1])); got != Lost {
			t.Errorf("shared %t: %v, want %v", shared, got, Lost)
		}
	}
}

func TestSharedBlockHoldsAnyOfConcurrentWrites(t *testing.T) {
	cases := []struct {
		name string
		run  func(s *script)
		want []Verdict
	}{
		{"both acknowledged", func(s *script) { s.write(); s.write(); s.ack(1); s.ack(2) }, []Verdict{Lost, 0, 0}},
		{"one after the other", func(s *script) { s.write(); s.ack(1); s.write(); s.ack(2) }, []Verdict{Lost, Lost, 0}},
		{"outcome unknown, then another", func(s *script) { s.write(); s.write(); s.ack(2) }, []Verdict{Lost, 0, 0}},
	}
	for _, c := range cases {
		for i, want := range c.want {
			t.Run(c.name, func(t *testing.T) {
				s := newScript(t, newTestLog(t, LogOptions{Shared: true}), 5)
				c.run(s)
				if got := verdictOf(t, s.read(s.content[i])); got != want {
					t.Errorf("content %d: %v, want %v", i, got, want)
				}
			})
		}
	}
}

// A duplicate that arrives late brings an old version back.
func TestLateDuplicateIsFound(t *testing.T) {
	for _, shared := range []bool{false, true} {
		s := newScript(t, newTestLog(t, LogOptions{Shared: shared}), 5)
		s.write()
		s.ack(1)
		s.check(s.read(s.content[1]))
		s.write()
		s.ack(2)
		s.check(s.read(s.content[2]))
		err := s.read(s.content[1])
		if got := verdictOf(t, err); got != Lost {
			t.Fatalf("shared %t: %v, want %v", shared, got, Lost)
		}
		if !strings.Contains(err.Error(), "found version 1 ") || !strings.Contains(err.Error(), "want version 2 ") {
			t.Errorf("it does not say which: %v", err)
		}
	}
}

func TestContentThatIsNotAVersionIsFound(t *testing.T) {
	written := func(change func(Stamp) Stamp) func(*script) []byte {
		return func(s *script) []byte {
			b := make([]byte, BlockBytes)
			change(Stamp{Volume: 7, Block: s.block, Version: 2, Writer: 2, Seed: 99}).Fill(b)
			return b
		}
	}
	cases := []struct {
		name string
		data func(s *script) []byte
		want Verdict
	}{
		{"as written", written(func(s Stamp) Stamp { return s }), 0},
		{"version to come", written(func(s Stamp) Stamp { s.Version = 3; return s }), Unsubmitted},
		{"another writer", written(func(s Stamp) Stamp { s.Writer = 9; return s }), Unsubmitted},
		{"another block", written(func(s Stamp) Stamp { s.Block++; return s }), Misplaced},
		{"another volume", written(func(s Stamp) Stamp { s.Volume++; return s }), Foreign},
		{"another run", written(func(s Stamp) Stamp { s.Seed++; return s }), Foreign},
		{"one bit flipped", func(s *script) []byte { s.content[2][3000] ^= 1; return s.content[2] }, Torn},
		{"header flipped", func(s *script) []byte { s.content[2][0] ^= 1; return s.content[2] }, Torn},
		{"two versions", func(s *script) []byte { return append(s.content[1][:1024:1024], s.content[2][1024:]...) }, Torn},
		{"zeros in front", func(s *script) []byte { clear(s.content[2][:512]); return s.content[2] }, Torn},
		{"noise", func(*script) []byte { return []byte(strings.Repeat("curve nbd", 500))[:BlockBytes] }, Foreign},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t, newTestLog(t, LogOptions{}), 5)
			s.write()
			s.ack(1)
			s.write()
			s.ack(2)
			if got := verdictOf(t, s.read(c.data(s))); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func TestTornBlockNamesTheVersionOfEverySector(t *testing.T) {
	s := newScript(t, newTestLog(t, LogOptions{}), 5)
	s.write()
	s.ack(1)
	s.write()
	torn := append(s.content[1][:1024:1024], s.content[2][1024:]...)
	if err := s.read(torn); err == nil || !strings.Contains(err.Error(), "1 1 2 2 2 2 2 2") {
		t.Error(err)
	}
}

func TestOnlyDurableChangesMustSurviveACrash(t *testing.T) {
	cases := []struct {
		name   string
		cached bool
		run    func(s *script)
		want   []Verdict
	}{
		{"acknowledged", true, func(s *script) { s.write(); s.ack(1) }, []Verdict{0, 0}},
		{"acknowledged, no cache", false, func(s *script) { s.write(); s.ack(1) }, []Verdict{Lost, 0}},
		{"FUA", true, func(s *script) { s.write(); s.ackFUA(1) }, []Verdict{Lost, 0}},
		{"flushed", true, func(s *script) { s.write(); s.ack(1); s.flush() }, []Verdict{Lost, 0}},
		{"in flight at the flush", true, func(s *script) { s.write(); s.flush(); s.ack(1) }, []Verdict{0, 0}},
		{"overwritten after the flush", true, func(s *script) { s.write(); s.ack(1); s.flush(); s.write(); s.ack(2) }, []Verdict{Lost, 0, 0}},
	}
	for _, c := range cases {
		for i, want := range c.want {
			t.Run(c.name, func(t *testing.T) {
				s := newScript(t, newTestLog(t, LogOptions{Cached: c.cached}), 5)
				c.run(s)
				if got := verdictOf(t, s.l.Recover(s.block, s.content[i])); got != want {
					t.Errorf("content %d: %v, want %v", i, got, want)
				}
			})
		}
	}
}

func TestWhatACrashTookDoesNotComeBack(t *testing.T) {
	s := newScript(t, newTestLog(t, LogOptions{Cached: true}), 5)
	s.write()
	s.ack(1)
	s.write()
	s.ack(2)
	s.check(s.l.Recover(s.block, s.content[1]))
	s.check(s.read(s.content[1]))
	if got := verdictOf(t, s.read(s.content[2])); got != Lost {
		t.Errorf("%v, want %v", got, Lost)
	}
	// It is not durable for having been read, but a flush makes it so.
	s.check(s.l.Recover(s.block, s.content[0]))
	s.write()
	s.ack(3)
	s.check(s.l.Recover(s.block, s.content[3]))
	s.flush()
	if got := verdictOf(t, s.l.Recover(s.block, s.content[0])); got != Lost {
		t.Errorf("after the flush: %v, want %v", got, Lost)
	}
}

func TestLogRefusesWhatItDidNotMake(t *testing.T) {
	l := newTestLog(t, LogOptions{})
	for name, err := range map[string]error{
		"half a block":     second(l.Write(1, 0, make([]byte, 100))),
		"nothing":          second(l.Write(1, 0, nil)),
		"past the end":     second(l.Zero(1, 63, 2)),
		"before the start": second(l.Zero(1, -1, 1)),
		"too much":         second(l.Zero(1, 0, maxChangeBlocks+1)),
		"no change":        l.Acknowledge(Change{}, false),
		"no blocks":        second(NewLog(LogOptions{})),
	} {
		if !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
