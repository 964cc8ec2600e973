package client

import (
	"context"
	"fmt"
	"sync"
)

var requests = sync.Pool{New: func() any { return new(Request) }}

// Do starts r and waits for it. When ctx ends first the connection is broken,
// since r's buffer can be got back in no other way.
func (c *Conn) Do(ctx context.Context, r *Request) error {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
		defer stop()
	}
	if err := c.Start(ctx, r); err != nil {
		return err
	}
	return r.Wait()
}

// call does one request that has no outcome but its error.
func (c *Conn) call(ctx context.Context, command Command, flags CommandFlags, off, length uint64, data []byte) error {
	r := requests.Get().(*Request)
	r.Command, r.Flags, r.Offset, r.Length, r.Data = command, flags, off, length, data
	err := c.Do(ctx, r)
	r.Data, r.payload = nil, nil
	requests.Put(r)
	return err
}

// Read fills p from off.
func (c *Conn) Read(ctx context.Context, p []byte, off uint64, flags CommandFlags) error {
	return c.call(ctx, CmdRead, flags, off, 0, p)
}

// Write stores p at off.
func (c *Conn) Write(ctx context.Context, p []byte, off uint64, flags CommandFlags) error {
	return c.call(ctx, CmdWrite, flags, off, 0, p)
}

// Flush makes durable every write that was answered before.
func (c *Conn) Flush(ctx context.Context) error {
	return c.call(ctx, CmdFlush, 0, 0, 0, nil)
}

// Trim says that a range's content is no longer needed.
func (c *Conn) Trim(ctx context.Context, off, length uint64, flags CommandFlags) error {
	return c.call(ctx, CmdTrim, flags, off, length, nil)
}

// WriteZeroes makes a range read as zeros.
func (c *Conn) WriteZeroes(ctx context.Context, off, length uint64, flags CommandFlags) error {
	return c.call(ctx, CmdWriteZeroes, flags, off, length, nil)
}

// Cache says that a range will be read soon.
func (c *Conn) Cache(ctx context.Context, off, length uint64) error {
	return c.call(ctx, CmdCache, 0, off, length, nil)
}

// BlockStatus returns what base:allocation says about a range, from its start;
// it may stop early, and its last extent may reach beyond the range.
func (c *Conn) BlockStatus(ctx context.Context, off, length uint64, flags CommandFlags) ([]Extent, error) {
	r := &Request{Command: CmdBlockStatus, Flags: flags, Offset: off, Length: length}
	if err := c.Do(ctx, r); err != nil {
		return nil, err
	}
	for _, status := range r.Status {
		for _, known := range c.contexts {
			if known.ID == status.Context && known.Name == BaseAllocation {
				return status.Extents, nil
			}
		}
	}
	return nil, fmt.Errorf("block status of %s: not negotiated: select it before Go", BaseAllocation)
}
