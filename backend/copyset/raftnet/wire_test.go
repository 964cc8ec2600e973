package raftnet

import (
	"bytes"
	"errors"
	"hash/crc32"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/opencurve/curve-nbd/backend"
)

// built returns the body that put writes, head and checksum checked.
func built(t testing.TB, kind uint8, put func(*message)) []byte {
	t.Helper()
	var q batch
	m := q.begin()
	put(&m)
	m.end(head{kind: kind, copyset: 7, id: 9})
	var all []byte
	for _, b := range q.buffers() {
		all = append(all, b...)
	}
	link := uint8(kindControl)
	if kind > typeControlMax {
		link = kindData
	}
	h, err := decodeHead(all[:headBytes], link)
	if err != nil {
		t.Fatal(err)
	}
	if int(h.length) != len(all)-headBytes || h.copyset != 7 || h.id != 9 || h.sum != crc32.Checksum(all[8:], castagnoli) || q.bytes != len(all) {
		t.Fatalf("head %+v of a message of %d bytes", h, len(all))
	}
	return all[headBytes:]
}

func TestAppendEntriesSurviveTheWire(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := &raft.AppendEntriesRequest{
			Term: rapid.Uint64().Draw(rt, "term"), PrevLogEntry: rapid.Uint64().Draw(rt, "prev"),
			PrevLogTerm: rapid.Uint64().Draw(rt, "prev term"), LeaderCommitIndex: rapid.Uint64().Draw(rt, "commit"),
		}
		for range rapid.IntRange(0, 5).Draw(rt, "entries") {
			l := &raft.Log{Index: rapid.Uint64().Draw(rt, "index"), Term: rapid.Uint64().Draw(rt, "entry term"), Type: raft.LogType(rapid.Uint8().Draw(rt, "type"))}
			if n := rapid.SampledFrom([]int{0, 1, 100, copyBelow - 1, copyBelow, 4096, 70000}).Draw(rt, "data"); n > 0 {
				l.Data = bytes.Repeat([]byte{byte(n)}, n)
			}
			if n := rapid.SampledFrom([]int{0, 0, 3, copyBelow}).Draw(rt, "extensions"); n > 0 {
				l.Extensions = bytes.Repeat([]byte{byte(n)}, n)
			}
			if rapid.Bool().Draw(rt, "timed") {
				l.AppendedAt = time.Unix(0, rapid.Int64Range(1, math.MaxInt64).Draw(rt, "at"))
			}
			a.Entries = append(a.Entries, l)
		}
		body := built(t, typeAppend, func(m *message) { putAppend(m, a, a.LeaderCommitIndex) })
		if len(body) != appendSize(a.Entries) {
			rt.Fatalf("body of %d bytes, expected %d", len(body), appendSize(a.Entries))
		}
		got, err := decodeAppend(body)
		if err != nil || !reflect.DeepEqual(got, a) {
			rt.Fatalf("sent %+v, got %+v, %v", a, got, err)
		}
	})
}

func TestSmallMessagesSurviveTheWire(t *testing.T) {
	v, err := decodeVote(appendVote(nil, 3, 4, 5, true))
	if want := (&raft.RequestVoteRequest{Term: 3, LastLogIndex: 4, LastLogTerm: 5, LeadershipTransfer: true}); err != nil || !reflect.DeepEqual(v, want) {
		t.Errorf("vote: %+v, %v", v, err)
	}
	if term, granted, remote, err := decodeVoteAnswer(appendVoteAnswer(nil, 8, true)); term != 8 || !granted || remote != nil || err != nil {
		t.Errorf("vote's answer: %d %v %v %v", term, granted, remote, err)
	}
	if _, _, remote, err := decodeVoteAnswer(appendAnswerError(nil, errors.New("no"))); remote == nil || remote.Error() != "no" || err != nil {
		t.Errorf("error: %v, %v", remote, err)
	}
	want := raft.AppendEntriesResponse{RPCHeader: responseHeader, Term: 5, LastLog: 6, Success: true, NoRetryBackoff: true}
	var a raft.AppendEntriesResponse
	if remote, err := decodeAppendAnswer(appendAppendAnswer(nil, &want), &a); remote != nil || err != nil || !reflect.DeepEqual(a, want) {
		t.Errorf("append's answer: %+v %v %v", a, remote, err)
	}
	e := pingEntry{copyset: 1 << 31, term: 1 << 63, code: flagPromise}
	list, err := decodeEntries(endEntries(appendEntry(appendEntry(beginEntries(nil), pingEntry{}), e)), validFlags)
	if err != nil || list.len() != 2 || list.at(1) != e {
		t.Errorf("ping: %v, %v", list, err)
	}
	s := &raft.InstallSnapshotRequest{Term: 1, LastLogIndex: 2, LastLogTerm: 3, ConfigurationIndex: 4, SnapshotVersion: 1, Configuration: []byte("conf"), Size: 5000}
	data := bytes.Repeat([]byte{1}, 5000)
	got, gotData, err := decodeSnapshot(built(t, typeSnapshot, func(m *message) { putSnapshot(m, s, data) }))
	if err != nil || !reflect.DeepEqual(got, s) || !bytes.Equal(gotData, data) {
		t.Errorf("snapshot: %+v, %v", got, err)
	}
	h := hello{version: wireVersion, kind: kindData, from: 2, to: 3, incarnation: 4, cluster: 5}
	b := h.encode()
	if got, err := decodeHello(b[:]); err != nil || got != h {
		t.Errorf("hello: %+v, %v", got, err)
	}
	for i := range b {
		bad := b
		bad[i] ^= 0x10
		if _, err := decodeHello(bad[:]); !errors.Is(err, errWire) {
			t.Errorf("hello with byte %d changed: %v", i, err)
		}
	}
}

func TestOversizedAppendLeavesEntriesForTheNext(t *testing.T) {
	big := make([]byte, 15<<20)
	a := &raft.AppendEntriesRequest{Entries: []*raft.Log{{Index: 1, Data: big}, {Index: 2, Data: big}, {Index: 3, Data: big}, {Index: 4, Data: big}}}
	if err := fitAppend(a); err != nil || len(a.Entries) != 2 {
		t.Errorf("%d entries, %v", len(a.Entries), err)
	}
	a = &raft.AppendEntriesRequest{Entries: []*raft.Log{{Index: 1, Data: make([]byte, maxAppendBody)}}}
	if err := fitAppend(a); err == nil {
		t.Error("an entry larger than any message was let through")
	}
}

func FuzzHello(f *testing.F) {
	b := hello{version: wireVersion, kind: kindControl, from: 1, to: 2, incarnation: 3}.encode()
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			return
		}
		if again := h.encode(); !bytes.Equal(again[:], b) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b, h, again)
		}
	})
}

func FuzzHead(f *testing.F) {
	var b [headBytes]byte
	head{length: 10, kind: typeVote, copyset: 1, id: 2}.put(b[:])
	f.Add(b[:], uint8(kindControl))
	f.Fuzz(func(t *testing.T, b []byte, kind uint8) {
		h, err := decodeHead(b, kind)
		if err != nil {
			return
		}
		var again [headBytes]byte
		if h.put(again[:]); !bytes.Equal(again[:], b) || h.length > bodyLimit(h.kind) {
			t.Fatalf("%x decodes to %+v", b, h)
		}
	})
}

func FuzzPing(f *testing.F) {
	f.Add(endEntries(appendEntry(beginEntries(nil), pingEntry{1, 2, flagRelease})))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, valid := range []func(uint8) bool{validFlags, validStatus} {
			list, err := decodeEntries(b, valid)
			if err != nil {
				continue
			}
			again := beginEntries(nil)
			for i := range list.len() {
				again = appendEntry(again, list.at(i))
			}
			if !bytes.Equal(endEntries(again), b) {
				t.Fatalf("%x encodes to %x", b, again)
			}
		}
	})
}

func FuzzAppendEntries(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAppend(b)
		if err != nil {
			return
		}
		if again := built(t, typeAppend, func(m *message) { putAppend(m, a, a.LeaderCommitIndex) }); !bytes.Equal(again, b) {
			t.Fatalf("%x encodes to %x", b, again)
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		s, data, err := decodeSnapshot(b)
		if err != nil {
			return
		}
		if again := built(t, typeSnapshot, func(m *message) { putSnapshot(m, s, data) }); !bytes.Equal(again, b) {
			t.Fatalf("%x encodes to %x", b, again)
		}
	})
}

func FuzzVotesAndAnswers(f *testing.F) {
	f.Add(appendVote(nil, 1, 2, 3, true))
	f.Add(appendVoteAnswer(nil, 1, true))
	f.Add(appendAppendAnswer(nil, &raft.AppendEntriesResponse{Term: 1, LastLog: 2, Success: true}))
	f.Add(appendAnswerError(nil, backend.ErrNoCopyset))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := decodeVote(b); err == nil && !bytes.Equal(appendVote(nil, v.Term, v.LastLogIndex, v.LastLogTerm, v.LeadershipTransfer), b) {
			t.Fatalf("%x is the vote %+v", b, v)
		}
		if term, granted, remote, err := decodeVoteAnswer(b); err == nil && remote == nil && !bytes.Equal(appendVoteAnswer(nil, term, granted), b) {
			t.Fatalf("%x is the answer %d %v", b, term, granted)
		} else if remote != nil && len(remote.Error()) > maxErrorBytes {
			t.Fatalf("error of %d bytes", len(remote.Error()))
		}
		var a raft.AppendEntriesResponse
		if remote, err := decodeAppendAnswer(b, &a); err == nil && remote == nil && !bytes.Equal(appendAppendAnswer(nil, &a), b) {
			t.Fatalf("%x is the answer %+v", b, a)
		}
	})
}
