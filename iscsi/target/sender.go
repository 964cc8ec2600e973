package target

import (
	"sync/atomic"

	"github.com/opencurve/curve-nbd/iscsi"
)

// reply is what goes out for a request, or unasked.
type reply interface {
	// appendTo adds its PDUs, with Output.Lock held.
	appendTo(*sender)
	// sent is called once after that, without the lock, also if sending failed.
	sent()
}

// digests says which checksums the PDUs of a session have.
type digests struct{ header, data bool }

func (d digests) headerSize() int {
	if d.header {
		return iscsi.BHSSize + iscsi.DigestSize
	}
	return iscsi.BHSSize
}

// frameSize is the length of a PDU with n bytes of data.
func (d digests) frameSize(n int) int {
	size := d.headerSize() + iscsi.Padded(n)
	if d.data && n > 0 {
		size += iscsi.DigestSize
	}
	return size
}

const (
	// headsSize is room for the headers, and small data, of one writev.
	headsSize = 32 << 10
	// maxVectors is less than what one writev takes.
	maxVectors = 1000
)

// sender makes PDUs and stamps serial numbers on them, as they go out. Output.Lock
// guards what has no other comment.
type sender struct {
	session *session
	statSN  uint32 // the next
	// maxCmdSN grows by one whenever a command is over.
	maxCmdSN atomic.Uint32
	// maxData is the longest data segment that the initiator takes.
	maxData uint32

	vecs  [][]byte
	heads []byte // headsSize, or nil between sends
	used  int
	err   error
}

// send writes replies, together.
func (o *sender) send(replies []reply) error {
	out := o.session.conn.out
	out.Lock()
	defer out.Unlock()
	for _, r := range replies {
		r.appendTo(o)
	}
	o.flush()
	return o.err
}

// sendNow begins to write the answer of a command, with Output.Lock held, and says
// whether that is all; else sendRest is due.
func (o *sender) sendNow(t *task) (all bool, err error) {
	t.appendTo(o)
	if len(o.vecs) == 0 || o.err != nil {
		return true, o.err
	}
	if all, o.err = o.session.conn.out.WriteNow(o.vecs); all || o.err != nil {
		o.written()
	}
	return all, o.err
}

func (o *sender) sendRest() {
	o.err = o.session.conn.out.WriteRest()
	o.written()
}

// flush writes what there is.
func (o *sender) flush() {
	if len(o.vecs) > 0 && o.err == nil {
		o.err = o.session.conn.out.WriteLocked(o.vecs)
	}
	o.written()
}

// written forgets what was written.
func (o *sender) written() {
	clear(o.vecs)
	o.vecs, o.used = o.vecs[:0], 0
}

// take returns n bytes of memory that lasts until the flush.
func (o *sender) take(n int) []byte {
	if o.heads == nil {
		o.heads = make([]byte, headsSize)
	}
	if o.used+n > len(o.heads) || len(o.vecs) >= maxVectors {
		o.flush()
	}
	b := o.heads[o.used : o.used+n]
	o.used += n
	return b
}

// add appends bytes to what is written, in one piece with those before where they
// lie behind them in memory.
func (o *sender) add(b []byte) {
	if len(b) == 0 {
		return
	}
	if n := len(o.vecs); n > 0 {
		if last := o.vecs[n-1]; follows(last, b) {
			o.vecs[n-1] = last[:len(last)+len(b)]
			return
		}
	}
	o.vecs = append(o.vecs, b)
}

// window is what every answer tells; counts says that it takes a StatSN.
func (o *sender) window(counts bool) iscsi.Window {
	w := iscsi.Window{StatSN: o.statSN, ExpCmdSN: o.session.expCmdSN.Load(), MaxCmdSN: o.maxCmdSN.Load()}
	if counts {
		o.statSN++
	}
	return w
}

// head is room for a header that is to be encoded. headDone follows.
func (o *sender) head() *iscsi.BHS {
	return (*iscsi.BHS)(o.take(o.session.digests.headerSize())[:iscsi.BHSSize])
}

// headDone adds an encoded header.
func (o *sender) headDone(b *iscsi.BHS) {
	size := o.session.digests.headerSize()
	raw := o.heads[o.used-size : o.used]
	if o.session.digests.header {
		iscsi.PutDigest(raw[iscsi.BHSSize:], iscsi.HeaderDigest(b, nil))
	}
	o.add(raw)
}

// data adds n bytes of a data segment, from off on in slices, and what ends it.
func (o *sender) data(slices [][]byte, off, n int64) {
	total, crc := int(n), uint32(0)
	each(slices, off, n, func(b []byte) {
		if o.session.digests.data {
			crc = iscsi.DataDigestAdd(crc, b, -1)
		}
		o.add(b)
	})
	o.endData(total, crc)
}

// endData adds padding and digest.
func (o *sender) endData(total int, crc uint32) {
	if total == 0 {
		return
	}
	pad := iscsi.Padded(total) - total
	if pad > 0 {
		b := o.take(pad)
		clear(b)
		o.add(b)
	}
	if o.session.digests.data {
		b := o.take(iscsi.DigestSize)
		iscsi.PutDigest(b, iscsi.DataDigestAdd(crc, nil, total))
		o.add(b)
	}
}

// each calls f for the stretches of slices that make up n bytes from off on.
func each(slices [][]byte, off, n int64, f func([]byte)) {
	for _, b := range slices {
		if n == 0 {
			return
		}
		if off >= int64(len(b)) {
			off -= int64(len(b))
			continue
		}
		b = b[off:]
		off = 0
		b = b[:min(int64(len(b)), n)]
		n -= int64(len(b))
		f(b)
	}
}

// follows says that b lies directly behind a, in the same memory.
func follows(a, b []byte) bool {
	return cap(a) >= len(a)+len(b) && &a[:len(a)+1][len(a)] == &b[0]
}
