package nbd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// plain connects without a word.
func plain(t testing.TB, tg *target) net.Conn {
	t.Helper()
	conn, err := net.Dial(tg.Network, tg.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func TestConformanceGreetingOffersFixedNewstyle(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		got := make([]byte, 18)
		if _, err := io.ReadFull(plain(t, tg), got); err != nil {
			t.Fatal(err)
		}
		if want := []byte("NBDMAGICIHAVEOPT\x00\x03"); !bytes.Equal(got, want) {
			t.Fatalf("greeting %q, want %q", got, want)
		}
	})
}

func TestConformanceUnknownClientFlagEndsTheConnection(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		for _, flags := range []uint32{1 << 2, 1 << 16, 1 << 31, 0xfffffffc} {
			conn := plain(t, tg)
			h, err := client.Greet(t.Context(), conn, flags|3)
			must(t, err)
			// The server may be gone before the option arrives.
			_ = h.Send(t.Context(), client.OptList, nil)
			wantHangUp(t, conn, conn, 0)
		}
	})
}

func TestConformanceExportNameReply(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		for name, flags := range map[string]uint32{"with zeroes": 1, "without zeroes": 3} {
			t.Run(name, func(t *testing.T) {
				h, err := client.Greet(t.Context(), plain(t, tg), flags)
				must(t, err)
				w, err := h.ExportName(t.Context(), tg.Export)
				must(t, err)
				if w.Export.Size != tg.size {
					t.Fatalf("size %d, want %d", w.Export.Size, tg.size)
				}
				c := w.Conn(0)
				defer c.Close()
				alive(t, c) // 124 bytes too many or too few would show here
			})
		}
	})
}

func TestConformanceExportNameThatCannotBeServedCloses(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		oursOnly(t, tg)
		for what, name := range map[string]string{
			"unknown": "nosuch", "empty": "", "too long": strings.Repeat("x", 4097),
			"NUL": "vo\x00l", "not UTF-8": "\xff\xfe", "dots": "../vol",
		} {
			t.Run(what, func(t *testing.T) {
				if _, err := dial(t, tg).ExportName(within(t), name); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("got %v, want the end of the connection", err)
				}
			})
		}
	})
}

func TestConformanceListNamesEveryExportOnce(t *testing.T) {
	for _, count := range []int{0, 1, 300} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			specs := make([]backend.VolumeSpec, count)
			for i := range specs {
				specs[i] = backend.VolumeSpec{Name: fmt.Sprintf("dir%d/vol-%03d", i%7, i), Size: 1 << 20}
			}
			h := dial(t, serve(t, setup{volumes: specs}))
			exports, err := h.List(within(t))
			must(t, err)
			seen := make(map[string]int)
			for _, e := range exports {
				seen[e.Name]++
			}
			for _, s := range specs {
				if seen[s.Name] != 1 {
					t.Errorf("%s is listed %d times", s.Name, seen[s.Name])
				}
			}
			if len(exports) != count {
				t.Errorf("%d exports listed, want %d", len(exports), count)
			}
			haggling(t, h)
		})
	}
}

func TestConformanceListWithDataIsRefused(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		h := dial(t, tg)
		wantRefusal(t, h.Option(within(t), client.OptList, []byte("data"), nil), client.RepErrInvalid)
		haggling(t, h)
	})
}

func TestConformanceUnknownOptionIsRefused(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		h := dial(t, tg)
		for _, option := range []uint32{0, 4, 12, 1 << 31, 0xffffffff} {
			for _, size := range []int{0, 1, 4096, 64 << 10} {
				if size > 4096 && tg.foreign() {
					continue
				}
				err := h.Option(within(t), option, make([]byte, size), nil)
				if wantRefusal(t, err, client.RepErrUnsup); t.Failed() {
					t.Fatalf("option %d with %d bytes", option, size)
				}
			}
		}
		haggling(t, h)
	})
}

func TestConformanceAbortIsAcknowledged(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		for _, data := range [][]byte{nil, []byte("bye")} {
			h := dial(t, tg)
			must(t, h.Option(within(t), client.OptAbort, data, nil))
			wantHangUp(t, h.NetConn(), h.NetConn(), 0)
		}
	})
}

func TestConformanceStartTLSWithoutTLSIsUnsupported(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		h := dial(t, tg)
		for range 2 {
			err := h.Option(within(t), client.OptStartTLS, nil, nil)
			if refused := new(client.OptionError); tg.foreign() && errors.As(err, &refused) {
				continue // any refusal will do
			}
			wantRefusal(t, err, client.RepErrUnsup)
		}
		haggling(t, h)
	})
}

func TestConformanceWrongOptionMagicEndsTheConnection(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		h := dial(t, tg)
		b := client.AppendOption(nil, client.OptList, nil)
		b[0] ^= 1
		_, err := h.NetConn().Write(b)
		must(t, err)
		wantHangUp(t, h.NetConn(), h.NetConn(), 0)
	})
}

func TestConformanceOversizeOptionIsRefusedAndEndsTheConnection(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		for _, size := range []uint32{64<<10 + 1, 1 << 30, 0xffffffff} {
			if tg.foreign() && size < 1<<30 {
				continue
			}
			for _, option := range []uint32{client.OptGo, client.OptExportName, client.OptSetMetaContext, 77} {
				h := dial(t, tg)
				b := client.AppendOption(nil, option, nil)
				binary.BigEndian.PutUint32(b[12:], size)
				_, err := h.NetConn().Write(b)
				must(t, err)
				if !tg.foreign() {
					reply, err := h.Receive(within(t))
					must(t, err)
					if reply.Type != client.RepErrTooBig || reply.Option != option {
						t.Fatalf("option %d of %d bytes: reply %#x to option %d, want TOO_BIG", option, size, reply.Type, reply.Option)
					}
				}
				wantHangUp(t, h.NetConn(), h.NetConn(), 512)
			}
		}
	})
}

func TestConformanceMoreOptionsThanAllowedEndTheConnection(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		h := dial(t, tg)
		answered := 0
		for range 5000 {
			err := h.Option(within(t), client.OptInfo, client.AppendInfoRequest(nil, "nosuch\x7f"), nil)
			if refused := new(client.OptionError); !errors.As(err, &refused) {
				break
			}
			answered++
		}
		if answered != 32 && !tg.foreign() {
			t.Fatalf("%d options answered, want 32", answered)
		}
		if answered == 5000 {
			t.Fatal("5000 options answered: no limit")
		}
	})
}

// session is everything that a client sends to read one block, and the size of
// what comes back.
func session(tg *target, style client.ReplyStyle) (b []byte, replySize int) {
	b = []byte{0, 0, 0, 3}
	replySize = 18 + 20 + 2 + 10 + 20 + 2 + 12 + 20 // greeting, EXPORT, BLOCK_SIZE, ACK
	switch style {
	case client.StructuredReplies:
		b = client.AppendOption(b, client.OptStructuredReply, nil)
		replySize += 20 + 20 + 12 // a hole
	case client.ExtendedHeaders:
		b = client.AppendOption(b, client.OptExtendedHeaders, nil)
		replySize += 20 + 32 + 12
	default:
		replySize += 16 + 4096
	}
	b = client.AppendOption(b, client.OptGo, client.AppendInfoRequest(nil, tg.Export, client.InfoBlockSize))
	b = client.AppendRequest(b, style, client.Header{Command: client.CmdRead, Cookie: 7, Offset: 8192, Length: 4096})
	return client.AppendRequest(b, style, client.Header{Command: client.CmdDisconnect}), replySize
}

func TestConformanceSessionInOneSegmentOrByteByByte(t *testing.T) {
	forEachStyle(t, func(t *testing.T, tg *target, style client.ReplyStyle) {
		oursOnly(t, tg)
		for name, step := range map[string]int{"one segment": 1 << 20, "byte by byte": 1, "seven bytes": 7} {
			t.Run(name, func(t *testing.T) {
				conn := plain(t, tg)
				b, want := session(tg, style)
				go func() {
					for len(b) > 0 {
						n, err := conn.Write(b[:min(step, len(b))])
						if err != nil {
							return // the reader sees it too
						}
						b = b[n:]
					}
				}()
				got, err := io.ReadAll(conn)
				must(t, err)
				if len(got) != want {
					t.Fatalf("server sent %d bytes in all, want %d", len(got), want)
				}
			})
		}
	})
}

func TestConformanceClientThatVanishesInTheHandshakeHurtsNobody(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		greetingAnswer := []byte{0, 0, 0, 3}
		exportName := client.AppendOption(greetingAnswer, client.OptExportName, []byte(tg.Export))
		goOption := client.AppendOption(greetingAnswer, client.OptGo, client.AppendInfoRequest(nil, tg.Export))
		for name, b := range map[string][]byte{
			"at once":                     nil,
			"half flags":                  greetingAnswer[:2],
			"half option header":          exportName[:4+9],
			"EXPORT_NAME header":          exportName[:4+16],
			"EXPORT_NAME without waiting": exportName,
			"half GO":                     goOption[:len(goOption)-1],
			"GO without waiting":          goOption,
		} {
			t.Run(name, func(t *testing.T) {
				for range 40 {
					conn := plain(t, tg)
					_, err := conn.Write(b)
					must(t, err)
					conn.Close()
				}
				alive(t, connect(t, tg, client.SimpleReplies))
			})
		}
	})
}

func TestConformanceSilentHandshakeEnds(t *testing.T) {
	const limit = 150 * time.Millisecond
	tg := serve(t, setup{nbd: nbd.Options{HandshakeTimeout: limit}})
	for name, rude := range map[string]func(conn net.Conn){
		"silent": func(net.Conn) {},
		"flags only": func(conn net.Conn) {
			conn.Write([]byte{0, 0, 0, 3})
		},
		"drips": func(conn net.Conn) { // progress does not buy time
			ticker := time.NewTicker(limit / 10)
			defer ticker.Stop()
			b := client.AppendOption([]byte{0, 0, 0, 3}, 77, make([]byte, 60<<10))
			for _, err := conn.Write(b[:20]); err == nil; _, err = conn.Write(b[20:21]) {
				<-ticker.C
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := plain(t, tg)
			started := time.Now()
			rude(conn)
			wantHangUp(t, conn, conn, 18)
			if took := time.Since(started); took < limit-limit/10 {
				t.Fatalf("cut off after %v, allowed %v", took, limit)
			}
		})
	}
	// Who is through has all the time in the world.
	c := connect(t, tg, client.SimpleReplies)
	time.Sleep(2 * limit)
	alive(t, c)
}
