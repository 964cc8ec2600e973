package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
)

// FuzzReplyDecoder feeds any bytes to the decoder of replies. Whatever they
// are, it ends with an error, and a read it calls successful has had every byte
// of its buffer set by the server.
func FuzzReplyDecoder(f *testing.F) {
	for style := range ExtendedHeaders + 1 {
		for _, b := range [][]byte{
			simpleReply(0, 1, data20),
			simpleReply(22, 3, ""),
			slices.Concat(structuredChunk(0, ChunkOffsetData, 1, be(uint64(1010), data20[10:])), structuredChunk(1, ChunkOffsetHole, 1, be(uint64(1000), uint32(10)))),
			structuredChunk(1, ChunkError, 2, be(uint32(5), uint16(4), "disk")),
			slices.Concat(structuredChunk(0, ChunkBlockStatus, 4, be(uint32(1), uint32(20), uint32(3))), structuredChunk(1, ChunkBlockStatus, 4, be(uint32(7), uint32(20), uint32(0)))),
			extendedChunk(1, ChunkOffsetData, 1, 1000, be(uint64(1000), data20)),
			extendedChunk(1, ChunkBlockStatusExt, 6, 1000, be(uint32(7), uint32(1), uint64(20), uint64(1))),
		} {
			f.Add(uint8(style), b)
		}
	}
	f.Fuzz(func(t *testing.T, s uint8, b []byte) {
		style := ReplyStyle(s) % (ExtendedHeaders + 1)
		first, answered, err := decodeInto(style, b, 0x00)
		if err == nil {
			t.Fatal("decoding came to no end")
		}
		second, _, _ := decodeInto(style, b, 0xff)
		for cookie, r := range first {
			if !answered[r] || r.Err != nil || r.Command != CmdRead {
				continue
			}
			if !bytes.Equal(r.Data, second[cookie].Data) {
				t.Fatalf("read %d succeeded with bytes the server never sent", cookie)
			}
		}
	})
}

// decodeInto is decode into buffers that hold fill before.
func decodeInto(style ReplyStyle, b []byte, fill byte) (map[uint64]*Request, map[*Request]bool, error) {
	requests, answered := inFlight(style), make(map[*Request]bool)
	for _, r := range requests {
		for i := range r.Data {
			r.Data[i] = fill
		}
	}
	in := replies{r: bufio.NewReader(bytes.NewReader(b)), style: style, contexts: testContexts}
	for {
		r, done, err := in.next(func(cookie uint64) *Request {
			if r := requests[cookie]; r != nil && !answered[r] {
				return r
			}
			return nil
		})
		if err != nil {
			return requests, answered, err
		}
		if done {
			answered[r] = true
		}
	}
}

// script is a connection whose other end says what it says.
type script struct {
	net.Conn
	in io.Reader
}

func (s *script) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error) { return len(b), nil }
func (s *script) Close() error                { return nil }

func optionReply(option, kind uint32, data []byte) []byte {
	return append(be(MagicOptionReply, option, kind, uint32(len(data))), data...)
}

// FuzzHandshakeReplies lets a server say anything during the handshake.
func FuzzHandshakeReplies(f *testing.F) {
	greeting := be(MagicInit, MagicOption, FixedNewstyle|NoZeroes)
	export := be(InfoExport, uint64(1<<20), uint16(HasFlags))
	f.Add(slices.Concat(greeting, optionReply(OptList, RepServer, be(uint32(3), "volwith words")), optionReply(OptList, RepAck, nil)))
	f.Add(slices.Concat(greeting, optionReply(OptList, RepErrPolicy, []byte("no")), optionReply(OptExtendedHeaders, RepAck, nil),
		optionReply(OptSetMetaContext, RepMetaContext, be(uint32(1), BaseAllocation)), optionReply(OptSetMetaContext, RepAck, nil),
		optionReply(OptInfo, RepInfo, export), optionReply(OptInfo, RepInfo, be(InfoBlockSize, uint32(512), uint32(4096), uint32(1<<25))), optionReply(OptInfo, RepAck, nil),
		optionReply(OptGo, RepInfo, export), optionReply(OptGo, RepAck, nil)))
	f.Add(be(MagicInit, MagicOption, uint16(0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx := context.Background()
		h, err := Greet(ctx, &script{in: bytes.NewReader(b)}, 3)
		if err != nil {
			return
		}
		steps := []func() error{
			func() error { _, err := h.List(ctx); return err },
			func() error { return h.AgreeExtended(ctx) },
			func() error { _, err := h.SetMetaContexts(ctx, "vol", BaseAllocation); return err },
			func() error { _, err := h.Info(ctx, "vol", InfoBlockSize); return err },
			func() error {
				w, err := h.Go(ctx, "vol")
				if err == nil && !w.Export.Flags.Has(HasFlags) {
					t.Fatalf("export without HAS_FLAGS accepted: %+v", w.Export)
				}
				return err
			},
		}
		for _, step := range steps {
			if err := step(); err != nil && !errors.As(err, new(*OptionError)) {
				return
			}
		}
	})
}

func FuzzParseURI(f *testing.F) {
	f.Add("nbd://host/vol")
	f.Add("nbd+unix:///a/b?socket=/run/sock")
	f.Add("nbd://[::1]:1/%2f")
	f.Fuzz(func(t *testing.T, uri string) {
		target, err := ParseURI(uri)
		if err == nil && (target.Address == "" || target.Network != "tcp" && target.Network != "unix") {
			t.Fatalf("%q: %+v", uri, target)
		}
	})
}
