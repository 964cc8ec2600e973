package target

import "github.com/opencurve/curve-nbd/gateway/stream"

// Send implements stream.Answers.
func (s *session) Send(replies []reply) {
	// A failed write ends the connection; the commands are over all the same.
	if err := s.sender.send(replies); err != nil {
		s.conn.fail(err)
	}
	for _, r := range replies {
		r.sent()
	}
	s.feed()
}

// SendNow implements stream.Answers, for the short answers of commands.
func (s *session) SendNow(r reply) stream.Sending {
	t, ok := r.(*task)
	if !ok || t.dataIn() > nowData || s.anyStarved() {
		return stream.Declined
	}
	out := s.conn.out
	if !out.TryLock() {
		return stream.Declined
	}
	if t.dataIn() > int64(s.sender.maxData) { // more PDUs than one might be more than one write
		out.Unlock()
		return stream.Declined
	}
	if all, err := s.sender.sendNow(t); !all && err == nil {
		return stream.Begun
	}
	return s.nowSent(t)
}

// SendRest implements stream.Answers.
func (s *session) SendRest(r reply) {
	s.sender.sendRest()
	s.nowSent(r)
	s.feed()
}

// nowSent ends what SendNow began.
func (s *session) nowSent(r reply) stream.Sending {
	err := s.sender.err
	s.conn.out.Unlock()
	if err != nil {
		s.conn.fail(err)
	}
	r.sent()
	return stream.Sent
}

// nowData bounds the data of an answer that is sent from where its command completed:
// that is the goroutine of others too.
const nowData = 64 << 10

// post sends something, unless the session is about to end.
func (s *session) post(r reply) {
	s.mu.Lock()
	ended := s.ended
	if !ended {
		s.writer.Begin()
	}
	s.mu.Unlock()
	if !ended {
		s.writer.Finish(r)
	}
}
