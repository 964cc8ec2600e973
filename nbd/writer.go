package nbd

import "github.com/opencurve/curve-nbd/gateway/stream"

// Send implements stream.Answers.
func (c *conn) Send(tasks []*task) {
	vecs := c.vecs[:0]
	for _, t := range tasks {
		vecs = t.appendReply(vecs)
	}
	// A failed write ends the connection; the tasks are released all the same.
	err := c.out.Write(vecs)
	clear(vecs)
	c.vecs = vecs
	c.replied(err, tasks...)
}

// nowData bounds the data of a reply that is sent from where its task completed: that is
// the goroutine of others too.
const nowData = 64 << 10

// SendNow implements stream.Answers, for short replies.
func (c *conn) SendNow(t *task) stream.Sending {
	long := t.command.Type == cmdRead && len(t.request.Data) > nowData
	if long || !c.out.TryLock() {
		return stream.Declined
	}
	c.now = t.appendReply(c.now[:0])
	all, err := c.out.WriteNow(c.now)
	if !all && err == nil {
		return stream.Begun
	}
	clear(c.now)
	c.out.Unlock()
	c.replied(err, t)
	return stream.Sent
}

// SendRest implements stream.Answers.
func (c *conn) SendRest(t *task) {
	err := c.out.WriteRest()
	clear(c.now)
	c.out.Unlock()
	c.replied(err, t)
}

// replied releases tasks whose replies are written, or failed to be.
func (c *conn) replied(err error, tasks ...*task) {
	if err != nil {
		c.fail(err)
	}
	for _, t := range tasks {
		t.release()
	}
}
