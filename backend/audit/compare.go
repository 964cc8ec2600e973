package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
)

// Replica gives access to what one chunkserver holds of a copyset, while nothing
// changes it.
type Replica interface {
	// Name says which replica it is.
	Name() string
	// Chunks lists the chunks and their sizes in bytes.
	Chunks(ctx context.Context) (map[backend.ChunkID]int64, error)
	// ReadBlock fills p with a block of BlockBytes; a hole reads as zeros.
	ReadBlock(ctx context.Context, chunk backend.ChunkID, block int64, p []byte) error
}

// Difference is a run of blocks of one chunk in which replicas differ, or cannot
// be read, in the same way.
type Difference struct {
	Chunk         backend.ChunkID
	Block, Blocks int64
	// Groups are the replicas that agree with each other; more than one.
	Groups [][]string
	// Err is what reading said, of those replicas that could not be read.
	Err error
	// Found says what the blocks of each group are, of the run's first block.
	Found []string
}

func (d Difference) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v, block %d", d.Chunk, d.Block)
	if d.Blocks > 1 {
		fmt.Fprintf(&b, " to %d", d.Block+d.Blocks-1)
	}
	for i, g := range d.Groups {
		fmt.Fprintf(&b, "; %s: %s", strings.Join(g, ", "), d.Found[i])
	}
	if d.Err != nil {
		fmt.Fprintf(&b, "; %v", d.Err)
	}
	return b.String()
}

// Comparison is the outcome of Compare.
type Comparison struct {
	Chunks, Blocks int64
	Differences    []Difference
	// Missing are chunks that some replica does not have, though another one holds
	// more than zeros in it: in Differences too.
	Missing []backend.ChunkID
}

// Equal says that every replica holds the same.
func (c Comparison) Equal() bool { return len(c.Differences) == 0 }

func (c Comparison) String() string {
	if c.Equal() {
		return fmt.Sprintf("%d chunks, %d blocks: all replicas equal", c.Chunks, c.Blocks)
	}
	lines := []string{fmt.Sprintf("%d chunks, %d blocks: %d runs of blocks differ", c.Chunks, c.Blocks, len(c.Differences))}
	for _, d := range c.Differences {
		lines = append(lines, d.String())
	}
	return strings.Join(lines, "\n")
}

// Compare reads every block of every replica and reports all that differ. A chunk
// that a replica lacks counts as zeros there. The error is of what kept it from
// comparing at all; blocks that cannot be read are differences.
func Compare(ctx context.Context, replicas []Replica) (Comparison, error) {
	if len(replicas) < 2 {
		return Comparison{}, fmt.Errorf("%w: %d replicas to compare, want two or more", backend.ErrInvalid, len(replicas))
	}
	held := make([]map[backend.ChunkID]int64, len(replicas))
	sizes := map[backend.ChunkID]int64{}
	for i, r := range replicas {
		var err error
		if held[i], err = r.Chunks(ctx); err != nil {
			return Comparison{}, fmt.Errorf("chunks of %s: %w", r.Name(), err)
		}
		for id, size := range held[i] {
			if !backend.ValidChunkSize(size) || sizes[id] != 0 && sizes[id] != size {
				return Comparison{}, fmt.Errorf("%w: %v has %d bytes on %s, %d elsewhere", backend.ErrInvalid, id, size, r.Name(), sizes[id])
			}
			sizes[id] = size
		}
	}
	ids := make([]backend.ChunkID, 0, len(sizes))
	for id := range sizes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	c := &comparer{replicas: replicas, held: held, blocks: make([][]byte, len(replicas)), errs: make([]error, len(replicas))}
	for i := range c.blocks {
		c.blocks[i] = make([]byte, BlockBytes)
	}
	for _, id := range ids {
		if err := c.chunk(ctx, id, sizes[id]/BlockBytes); err != nil {
			return c.Comparison, err
		}
	}
	return c.Comparison, nil
}

type comparer struct {
	Comparison
	replicas []Replica
	held     []map[backend.ChunkID]int64
	blocks   [][]byte // one of each replica
	errs     []error
}

func (c *comparer) chunk(ctx context.Context, id backend.ChunkID, blocks int64) error {
	c.Chunks++
	before := len(c.Differences)
	for block := range blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		c.Blocks++
		for i, r := range c.replicas {
			c.errs[i] = nil
			if _, ok := c.held[i][id]; !ok {
				clear(c.blocks[i])
			} else if err := r.ReadBlock(ctx, id, block, c.blocks[i]); err != nil {
				c.errs[i] = fmt.Errorf("%s: %w", r.Name(), err)
			}
		}
		c.note(id, block, before)
	}
	lacking := slices.ContainsFunc(c.held, func(h map[backend.ChunkID]int64) bool { return h[id] == 0 })
	if lacking && len(c.Differences) > before {
		c.Missing = append(c.Missing, id)
	}
	return nil
}

// note adds the block to the differences, if there is one. Those from before on
// are of the same chunk.
func (c *comparer) note(id backend.ChunkID, block int64, before int) {
	d := Difference{Chunk: id, Block: block, Blocks: 1, Err: errors.Join(c.errs...)}
	var contents [][]byte
	for i, r := range c.replicas {
		if c.errs[i] != nil {
			continue
		}
		g := slices.IndexFunc(contents, func(b []byte) bool { return bytes.Equal(b, c.blocks[i]) })
		if g < 0 {
			g = len(contents)
			contents = append(contents, c.blocks[i])
			d.Groups = append(d.Groups, nil)
			d.Found = append(d.Found, describe(c.blocks[i]))
		}
		d.Groups[g] = append(d.Groups[g], r.Name())
	}
	if len(d.Groups) <= 1 && d.Err == nil {
		return
	}
	if len(c.Differences) > before {
		last := &c.Differences[len(c.Differences)-1]
		sameGroups := slices.EqualFunc(last.Groups, d.Groups, slices.Equal)
		if sameGroups && d.Err == nil && last.Err == nil && last.Block+last.Blocks == block {
			last.Blocks++
			return
		}
	}
	c.Differences = append(c.Differences, d)
}

func describe(b []byte) string {
	s, ok := ReadStamp(b)
	if !ok {
		return fmt.Sprintf("%x…", b[:16])
	}
	return s.String()
}
