package mds

import (
	"fmt"
	"slices"

	"github.com/opencurve/curve-nbd/backend"
)

// fitness grades copysets for new chunks.
type fitness uint8

const (
	// fitGood: every peer is online and has space.
	fitGood fitness = iota
	// fitDegraded: a majority lives.
	fitDegraded
	// fitDown: a majority is gone, perhaps to come back. Chunks go here only
	// where every copyset is down: their writes wait, and are not refused.
	fitDown
	// fitFull: a peer has no space for more.
	fitFull
)

// Place implements Allocator: the chunks of a segment go round the fittest
// copysets, beginning with the one that has the fewest chunks; among equals,
// each volume begins somewhere else.
func (c *cluster) Place(tx Txn, volume backend.VolumeID, copysets []backend.CopysetID) error {
	candidates, err := c.placeable()
	if err != nil {
		return err
	}
	n := len(candidates)
	use := make([]int64, n)
	for i, id := range candidates {
		if use[i], err = getUse(tx, id); err != nil {
			return err
		}
	}
	start := int(uint64(volume) % uint64(n))
	for i := range n {
		if at := (int(uint64(volume)%uint64(n)) + i) % n; use[at] < use[start] {
			start = at
		}
	}
	for i := range copysets {
		at := (start + i) % n
		copysets[i] = candidates[at]
		use[at]++
	}
	for i := range min(n, len(copysets)) {
		at := (start + i) % n
		if err := putUse(tx, candidates[at], use[at]); err != nil {
			return err
		}
	}
	return nil
}

// placeable returns the copysets of the best fitness there is, in order.
func (c *cluster) placeable() ([]backend.CopysetID, error) {
	known := c.known.Load()
	if len(known.copysets) == 0 {
		return nil, fmt.Errorf("%w: the cluster has no copysets to place chunks on: start chunkservers and create copysets", backend.ErrUnreachable)
	}
	states := c.states(known)
	best := fitFull
	var ids []backend.CopysetID
	for _, record := range known.copysets {
		h := copysetFitness(record.Peers, states)
		if h < best {
			best, ids = h, ids[:0]
		}
		if h == best {
			ids = append(ids, record.ID)
		}
	}
	if best == fitFull {
		return nil, fmt.Errorf("%w: each of the %d copysets has a chunkserver that is full: add chunkservers or free space", backend.ErrNoSpace, len(known.copysets))
	}
	return ids, nil
}

func copysetFitness(peers []backend.ServerID, states map[backend.ServerID]serverHealth) fitness {
	online, live := 0, 0
	for _, p := range peers {
		s := states[p]
		switch {
		case s.full:
			return fitFull
		case s.state == backend.ServerOnline:
			online++
			live++
		case s.state == backend.ServerRetiring:
			live++
		}
	}
	switch {
	case online == len(peers):
		return fitGood
	case 2*live > len(peers):
		return fitDegraded
	}
	return fitDown
}

// giveBack takes chunks that are forgotten off the counts of their copysets.
func giveBack(tx Txn, freed map[backend.CopysetID]int64) error {
	ids := make([]backend.CopysetID, 0, len(freed))
	for id := range freed {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		use, err := getUse(tx, id)
		if err != nil {
			return err
		}
		if use == 0 {
			continue // one machine: nobody counts
		}
		if err := putUse(tx, id, max(use-freed[id], 0)); err != nil {
			return err
		}
	}
	return nil
}
