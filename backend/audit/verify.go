package audit

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
)

// Verdict is what is wrong with a block.
type Verdict uint8

const (
	// Lost: an acknowledged change is not there, but an older one.
	Lost Verdict = iota + 1
	// Unsubmitted: a version that nobody wrote, or that was refused.
	Unsubmitted
	// Torn: parts of different versions, or damage.
	Torn
	// Misplaced: the content of another block.
	Misplaced
	// Foreign: nothing that this log's writers made.
	Foreign
)

var verdictNames = [...]string{"ok", "lost acknowledged write", "version that was never submitted", "torn block", "content of another block", "foreign content"}

func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "unknown verdict"
}

// Mismatch is a block that holds what it must not. It is an error.
type Mismatch struct {
	Block   int64
	Verdict Verdict
	// Found is what the block says it is, as far as it can be read.
	Found Stamp
	// Want is what it must hold at least.
	Want Stamp
	// Detail is for people.
	Detail string
}

func (m *Mismatch) Error() string {
	text := fmt.Sprintf("block %d: %v: found %v, want %v or newer", m.Block, m.Verdict, m.Found, m.Want)
	if m.Detail != "" {
		text += " (" + m.Detail + ")"
	}
	return text
}

// Read is a read in flight. What was acknowledged before it began must be seen.
type Read struct {
	log    *Log
	block  int64
	begun  uint64 // event
	blocks int    // 0 when over
}

// BeginRead notes that n blocks from block on are about to be read. End it with
// Verify or Abandon.
func (l *Log) BeginRead(block int64, n int) (*Read, error) {
	if err := l.checkRange(block, n); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range n {
		l.history(block+int64(i)).readers++
	}
	return &Read{log: l, block: block, begun: l.seq, blocks: n}, nil
}

// Verify ends the read and holds what it returned against the log. The error
// joins one *Mismatch for every wrong block.
func (r *Read) Verify(data []byte) error {
	if len(data) != r.blocks*BlockBytes {
		return fmt.Errorf("%w: %d bytes to verify a read of %d blocks", backend.ErrInvalid, len(data), r.blocks)
	}
	var bad []error
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	for i := range r.blocks {
		block := r.block + int64(i)
		if _, m := r.log.verify(block, data[i*BlockBytes:][:BlockBytes], r.begun, false); m != nil {
			bad = append(bad, m)
		}
	}
	r.end()
	return errors.Join(bad...)
}

// Abandon ends a read that failed.
func (r *Read) Abandon() {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.end()
}

func (r *Read) end() {
	for i := range r.blocks {
		r.log.history(r.block+int64(i)).readers--
	}
	r.blocks = 0
}

// Recover is Verify after a crash: nothing is in flight, and nothing of before
// will land any more. What is found, if it may be there, is from now on what the
// block holds; of a Cached log it is not durable for that. Reads before the next
// change must come after Recover.
func (l *Log) Recover(block int64, data []byte) error {
	n := len(data) / BlockBytes
	if err := l.checkRange(block, n); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var bad []error
	for i := range n {
		at := block + int64(i)
		v, m := l.verify(at, data[i*BlockBytes:][:BlockBytes], l.seq, l.o.Cached)
		if m != nil {
			bad = append(bad, m)
			continue
		}
		if err := l.file.note(record{kind: recordRecover, event: v.number, block: at, count: 1}); err != nil {
			return err
		}
		l.collapse(at, v.number)
	}
	if err := l.file.flush(); err != nil {
		return err
	}
	return errors.Join(bad...)
}

// collapse forgets what came after the version that was found.
func (l *Log) collapse(block int64, number uint64) {
	l.seq++
	h := l.history(block)
	at := h.find(number)
	if at < 0 {
		return
	}
	h.versions[at].acked = min(h.versions[at].acked, l.seq)
	found := h.versions[at]
	kept := h.versions[:0]
	for i := range h.versions {
		if v := &h.versions[i]; l.rank(v) <= l.age(&found) {
			kept = append(kept, *v)
		}
	}
	h.versions = kept
}

func (h *history) find(number uint64) int {
	for i := len(h.versions) - 1; i >= 0; i-- {
		if h.versions[i].number == number {
			return i
		}
	}
	return -1
}

// verify finds the version that data is. It was seen, so reads that begin later
// must not see an older one.
func (l *Log) verify(block int64, data []byte, begun uint64, durableOnly bool) (version, *Mismatch) {
	h := l.history(block)
	rank, want := h.floor(l, begun, durableOnly)
	found, whole := ReadStamp(data)
	m := &Mismatch{Block: block, Found: found, Want: l.stamp(block, want)}
	switch {
	case !whole:
		m.Verdict, m.Detail = l.damage(block, h, data)
		return version{}, m
	case !found.Zero() && (found.Volume != l.o.Volume || found.Seed != l.o.Seed):
		m.Verdict, m.Detail = Foreign, fmt.Sprintf("this run has %v and seed %#x, the block seed %#x", l.o.Volume, l.o.Seed, found.Seed)
		return version{}, m
	case !found.Zero() && found.Block != block:
		m.Verdict = Misplaced
		return version{}, m
	}
	candidates, oldest := 0, version{}
	for i := range h.versions {
		v := &h.versions[i]
		if l.age(v) < rank || v.refused || v.zero != found.Zero() || !v.zero && (v.number != found.Version || v.writer != found.Writer) {
			continue
		}
		if candidates++; candidates == 1 {
			oldest = *v
		}
	}
	switch {
	case candidates == 1:
		l.observe(block, h, oldest.number)
		return oldest, nil
	case candidates > 1:
		// Several zeroings: which of them it is cannot be told, and the oldest
		// promises least.
		return oldest, nil
	}
	m.Verdict, m.Detail = Lost, lostDetail(want)
	if !found.Zero() && (found.Version >= h.next || h.differs(found)) {
		m.Verdict, m.Detail = Unsubmitted, fmt.Sprintf("the newest submitted is version %d", h.next-1)
	}
	return version{}, m
}

// differs says that the version was not submitted like that, or was refused.
func (h *history) differs(found Stamp) bool {
	i := h.find(found.Version)
	return i >= 0 && (h.versions[i].writer != found.Writer || h.versions[i].zero || h.versions[i].refused)
}

func lostDetail(want *version) string {
	if want == nil {
		return ""
	}
	return fmt.Sprintf("submitted as event %d, acknowledged as event %d", want.submitted, want.acked)
}

// observe notes that a version was read: from now on it counts as acknowledged,
// whether or not it ever is.
func (l *Log) observe(block int64, h *history, number uint64) {
	v := &h.versions[h.find(number)]
	if v.acked != never {
		return
	}
	// A record that does not make it to the disk only weakens the log.
	_ = l.file.note(record{kind: recordObserve, event: v.number, block: block, count: 1})
	l.seq++
	v.acked = l.seq
}

func (l *Log) stamp(block int64, v *version) Stamp {
	if v == nil || v.zero {
		return Stamp{}
	}
	return Stamp{Volume: l.o.Volume, Block: block, Version: v.number, Writer: v.writer, Seed: l.o.Seed}
}

// damage judges content that is no whole block: by sectors, of what versions it
// is made.
func (l *Log) damage(block int64, h *history, data []byte) (Verdict, string) {
	const sector = 512
	verdict := Foreign
	if s, _ := ReadStamp(data); !s.Zero() && s.Volume == l.o.Volume && s.Seed == l.o.Seed {
		verdict = Torn
	}
	candidate := make([]byte, BlockBytes)
	var names [BlockBytes / sector]string
	for i := range names {
		names[i] = "?"
	}
	for i := range h.versions {
		v := &h.versions[i]
		clear(candidate)
		if !v.zero {
			l.stamp(block, v).Fill(candidate)
		}
		for s := range names {
			if bytes.Equal(candidate[s*sector:][:sector], data[s*sector:][:sector]) {
				verdict, names[s] = Torn, fmt.Sprint(v.number)
			}
		}
	}
	if verdict == Foreign {
		return Foreign, fmt.Sprintf("it begins with %x", data[:16])
	}
	return Torn, "versions by sector of 512 bytes: " + strings.Join(names[:], " ")
}
