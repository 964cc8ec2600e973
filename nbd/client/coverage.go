package client

import "slices"

// coverage notes which bytes of a read have arrived. Content chunks may come in
// any order, and must neither overlap nor leave a gap.
type coverage struct {
	// spans are in order, apart from each other and not empty.
	spans []span
}

// span is [from, to), bytes from the start of the request.
type span struct{ from, to uint64 }

// add notes [from, to), which is not empty, and reports what is wrong with it.
func (c *coverage) add(from, to uint64) error {
	at, _ := slices.BinarySearchFunc(c.spans, from, func(s span, from uint64) int {
		if s.from < from {
			return -1
		}
		return 1
	})
	// spans[at-1] starts before the new one, spans[at] at it or behind it.
	before, behind := at > 0 && c.spans[at-1].to >= from, at < len(c.spans) && c.spans[at].from <= to
	if before && c.spans[at-1].to > from || behind && c.spans[at].from < to {
		return broken("content chunk for bytes [%d, %d) of the request overlaps an earlier one", from, to)
	}
	switch {
	case before && behind:
		c.spans[at-1].to = c.spans[at].to
		c.spans = slices.Delete(c.spans, at, at+1)
	case before:
		c.spans[at-1].to = to
	case behind:
		c.spans[at].from = from
	case len(c.spans) == maxFragments:
		return broken("content chunks in more than %d separate stretches", maxFragments)
	default:
		c.spans = slices.Insert(c.spans, at, span{from, to})
	}
	return nil
}

// all says whether [0, length) has arrived.
func (c *coverage) all(length uint64) bool {
	return length == 0 || len(c.spans) == 1 && c.spans[0] == span{0, length}
}

func (c *coverage) reset() { c.spans = c.spans[:0] }
