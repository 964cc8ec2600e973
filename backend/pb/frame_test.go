package pb

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func exampleOp() backend.Op {
	return backend.Op{
		Kind: backend.OpWrite, Flags: backend.FlagFUA, Volume: 0x0102030405060708, Epoch: 0x1112131415161718,
		Session: 0x2122232425262728, Seq: 0x3132333435363738, Low: 0x4142434445464748,
		Chunk: backend.ChunkRef{ID: 0x5152535455565758, Copyset: 0x61626364, Size: 16 << 20},
		Off:   4096, Len: 512, Data: bytes.Repeat([]byte{0xEE}, 512),
	}
}

func opFrame(op *backend.Op, request uint64) []byte {
	b := make([]byte, OpSize)
	PutOp(b, op)
	SetRequest(b, request)
	if op.Kind == backend.OpWrite {
		b = append(b, op.Data...)
	}
	return b
}

func replyFrame(r Reply, body []byte) []byte {
	b := make([]byte, ReplySize)
	r.Length = len(body)
	PutReply(b, r)
	return append(b, body...)
}

// The bytes are what chunkservers and clients of this version agree on: when one of
// these fails, Version must change.
func TestGoldenFrames(t *testing.T) {
	op := exampleOp()
	routes := []Route{{Copyset: 1, Leader: 2, Term: 3}, {Copyset: 0xFFFFFFFF, Term: 1 << 63}}
	for _, c := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"HELLO", AppendHello(nil, Hello{Version: Version, Cluster: "c1", Client: "gw"}),
			"0100 0100 0200 0200 6331 6777"},
		{"OP", opFrame(&op, 0x7172737475767778)[:OpSize+2],
			"02 02 01 00 64636261 7877767574737271 0807060504030201 1817161514131211 2827262524232221" +
				"3837363534333231 4847464544434241 5857565554535251 00000001 00100000 00020000 00000000 eeee"},
		{"flush", opFrame(&backend.Op{Kind: backend.OpFlush, Volume: 1, Epoch: 2, Off: 99, Len: 99}, 3),
			"02 05 00 00 00000000 0300000000000000 0100000000000000 0200000000000000" + strings.Repeat("00", 48)},
		{"ASK", AppendAsk(nil, 0x01020304), "03000000 04030201"},
		{"CANCEL", AppendCancel(nil, 0x0102), "0400000000000000 0201000000000000"},
		{"WELCOME", AppendWelcome(nil, Welcome{Version: Version, Server: 3, Incarnation: 4, Routes: routes[:1]}),
			"4100 0100 03000000 0400000000000000 01000000 00000000 01000000 02000000 0300000000000000"},
		{"REPLY with data", replyFrame(Reply{Request: 5}, []byte{0xAA, 0xBB}),
			"42 00 00 00 00000000 0500000000000000 0000000000000000 02000000 00000000 aabb"},
		{"REPLY of a hole", replyFrame(Reply{Request: 5, Hole: true}, nil),
			"42 00 01 00 00000000 0500000000000000 0000000000000000 00000000 00000000"},
		{"REPLY with a redirect", replyFrame(Reply{Request: 5, Status: StatusNotLeader, Leader: 2, Term: 9}, nil),
			"42 0c 00 00 02000000 0500000000000000 0900000000000000 00000000 00000000"},
		{"ROUTE", AppendRoute(nil, routes),
			"43000000 02000000 01000000 02000000 0300000000000000 ffffffff 00000000 0000000000000080"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.frame, want) {
				t.Errorf("got  %x\nwant %x", c.frame, want)
			}
		})
	}
}

func TestFramesReadBack(t *testing.T) {
	op := exampleOp()
	frame := opFrame(&op, 77)
	var got backend.Op
	id, err := ReadOp(frame, len(frame), &got)
	got.Data = op.Data
	if err != nil || id != 77 || !reflect.DeepEqual(got, op) {
		t.Errorf("OP: got %+v (%d, %v), want %+v", got, id, err, op)
	}
	hello := Hello{Version: Version, Cluster: "cluster", Client: "gateway-7"}
	if got, err := ReadHello(AppendHello(nil, hello)); err != nil || got != hello {
		t.Errorf("HELLO: got %+v, %v", got, err)
	}
	welcome := Welcome{Version: Version, Server: 3, Incarnation: 99, Routes: []Route{{1, 2, 3}, {4, 0, 6}}}
	if got, err := ReadWelcome(AppendWelcome(nil, welcome)); err != nil || !reflect.DeepEqual(got, welcome) {
		t.Errorf("WELCOME: got %+v, %v", got, err)
	}
	if got, err := ReadRoute(AppendRoute(nil, welcome.Routes)); err != nil || !reflect.DeepEqual(got, welcome.Routes) {
		t.Errorf("ROUTE: got %+v, %v", got, err)
	}
	reply := Reply{Request: 5, Status: StatusNotLeader, Leader: 3, Term: 8}
	if got, err := ReadReply(replyFrame(reply, nil), ReplySize); err != nil || got != reply {
		t.Errorf("REPLY: got %+v, %v", got, err)
	}
	if got, err := ReadAsk(AppendAsk(nil, 5)); err != nil || got != 5 {
		t.Errorf("ASK: got %v, %v", got, err)
	}
	if got, err := ReadCancel(AppendCancel(nil, 6)); err != nil || got != 6 {
		t.Errorf("CANCEL: got %v, %v", got, err)
	}
}

func TestLongNamesAreCutToWhatTheFrameHolds(t *testing.T) {
	long := strings.Repeat("é", 200)
	h, err := ReadHello(AppendHello(nil, Hello{Version: Version, Cluster: "\xff", Client: long}))
	if err != nil || h.Cluster != "" || len(h.Client) > MaxName || !strings.HasPrefix(long, h.Client) || h.Client == "" {
		t.Errorf("got %+v, %v", h, err)
	}
}

// edit returns a copy of frame with one byte changed.
func edit(frame []byte, at int, to byte) []byte {
	b := bytes.Clone(frame)
	b[at] = to
	return b
}

func TestBadFramesAreRefused(t *testing.T) {
	example := exampleOp()
	op := opFrame(&example, 1)
	trim := opFrame(&backend.Op{Kind: backend.OpTrim, Chunk: example.Chunk, Len: 512}, 1)
	huge := bytes.Clone(op)
	le.PutUint32(huge[72:], MaxPayload+512)
	routes := AppendRoute(nil, make([]Route, 2))
	many := bytes.Clone(routes)
	le.PutUint32(many[4:], MaxRoutes+1)
	reply := replyFrame(Reply{Request: 1, Status: StatusIO}, []byte("words"))
	text := replyFrame(Reply{Request: 1, Status: StatusIO}, make([]byte, MaxText+1))
	hello := AppendHello(nil, Hello{Version: Version, Client: "a"})
	welcome := AppendWelcome(nil, Welcome{Version: Version, Server: 1})
	for _, c := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"empty", nil, backend.ErrInvalid},
		{"unknown type", []byte{99, 0, 0, 0}, backend.ErrInvalid},
		{"OP cut short", op[:OpSize-1], backend.ErrInvalid},
		{"OP without its payload", op[:OpSize], backend.ErrInvalid},
		{"OP with more payload", append(bytes.Clone(op), 0), backend.ErrInvalid},
		{"trim with payload", append(bytes.Clone(trim), 0), backend.ErrInvalid},
		{"OP of no kind", edit(op, 1, 0), backend.ErrInvalid},
		{"OP of an unknown kind", edit(trim, 1, 6), backend.ErrInvalid},
		{"OP with an unknown flag", edit(op, 2, 0x80), backend.ErrInvalid},
		{"OP with a reserved byte", edit(op, 3, 1), backend.ErrInvalid},
		{"OP with a reserved word", edit(op, 79, 1), backend.ErrInvalid},
		{"OP beyond the largest payload", huge, backend.ErrInvalid},
		{"ASK with a reserved byte", edit(AppendAsk(nil, 1), 2, 1), backend.ErrInvalid},
		{"ASK too long", append(AppendAsk(nil, 1), 0), backend.ErrInvalid},
		{"CANCEL with a reserved byte", edit(AppendCancel(nil, 1), 7, 1), backend.ErrInvalid},
		{"CANCEL too short", AppendCancel(nil, 1)[:15], backend.ErrInvalid},
		{"REPLY of an unknown status", edit(reply, 1, byte(statusEnd)), backend.ErrInvalid},
		{"REPLY with unknown flags", edit(reply, 2, 2), backend.ErrInvalid},
		{"REPLY with a hole and an error", edit(reply, 2, 1), backend.ErrInvalid},
		{"REPLY with a leader and another error", edit(reply, 4, 1), backend.ErrInvalid},
		{"REPLY cut short", reply[:len(reply)-1], backend.ErrInvalid},
		{"REPLY with too many words", text, backend.ErrInvalid},
		{"ROUTE cut short", routes[:len(routes)-1], backend.ErrInvalid},
		{"ROUTE that counts more than it has", many, backend.ErrInvalid},
		{"HELLO of another version", edit(hello, 2, 9), backend.ErrNotSupported},
		{"HELLO whose names are longer than it", edit(hello, 4, 9), backend.ErrInvalid},
		{"HELLO that is not UTF-8", edit(hello, 8, 0xFF), backend.ErrInvalid},
		{"WELCOME of another version", edit(welcome, 2, 9), backend.ErrNotSupported},
		{"WELCOME of nobody", edit(welcome, 4, 0), backend.ErrInvalid},
		{"WELCOME with a reserved byte", edit(welcome, 20, 1), backend.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := readAny(c.frame); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// readAny reads a frame by its type.
func readAny(b []byte) error {
	if len(b) == 0 {
		return badFrame("empty")
	}
	var err error
	switch Type(b[0]) {
	case TypeHello:
		_, err = ReadHello(b)
	case TypeOp:
		_, err = ReadOp(b, len(b), new(backend.Op))
	case TypeAsk:
		_, err = ReadAsk(b)
	case TypeCancel:
		_, err = ReadCancel(b)
	case TypeWelcome:
		_, err = ReadWelcome(b)
	case TypeReply:
		_, err = ReadReply(b, len(b))
	case TypeRoute:
		_, err = ReadRoute(b)
	default:
		err = badFrame("type %d", b[0])
	}
	return err
}

// FuzzFrame holds every frame that is accepted against what writing it again gives:
// nothing is read but what was written.
func FuzzFrame(f *testing.F) {
	op := exampleOp()
	routes := []Route{{1, 2, 3}, {4, 0, 6}}
	for _, seed := range [][]byte{
		opFrame(&op, 7),
		opFrame(&backend.Op{Kind: backend.OpRead, Chunk: op.Chunk, Len: 4096}, 8),
		AppendHello(nil, Hello{Version: Version, Cluster: "c", Client: "g"}),
		AppendWelcome(nil, Welcome{Version: Version, Server: 1, Routes: routes}),
		AppendRoute(nil, routes),
		AppendAsk(nil, 3), AppendCancel(nil, 4),
		replyFrame(Reply{Request: 1}, []byte("data")),
		replyFrame(Reply{Request: 1, Status: StatusIO}, []byte("words")),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if readAny(b) != nil {
			return
		}
		var again []byte
		switch Type(b[0]) {
		case TypeHello:
			h, _ := ReadHello(b)
			again = AppendHello(nil, h)
		case TypeOp:
			var op backend.Op
			id, _ := ReadOp(b, len(b), &op)
			if op.Kind == backend.OpFlush {
				return // its range is ignored
			}
			op.Data = b[OpSize:]
			again = opFrame(&op, id)
		case TypeAsk:
			id, _ := ReadAsk(b)
			again = AppendAsk(nil, id)
		case TypeCancel:
			id, _ := ReadCancel(b)
			again = AppendCancel(nil, id)
		case TypeWelcome:
			w, _ := ReadWelcome(b)
			again = AppendWelcome(nil, w)
		case TypeReply:
			r, _ := ReadReply(b, len(b))
			again = replyFrame(r, b[ReplySize:])
		case TypeRoute:
			routes, _ := ReadRoute(b)
			again = AppendRoute(nil, routes)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("read and written again\n%x\nbecomes\n%x", b, again)
		}
	})
}
