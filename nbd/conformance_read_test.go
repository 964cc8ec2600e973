package nbd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd/client"
)

func TestConformanceReadsOfHolesTravelAsHoles(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		tg := serve(t, setup{network: network})
		for _, style := range styles[1:] {
			t.Run(network+" "+style.String(), func(t *testing.T) {
				c := connect(t, tg, style)
				must(t, c.Trim(within(t), 0, tg.size, 0))
				must(t, c.Write(within(t), pattern(make([]byte, 4096), 1), 64<<10, 0))
				for _, rc := range []struct {
					name           string
					offset, length uint64
					want           uint16
				}{
					{"a hole", 0, 4096, client.ChunkOffsetHole},
					{"a large hole", 2 * mib, 32 * mib, client.ChunkOffsetHole},
					{"512 bytes of a hole", 512, 512, client.ChunkOffsetHole},
					{"data", 64 << 10, 4096, client.ChunkOffsetData},
					{"data between holes", 60 << 10, 12 << 10, client.ChunkOffsetData},
					{"much around little data", 0, 8 * mib, client.ChunkOffsetData},
				} {
					for _, flags := range []client.CommandFlags{0, client.FlagDF} {
						r := &client.Request{Command: client.CmdRead, Flags: flags, Offset: rc.offset, Data: pattern(make([]byte, rc.length), 9), Trace: true}
						must(t, c.Do(within(t), r))
						// That chunks cover the read exactly, and DF reads once, the
						// client has checked.
						if first := r.Chunks[0]; first.Type != rc.want {
							t.Errorf("%s, flags %d: chunk %+v, want type %d", rc.name, flags, first, rc.want)
						}
						for i, b := range r.Data {
							inMark := rc.offset+uint64(i) >= 64<<10 && rc.offset+uint64(i) < 68<<10
							if !inMark && b != 0 {
								t.Fatalf("%s: byte %d of a hole is %#x", rc.name, i, b)
							}
						}
					}
				}
			})
		}
	}
}

// brokenChunks fails operations of one kind while armed.
type brokenChunks struct {
	backend.Chunks
	kind  atomic.Int32
	queue bool // fail in Submit, not in Try
}

var errDisk = fmt.Errorf("sector of the test is bad: %w", backend.ErrIO)

func (b *brokenChunks) breaks(op *backend.Op) bool { return int32(op.Kind) == b.kind.Load() }

func (b *brokenChunks) Try(op *backend.Op) bool {
	switch {
	case !b.breaks(op):
		return b.Chunks.Try(op)
	case b.queue:
		return false
	}
	op.Err = errDisk
	return true
}

func (b *brokenChunks) Submit(op *backend.Op) {
	if !b.breaks(op) {
		b.Chunks.Submit(op)
		return
	}
	op.Err = errDisk
	op.Done.OpDone(op)
}

func TestConformanceErrorsOfTheDiskReachTheClient(t *testing.T) {
	for name, queue := range map[string]bool{"inline": false, "queued": true} {
		var chunks *brokenChunks
		tg := serve(t, setup{wrap: func(c backend.Chunks) backend.Chunks {
			chunks = &brokenChunks{Chunks: c, queue: queue}
			return chunks
		}})
		for _, style := range styles {
			t.Run(name+" "+style.String(), func(t *testing.T) {
				c := connect(t, tg, style)
				must(t, c.Write(within(t), make([]byte, 4*mib), 0, 0))
				for kind, request := range map[backend.OpKind]*client.Request{
					backend.OpRead:  {Command: client.CmdRead, Length: 4096},
					backend.OpWrite: {Command: client.CmdWrite, Data: make([]byte, 4096)},
					backend.OpZero:  {Command: client.CmdWriteZeroes, Length: 4096},
					backend.OpTrim:  {Command: client.CmdTrim, Length: 4096},
					backend.OpFlush: {Command: client.CmdFlush},
				} {
					for _, size := range []uint64{4096, mib} { // one chunk, several
						if request.Data != nil {
							request.Data = make([]byte, size)
						} else if kind != backend.OpFlush {
							request.Length = size
						}
						chunks.kind.Store(int32(kind))
						err := c.Do(within(t), request)
						chunks.kind.Store(0)
						wantErrno(t, err, client.EIO)
						chunked := style == client.ExtendedHeaders || style == client.StructuredReplies && kind == backend.OpRead
						if chunked && !strings.Contains(err.Error(), "sector of the test") {
							t.Errorf("%v: %v: does not say why", kind, err)
						}
						alive(t, c)
					}
				}
			})
		}
	}
}

// readReply reads one reply to a read of length bytes and returns its cookie.
func readReply(w *client.Wire, length int) (cookie uint64, err error) {
	h, err := w.ReadHeader()
	if err != nil {
		return 0, err
	}
	n := int64(h.Length)
	if h.Magic == client.MagicSimpleReply {
		n = int64(length)
	}
	if h.Errno != 0 || h.Type&client.ChunkErrorBit != 0 || !h.Done() {
		return h.Cookie, fmt.Errorf("reply %+v to a read", h)
	}
	_, err = io.CopyN(io.Discard, w, n)
	return h.Cookie, err
}

func TestConformanceThousandPipelinedReadsAreAllAnswered(t *testing.T) {
	forEachStyle(t, func(t *testing.T, tg *target, style client.ReplyStyle) {
		w := attach(t, tg, style)
		pending := make(map[uint64]bool)
		var b []byte
		for len(pending) < 1000 {
			cookie := rand.Uint64()
			pending[cookie] = true
			b = client.AppendRequest(b, style, client.Header{Command: client.CmdRead, Cookie: cookie, Offset: uint64(rand.IntN(1000)) * 512, Length: 512})
		}
		sent := make(chan error, 1)
		go func() {
			_, err := w.NetConn().Write(b)
			sent <- err
		}()
		for len(pending) > 0 {
			cookie, err := readReply(w, 512)
			must(t, err)
			if !pending[cookie] {
				t.Fatalf("cookie %#x answered twice, or never asked", cookie)
			}
			delete(pending, cookie)
		}
		must(t, <-sent)
		alive(t, w.Conn(0))
	})
}

func TestConformanceCookiesAreOpaque(t *testing.T) {
	forEachStyle(t, func(t *testing.T, tg *target, style client.ReplyStyle) {
		w := attach(t, tg, style)
		var b []byte
		for _, cookie := range []uint64{0, 0, 0, ^uint64(0), ^uint64(0)} { // duplicates are the client's risk
			b = client.AppendRequest(b, style, client.Header{Command: client.CmdRead, Cookie: cookie, Length: 4096})
		}
		_, err := w.NetConn().Write(b)
		must(t, err)
		count := make(map[uint64]int)
		for range 5 {
			cookie, err := readReply(w, 4096)
			must(t, err)
			count[cookie]++
		}
		if count[0] != 3 || count[^uint64(0)] != 2 {
			t.Fatalf("cookies answered: %v", count)
		}
		alive(t, w.Conn(0))
	})
}

func TestConformanceDisconnectFinishesWhatIsInFlight(t *testing.T) {
	forEachStyle(t, func(t *testing.T, tg *target, style client.ReplyStyle) {
		w := attach(t, tg, style)
		const writes, size = 40, 96 << 10 // across chunk borders
		flags := client.CommandFlags(0)
		if style == client.ExtendedHeaders {
			flags = client.FlagPayloadLen
		}
		var b []byte
		for i := range uint64(writes) {
			b = client.AppendRequest(b, style, client.Header{Command: client.CmdWrite, Flags: flags, Cookie: i, Offset: i * size, Length: size})
			b = append(b, pattern(make([]byte, size), byte(i))...)
		}
		b = client.AppendRequest(b, style, client.Header{Command: client.CmdDisconnect})
		// What comes behind the good-bye must have no effect.
		b = client.AppendRequest(b, style, client.Header{Command: client.CmdTrim, Cookie: 999, Length: writes * size})
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			w.NetConn().Write(b) // may fail at its end, where nobody reads any more
		}()
		answered := 0
		for {
			h, err := w.ReadHeader()
			if err != nil {
				// The unread rest makes the kernel reset a TCP connection.
				if !errors.Is(err, io.EOF) && answered < writes {
					t.Fatal(err)
				}
				break
			}
			if h.Errno != 0 || h.Type != client.ChunkNone || h.Cookie >= writes {
				t.Fatalf("reply %+v", h)
			}
			answered++
		}
		<-sent
		if answered != writes {
			t.Fatalf("%d of %d writes answered before the end", answered, writes)
		}
		c := connect(t, tg, style)
		for i := range uint64(writes) {
			got := make([]byte, size)
			must(t, c.Read(within(t), got, i*size, 0))
			if want := pattern(make([]byte, size), byte(i)); !bytes.Equal(got, want) {
				t.Fatalf("write %d: %s", i, firstDifference(got, want))
			}
		}
	})
}
