package nbd_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// eventually waits for a condition that the server brings about by itself.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// idle waits until nothing of any client is left in the gateway.
func idle(t testing.TB, tg *target) {
	t.Helper()
	eventually(t, "requests, permits and exports are all given back", func() bool {
		s := tg.gateway.Status()
		return s.InFlightRequests == 0 && s.InFlightBytes == 0 && len(s.Exports) == 0
	})
}

// manyReads is n reads of that size, as bytes.
func manyReads(style client.ReplyStyle, n int, size uint64) []byte {
	var b []byte
	for i := range n {
		b = client.AppendRequest(b, style, client.Header{Command: client.CmdRead, Cookie: uint64(i), Length: size})
	}
	return b
}

// fill makes the export hold data, so that reads have something to send.
func fill(t testing.TB, tg *target) {
	t.Helper()
	c := connect(t, tg, client.SimpleReplies)
	for off := uint64(0); off < tg.size; off += 4 * mib {
		must(t, c.Write(within(t), pattern(make([]byte, 4*mib), byte(off>>20)), off, 0))
	}
	must(t, c.Disconnect(within(t)))
	idle(t, tg)
}

// rude is a client that stops half-way. It returns once the server cannot make
// progress with it any more.
type rude struct {
	name string
	send []byte
}

func rudeClients(style client.ReplyStyle) []rude {
	write := func(size uint64, sent int) []byte {
		h := client.Header{Command: client.CmdWrite, Length: size}
		if style == client.ExtendedHeaders {
			h.Flags = client.FlagPayloadLen
		}
		return append(client.AppendRequest(nil, style, h), make([]byte, sent)...)
	}
	return []rude{
		{"half a header", write(512, 0)[:11]},
		{"header without its payload", write(4096, 0)},
		{"half a small payload", write(8192, 4096)},
		{"half a large payload", write(mib, 300<<10)},
		{"half of the largest payload", write(32*mib, 8*mib)},
		{"half of a refused payload", write(40*mib, mib)},
		{"reads whose replies nobody takes", manyReads(style, 20000, 64<<10)},
		{"large reads whose replies nobody takes", manyReads(style, 100, 32*mib)},
		{"small reads whose replies nobody takes", manyReads(style, 100000, 4096)},
	}
}

// push sends b from a goroutine until the server takes no more; the returned
// function waits for that goroutine, after conn was closed.
func push(conn net.Conn, b []byte) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn.Write(b) // ends early when the connection does
	}()
	return func() { <-done }
}

func TestClientThatStopsHalfWayIsCutOff(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		tg := serve(t, setup{network: network, nbd: nbd.Options{StallTimeout: 200 * time.Millisecond}})
		fill(t, tg)
		for _, style := range styles {
			t.Run(network+" "+style.String(), func(t *testing.T) {
				for _, r := range rudeClients(style) {
					w := attach(t, tg, style)
					wait := push(w.NetConn(), r.send)
					defer func() { w.Close(); wait() }()
				}
				idle(t, tg) // without our reading a byte, or hanging up
			})
		}
	}
}

func TestIdleClientIsNotCutOff(t *testing.T) {
	const limit = 100 * time.Millisecond
	tg := serve(t, setup{nbd: nbd.Options{StallTimeout: limit}})
	c := connect(t, tg, client.StructuredReplies)
	alive(t, c)
	time.Sleep(4 * limit)
	alive(t, c)
}

// What clients do that stop half-way must not be felt by others, however many
// they are: 8 of them could take all there is, were they given it.
func TestClientsThatStopHalfWayDoNotHoldUpOthers(t *testing.T) {
	for _, r := range rudeClients(client.StructuredReplies) {
		t.Run(r.name, func(t *testing.T) {
			tg := serve(t, setup{}) // deadlines of a minute: nobody is cut off
			fill(t, tg)
			for range 8 {
				w := attach(t, tg, client.StructuredReplies)
				wait := push(w.NetConn(), r.send)
				defer func() { w.Close(); wait() }()
			}
			polite := connect(t, tg, client.StructuredReplies)
			data := make([]byte, 4096)
			slowest := time.Duration(0)
			for i := range 300 {
				started := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				must(t, polite.Read(ctx, data, uint64(i)*4096, 0))
				must(t, polite.Write(ctx, data, uint64(i)*4096, 0))
				cancel()
				slowest = max(slowest, time.Since(started))
			}
			t.Logf("slowest read and write: %v", slowest)
		})
	}
}

func TestClientThatNeverReadsCostsBoundedMemory(t *testing.T) {
	tg := serve(t, setup{})
	fill(t, tg)
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, style := range styles {
		w := attach(t, tg, style)
		wait := push(w.NetConn(), manyReads(style, 20000, 64<<10)) // 1.25 GiB of replies
		defer func() { w.Close(); wait() }()
	}
	polite := connect(t, tg, client.SimpleReplies)
	for range 2000 {
		alive(t, polite)
	}
	runtime.GC()
	runtime.ReadMemStats(&now)
	if grown := int64(now.HeapInuse) - int64(before.HeapInuse); grown > 64*mib {
		t.Fatalf("heap grew by %d MiB", grown/mib)
	}
	if held := tg.gateway.Status().BufferBytes; held > 96*mib {
		t.Fatalf("%d MiB in buffers", held/mib)
	}
}

// A client that takes its replies slowly is slow, not stalled.
func TestSlowReaderGetsEverything(t *testing.T) {
	const limit = time.Second // a busy machine holds up the filling for half of that
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			tg := serve(t, setup{network: network, nbd: nbd.Options{StallTimeout: limit}})
			fill(t, tg)
			w := attach(t, tg, client.SimpleReplies)
			const reads, size = 12, 4 * mib
			wait := push(w.NetConn(), manyReads(w.Style, reads, size))
			defer wait()
			want := pattern(make([]byte, size), 0)
			got := make([]byte, size)
			slowUntil := time.Now().Add(3 * limit)
			for i := range reads {
				h, err := w.ReadHeader()
				must(t, err)
				if h.Errno != 0 {
					t.Fatalf("reply %d: %+v", i, h)
				}
				for n := 0; n < size; {
					part, err := w.Read(got[n:min(n+32<<10, size)])
					must(t, err)
					n += part
					if time.Now().Before(slowUntil) {
						time.Sleep(limit / 40) // a pace, not a hope
					}
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("read %d: %s", i, firstDifference(got, want))
				}
			}
			w.Close()
		})
	}
}

func TestClientThatResetsWhileItsRepliesAreSentLeavesNothing(t *testing.T) {
	tg := serve(t, setup{network: "tcp"})
	fill(t, tg)
	for i := range 40 {
		w := attach(t, tg, styles[i%3])
		wait := push(w.NetConn(), manyReads(w.Style, 40, mib))
		_, err := io.CopyN(io.Discard, w, int64(i)*20<<10)
		must(t, err)
		w.NetConn().(*net.TCPConn).SetLinger(0) // close sends RST
		w.Close()
		wait()
	}
	idle(t, tg)
	alive(t, connect(t, tg, client.SimpleReplies))
}

// A payload that does not arrive in full is as if it never was sent.
func TestHalfAWriteChangesNothing(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		tg := serve(t, setup{network: network})
		c := connect(t, tg, client.SimpleReplies)
		want := pattern(make([]byte, mib), 7)
		must(t, c.Write(within(t), want, 0, 0))
		for i := range 300 {
			style := styles[i%3]
			length := []int{512, 4096, 16 << 10, 64 << 10, mib}[i%5]
			h := client.Header{Command: client.CmdWrite, Length: uint64(length)}
			if style == client.ExtendedHeaders {
				h.Flags = client.FlagPayloadLen
			}
			b := client.AppendRequest(nil, style, h)
			switch i % 4 {
			case 0:
				b = b[:len(b)/2]
			case 1:
				b = append(b, make([]byte, length-1)...)
			default:
				b = append(b, make([]byte, length/2)...)
			}
			w := attach(t, tg, style)
			wait := push(w.NetConn(), b)
			wait()
			w.Close()
		}
		got := make([]byte, len(want))
		must(t, c.Read(within(t), got, 0, 0))
		if !bytes.Equal(got, want) {
			t.Fatal("after 300 halves of writes: ", firstDifference(got, want))
		}
		c.Close()
		idle(t, tg)
	}
}

// countingChunks adds up what is read.
type countingChunks struct {
	backend.Chunks
	bytes atomic.Int64
}

func (c *countingChunks) Try(op *backend.Op) bool {
	done := c.Chunks.Try(op)
	if done && op.Kind == backend.OpRead {
		c.bytes.Add(op.Len)
	}
	return done
}

func (c *countingChunks) Submit(op *backend.Op) {
	if op.Kind == backend.OpRead {
		c.bytes.Add(op.Len)
	}
	c.Chunks.Submit(op)
}

// A few kilobytes of requests can ask for gigabytes. Once their client is gone
// nobody wants the answers.
func TestReadsOfAClientThatHungUpAreNotServed(t *testing.T) {
	const reads, size = 60, 32 * mib
	for _, network := range []string{"unix", "tcp"} {
		var chunks *countingChunks
		tg := serve(t, setup{network: network, wrap: func(c backend.Chunks) backend.Chunks {
			chunks = &countingChunks{Chunks: c}
			return chunks
		}})
		fill(t, tg)
		for _, style := range styles {
			w := attach(t, tg, style)
			_, err := w.NetConn().Write(manyReads(style, reads, size))
			must(t, err)
			eventually(t, "the first read is served", func() bool { return chunks.bytes.Load() > 0 })
			w.Close()
			idle(t, tg)
			if got := chunks.bytes.Swap(0); got > reads*size/10 {
				t.Errorf("%s, %v replies: %d MiB were read for a client that took none", network, style, got/mib)
			}
		}
	}
}
