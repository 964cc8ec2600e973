package raftlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/disk"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

const logDir = "/data/log"

var quiet = slog.New(slog.DiscardHandler)

func smallOptions() raftlog.Options {
	return raftlog.Options{SegmentBytes: 64 << 10, CacheBytes: 8 << 10, Reserve: 1, Logger: quiet}
}

func newMachine(opts crashfs.Options) *crashfs.FS {
	fsys := crashfs.New(opts)
	if err := fsys.MkdirAll("/data"); err != nil {
		panic(err)
	}
	if err := fsys.SyncDir("/"); err != nil {
		panic(err)
	}
	return fsys
}

func mustOpen(t testing.TB, fsys disk.FS, opts raftlog.Options) *raftlog.Log {
	t.Helper()
	l, err := raftlog.Open(fsys, logDir, opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return l
}

// reference is what a group ought to hold.
type reference struct {
	first, last uint64
	entries     map[uint64]raft.Log
	stable      map[string][]byte
}

func newReference() *reference {
	return &reference{first: 1, entries: make(map[uint64]raft.Log), stable: make(map[string][]byte)}
}

func (r *reference) clone() *reference {
	return &reference{first: r.first, last: r.last, entries: maps.Clone(r.entries), stable: maps.Clone(r.stable)}
}

func (r *reference) empty() bool { return r.first > r.last }

func (r *reference) store(logs []*raft.Log) {
	if r.empty() {
		r.first, r.last = logs[0].Index, logs[0].Index-1
	}
	for _, log := range logs {
		r.entries[log.Index] = *log
		r.last = log.Index
	}
}

func (r *reference) dropPrefix(to uint64) {
	for ; !r.empty() && r.first <= to; r.first++ {
		delete(r.entries, r.first)
	}
}

func (r *reference) dropSuffix(from uint64) {
	for ; !r.empty() && r.last >= from; r.last-- {
		delete(r.entries, r.last)
	}
}

// differs says how a group is not what the reference is.
func (r *reference) differs(g *raftlog.Group) error {
	first, err1 := g.FirstIndex()
	last, err2 := g.LastIndex()
	wantFirst, wantLast := r.first, r.last
	if r.empty() {
		wantFirst, wantLast = 0, 0
	}
	if err := errors.Join(err1, err2); err != nil || first != wantFirst || last != wantLast {
		return fmt.Errorf("entries %d to %d, %v, expected %d to %d", first, last, err, wantFirst, wantLast)
	}
	for i := r.first; i <= r.last; i++ {
		var got raft.Log
		if err := g.GetLog(i, &got); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if want := r.entries[i]; !sameEntry(got, want) {
			return fmt.Errorf("entry %d is %s, expected %s", i, brief(got), brief(want))
		}
	}
	for _, i := range []uint64{0, wantFirst - 1, wantLast + 1} {
		if !r.empty() && i < first && i > last {
			if err := g.GetLog(i, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
				return fmt.Errorf("entry %d: %v, expected ErrLogNotFound", i, err)
			}
		}
	}
	for key, want := range r.stable {
		if got, err := g.Get([]byte(key)); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("value %q is %x, %v, expected %x", key, got, err, want)
		}
	}
	if _, err := g.Get([]byte("never set")); err == nil || err.Error() != "not found" {
		return fmt.Errorf("a value never set: %v", err)
	}
	return nil
}

func brief(log raft.Log) string {
	return fmt.Sprintf("{index %d term %d %v, %d bytes %.8x, extensions %x, %v}",
		log.Index, log.Term, log.Type, len(log.Data), log.Data, log.Extensions, log.AppendedAt)
}

func sameEntry(a, b raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data) &&
		bytes.Equal(a.Extensions, b.Extensions) && a.AppendedAt.Equal(b.AppendedAt)
}

// modelled is a log under test beside what it ought to hold.
type modelled struct {
	fsys   disk.FS
	opts   raftlog.Options
	log    *raftlog.Log
	groups map[backend.CopysetID]*reference
	term   uint64
}

func (m *modelled) pick(t *rapid.T) (*raftlog.Group, *reference) {
	id := backend.CopysetID(rapid.IntRange(1, 4).Draw(t, "copyset"))
	if m.groups[id] == nil {
		m.groups[id] = newReference()
	}
	return m.log.Group(id), m.groups[id]
}

func drawEntries(t *rapid.T, next, term uint64) []*raft.Log {
	var logs []*raft.Log
	for i := range rapid.Uint64Range(1, 5).Draw(t, "entries") {
		log := &raft.Log{
			Index: next + i, Term: term, Type: raft.LogType(rapid.IntRange(0, 5).Draw(t, "type")),
			Data:       bytes.Repeat([]byte{byte(next + i), byte(term)}, rapid.SampledFrom([]int{0, 1, 50, 700, 3000}).Draw(t, "half size")),
			Extensions: rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "extensions"),
		}
		if rapid.Bool().Draw(t, "stamped") {
			log.AppendedAt = time.Unix(0, rapid.Int64Range(-1<<62, 1<<62).Draw(t, "ns"))
		}
		logs = append(logs, log)
	}
	return logs
}

func (m *modelled) Append(t *rapid.T) {
	g, ref := m.pick(t)
	next := ref.last + 1
	if ref.empty() {
		next = rapid.Uint64Range(1, 100).Draw(t, "first index")
	}
	m.must(t, m.store(g, ref, drawEntries(t, next, m.term)))
}

func (m *modelled) store(g *raftlog.Group, ref *reference, logs []*raft.Log) error {
	ref.store(logs)
	return g.StoreLogs(logs)
}

func (m *modelled) Conflict(t *rapid.T) {
	g, ref := m.pick(t)
	if ref.empty() {
		t.Skip("nothing to truncate")
	}
	from := rapid.Uint64Range(ref.first, ref.last).Draw(t, "from")
	m.term++
	last := ref.last
	ref.dropSuffix(from)
	if rapid.Bool().Draw(t, "implied") {
		m.must(t, m.store(g, ref, drawEntries(t, from, m.term)))
		return
	}
	m.must(t, g.DeleteRange(from, last))
}

func (m *modelled) Compact(t *rapid.T) {
	g, ref := m.pick(t)
	if ref.empty() {
		t.Skip("nothing to compact")
	}
	to := rapid.Uint64Range(ref.first, ref.last).Draw(t, "to")
	first := ref.first
	ref.dropPrefix(to)
	m.must(t, g.DeleteRange(first, to))
}

func (m *modelled) Skip(t *rapid.T) {
	g, ref := m.pick(t)
	if ref.empty() {
		t.Skip("no entry to skip from")
	}
	logs := drawEntries(t, ref.last+rapid.Uint64Range(2, 9).Draw(t, "gap"), m.term)
	ref.dropPrefix(ref.last)
	m.must(t, m.store(g, ref, logs))
}

func (m *modelled) Set(t *rapid.T) {
	g, ref := m.pick(t)
	key := rapid.SampledFrom([]string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"}).Draw(t, "key")
	val := rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "value")
	ref.stable[key] = val
	m.must(t, g.Set([]byte(key), val))
}

func (m *modelled) Delete(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "seldom") > 0 {
		t.Skip("not now")
	}
	g, ref := m.pick(t)
	*ref = *newReference()
	m.must(t, g.Delete())
}

func (m *modelled) Reopen(t *rapid.T) {
	m.must(t, m.log.Close())
	l, err := raftlog.Open(m.fsys, logDir, m.opts)
	m.must(t, err)
	m.log = l
	for id, ref := range m.groups {
		if err := l.Group(id).WaitDurable(ref.last); !ref.empty() && err != nil {
			t.Fatalf("%v: entry %d is not durable after an orderly restart: %v", id, ref.last, err)
		}
	}
}

func (m *modelled) Wait(t *rapid.T) {
	g, ref := m.pick(t)
	if ref.empty() {
		t.Skip("nothing to wait for")
	}
	m.must(t, g.WaitDurable(ref.last))
	done := make(chan struct{})
	g.AfterDurable(func() { close(done) })
	<-done
}

func (m *modelled) must(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *modelled) Check(t *rapid.T) {
	for id, ref := range m.groups {
		if err := ref.differs(m.log.Group(id)); err != nil {
			t.Fatalf("%v: %v", id, err)
		}
	}
	if d := m.log.Damaged(); len(d) > 0 || m.log.Lost() != nil {
		t.Fatalf("a whole log is called damaged: %v, %v", d, m.log.Lost())
	}
}

func TestGroupsHoldWhatAReferenceHolds(t *testing.T) {
	for _, blocking := range []bool{false, true} {
		t.Run(fmt.Sprintf("blocking=%v", blocking), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				opts := smallOptions()
				opts.Blocking = blocking
				m := &modelled{fsys: newMachine(crashfs.Options{}), opts: opts, groups: make(map[backend.CopysetID]*reference), term: 1}
				l, err := raftlog.Open(m.fsys, logDir, opts)
				m.must(t, err)
				m.log = l
				defer func() { _ = m.log.Close() }()
				t.Repeat(map[string]func(*rapid.T){
					"append": m.Append, "append more": m.Append, "conflict": m.Conflict, "compact": m.Compact, "skip": m.Skip,
					"set": m.Set, "delete": m.Delete, "reopen": m.Reopen, "wait": m.Wait, "": m.Check,
				})
			})
		})
	}
}
