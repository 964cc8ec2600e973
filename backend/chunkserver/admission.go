package chunkserver

import "sync/atomic"

// admission bounds the operations under way in the whole server, by count and by
// bytes of payload. What does not fit is refused, not kept waiting: the client backs
// off and nothing piles up here.
type admission struct {
	maxOps, maxBytes int64
	ops, bytes       atomic.Int64
	refused          atomic.Int64
}

// admit takes room for an operation. One that is alone always fits.
func (a *admission) admit(bytes int64) bool {
	ops, total := a.ops.Add(1), a.bytes.Add(bytes)
	if ops > a.maxOps || bytes > 0 && total > a.maxBytes && total != bytes {
		a.release(bytes)
		a.refused.Add(1)
		return false
	}
	return true
}

func (a *admission) release(bytes int64) {
	a.bytes.Add(-bytes)
	a.ops.Add(-1)
}
