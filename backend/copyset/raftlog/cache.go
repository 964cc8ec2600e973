package raftlog

// cache bounds the entries in memory. Of each group the newest are there, from
// Group.cached on; runs says in which order they came, over all groups.
type cache struct {
	limit int64
	bytes int64
	runs  []run
	head  int // of runs; what is before has been dealt with
}

// run is the end of what one StoreLogs brought.
type run struct {
	group *Group
	last  uint64
}

// maxRuns bounds the memory that runs of deleted entries take.
const maxRuns = 1 << 16

// note adds what was just appended to a group.
func (c *cache) note(g *Group) {
	if c.head > 1024 && c.head > len(c.runs)/2 {
		n := copy(c.runs, c.runs[c.head:])
		clear(c.runs[n:])
		c.runs, c.head = c.runs[:n], 0
	}
	c.runs = append(c.runs, run{g, g.last})
}

// evict drops the oldest entries beyond the limit, unless they are still to be
// written.
func (c *cache) evict() {
	for c.head < len(c.runs) {
		r := c.runs[c.head]
		if r.group.cached <= min(r.last, r.group.last) {
			if c.bytes <= c.limit && len(c.runs)-c.head <= maxRuns {
				return
			}
			if !c.drop(r) {
				return
			}
		}
		c.runs[c.head] = run{}
		c.head++
	}
}

// drop takes a run's entries out of memory, false if some are not written yet.
func (c *cache) drop(r run) bool {
	g := r.group
	for g.cached <= min(r.last, g.last) {
		s := g.slot(g.cached)
		if s.seg == nil {
			return false
		}
		c.bytes -= int64(s.size)
		s.log = nil
		g.cached++
	}
	return true
}
