package faults

import (
	"errors"
	"io"
	"net"
	"time"
)

const (
	// pumpBytes are read at once, and pumpQueue such pieces wait for a delay at
	// most: 16 MiB, more than fits between two processes without a proxy.
	pumpBytes = 64 << 10
	pumpQueue = 256
)

// piece is what was read, due at a time. The last one of a direction has no data
// and says how it ended.
type piece struct {
	data []byte
	due  time.Time
	end  error
}

// pump forwards one direction until it ends. The end waits its turn like data: a
// partition hides that, too.
func (p *pair) pump(src, dst *net.TCPConn, d direction) {
	queue := make(chan piece, pumpQueue)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.deliver(dst, d, queue)
	}()
	defer func() { <-done }()
	defer close(queue)
	for {
		buffer := make([]byte, pumpBytes)
		n, err := src.Read(buffer)
		rule, _ := p.net.rule(d)
		due := time.Now().Add(p.net.jitter(rule))
		if n > 0 && !p.enqueue(queue, piece{data: buffer[:n], due: due}) {
			return
		}
		if err != nil {
			p.enqueue(queue, piece{due: due, end: err})
			return
		}
	}
}

func (p *pair) enqueue(queue chan<- piece, one piece) bool {
	select {
	case queue <- one:
		return true
	case <-p.over:
		return false
	}
}

func (p *pair) deliver(dst *net.TCPConn, d direction, queue <-chan piece) {
	for one := range queue {
		if !p.awaitTurn(d, one) {
			continue // over: let the reader run dry
		}
		switch {
		case one.end == nil:
			if _, err := dst.Write(one.data); err != nil {
				p.reset()
			}
		case errors.Is(one.end, io.EOF):
			_ = dst.CloseWrite() // fails only if it is closed
		default:
			p.reset()
		}
	}
}

// awaitTurn waits until a piece may be delivered.
func (p *pair) awaitTurn(d direction, one piece) bool {
	for {
		rule, changed := p.net.rule(d)
		wait := time.Until(one.due)
		if rule.BytesPerSecond > 0 {
			wait += time.Duration(int64(len(one.data)) * int64(time.Second) / rule.BytesPerSecond)
		}
		var turn <-chan time.Time
		if !rule.Hold {
			if wait <= 0 {
				return true
			}
			turn = time.After(wait)
		}
		select {
		case <-turn:
			// A rule that changed meanwhile counts from the next piece on, except
			// one that holds.
			if rule, _ := p.net.rule(d); !rule.Hold {
				return true
			}
		case <-changed:
		case <-p.over:
			return false
		}
	}
}
