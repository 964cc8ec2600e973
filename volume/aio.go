package volume

import (
	"github.com/opencurve/curve-nbd/backend"
)

// The stages of a queued request, in the order it meets them:
//
//	Submit ─► [throttle] ─► aio queue ─► split ─► dispatch queue ─► dispatch ─► backend
//	caller     1 goroutine    FIFO       splitWorkers   FIFO a       dispatchWorkers
//	           if QoS                    in parallel    worker       each owns copysets
//
//	backend ─► piece.OpDone ─► last piece of the window? ─► Request.Done, or the
//	                           aio queue again for the next window of pieces
//
// A request that lies on one chunk, whose segment is known, has nothing to be
// split and goes from Submit to the backend on the caller's goroutine: two
// thread hops less (passThrough).
//
// On replicas the router stands between dispatch and backend (router.go), and
// brings back to the dispatch queue what has to be sent again.
//
// No stage waits for the MDS or a disk: a request whose segment is not known is
// parked with the others that want it, and comes back to the aio queue when the
// answer is here.

const (
	splitWorkers    = 2
	dispatchWorkers = 2
	// windowPieces bounds the pieces of one request that are out at a time.
	windowPieces = 256
	// burst bounds what one worker takes from a queue at once, so that another
	// can share a long queue.
	burst = 64
)

// Submit starts r; r.Done is told when it is complete, possibly before Submit
// returns. It never waits for IO, only for room in the backend's queue.
func (v *Volume) Submit(r *Request) {
	r.volume = v
	r.cursor = r.Off
	if !v.enter() {
		r.Err = backend.ErrClosed
		r.Done.RequestDone(r)
		return
	}
	if err := v.checkData(r); err != nil || v.nothingToDo(r) || v.router != nil && v.overAtOnce(r, &err) {
		r.Err = err
		v.leave()
		r.Done.RequestDone(r)
		return
	}
	if r.Arrived.IsZero() {
		r.Arrived = Now()
	}
	v.queued.add(r)
	if v.throttle != nil && !r.paid && r.Op != backend.OpFlush {
		v.throttled.push(r)
		return
	}
	if !v.passThrough(r) {
		v.aio.push(r)
	}
}

// passThrough sends a request that needs no split straight to the backend.
func (v *Volume) passThrough(r *Request) bool {
	op := backend.Op{Kind: backend.OpFlush}
	if r.Op != backend.OpFlush {
		p := locate(v.geometry, r.Off, r.Off+r.Len)
		segment, _ := v.cache.lookup(p.Segment)
		if segment == nil || p.Len != r.Len {
			return false
		}
		op = v.placeOp(r, segment, p)
	}
	r.cursor = r.Off + r.Len
	r.pending.Store(1)
	p := &r.first
	op.Volume, op.Epoch, op.Done = v.id, v.epoch, p
	*p = piece{op: op, req: r, dispatchedAt: r.Arrived, sentAt: r.Arrived}
	if v.router != nil {
		v.router.submit(p)
		return true
	}
	v.chunks.Submit(&p.op)
	return true
}

// overAtOnce says that a request on replicas needs no IO: none does once the
// volume is lost, and a flush never, since what was acknowledged is durable.
func (v *Volume) overAtOnce(r *Request, err *error) bool {
	*err = v.router.doomed()
	return *err != nil || r.Op == backend.OpFlush
}

// throttleRun holds requests back to the volume's QoS, in order of arrival.
func (v *Volume) throttleRun() {
	var batch []*Request
	for {
		if batch = v.throttled.pop(batch, 0); len(batch) == 0 {
			return
		}
		for _, r := range batch {
			if err := v.throttle.wait(v.ctx, r); err != nil {
				r.fail(backend.ErrClosed)
				r.complete()
				continue
			}
			v.aio.push(r)
		}
	}
}

// splitRun takes requests from the aio queue and hands their pieces to the
// dispatch workers.
func (v *Volume) splitRun() {
	var batch []*Request
	var places []place
	for {
		if batch = v.aio.pop(batch, burst); len(batch) == 0 {
			return
		}
		begun := Now()
		for _, r := range batch {
			v.stats.aio.Observe(begun.Sub(r.Arrived).Seconds())
			places = v.split(r, places[:0])
		}
		v.stats.split.Observe(Now().Sub(begun).Seconds() / float64(len(batch)))
	}
}

// split hands out the next window of r's pieces. places is scratch room.
func (v *Volume) split(r *Request, places []place) []place {
	r.pending.Store(1) // split's own count, dropped at the end
	if r.Op == backend.OpFlush {
		v.send(r, &r.first, backend.Op{Kind: backend.OpFlush})
		r.windowDone()
		return places
	}
	end := r.Off + r.Len
	for sent := 0; r.cursor < end && sent < windowPieces; {
		var next int64
		if r.Op == backend.OpRead || r.Op == backend.OpWrite {
			p := locate(v.geometry, r.cursor, end)
			places, next = append(places[:0], p), r.cursor+p.Len
		} else {
			places, next = locateSpan(v.geometry, r.cursor, end, places[:0])
		}
		segment, known := v.cache.lookup(places[0].Segment)
		if !known || (segment == nil && v.needsSpace(r)) {
			if sent == 0 {
				v.park(places[0].Segment, r)
				return places
			}
			break // what is out first; the next window begins at the miss
		}
		switch {
		case segment != nil:
			for _, p := range places {
				v.sendPlace(r, segment, p)
			}
			sent += len(places)
		case r.Op == backend.OpRead:
			clear(r.Data[places[0].Off-r.Off:][:places[0].Len])
			v.cache.forget(places[0].Segment)
		default: // zeroing or trimming nothing
			next = max(next, min(end, v.segmentEnd(places[0].Segment)))
			v.cache.forget(places[0].Segment)
		}
		r.cursor = next
	}
	r.windowDone()
	return places
}

// needsSpace says whether r must have its segments allocated.
func (v *Volume) needsSpace(r *Request) bool {
	return r.Op == backend.OpWrite || (r.Op == backend.OpZero && r.Flags.Has(backend.FlagNoHole))
}

func (v *Volume) segmentEnd(index backend.SegmentIndex) int64 {
	return (int64(index) + 1) * v.geometry.SegmentSize
}

// sendPlace makes the piece of r that lands on p and hands it to dispatch.
func (v *Volume) sendPlace(r *Request, segment *backend.Segment, p place) {
	pc := &r.first
	if p.Len != r.Len {
		pc = pieces.Get().(*piece)
	}
	v.send(r, pc, v.placeOp(r, segment, p))
}

// placeOp is the backend operation for the part of r that lands on p.
func (v *Volume) placeOp(r *Request, segment *backend.Segment, p place) backend.Op {
	op := backend.Op{
		Kind:  r.Op,
		Flags: r.Flags,
		Chunk: segment.Chunks[p.Chunk],
		Off:   p.ChunkOff,
		Len:   p.Len,
	}
	if r.Data != nil {
		op.Data = r.Data[p.Off-r.Off:][:p.Len]
	}
	return op
}

// send counts a piece and puts it into its dispatch worker's queue.
func (v *Volume) send(r *Request, p *piece, op backend.Op) {
	op.Volume, op.Epoch, op.Done = v.id, v.epoch, p
	*p = piece{op: op, req: r, dispatchedAt: Now()}
	r.pending.Add(1)
	v.dispatchPiece(p)
}

// dispatchPiece puts a piece into the queue of the worker that owns its copyset.
func (v *Volume) dispatchPiece(p *piece) {
	v.dispatch[int(p.op.Chunk.Copyset)%len(v.dispatch)].push(p)
}

// dispatchRun sends the pieces of the copysets that one worker owns to the
// backend, in order.
func (v *Volume) dispatchRun(q *queue[*piece]) {
	var batch []*piece
	for {
		if batch = q.pop(batch, 0); len(batch) == 0 {
			return
		}
		sent := Now()
		for i, p := range batch {
			batch[i] = nil
			if p.trip != nil {
				v.router.resubmit(p.trip)
				continue
			}
			p.sentAt = sent
			if v.router != nil {
				v.router.submit(p)
				continue
			}
			v.chunks.Submit(&p.op)
		}
	}
}

// miss is a question to the MDS.
type miss struct {
	segment  backend.SegmentIndex
	allocate bool
}

// park keeps r until the MDS has answered for the segment. One question is out
// per segment, however many requests wait for the answer.
func (v *Volume) park(index backend.SegmentIndex, r *Request) {
	m := miss{index, v.needsSpace(r)}
	v.parkedMu.Lock()
	waiting, asked := v.parked[m]
	v.parked[m] = append(waiting, r)
	v.parkedMu.Unlock()
	if asked {
		return
	}
	v.resolvers.Go(func() {
		err := v.cache.ask(v.ctx, m.segment, m.allocate)
		v.parkedMu.Lock()
		waiting := v.parked[m]
		delete(v.parked, m)
		v.parkedMu.Unlock()
		for _, r := range waiting {
			if err != nil {
				r.fail(err)
				r.windowDone() // split's count
				continue
			}
			v.aio.push(r)
		}
	})
}
