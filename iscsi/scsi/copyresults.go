package scsi

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
)

// copies are the copies of a nexus, under way and of late.
type copies struct {
	mu      sync.Mutex // guards all below
	results []copyResult
}

// maxCopyResults bounds the results that are kept for who never asks.
const maxCopyResults = 16

type copyResult struct {
	id       byte
	job      *copying // nil once it is over
	good     bool
	segments uint64
	bytes    int64
}

// begin notes a copy whose result may be asked for; false if its list is in use.
func (c *copies) begin(j *copying) bool {
	if j.usage != 0 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.find(j.id); i >= 0 {
		if c.results[i].job != nil {
			return false
		}
		c.results = slices.Delete(c.results, i, i+1)
	}
	if len(c.results) == maxCopyResults { // the oldest that is over makes room
		i := slices.IndexFunc(c.results, func(r copyResult) bool { return r.job == nil })
		if i < 0 {
			return false
		}
		c.results = slices.Delete(c.results, i, i+1)
	}
	c.results = append(c.results, copyResult{id: j.id, job: j})
	return true
}

func (c *copies) find(id byte) int {
	return slices.IndexFunc(c.results, func(r copyResult) bool { return r.id == id })
}

func (c *copies) end(j *copying, good bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.results {
		if r := &c.results[i]; r.job == j {
			r.job, r.good, r.segments, r.bytes = nil, good, j.done, j.sum
		}
	}
}

// take returns the result of a list and forgets it, if it is over.
func (c *copies) take(id byte) (r copyResult, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.find(id)
	if i < 0 {
		return r, false
	}
	if r = c.results[i]; r.job == nil {
		c.results = slices.Delete(c.results, i, i+1)
	}
	return r, true
}

// executeCopyStatus answers RECEIVE COPY STATUS (LID1).
func executeCopyStatus(_ *Unit, c *Command) verdict {
	r, ok := c.Nexus.copies.take(c.cdb[2])
	if !ok {
		return c.fail(badCDB(2, noBit))
	}
	const inProgress, complete, withErrors, kibibytes = 0, 1, 2, 1
	b := make([]byte, 12)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	switch {
	case r.job != nil:
		b[4] = inProgress
	case r.good:
		b[4] = complete
	default:
		b[4] = withErrors
	}
	binary.BigEndian.PutUint16(b[5:], uint16(r.segments))
	b[7] = kibibytes
	binary.BigEndian.PutUint32(b[8:], uint32(r.bytes>>10))
	return c.reply(b)
}

// executeCopyParameters answers RECEIVE COPY OPERATING PARAMETERS.
func executeCopyParameters(u *Unit, c *Command) verdict {
	types := []byte{copyBlocks, copyUnitNamed}
	b := make([]byte, 44, 44+len(types))
	b[4] = 0x01 // SNLID: lists without identifier
	binary.BigEndian.PutUint16(b[8:], maxCopyUnits)
	binary.BigEndian.PutUint16(b[10:], maxCopySegments)
	binary.BigEndian.PutUint32(b[12:], maxCopyList)
	binary.BigEndian.PutUint32(b[16:], maxSegmentBytes)
	binary.BigEndian.PutUint16(b[34:], maxCopyResults)
	b[36] = maxCopyResults
	b[37] = byte(bits.TrailingZeros64(uint64(u.blockSize)))
	b[43] = byte(len(types))
	b = append(b, types...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return c.reply(b)
}
