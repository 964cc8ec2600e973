package faults

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
)

// Message is one gRPC message on its way.
type Message struct {
	// Method is the RPC's path: /package.Service/Method.
	Method string
	// ToServer tells requests from responses.
	ToServer bool
	// Stream numbers the RPCs of a Streams, Index the messages of one direction of
	// it, both from 0.
	Stream, Index int
	// Data must not be changed, nor kept.
	Data []byte
}

// Action is what a hook wants done with a message.
type Action uint8

const (
	// Pass the message on.
	Pass Action = iota
	// Drop it.
	Drop
	// Keep it back; later messages overtake it.
	Keep
	// Copy passes it on and keeps a copy.
	Copy
)

// Streams is a proxy in front of one gRPC server that sees every message. Each
// client connection gets one connection to the server; when either breaks, so does
// the other, unless requests that were kept are still to be delivered on it.
type Streams struct {
	listener net.Listener
	server   *http.Server

	mu      sync.Mutex // guards what follows
	target  string
	hook    func(Message) Action
	kept    []*Kept
	grown   chan struct{} // closed when kept grows
	streams int
	conns   map[*conn]struct{}
	closed  bool

	running sync.WaitGroup
}

// NewStreams listens on loopback for the server at target.
func NewStreams(target string) (*Streams, error) {
	l, err := listenBelowEphemeral()
	if err != nil {
		return nil, err
	}
	s := &Streams{target: target, listener: l, grown: make(chan struct{}), conns: map[*conn]struct{}{}}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s.server = &http.Server{
		Handler: http.HandlerFunc(s.serve), Protocols: &protocols, ConnContext: s.connect, ConnState: s.connState,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: window, MaxReceiveBufferPerStream: window, MaxConcurrentStreams: 1000},
	}
	s.running.Go(func() { _ = s.server.Serve(l) }) // ends with ErrServerClosed
	return s, nil
}

// window is the flow-control window of either side, in bytes.
const window = 1 << 24

// Addr is where clients connect to.
func (s *Streams) Addr() string { return s.listener.Addr().String() }

// SetTarget says where the server listens from now on.
func (s *Streams) SetTarget(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = addr
}

// Intercept makes every message from now on go through hook, one call at a time;
// nil passes all. It must not call the Streams.
func (s *Streams) Intercept(hook func(Message) Action) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// Kept is a message that was kept.
type Kept struct {
	Message
	sink *sink
}

// Deliver sends it now, on the stream and connection that it came for. An error
// says that there was no way to.
func (k *Kept) Deliver() error { return k.sink.send(k.Data) }

// AwaitKept returns the messages kept so far once there are n.
func (s *Streams) AwaitKept(ctx context.Context, n int) ([]*Kept, error) {
	for {
		s.mu.Lock()
		kept, grown := s.kept, s.grown
		s.mu.Unlock()
		if len(kept) >= n {
			return kept[:len(kept):len(kept)], nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return kept, fmt.Errorf("%d messages kept, waiting for %d: %w", len(kept), n, ctx.Err())
		}
	}
}

// judge asks the hook, and keeps what it wants kept. It says whether to pass the
// message on.
func (s *Streams) judge(m Message, f *rpc, to *sink) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hook == nil {
		return true
	}
	action := s.hook(m)
	if action == Keep || action == Copy {
		m.Data = append([]byte(nil), m.Data...)
		s.kept = append(s.kept, &Kept{Message: m, sink: to})
		to.expected.Add(1)
		if m.ToServer {
			f.conn.kept.Add(1)
		}
		close(s.grown)
		s.grown = make(chan struct{})
	}
	return action == Pass || action == Copy
}

// Break resets the connections of all clients. The connections to the server that
// a kept request waits for stay.
func (s *Streams) Break() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		abort(c.client)
	}
}

// Close ends all connections and waits.
func (s *Streams) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.end()
	}
	s.mu.Unlock()
	_ = s.server.Close() // what it says is that of a listener closed before
	s.running.Wait()
}
