package nbd_test

import (
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd/client"
)

func TestConformanceInfoAndGoTellTheSame(t *testing.T) {
	forEachStyle(t, func(t *testing.T, tg *target, style client.ReplyStyle) {
		h := dial(t, tg)
		agree(t, h, style)
		wanted := []uint16{client.InfoBlockSize, client.InfoName, client.InfoDescription, 0x7777}
		info, err := h.Info(within(t), tg.Export, wanted...)
		must(t, err)
		w, err := h.Go(within(t), tg.Export, wanted...)
		must(t, err)
		if info != w.Export {
			t.Fatalf("INFO says %+v, GO says %+v", info, w.Export)
		}
		if info.Size != tg.size {
			t.Errorf("size %d, want %d", info.Size, tg.size)
		}
		if tg.foreign() {
			return
		}
		if info.CanonicalName != tg.Export || info.Description == "" {
			t.Errorf("name %q and description %q, want %q and some words", info.CanonicalName, info.Description, tg.Export)
		}
		if want := (client.BlockSizes{Min: testBlock, Preferred: 4096, Max: 32 << 20}); info.Blocks != want {
			t.Errorf("block sizes %+v, want %+v", info.Blocks, want)
		}
		alive(t, w.Conn(0))
	})
}

func TestConformanceBlockSizesAreToldUnasked(t *testing.T) {
	for _, blockSize := range []int64{512, 4096} {
		tg := serve(t, setup{volumes: []backend.VolumeSpec{{Name: testVolume, Size: testSize, Geometry: testGeometry(blockSize)}}})
		info, err := dial(t, tg).Info(within(t), testVolume)
		must(t, err)
		if want := (client.BlockSizes{Min: uint32(blockSize), Preferred: 4096, Max: 32 << 20}); info.Blocks != want {
			t.Errorf("block sizes %+v, want %+v", info.Blocks, want)
		}
	}
}

func TestConformanceTransmissionFlags(t *testing.T) {
	const (
		always = client.HasFlags | client.SendFlush | client.CanMultiConn | client.SendCache
		writer = client.SendFUA | client.SendTrim | client.SendWriteZeroes | client.SendFastZero
	)
	extra := map[client.ReplyStyle]client.TransmissionFlags{
		client.StructuredReplies: client.SendDF,
		client.ExtendedHeaders:   client.SendDF | client.BlockStatusPayload,
	}
	for name, readOnly := range map[string]bool{"writable": false, "read-only": true} {
		tg := serve(t, setup{gateway: gateway.Options{ReadOnly: readOnly}})
		for _, style := range styles {
			t.Run(name+" "+style.String(), func(t *testing.T) {
				want := always | extra[style] | writer
				if readOnly {
					want = always | extra[style] | client.ReadOnly
				}
				h := dial(t, tg)
				agree(t, h, style)
				info, err := h.Info(within(t), testVolume)
				must(t, err)
				if info.Flags != want {
					t.Fatalf("flags %#x, want %#x", info.Flags, want)
				}
			})
		}
	}
}

func TestConformanceUnknownExportIsRefusedAndTheNextIsServed(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		oursOnly(t, tg)
		h := dial(t, tg)
		for _, name := range []string{"nosuch", "", "vol/", "/", "a//b", "vol2", "VOL"} {
			_, err := h.Go(within(t), name)
			wantRefusal(t, err, client.RepErrUnknown)
			_, err = h.Info(within(t), name)
			wantRefusal(t, err, client.RepErrUnknown)
		}
		w, err := h.Go(within(t), tg.Export)
		must(t, err)
		alive(t, w.Conn(0))
	})
}

func TestConformanceGoDoesNotInheritTheExportOfInfo(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		oursOnly(t, tg)
		h := dial(t, tg)
		_, err := h.Info(within(t), tg.Export)
		must(t, err)
		_, err = h.Go(within(t), "nosuch")
		wantRefusal(t, err, client.RepErrUnknown)
	})
}

// be32 appends 32 bits.
func be32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

func TestConformanceMalformedInfoIsRefused(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		good := client.AppendInfoRequest(nil, tg.Export, client.InfoBlockSize)
		countAt := len(good) - 4
		cases := map[string][]byte{
			"empty":                 {},
			"half a name length":    {0, 0},
			"name without its end":  append(be32(nil, 100), "short"...),
			"name length 2^32-1":    be32(nil, 0xffffffff),
			"no room for the count": good[:countAt],
			"half a count":          good[:countAt+1],
			"more infos announced":  slices.Concat(good[:countAt], []byte{0, 2}, good[countAt+2:]),
			"65535 infos announced": slices.Concat(good[:countAt], []byte{0xff, 0xff}, good[countAt+2:]),
			"fewer infos announced": slices.Concat(good[:countAt], []byte{0, 0}, good[countAt+2:]),
			"junk behind":           append(slices.Clone(good), 'x'),
		}
		if !tg.foreign() {
			cases["name of 4097 bytes"] = client.AppendInfoRequest(nil, strings.Repeat("n", 4097))
			cases["NUL in the name"] = client.AppendInfoRequest(nil, "vo\x00l")
			cases["name not UTF-8"] = client.AppendInfoRequest(nil, "\xc3\x28")
		}
		h := dial(t, tg)
		for name, data := range cases {
			t.Run(name, func(t *testing.T) {
				h := dial(t, tg)
				for _, option := range []uint32{client.OptInfo, client.OptGo} {
					wantRefusal(t, h.Option(within(t), option, data, nil), client.RepErrInvalid)
				}
				haggling(t, h)
			})
		}
		haggling(t, h)
	})
}

func TestConformanceLongestNameIsAnswered(t *testing.T) {
	tg := serve(t, setup{})
	for what, name := range map[string]string{
		"letters":    strings.Repeat("n", 4096),
		"quoted":     strings.Repeat("\x01", 4096),
		"two bytes":  strings.Repeat("ü", 2048),
		"four bytes": strings.Repeat("\U000e0001", 1024),
	} {
		t.Run(what, func(t *testing.T) {
			h := dial(t, tg)
			must(t, h.Send(within(t), client.OptInfo, client.AppendInfoRequest(nil, name)))
			reply, err := h.Receive(within(t))
			must(t, err)
			if reply.Type != client.RepErrUnknown {
				t.Errorf("reply %#x, want UNKNOWN", reply.Type)
			}
			// proto.md: no string is longer than 4096 bytes, all are UTF-8.
			if len(reply.Data) > 4096 || !utf8.Valid(reply.Data) {
				t.Errorf("message of %d bytes, valid UTF-8: %t", len(reply.Data), utf8.Valid(reply.Data))
			}
			haggling(t, h)
		})
	}
}

func TestConformanceLengthsThatLieCostNoMemory(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		oursOnly(t, tg)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 200 {
			h := dial(t, tg)
			wantRefusal(t, h.Option(within(t), client.OptGo, be32(nil, 0xffffffff), nil), client.RepErrInvalid)
			wantRefusal(t, h.Option(within(t), client.OptInfo, be32([]byte{0, 0, 0, 0}, 0xffffffff), nil), client.RepErrInvalid)
			h.Close()
		}
		runtime.ReadMemStats(&after)
		// Each connection has buffers at both ends; the names would be 4 GiB.
		if got := after.TotalAlloc - before.TotalAlloc; got > 200*(512<<10) {
			t.Fatalf("200 connections allocated %d bytes", got)
		}
	})
}

func TestConformanceHeaderOptionsTakeNoData(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		h := dial(t, tg)
		wantRefusal(t, h.Option(within(t), client.OptStructuredReply, []byte{1}, nil), client.RepErrInvalid)
		if !tg.foreign() {
			wantRefusal(t, h.Option(within(t), client.OptExtendedHeaders, []byte{1}, nil), client.RepErrInvalid)
		}
		// Refused means not agreed: the read must come back as a simple reply.
		w, err := h.Go(within(t), tg.Export)
		must(t, err)
		if w.Export.Flags.Has(client.SendDF) {
			t.Error("SEND_DF without structured replies")
		}
		alive(t, w.Conn(0))
	})
}

func TestConformanceHeaderOptionsMayBeRepeated(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		h := dial(t, tg)
		must(t, h.AgreeStructured(within(t)))
		if err := h.AgreeStructured(within(t)); err != nil && !tg.foreign() {
			t.Fatal(err)
		}
		if !tg.foreign() {
			must(t, h.AgreeExtended(within(t)))
			must(t, h.AgreeExtended(within(t)))
		}
		w, err := h.Go(within(t), tg.Export)
		must(t, err)
		alive(t, w.Conn(0))
	})
}

func TestConformanceExtendedHeadersTakePrecedence(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		oursOnly(t, tg)
		h := dial(t, tg)
		must(t, h.AgreeExtended(within(t)))
		wantRefusal(t, h.Option(within(t), client.OptStructuredReply, nil, nil), client.RepErrExtHeaderReqd)
		if _, err := h.ExportName(within(t), tg.Export); !errors.Is(err, io.EOF) {
			t.Fatalf("EXPORT_NAME after EXTENDED_HEADERS: %v, want the end of the connection", err)
		}
	})
}

func TestConformanceMetaContextsNeedStructuredReplies(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		h := dial(t, tg)
		_, err := h.SetMetaContexts(within(t), tg.Export, client.BaseAllocation)
		wantRefusal(t, err, client.RepErrInvalid)
		haggling(t, h)
		_, err = h.SetMetaContexts(within(t), tg.Export, client.BaseAllocation)
		must(t, err)
	})
}

func TestConformanceMetaContextQueries(t *testing.T) {
	found := []string{client.BaseAllocation}
	for _, c := range []struct {
		name         string
		queries      []string
		listed, sets []string
	}{
		{"none", nil, found, nil},
		{"by name", found, found, found},
		{"twice", []string{client.BaseAllocation, client.BaseAllocation}, found, found},
		{"wildcard", []string{"base:"}, found, nil},
		{"unknown leaf", []string{"base:nosuch"}, nil, nil},
		{"longer leaf", []string{"base:allocation2"}, nil, nil},
		{"unknown namespace", []string{"qemu:dirty-bitmap:x", "x-ours:"}, nil, nil},
		{"among others", []string{"x-1:a", client.BaseAllocation, "base:"}, found, found},
		{"no namespace", []string{"allocation"}, nil, nil},
		{"empty", []string{""}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			forEachTarget(t, func(t *testing.T, tg *target) {
				if tg.foreign() && c.name == "empty" {
					t.Skip("unspecified")
				}
				h := dial(t, tg)
				haggling(t, h)
				listed, err := h.ListMetaContexts(within(t), tg.Export, c.queries...)
				must(t, err)
				set, err := h.SetMetaContexts(within(t), tg.Export, c.queries...)
				must(t, err)
				if !slices.Equal(names(listed), c.listed) || !slices.Equal(names(set), c.sets) {
					t.Fatalf("listed %v, set %v; want %v, %v", names(listed), names(set), c.listed, c.sets)
				}
			})
		})
	}
}

func names(contexts []client.MetaContext) (n []string) {
	for _, c := range contexts {
		n = append(n, c.Name)
	}
	return n
}

func TestConformanceMalformedMetaContextsAreRefused(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		good := client.AppendMetaQuery(nil, tg.Export, client.BaseAllocation)
		countAt := 4 + len(tg.Export)
		for name, data := range map[string][]byte{
			"empty":                 {},
			"name length 2^32-1":    be32(nil, 0xffffffff),
			"no room for the count": good[:countAt],
			"more queries":          slices.Concat(good[:countAt], be32(nil, 2), good[countAt+4:]),
			"fewer queries":         slices.Concat(good[:countAt], be32(nil, 0), good[countAt+4:]),
			"query length 2^32-1":   slices.Concat(good[:countAt+4], be32(nil, 0xffffffff), good[countAt+8:]),
			"query cut short":       good[:len(good)-1],
			"junk behind":           append(slices.Clone(good), 'x'),
		} {
			t.Run(name, func(t *testing.T) {
				h := dial(t, tg)
				haggling(t, h)
				for _, option := range []uint32{client.OptListMetaContext, client.OptSetMetaContext} {
					// It may find out only behind some replies.
					ignore := func(client.OptionReply) error { return nil }
					wantRefusal(t, h.Option(within(t), option, data, ignore), client.RepErrInvalid)
				}
				_, err := h.SetMetaContexts(within(t), tg.Export, client.BaseAllocation)
				must(t, err)
			})
		}
	})
}

func TestConformanceTooManyMetaContextQueriesAreTooBig(t *testing.T) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		oursOnly(t, tg)
		h := dial(t, tg)
		haggling(t, h)
		queries := slices.Repeat([]string{client.BaseAllocation}, 33)
		_, err := h.SetMetaContexts(within(t), tg.Export, queries...)
		wantRefusal(t, err, client.RepErrTooBig)
		_, err = h.SetMetaContexts(within(t), tg.Export, queries[:32]...)
		must(t, err)
		data := be32(client.AppendMetaQuery(nil, tg.Export)[:4+len(tg.Export)], 0xffffffff)
		wantRefusal(t, h.Option(within(t), client.OptSetMetaContext, data, nil), client.RepErrTooBig)
	})
}

// Block status works only where the last SET_META_CONTEXT selected a context
// for the export that GO chose.
func TestConformanceBlockStatusNeedsTheLastSelection(t *testing.T) {
	tg := serve(t, setup{volumes: []backend.VolumeSpec{{Name: testVolume, Size: testSize}, {Name: "other", Size: testSize}}})
	type step struct {
		export  string
		queries []string
	}
	all := []string{client.BaseAllocation}
	for _, c := range []struct {
		name  string
		steps []step
		works bool
	}{
		{"selected", []step{{testVolume, all}}, true},
		{"spelt otherwise", []step{{"/" + testVolume, all}}, true},
		{"never selected", nil, false},
		{"of another export", []step{{"other", all}}, false},
		{"then of another export", []step{{testVolume, all}, {"other", all}}, false},
		{"then nothing", []step{{testVolume, all}, {testVolume, nil}}, false},
		{"then a wildcard", []step{{testVolume, all}, {testVolume, []string{"base:"}}}, false},
		{"then refused", []step{{testVolume, all}, {"nosuch", all}}, false},
		{"at last", []step{{"other", all}, {testVolume, all}}, true},
	} {
		for _, style := range styles[1:] {
			t.Run(c.name+" "+style.String(), func(t *testing.T) {
				h := dial(t, tg)
				agree(t, h, style)
				for _, s := range c.steps {
					if _, err := h.SetMetaContexts(within(t), s.export, s.queries...); err != nil {
						wantRefusal(t, err, client.RepErrUnknown)
					}
				}
				w, err := h.Go(within(t), testVolume)
				must(t, err)
				// Without the client's engine, which compares spellings itself.
				_, err = w.NetConn().Write(client.AppendRequest(nil, style, client.Header{Command: client.CmdBlockStatus, Length: 4096}))
				must(t, err)
				reply, err := w.ReadHeader()
				must(t, err)
				if refused := reply.Errno != 0 || reply.Type&client.ChunkErrorBit != 0; refused == c.works {
					t.Fatalf("reply %+v; should work: %t", reply, c.works)
				}
			})
		}
	}
}
