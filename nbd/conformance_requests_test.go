package nbd_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd/client"
)

const mib = 1 << 20

// requestCase is one request and what must come of it.
type requestCase struct {
	name    string
	command client.Command
	flags   client.CommandFlags
	offset  uint64
	length  uint64 // of the payload too, for writes
	want    client.Errno
	// oursOnly: the protocol leaves the answer to the server.
	oursOnly bool
}

// sized cases are those for one form of replies on an export of that size.
func requestCases(size uint64, style client.ReplyStyle) []requestCase {
	const far, top, last = uint64(1) << 63, ^uint64(511), 4096
	end := size - last
	var cases []requestCase
	add := func(name string, command client.Command, flags client.CommandFlags, offset, length uint64, want client.Errno) {
		cases = append(cases, requestCase{name: fmt.Sprintf("%v %s", command, name), command: command, flags: flags, offset: offset, length: length, want: want})
	}
	own := func(name string, command client.Command, flags client.CommandFlags, offset, length uint64, want client.Errno) {
		add(name, command, flags, offset, length, want)
		cases[len(cases)-1].oursOnly = true
	}
	pastEnd := map[client.Command]client.Errno{
		client.CmdRead: client.EINVAL, client.CmdTrim: client.EINVAL, client.CmdCache: client.EINVAL,
		client.CmdWrite: client.ENOSPC, client.CmdWriteZeroes: client.ENOSPC,
	}
	if style != client.SimpleReplies {
		pastEnd[client.CmdBlockStatus] = client.EINVAL
	}
	for command, errno := range pastEnd {
		add("of the last block", command, 0, end, last, 0)
		add("across the end", command, 0, end, 2*last, errno)
		add("at the end", command, 0, size, last, errno)
		add("at 2^63", command, 0, far, last, errno)
		add("at 2^64-512", command, 0, top, 512, errno)
		add("that wraps", command, 0, top, 1024, errno)
		own("unaligned offset", command, 0, 1, 512, client.EINVAL)
		own("unaligned length", command, 0, 0, 511, client.EINVAL)
		own("with FUA", command, client.FlagFUA, 0, 4096, 0)
		for bit := range 16 {
			if flag := client.CommandFlags(1 << bit); !allowed(command, flag, style) && flag != client.FlagPayloadLen {
				own(fmt.Sprintf("flag %#x", uint16(flag)), command, flag, 0, 4096, client.EINVAL)
			}
		}
		if command != client.CmdBlockStatus {
			own("of nothing", command, 0, 4096, 0, 0)
			own("of nothing at the end", command, 0, size, 0, 0)
		}
	}
	for command := range client.Command(16) { // some known, some not
		if _, known := pastEnd[command]; known || command == client.CmdDisconnect || command == client.CmdFlush {
			continue
		}
		add("of nothing", command, 0, 0, 0, client.EINVAL)
		add("of a page", command, 0, 0, 4096, client.EINVAL)
		add("of a page, again", command|0xff00, 0, 0, 4096, client.EINVAL)
	}
	add("", client.CmdFlush, 0, 0, 0, 0)
	own("with FUA", client.CmdFlush, client.FlagFUA, 0, 0, 0)
	own("with DF", client.CmdFlush, client.FlagDF, 0, 0, client.EINVAL)
	own("with an offset", client.CmdFlush, 0, 4096, 0, client.EINVAL)
	own("with a length", client.CmdFlush, 0, 0, 4096, client.EINVAL)
	add("with NO_HOLE", client.CmdWriteZeroes, client.FlagNoHole, 0, 4096, 0)
	own("with FAST_ZERO", client.CmdWriteZeroes, client.FlagFastZero, 0, 4096, 0)
	own("with FAST_ZERO and NO_HOLE", client.CmdWriteZeroes, client.FlagFastZero|client.FlagNoHole, 0, 4096, client.ENOTSUP)
	add("of everything", client.CmdTrim, 0, 0, size, 0)
	add("of everything", client.CmdWriteZeroes, 0, 0, size, 0)
	own("of everything", client.CmdCache, 0, 0, size, 0)
	add("of 4 GiB - 512", client.CmdTrim, 0, 0, 1<<32-512, client.EINVAL)
	add("of 4 GiB - 512", client.CmdWriteZeroes, 0, 0, 1<<32-512, client.ENOSPC)
	return append(cases, styleCases(style)...)
}

// styleCases are answered differently from one form of replies to the other.
func styleCases(style client.ReplyStyle) (cases []requestCase) {
	tooLong := client.EOVERFLOW
	if style == client.SimpleReplies {
		tooLong = client.EINVAL
	}
	cases = []requestCase{
		{"read of 32 MiB", client.CmdRead, 0, 0, 32 * mib, 0, false},
		{"read of 32 MiB + 512", client.CmdRead, 0, 0, 32*mib + 512, tooLong, true},
		{"read of 64 MiB", client.CmdRead, 0, 0, 64 * mib, tooLong, true},
		{"read of 4 GiB - 1", client.CmdRead, 0, 0, 1<<32 - 1, tooLong, true},
		{"write of 32 MiB", client.CmdWrite, 0, 0, 32 * mib, 0, false},
		{"write of 32 MiB + 512", client.CmdWrite, 0, 0, 32*mib + 512, client.EINVAL, true},
		{"write of 64 MiB", client.CmdWrite, 0, 0, 64 * mib, client.EINVAL, true},
		{"write of 64 MiB past the end", client.CmdWrite, 0, 1 << 40, 64 * mib, client.EINVAL, true},
		{"write of 1 MiB past the end", client.CmdWrite, 0, 1 << 40, mib, client.ENOSPC, false},
		{"unaligned write of 1 MiB + 1", client.CmdWrite, 0, 0, mib + 1, client.EINVAL, true},
	}
	if style == client.SimpleReplies {
		return cases
	}
	cases = append(cases,
		requestCase{"block status of nothing", client.CmdBlockStatus, 0, 0, 0, client.EINVAL, true},
		requestCase{"block status of one extent", client.CmdBlockStatus, client.FlagReqOne, 0, 4096, 0, false},
		requestCase{"read with DF", client.CmdRead, client.FlagDF, 0, mib, 0, false},
	)
	if style == client.ExtendedHeaders {
		for _, length := range []uint64{1 << 32, 1 << 40, 1 << 63, ^uint64(511)} {
			cases = append(cases,
				requestCase{fmt.Sprintf("read of %#x", length), client.CmdRead, 0, 0, length, client.EOVERFLOW, true},
				requestCase{fmt.Sprintf("trim of %#x", length), client.CmdTrim, 0, 4096, length, client.EINVAL, true},
				requestCase{fmt.Sprintf("write-zeroes of %#x", length), client.CmdWriteZeroes, 0, 4096, length, client.ENOSPC, true},
				requestCase{fmt.Sprintf("cache of %#x", length), client.CmdCache, 0, 4096, length, client.EINVAL, true},
				requestCase{fmt.Sprintf("block-status of %#x", length), client.CmdBlockStatus, 0, 4096, length, client.EINVAL, true},
			)
		}
	}
	return cases
}

// allowed says whether a command may carry a flag.
func allowed(command client.Command, flag client.CommandFlags, style client.ReplyStyle) bool {
	switch {
	case flag == client.FlagFUA:
		return true
	case command == client.CmdRead:
		return flag == client.FlagDF && style != client.SimpleReplies
	case command == client.CmdWriteZeroes:
		return flag == client.FlagNoHole || flag == client.FlagFastZero
	case command == client.CmdBlockStatus:
		return flag == client.FlagReqOne
	}
	return false
}

func (c requestCase) request() *client.Request {
	r := &client.Request{Command: c.command, Flags: c.flags, Offset: c.offset, Length: c.length}
	if c.command == client.CmdWrite || c.command == client.CmdRead && c.want == 0 {
		r.Data = make([]byte, c.length)
	}
	return r
}

func TestConformanceEveryRequestIsAnsweredAndTheConnectionLives(t *testing.T) {
	forEachStyle(t, func(t *testing.T, tg *target, style client.ReplyStyle) {
		c := connect(t, tg, style)
		for _, rc := range requestCases(tg.size, style) {
			if rc.oursOnly && tg.foreign() {
				continue
			}
			ok := t.Run(rc.name, func(t *testing.T) {
				wantErrno(t, c.Do(within(t), rc.request()), rc.want)
				alive(t, c)
			})
			if !ok {
				c.Close() // it may be out of step
				c = connect(t, tg, style)
			}
		}
	})
}

func TestConformanceCompactPayloadFlagIsRefused(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		oursOnly(t, tg)
		c := connect(t, tg, client.StructuredReplies)
		for command, data := range map[client.Command][]byte{client.CmdRead: nil, client.CmdWrite: make([]byte, 4096), client.CmdTrim: nil} {
			r := &client.Request{Command: command, Flags: client.FlagPayloadLen, Length: 4096, Data: data}
			wantErrno(t, c.Do(within(t), r), client.EINVAL)
			alive(t, c)
		}
	})
}

// With extended headers any command can announce a payload; one that takes none
// has it dropped.
func TestConformanceExtendedPayloadNobodyWantsIsDrained(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		oursOnly(t, tg)
		for _, size := range []int{1, 12, 4096, 17 << 10, 3 * mib} {
			for command := range client.Command(10) {
				if command == client.CmdWrite || command == client.CmdDisconnect {
					continue
				}
				w := attach(t, tg, client.ExtendedHeaders)
				b := client.AppendRequest(nil, w.Style, client.Header{Command: command, Flags: client.FlagPayloadLen, Cookie: 9, Length: uint64(size)})
				_, err := w.NetConn().Write(append(b, make([]byte, size)...))
				must(t, err)
				wantErrorChunk(t, w, 9, client.EINVAL)
				alive(t, w.Conn(0))
			}
		}
	})
}

// wantErrorChunk reads an extended error reply.
func wantErrorChunk(t *testing.T, w *client.Wire, cookie uint64, errno client.Errno) {
	t.Helper()
	h, err := w.ReadHeader()
	must(t, err)
	if h.Magic != client.MagicExtendedReply || h.Type != client.ChunkError || !h.Done() || h.Cookie != cookie || h.Length < 6 || h.Length > 4096+6 {
		t.Fatalf("reply %+v, want one ERROR chunk for cookie %d", h, cookie)
	}
	b := make([]byte, h.Length)
	for n := 0; n < len(b); {
		got, err := w.Read(b[n:])
		must(t, err)
		n += got
	}
	if !bytes.Equal(b[:4], be32(nil, uint32(errno))) || len(b) != 6+int(b[4])<<8+int(b[5]) || len(b) == 6 {
		t.Fatalf("ERROR chunk %q, want errno %v and a message", b, errno)
	}
}

func TestConformanceExtendedWriteWithoutPayloadIsRefused(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		oursOnly(t, tg)
		w := attach(t, tg, client.ExtendedHeaders)
		_, err := w.NetConn().Write(client.AppendRequest(nil, w.Style, client.Header{Command: client.CmdWrite, Cookie: 5, Length: 4096}))
		must(t, err)
		wantErrorChunk(t, w, 5, client.EINVAL)
		alive(t, w.Conn(0))
	})
}

func TestConformancePayloadTooLargeToSkipEndsTheConnection(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		for _, style := range styles {
			lengths := []uint64{64*mib + 512, 1<<32 - 512}
			if style == client.ExtendedHeaders {
				lengths = append(lengths, 1<<40, 1<<63, ^uint64(0))
			}
			if tg.foreign() {
				lengths, style = []uint64{1<<32 - 512}, client.SimpleReplies
			}
			for _, length := range lengths {
				w := attach(t, tg, style)
				h := client.Header{Command: client.CmdWrite, Length: length}
				if style == client.ExtendedHeaders {
					h.Flags = client.FlagPayloadLen
				}
				_, err := w.NetConn().Write(client.AppendRequest(nil, style, h))
				must(t, err)
				wantHangUp(t, w, w.NetConn(), 512)
			}
		}
	})
}

func TestConformanceWrongRequestMagicEndsTheConnection(t *testing.T) {
	forEachStyle(t, func(t *testing.T, tg *target, style client.ReplyStyle) {
		other := client.ExtendedHeaders
		if style == other {
			other = client.SimpleReplies
		}
		good := client.AppendRequest(nil, style, client.Header{Command: client.CmdRead, Length: 512})
		flipped := bytes.Clone(good)
		flipped[3] ^= 0x80
		for name, b := range map[string][]byte{
			"one bit":              flipped,
			"zeros":                make([]byte, 64),
			"that of the reply":    append([]byte{0x67, 0x44, 0x66, 0x98}, good[4:]...),
			"the other form's":     append(client.AppendRequest(nil, other, client.Header{Command: client.CmdRead, Length: 512}), 0, 0, 0, 0),
			"an option, too late":  client.AppendOption(nil, client.OptAbort, make([]byte, 16)),
			"behind a good header": append(bytes.Clone(good), flipped...),
		} {
			t.Run(name, func(t *testing.T) {
				w := attach(t, tg, style)
				_, err := w.NetConn().Write(b)
				must(t, err)
				wantHangUp(t, w, w.NetConn(), 32+8+512)
			})
		}
	})
}

func TestConformanceReadOnlyExportRefusesChanges(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		tg := serve(t, setup{network: network, gateway: gateway.Options{ReadOnly: true}})
		for _, style := range styles {
			t.Run(network+" "+style.String(), func(t *testing.T) {
				c := connect(t, tg, style)
				for _, size := range []int{512, 4096, 64 << 10, mib} {
					wantErrno(t, c.Write(within(t), make([]byte, size), 0, 0), client.EPERM)
					wantErrno(t, c.Trim(within(t), 0, uint64(size), 0), client.EPERM)
					wantErrno(t, c.WriteZeroes(within(t), 0, uint64(size), client.FlagNoHole), client.EPERM)
					alive(t, c)
				}
				must(t, c.Flush(within(t)))
				must(t, c.Cache(within(t), 0, 4096))
			})
		}
	}
}

func TestConformanceHugeRangesWithoutPayload(t *testing.T) {
	const size = 8 << 40
	tg := serve(t, setup{volumes: []backend.VolumeSpec{{Name: testVolume, Size: size}}})
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			c := connect(t, tg, style)
			mark := pattern(make([]byte, 4096), 3)
			lengths := []uint64{1<<32 - 4096}
			if style == client.ExtendedHeaders {
				lengths = append(lengths, 1<<32, 1<<40, size-(1<<30))
			}
			for _, length := range lengths {
				for name, zero := range map[string]func() error{
					"trim":         func() error { return c.Trim(within(t), 1<<30, length, 0) },
					"write-zeroes": func() error { return c.WriteZeroes(within(t), 1<<30, length, client.FlagFastZero) },
				} {
					at := []uint64{1<<30 - 4096, 1 << 30, 1<<30 + length - 4096}
					for _, off := range at {
						must(t, c.Write(within(t), mark, off, 0))
					}
					must(t, zero())
					for i, off := range at {
						got, want := make([]byte, 4096), make([]byte, 4096)
						if i == 0 { // just before the range
							want = mark
						}
						must(t, c.Read(within(t), got, off, 0))
						if !bytes.Equal(got, want) {
							t.Errorf("%s of %#x, at %#x: %s", name, length, off, firstDifference(got, want))
						}
					}
				}
				if style == client.SimpleReplies {
					continue
				}
				extents, err := c.BlockStatus(within(t), 1<<30, length, 0)
				must(t, err)
				if len(extents) == 0 || extents[0].Flags != client.StateHole|client.StateZero {
					t.Errorf("block status of %#x zeroed bytes: %+v", length, extents)
				}
			}
		})
	}
}

func TestConformanceRequestsSmallerThanTheBlockAreRefused(t *testing.T) {
	tg := serve(t, setup{volumes: []backend.VolumeSpec{{Name: testVolume, Size: testSize, Geometry: testGeometry(4096)}}})
	for _, style := range styles {
		c := connect(t, tg, style)
		for _, command := range []client.Command{client.CmdRead, client.CmdWrite, client.CmdTrim, client.CmdWriteZeroes, client.CmdCache} {
			for _, at := range [][2]uint64{{512, 4096}, {4096, 512}, {2048, 2048}, {0, 4096 + 512}, {0, mib + 512}} {
				r := &client.Request{Command: command, Offset: at[0], Length: at[1]}
				if command == client.CmdWrite {
					r.Data = make([]byte, at[1])
				}
				wantErrno(t, c.Do(within(t), r), client.EINVAL)
				alive(t, c)
			}
		}
	}
}
