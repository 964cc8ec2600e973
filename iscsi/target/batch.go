package target

import (
	"time"

	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

const (
	// arenaSize holds the answers of small reads of one batch.
	arenaSize = 256 << 10
	// arenaRead is the largest read that is served straight into the arena.
	arenaRead = 64 << 10
	// batchBytes is when a batch is sent though more is at hand: the initiator
	// should not wait longer for its first answer.
	batchBytes = 256 << 10
	// timedBatches: the commands of one batch in so many are timed.
	timedBatches = 8
)

// batch is the answers that the reader has made and not sent yet.
type batch struct {
	arena   *gateway.Buffer
	lender  *medium // of the arena
	used    int
	replies []reply
	bytes   int
	timed   time.Time // when its first command came, zero if nobody asked
}

// frame returns room for the answer of a read, or nil. It is not taken until commit.
func (b *batch) frame(l *lun, size int) []byte {
	if b.arena == nil {
		m := l.lend()
		if m == nil {
			return nil
		}
		if b.arena = m.TryBuffer(arenaSize); b.arena == nil {
			m.letGo()
			return nil
		}
		b.lender = m
	}
	if b.used+size > len(b.arena.Data) {
		return nil
	}
	return b.arena.Data[b.used : b.used+size]
}

func (b *batch) commit(size int) { b.used += size }

// add appends an answer of about n bytes.
func (b *batch) add(r reply, n int) {
	b.replies = append(b.replies, r)
	b.bytes += n
}

// answer adds an answer, and sends the batch if it is large.
func (s *session) answer(r reply, n int) error {
	s.batch.add(r, n)
	if s.batch.bytes >= batchBytes {
		return s.flush()
	}
	return nil
}

// flush sends the batch and gives its memory back.
func (s *session) flush() error {
	var err error
	if len(s.batch.replies) > 0 {
		err = s.sender.send(s.batch.replies)
	}
	s.batch.release()
	return err
}

// release gives everything back, the arena first: with its last command a unit may go.
func (b *batch) release() {
	if b.arena != nil {
		b.arena.Release()
		b.lender.letGo()
		b.arena, b.lender = nil, nil
	}
	for i, r := range b.replies {
		r.sent()
		b.replies[i] = nil
	}
	b.replies, b.bytes, b.used, b.timed = b.replies[:0], 0, 0, time.Time{}
}

// arrived is when the commands that are just served came, asked of few.
func (s *session) arrived() time.Time {
	if len(s.batch.replies) == 0 {
		s.answered++
		if s.answered%timedBatches == 1 {
			s.batch.timed = volume.Now()
		}
	}
	return s.batch.timed
}
