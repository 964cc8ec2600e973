package volume

import "github.com/opencurve/curve-nbd/backend"

// Try runs r to its end on the calling goroutine if nothing has to be waited
// for: the request lies on one chunk, its segment is known, the throttle has
// tokens and the backend will not block. Then it returns true and r.Err holds
// the outcome; r.Done is not called. On false nothing happened and the caller
// may Submit r.
//
// This is the short way through the same stages (check, throttle, look up,
// cut, backend), for the requests on which two thread hops would cost more than
// the work itself.
func (v *Volume) Try(r *Request) bool {
	if !v.enter() {
		r.Err = backend.ErrClosed
		return true
	}
	done := v.try(r)
	v.leave()
	return done
}

func (v *Volume) try(r *Request) bool {
	if r.Err = v.checkData(r); r.Err != nil || v.nothingToDo(r) {
		return true
	}
	if v.router != nil && v.overAtOnce(r, &r.Err) {
		return true
	}
	op := &r.first.op
	if r.Op == backend.OpFlush {
		*op = backend.Op{Kind: backend.OpFlush}
		return v.tryOp(r, op)
	}
	p := locate(v.geometry, r.Off, r.Off+r.Len)
	if p.Len != r.Len {
		return false
	}
	segment, known := v.cache.lookup(p.Segment)
	if !known || (segment == nil && v.needsSpace(r)) {
		return false
	}
	if v.throttle != nil && !r.paid {
		if !v.throttle.allow(r) {
			return false
		}
		r.paid = true
	}
	if segment == nil {
		if r.Op == backend.OpRead {
			clear(r.Data)
			r.Hole = true
		}
		v.cache.forget(p.Segment)
		return true
	}
	if v.router != nil {
		return false // replicas never serve inline
	}
	*op = v.placeOp(r, segment, p)
	return v.tryOp(r, op)
}

func (v *Volume) tryOp(r *Request, op *backend.Op) bool {
	op.Volume, op.Epoch = v.id, v.epoch
	if !v.chunks.Try(op) {
		return false
	}
	r.Err, r.Hole = op.Err, op.Hole && op.Err == nil
	return true
}

// Paid carries over that an earlier Try of the same request already took the
// throttle's tokens.
func (r *Request) Paid(tried *Request) { r.paid = tried.paid }
