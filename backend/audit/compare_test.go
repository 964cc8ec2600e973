package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// chunkMap is a replica in memory. Blocks that are not in it are holes.
type chunkMap struct {
	name   string
	chunks map[backend.ChunkID]int64
	blocks map[string]string
	broken map[string]error
}

func at(chunk backend.ChunkID, block int64) string { return fmt.Sprint(uint64(chunk), ".", block) }

func (c chunkMap) Name() string { return c.name }
func (c chunkMap) Chunks(context.Context) (map[backend.ChunkID]int64, error) {
	return c.chunks, nil
}
func (c chunkMap) ReadBlock(_ context.Context, chunk backend.ChunkID, block int64, p []byte) error {
	clear(p)
	copy(p, c.blocks[at(chunk, block)])
	return c.broken[at(chunk, block)]
}

func TestCompareReportsEveryDifferingBlock(t *testing.T) {
	const size = 64 << 10
	both := map[backend.ChunkID]int64{1: size, 2: size}
	bad := errors.New("checksum")
	replica := func(name string, blocks map[string]string) chunkMap {
		return chunkMap{name: name, chunks: both, blocks: blocks}
	}
	full := map[string]string{at(1, 3): "a", at(2, 0): "b"}
	cases := []struct {
		name     string
		replicas []Replica
		// want as "chunk block+blocks"
		want    []string
		missing []backend.ChunkID
	}{
		{"equal", []Replica{replica("x", full), replica("y", full), replica("z", full)}, nil, nil},
		{"zeros are a hole", []Replica{replica("x", map[string]string{at(1, 1): "\x00"}), replica("y", nil)}, nil, nil},
		{"one block", []Replica{replica("x", full), replica("y", full), replica("z", map[string]string{at(1, 3): "c", at(2, 0): "b"})}, []string{"1 3+1"}, nil},
		{"runs", []Replica{replica("x", map[string]string{at(1, 1): "a", at(1, 2): "a", at(1, 4): "a", at(2, 15): "a"}), replica("y", nil)},
			[]string{"1 1+2", "1 4+1", "2 15+1"}, nil},
		{"neighbours that differ in another way", []Replica{
			replica("x", map[string]string{at(1, 1): "a"}), replica("y", nil), replica("z", map[string]string{at(1, 2): "a"})},
			[]string{"1 1+1", "1 2+1"}, nil},
		{"missing chunk", []Replica{replica("x", full), chunkMap{name: "y", chunks: map[backend.ChunkID]int64{1: size}, blocks: full}}, []string{"2 0+1"}, []backend.ChunkID{2}},
		{"missing chunk of zeros", []Replica{replica("x", nil), chunkMap{name: "y"}}, nil, nil},
		{"unreadable", []Replica{replica("x", full), chunkMap{name: "y", chunks: both, blocks: full, broken: map[string]error{at(2, 5): bad}}}, []string{"2 5+1"}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := Compare(t.Context(), c.replicas)
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			for _, d := range got.Differences {
				found = append(found, fmt.Sprintf("%d %d+%d", uint64(d.Chunk), d.Block, d.Blocks))
			}
			if !slices.Equal(found, c.want) || !slices.Equal(got.Missing, c.missing) || got.Equal() != (len(c.want) == 0) {
				t.Errorf("found %q, missing %v; want %q, %v", found, got.Missing, c.want, c.missing)
			}
			if got.Blocks != 32 || got.Chunks != 2 {
				t.Errorf("%d blocks of %d chunks were compared, want 32 of 2", got.Blocks, got.Chunks)
			}
		})
	}
}

func TestComparisonSaysWhoDiffersAndHow(t *testing.T) {
	block := make([]byte, BlockBytes)
	Stamp{Volume: 7, Block: 5, Version: 3, Writer: 2, Seed: 99}.Fill(block)
	chunks := map[backend.ChunkID]int64{1: 64 << 10}
	newer := map[string]string{at(1, 3): string(block)}
	got, err := Compare(t.Context(), []Replica{
		chunkMap{name: "cs1", chunks: chunks, blocks: newer}, chunkMap{name: "cs2", chunks: chunks}, chunkMap{name: "cs3", chunks: chunks, blocks: newer},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"block 3", "cs1, cs3: version 3 of block 5 of volume 7", "cs2: zeros"} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("%q does not say %q", got.String(), want)
		}
	}
}

func TestCompareRefusesWhatCannotBeCompared(t *testing.T) {
	for name, replicas := range map[string][]Replica{
		"one replica":  {chunkMap{}},
		"chunk sizes":  {chunkMap{chunks: map[backend.ChunkID]int64{1: 64 << 10}}, chunkMap{chunks: map[backend.ChunkID]int64{1: 128 << 10}}},
		"a wrong size": {chunkMap{chunks: map[backend.ChunkID]int64{1: 5}}, chunkMap{}},
	} {
		if _, err := Compare(t.Context(), replicas); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
