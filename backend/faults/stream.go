package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// A gRPC message on the wire is a flag byte (compressed), its length in four bytes,
// big-endian, and its content. maxMessage bounds what is allocated for one; the
// largest of ours is a request of 32 MiB.
const (
	messagePrefix = 5
	maxMessage    = 40 << 20
)

// readMessage reads one message, prefix included. io.EOF says that there is none.
func readMessage(r io.Reader) ([]byte, error) {
	var prefix [messagePrefix]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(prefix[1:])
	if n > maxMessage {
		return nil, fmt.Errorf("message of %d bytes, at most %d are forwarded", n, maxMessage)
	}
	message := make([]byte, messagePrefix+n)
	copy(message, prefix[:])
	if _, err := io.ReadFull(r, message[messagePrefix:]); err != nil {
		return nil, fmt.Errorf("message of %d bytes: %w", n, noEOF(err))
	}
	return message, nil
}

// noEOF keeps an end in the middle from passing for an end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// sink is where the messages of one direction of one stream go. It stays open
// while messages that were kept may come yet.
type sink struct {
	expected atomic.Int64

	mu       sync.Mutex // guards what follows, and the order of writes
	write    func([]byte) error
	finish   func()
	drained  bool // nothing comes any more except what is expected
	finished bool
}

var errStreamOver = errors.New("faults: the stream is over")

// send writes a message that was kept.
func (s *sink) send(content []byte) error {
	message := make([]byte, messagePrefix, messagePrefix+len(content))
	binary.BigEndian.PutUint32(message[1:], uint32(len(content)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return errStreamOver
	}
	err := s.write(append(message, content...))
	s.expected.Add(-1)
	s.finishIfDone()
	return err
}

// forward writes a message in its turn.
func (s *sink) forward(message []byte) error {
	return s.use(func() error { return s.write(message) })
}

// use calls f unless the stream is over.
func (s *sink) use(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return errStreamOver
	}
	return f()
}

// drain says that the source has ended.
func (s *sink) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drained = true
	s.finishIfDone()
}

func (s *sink) finishIfDone() {
	if s.drained && s.expected.Load() <= 0 && !s.finished {
		s.finished = true
		s.finish()
	}
}

// cut ends the stream, whatever is expected.
func (s *sink) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
}

// rpc is one RPC that is forwarded. Kept requests may make it outlive its client.
type rpc struct {
	streams            *Streams
	conn               *conn
	method             string
	number             int
	toServer, toClient *sink
	// answered is closed at the end of the server's answer; err is set then.
	answered chan struct{}
	err      error
}

func newRPC(s *Streams, c *conn, method string, w http.ResponseWriter, requests *io.PipeWriter) *rpc {
	flush := http.NewResponseController(w).Flush
	return &rpc{
		streams: s, conn: c, method: method, answered: make(chan struct{}),
		toServer: &sink{
			write:  func(b []byte) error { _, err := requests.Write(b); return err },
			finish: func() { requests.Close() },
		},
		toClient: &sink{
			write: func(b []byte) error {
				if _, err := w.Write(b); err != nil {
					return err
				}
				return flush()
			},
			finish: func() {},
		},
	}
}

// serve forwards one RPC, for as long as its client is there.
func (s *Streams) serve(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok || r.ProtoMajor != 2 {
		http.Error(w, "gRPC only", http.StatusHTTPVersionNotSupported)
		return
	}
	up, cancel := context.WithCancel(c.over)
	body, requests := io.Pipe()
	flush := http.NewResponseController(w).Flush
	f := newRPC(s, c, r.URL.Path, w, requests)
	upstream, err := http.NewRequestWithContext(up, r.Method, "http://target"+r.URL.RequestURI(), body)
	if err != nil {
		cancel()
		panic(http.ErrAbortHandler)
	}
	upstream.Header = r.Header.Clone()
	if !s.begin(f) {
		cancel()
		panic(http.ErrAbortHandler)
	}
	go func() {
		defer s.running.Done()
		f.requests(r.Body, cancel)
	}()
	go func() {
		defer s.running.Done()
		defer cancel()
		f.responses(w, upstream, flush)
	}()
	select {
	case <-f.answered:
	case <-r.Context().Done():
	case <-c.over.Done():
	}
	f.toClient.cut()
	select {
	case <-f.answered:
		if f.err == nil {
			return
		}
	default:
		if f.toServer.expected.Load() == 0 {
			cancel()
		}
	}
	panic(http.ErrAbortHandler)
}

// begin numbers an RPC and makes Close wait for its two goroutines.
func (s *Streams) begin(f *rpc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	f.number = s.streams
	s.streams++
	s.running.Add(2)
	return true
}

// requests forwards what the client sends, until it has no more to say. A client
// that hangs up ends the RPC, unless something was kept: then the server is not
// to know.
func (f *rpc) requests(from io.Reader, cancel context.CancelFunc) {
	if err := f.forward(from, true, f.toServer); err != nil && f.toServer.expected.Load() == 0 {
		f.toServer.cut()
		cancel()
		return
	}
	f.toServer.drain()
}

// forward goes on until from ends. A sink that does not take messages any more
// does not end it: the source must not be held up.
func (f *rpc) forward(from io.Reader, toServer bool, to *sink) error {
	for i := 0; ; i++ {
		message, err := readMessage(from)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		m := Message{Method: f.method, ToServer: toServer, Stream: f.number, Index: i, Data: message[messagePrefix:]}
		if f.streams.judge(m, f, to) {
			if err := to.forward(message); err != nil && toServer {
				return err
			}
		}
	}
}

// responses sends the request and forwards the answer.
func (f *rpc) responses(w http.ResponseWriter, request *http.Request, flush func() error) {
	defer close(f.answered)
	response, err := f.conn.transport.RoundTrip(request)
	if err != nil {
		f.err = err
		return
	}
	defer response.Body.Close()
	// A client that is gone does not keep the server from being listened to: what
	// follows goes nowhere then.
	_ = f.toClient.use(func() error {
		for name, values := range response.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(response.StatusCode)
		if response.Header.Get("Grpc-Status") != "" {
			return nil // no messages and no trailers follow: headers that end the stream
		}
		return flush()
	})
	if f.err = f.forward(response.Body, false, f.toClient); f.err != nil {
		return
	}
	_ = f.toClient.use(func() error {
		for name, values := range response.Trailer {
			w.Header()[http.TrailerPrefix+name] = values
		}
		return nil
	})
}
