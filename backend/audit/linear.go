package audit

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Value is what a block holds, as far as a History cares: which write's content.
// Writes of one block must all have different values; 0 is a block of zeros.
type Value uint64

// Invalid is the value of a read that returned no write's content as a whole.
const Invalid Value = math.MaxUint64

// ValueOf is the value of a stamped block: writer and version. Content that no
// Fill made, or that belongs elsewhere, is Invalid.
func ValueOf(block []byte, want Stamp) Value {
	s, ok := ReadStamp(block)
	switch {
	case !ok:
		return Invalid
	case s.Zero():
		return 0
	case s.Volume != want.Volume || s.Block != want.Block || s.Seed != want.Seed || s.Version > math.MaxUint32:
		return Invalid
	}
	return Value(uint64(s.Writer)<<32 | s.Version)
}

// History records what several clients did to blocks, and when, and says whether
// it is linearizable: whether every operation could have taken effect at one
// moment between its call and its return. May be used from any goroutine.
type History struct {
	start time.Time

	mu     sync.Mutex // guards blocks
	blocks map[int64][]*operation
}

type operation struct {
	client         int
	write          bool
	value          Value
	called, ended  int64 // ns since start; ended is open for an unknown outcome
	known, dropped bool
}

// open is the end of an operation that may take effect at any time to come.
const open = math.MaxInt64

// NewHistory starts the clock. Every block holds 0.
func NewHistory() *History {
	return &History{start: time.Now(), blocks: map[int64][]*operation{}}
}

// Call is an operation in flight. One that never ends has an unknown outcome: a
// write may take effect at any time, or never.
type Call struct {
	h *History
	o *operation
}

// Read notes, before it is sent, a read of a block by a client. Clients count from
// 0, and each does one thing at a time.
func (h *History) Read(client int, block int64) Call {
	return h.call(block, &operation{client: client})
}

// Write notes a write of v.
func (h *History) Write(client int, block int64, v Value) Call {
	return h.call(block, &operation{client: client, write: true, value: v})
}

func (h *History) call(block int64, o *operation) Call {
	o.ended = open
	h.mu.Lock()
	defer h.mu.Unlock()
	o.called = int64(time.Since(h.start))
	h.blocks[block] = append(h.blocks[block], o)
	return Call{h: h, o: o}
}

// Returned ends a write that was acknowledged.
func (c Call) Returned() { c.end(c.o.value) }

// Saw ends a read that found v.
func (c Call) Saw(v Value) { c.end(v) }

func (c Call) end(v Value) {
	now := int64(time.Since(c.h.start))
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.o.value, c.o.ended, c.o.known = v, now, true
}

// Refused ends an operation that is certain to have had no effect and never to
// have one. An error alone does not make that certain.
func (c Call) Refused() {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.o.dropped = true
}

// Answer of a check.
type Answer string

const (
	// Linearizable: every block is.
	Linearizable Answer = "linearizable"
	// Violated: at least one block is not.
	Violated Answer = "violated"
	// Undecided: no violation was found, but some block took too long to decide.
	Undecided Answer = "unknown"
)

// Judgement is the outcome of a check.
type Judgement struct {
	Answer Answer
	// Violations and Undecided are the blocks concerned.
	Violations, Undecided []int64
	// Operations checked, and those with an unknown outcome among them.
	Operations, Open int
	// Files show the violations, where a directory was given; FileError says why
	// one could not be written.
	Files     []string
	FileError error
}

func (j Judgement) String() string {
	text := fmt.Sprintf("%s: %d operations, %d of them open", j.Answer, j.Operations, j.Open)
	if len(j.Violations) > 0 {
		text += fmt.Sprintf("; violated on blocks %v", j.Violations)
	}
	if len(j.Undecided) > 0 {
		text += fmt.Sprintf("; took too long on blocks %v", j.Undecided)
	}
	if len(j.Files) > 0 {
		text += "; see " + strings.Join(j.Files, ", ")
	}
	if j.FileError != nil {
		text += fmt.Sprintf("; no picture: %v", j.FileError)
	}
	return text
}

// Check takes at most limit for each block. For every violated block it writes a
// page that shows the history, into dir unless that is "".
func (h *History) Check(limit time.Duration, dir string) Judgement {
	blocks := h.operations()
	j := Judgement{Answer: Linearizable}
	model := registerModel()
	for _, block := range sortedKeys(blocks) {
		ops := blocks[block]
		j.Operations += len(ops)
		for _, o := range ops {
			if o.Return == open {
				j.Open++
			}
		}
		result, info := porcupine.CheckOperationsVerbose(model, ops, limit)
		switch result {
		case porcupine.Unknown:
			j.Undecided = append(j.Undecided, block)
		case porcupine.Illegal:
			j.Violations = append(j.Violations, block)
			if dir != "" {
				j.picture(model, info, filepath.Join(dir, fmt.Sprintf("violation-block-%d.html", block)))
			}
		}
	}
	switch {
	case len(j.Violations) > 0:
		j.Answer = Violated
	case len(j.Undecided) > 0:
		j.Answer = Undecided
	}
	return j
}

func (j *Judgement) picture(model porcupine.Model, info porcupine.LinearizationInfo, path string) {
	var page bytes.Buffer
	err := porcupine.Visualize(model, info, &page)
	if err == nil {
		err = os.WriteFile(path, page.Bytes(), 0o644)
	}
	if err != nil {
		j.FileError = err
		return
	}
	j.Files = append(j.Files, path)
}

func sortedKeys(blocks map[int64][]porcupine.Operation) []int64 {
	keys := make([]int64, 0, len(blocks))
	for block := range blocks {
		keys = append(keys, block)
	}
	slices.Sort(keys)
	return keys
}

// operations gives what a checker needs to know: reads without an answer say
// nothing, and a write of unknown outcome that nobody has seen may be taken to
// have its effect after all else.
func (h *History) operations() map[int64][]porcupine.Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	blocks := map[int64][]porcupine.Operation{}
	for block, list := range h.blocks {
		seen := map[Value]bool{}
		for _, o := range list {
			seen[o.value] = seen[o.value] || !o.write && o.known
		}
		for _, o := range list {
			if o.dropped || !o.known && (!o.write || !seen[o.value]) {
				continue
			}
			in := registerInput{write: o.write, value: o.value}
			blocks[block] = append(blocks[block], porcupine.Operation{
				ClientId: o.client, Input: in, Output: o.value, Call: o.called, Return: o.ended,
			})
		}
	}
	return blocks
}

type registerInput struct {
	write bool
	value Value // of a write
}

// registerModel is one block: a read returns what was written last.
func registerModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return Value(0) },
		Step: func(state, input, output any) (bool, any) {
			if in := input.(registerInput); in.write {
				return true, in.value
			}
			return output.(Value) == state.(Value), state
		},
		DescribeOperation: func(input, output any) string {
			if in := input.(registerInput); in.write {
				return "write " + in.value.String()
			}
			return "read " + output.(Value).String()
		},
		DescribeState: func(state any) string { return state.(Value).String() },
	}
}

func (v Value) String() string {
	switch v {
	case 0:
		return "zeros"
	case Invalid:
		return "garbage"
	}
	return fmt.Sprintf("%d.%d", uint64(v)>>32, uint32(v))
}
