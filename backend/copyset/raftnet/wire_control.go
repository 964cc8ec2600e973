package raftnet

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// A ping's body, and a pong's; the head's number is the ping's sequence number,
// the head's copyset is 0.
//
//	0  4  number of entries
//	4 13  each entry: copyset 4, term 8, flags (ping) or status (pong) 1
const (
	pingHeadBytes  = 4
	pingEntryBytes = 13
)

// Flags of a ping's entry.
const (
	// flagPromise asks for a promise.
	flagPromise = 1 << iota
	// flagRelease gives an earlier promise back.
	flagRelease
	flagsAll = flagPromise | flagRelease
)

// Statuses of a pong's entry.
const (
	// statusPending: raft has not said yet whether it follows; ask again.
	statusPending uint8 = iota
	// statusOK: the replica follows the sender in that term.
	statusOK
	// statusPromised: statusOK, and it will let no vote through for a while.
	statusPromised
	// statusRefused: it has seen the entry's, newer, term.
	statusRefused
	// statusUnknown: no such copyset there.
	statusUnknown
	statusEnd
)

// pingEntry is an entry of a ping or a pong; code is its flags or its status.
type pingEntry struct {
	copyset backend.CopysetID
	term    uint64
	code    uint8
}

func beginEntries(b []byte) []byte { return append(b[:0], 0, 0, 0, 0) }

func appendEntry(b []byte, e pingEntry) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(e.copyset))
	b = binary.BigEndian.AppendUint64(b, e.term)
	return append(b, e.code)
}

func endEntries(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32((len(b)-pingHeadBytes)/pingEntryBytes))
	return b
}

// entries is the body of a ping or pong that was checked.
type entries []byte

func decodeEntries(b []byte, valid func(code uint8) bool) (entries, error) {
	r := reader{b: b}
	n := r.u32()
	if n > maxPingEntries {
		return nil, fmt.Errorf("%w: ping of %d entries, at most %d", errWire, n, maxPingEntries)
	}
	list := r.take(int(n) * pingEntryBytes)
	if err := r.end("ping"); err != nil {
		return nil, err
	}
	for i := pingEntryBytes - 1; i < len(list); i += pingEntryBytes {
		if !valid(list[i]) {
			return nil, fmt.Errorf("%w: entry of a ping with flags or status %#x", errWire, list[i])
		}
	}
	return entries(list), nil
}

func validFlags(code uint8) bool  { return code&^flagsAll == 0 && code != flagsAll }
func validStatus(code uint8) bool { return code < statusEnd }

func (e entries) len() int { return len(e) / pingEntryBytes }

func (e entries) at(i int) pingEntry {
	b := e[i*pingEntryBytes : (i+1)*pingEntryBytes]
	return pingEntry{backend.CopysetID(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint64(b[4:]), b[12]}
}

// A vote's or pre-vote's body: term 8, last index 8, last term 8, flags 1
// (1: leadership transfer; votes only).

func appendVote(b []byte, term, lastIndex, lastTerm uint64, transfer bool) []byte {
	b = binary.BigEndian.AppendUint64(b, term)
	b = binary.BigEndian.AppendUint64(b, lastIndex)
	b = binary.BigEndian.AppendUint64(b, lastTerm)
	return append(b, flag(transfer))
}

func decodeVote(b []byte) (*raft.RequestVoteRequest, error) {
	r := reader{b: b}
	v := &raft.RequestVoteRequest{Term: r.u64(), LastLogIndex: r.u64(), LastLogTerm: r.u64()}
	flags := r.u8()
	v.LeadershipTransfer = flags&1 != 0
	if flags > 1 {
		return nil, fmt.Errorf("%w: vote with flags %#x", errWire, flags)
	}
	return v, r.end("vote")
}

// An answer's body starts with a status: 0, then its fields; or 1, then the
// words of an error.
const (
	answerOK    = 0
	answerError = 1
)

func appendAnswerError(b []byte, err error) []byte {
	words := err.Error()
	return append(append(b, answerError), words[:min(len(words), maxErrorBytes)]...)
}

// answerReader checks an answer's status; the error it carries comes second.
func answerReader(b []byte) (reader, error, error) {
	r := reader{b: b}
	switch status := r.u8(); {
	case r.short || status > answerError:
		return r, nil, fmt.Errorf("%w: answer of %d bytes with status %d", errWire, len(b), status)
	case status == answerError && len(r.b) > maxErrorBytes:
		return r, nil, fmt.Errorf("%w: answer with an error of %d bytes, at most %d", errWire, len(r.b), maxErrorBytes)
	case status == answerError:
		return r, errors.New(string(r.b)), nil
	}
	return r, nil, nil
}

// A vote's answer: status, term 8, granted 1.
func appendVoteAnswer(b []byte, term uint64, granted bool) []byte {
	return append(binary.BigEndian.AppendUint64(append(b, answerOK), term), flag(granted))
}

func decodeVoteAnswer(b []byte) (term uint64, granted bool, remote, err error) {
	r, remote, err := answerReader(b)
	if remote != nil || err != nil {
		return 0, false, remote, err
	}
	term = r.u64()
	g := r.u8()
	if g > 1 {
		return 0, false, nil, fmt.Errorf("%w: vote's answer with flags %#x", errWire, g)
	}
	return term, g == 1, nil, r.end("vote's answer")
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
