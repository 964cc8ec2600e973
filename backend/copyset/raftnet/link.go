package raftnet

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// link is one connection after its handshake. Requests go one way, answers the
// other. Two goroutines: its reader, which is whoever called read, and its writer.
type link struct {
	conn        net.Conn
	kind        uint8
	peer        backend.ServerID
	incarnation uint64

	mu sync.Mutex
	// work wakes the writer, space those who wait for the queue to drain.
	work, space sync.Cond
	fill        *batch
	// queued is the bytes in fill and in the batch being written.
	queued int
	closed error
	calls  map[uint64]*call
	nextID uint64
	// pipes are told when the link breaks, though they have no calls on it.
	pipes map[*pipeline]struct{}
}

var errLinkClosed = errors.New("link closed")

func newLink(conn net.Conn, kind uint8, h hello) *link {
	l := &link{conn: conn, kind: kind, peer: h.from, incarnation: h.incarnation, fill: &batch{}, calls: map[uint64]*call{}}
	l.work.L, l.space.L = &l.mu, &l.mu
	return l
}

// close breaks the connection and fails the calls on it, once.
func (l *link) close(err error) {
	l.mu.Lock()
	if l.closed != nil {
		l.mu.Unlock()
		return
	}
	l.closed = fmt.Errorf("%w: link to %v: %w", backend.ErrUnreachable, l.peer, err)
	err = l.closed
	calls, pipes := l.calls, l.pipes
	l.calls, l.pipes = nil, nil
	l.work.Broadcast()
	l.space.Broadcast()
	l.mu.Unlock()
	l.conn.Close()
	for _, c := range calls {
		c.fail(err)
	}
	for p := range pipes {
		p.fail(err)
	}
}

// join has a pipeline told when the link breaks; leave ends that.
func (l *link) join(p *pipeline) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed != nil {
		return l.closed
	}
	if l.pipes == nil {
		l.pipes = map[*pipeline]struct{}{}
	}
	l.pipes[p] = struct{}{}
	return nil
}

func (l *link) leave(p *pipeline) {
	l.mu.Lock()
	delete(l.pipes, p)
	l.mu.Unlock()
}

// isClosed says whether the link is of no use any more.
func (l *link) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed != nil
}

// write sends what is queued until the link closes.
func (l *link) write() {
	spare := &batch{}
	for {
		l.mu.Lock()
		for l.fill.empty() && l.closed == nil {
			l.work.Wait()
		}
		if l.closed != nil {
			l.mu.Unlock()
			return
		}
		out := l.fill
		l.fill = spare
		l.mu.Unlock()

		l.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		bufs := out.buffers()
		if _, err := bufs.WriteTo(l.conn); err != nil {
			l.close(err)
			return
		}
		l.mu.Lock()
		l.queued -= out.bytes
		l.space.Broadcast()
		l.mu.Unlock()
		out.reset()
		spare = out
	}
}

// sentLocked accounts for a message that was put into the queue, which began at
// before bytes, and says whether it was too much.
func (l *link) sentLocked(before int) bool {
	l.queued += l.fill.bytes - before
	if before == 0 {
		l.work.Signal()
	}
	limit := queueMax
	if l.kind == kindControl {
		limit = controlQueueMax
	}
	return l.queued <= limit
}

var errQueueFull = errors.New("peer does not read what it is sent")

// send queues a message whose body is a copy of body. It never blocks.
func (l *link) send(h head, body []byte) {
	l.mu.Lock()
	if l.closed != nil {
		l.mu.Unlock()
		return
	}
	before := l.fill.bytes
	m := l.fill.begin()
	l.fill.arena = append(l.fill.arena, body...)
	m.end(h)
	ok := l.sentLocked(before)
	l.mu.Unlock()
	if !ok {
		l.close(errQueueFull)
	}
}

// request queues a request that c waits for the answer of; put writes its body.
// With bulk it waits while the queue is long.
func (l *link) request(h head, c *call, bulk bool, put func(*message)) error {
	l.mu.Lock()
	for bulk && l.closed == nil && l.queued > queueBytes {
		l.space.Wait()
	}
	if l.closed != nil {
		defer l.mu.Unlock()
		return l.closed
	}
	l.nextID++
	h.id = l.nextID
	c.id = h.id
	l.calls[h.id] = c
	before := l.fill.bytes
	m := l.fill.begin()
	put(&m)
	m.end(h)
	ok := l.sentLocked(before)
	l.mu.Unlock()
	if !ok {
		l.close(errQueueFull)
	}
	return nil
}

// forget drops a call that its caller does not want to wait for any more. Where
// that comes too late, the call is just being completed.
func (l *link) forget(c *call) (inTime bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls[c.id] != c {
		return false
	}
	delete(l.calls, c.id)
	return true
}

// answered takes the call that an answer belongs to, nil if nobody waits.
func (l *link) answered(id uint64) *call {
	l.mu.Lock()
	c := l.calls[id]
	delete(l.calls, id)
	l.mu.Unlock()
	return c
}

// read hands each message to handle until the link breaks, and returns why it
// did. The body of an AppendEntries or snapshot belongs to handle; that of others
// is used again. idle, if not zero, bounds the time between two messages.
func (l *link) read(idle time.Duration, handle func(h head, body []byte) error) error {
	in := bufio.NewReaderSize(l.conn, 64<<10)
	var scratch []byte
	for {
		if idle > 0 {
			l.conn.SetReadDeadline(time.Now().Add(idle))
		}
		raw, err := in.Peek(headBytes)
		if err != nil {
			return err
		}
		h, err := decodeHead(raw, l.kind)
		if err != nil {
			return err
		}
		sum := crc32.Checksum(raw[8:], castagnoli)
		in.Discard(headBytes)
		var body []byte
		switch {
		case h.kind == typeAppend || h.kind == typeSnapshot:
			body = make([]byte, h.length)
		case int(h.length) > cap(scratch):
			scratch = make([]byte, h.length)
			fallthrough
		default:
			body = scratch[:h.length]
		}
		if _, err := io.ReadFull(in, body); err != nil {
			return err
		}
		if sum = crc32.Update(sum, castagnoli, body); sum != h.sum {
			return fmt.Errorf("%w: checksum %#x, want %#x: the network damages data", errWire, sum, h.sum)
		}
		if err := handle(h, body); err != nil {
			return err
		}
	}
}
