package raftnet

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// An AppendEntries body: term 8, previous index 8, previous term 8, commit index
// 8, number of entries 4, then each entry: index 8, term 8, appended at (Unix
// nanoseconds, 0 for none) 8, type 1, length of data 4, length of extensions 4,
// data, extensions.
const (
	appendHeadBytes  = 36
	appendEntryBytes = 33
)

// appendSize is the body's length, in bytes.
func appendSize(logs []*raft.Log) int {
	n := appendHeadBytes
	for _, l := range logs {
		n += appendEntryBytes + len(l.Data) + len(l.Extensions)
	}
	return n
}

// fitAppend leaves out the entries that would make a message too long. raft
// looks at the request's entries again after the call, and sends the rest later.
func fitAppend(a *raft.AppendEntriesRequest) error {
	size := appendHeadBytes
	for i, l := range a.Entries {
		size += appendEntryBytes + len(l.Data) + len(l.Extensions)
		if i > 0 && (size > softAppendBody || i == maxLogEntries) {
			a.Entries = a.Entries[:i]
			return nil
		}
		if size > maxAppendBody {
			return fmt.Errorf("raft log entry %d is of %d bytes, at most %d can be sent", l.Index, size, maxAppendBody)
		}
	}
	return nil
}

// putAppend writes the body into a message being built.
func putAppend(m *message, a *raft.AppendEntriesRequest, commit uint64) {
	m.u64(a.Term)
	m.u64(a.PrevLogEntry)
	m.u64(a.PrevLogTerm)
	m.u64(commit)
	m.u32(uint32(len(a.Entries)))
	for _, l := range a.Entries {
		var at int64
		if !l.AppendedAt.IsZero() {
			at = l.AppendedAt.UnixNano()
		}
		m.u64(l.Index)
		m.u64(l.Term)
		m.u64(uint64(at))
		m.u8(uint8(l.Type))
		m.u32(uint32(len(l.Data)))
		m.u32(uint32(len(l.Extensions)))
		m.bytes(l.Data)
		m.bytes(l.Extensions)
	}
}

// decodeAppend reads a body, which the entries then refer to.
func decodeAppend(b []byte) (*raft.AppendEntriesRequest, error) {
	r := reader{b: b}
	a := &raft.AppendEntriesRequest{Term: r.u64(), PrevLogEntry: r.u64(), PrevLogTerm: r.u64(), LeaderCommitIndex: r.u64()}
	n := r.u32()
	if n > maxLogEntries || int(n)*appendEntryBytes > len(r.b) {
		return nil, fmt.Errorf("%w: AppendEntries of %d entries in %d bytes", errWire, n, len(b))
	}
	if n > 0 {
		logs := make([]raft.Log, n)
		a.Entries = make([]*raft.Log, n)
		for i := range logs {
			l := &logs[i]
			l.Index, l.Term = r.u64(), r.u64()
			if at := int64(r.u64()); at != 0 {
				l.AppendedAt = time.Unix(0, at)
			}
			l.Type = raft.LogType(r.u8())
			data, ext := r.u32(), r.u32()
			if uint64(data)+uint64(ext) > uint64(len(r.b)) {
				return nil, fmt.Errorf("%w: raft log entry %d of %d + %d bytes with %d left", errWire, l.Index, data, ext, len(r.b))
			}
			if data > 0 {
				l.Data = r.take(int(data))
			}
			if ext > 0 {
				l.Extensions = r.take(int(ext))
			}
			a.Entries[i] = l
		}
	}
	return a, r.end("AppendEntries")
}

// Its answer: status, term 8, last index 8, flags 1 (1: success, 2: no need to
// back off).
func appendAppendAnswer(b []byte, a *raft.AppendEntriesResponse) []byte {
	b = binary.BigEndian.AppendUint64(append(b, answerOK), a.Term)
	b = binary.BigEndian.AppendUint64(b, a.LastLog)
	return append(b, flag(a.Success)|flag(a.NoRetryBackoff)<<1)
}

// decodeAppendAnswer fills resp, unless the answer is an error of the other side.
func decodeAppendAnswer(b []byte, resp *raft.AppendEntriesResponse) (remote, err error) {
	r, remote, err := answerReader(b)
	if remote != nil || err != nil {
		return remote, err
	}
	term, last, flags := r.u64(), r.u64(), r.u8()
	if err := r.end("AppendEntries' answer"); err != nil {
		return nil, err
	}
	if flags > 3 {
		return nil, fmt.Errorf("%w: AppendEntries' answer with flags %#x", errWire, flags)
	}
	*resp = raft.AppendEntriesResponse{RPCHeader: responseHeader, Term: term, LastLog: last, Success: flags&1 != 0, NoRetryBackoff: flags&2 != 0}
	return nil, nil
}

// An InstallSnapshot body: term 8, last index 8, last term 8, configuration
// index 8, snapshot version 1, length of the configuration 4, length of the
// snapshot 4, configuration, snapshot.
const snapshotHeadBytes = 41

func putSnapshot(m *message, s *raft.InstallSnapshotRequest, data []byte) {
	m.u64(s.Term)
	m.u64(s.LastLogIndex)
	m.u64(s.LastLogTerm)
	m.u64(s.ConfigurationIndex)
	m.u8(uint8(s.SnapshotVersion))
	m.u32(uint32(len(s.Configuration)))
	m.u32(uint32(len(data)))
	m.bytes(s.Configuration)
	m.bytes(data)
}

func decodeSnapshot(b []byte) (*raft.InstallSnapshotRequest, []byte, error) {
	r := reader{b: b}
	s := &raft.InstallSnapshotRequest{Term: r.u64(), LastLogIndex: r.u64(), LastLogTerm: r.u64(), ConfigurationIndex: r.u64()}
	s.SnapshotVersion = raft.SnapshotVersion(r.u8())
	conf, size := r.u32(), r.u32()
	if conf > maxConfigBytes || size > maxSnapshotBytes {
		return nil, nil, fmt.Errorf("%w: raft snapshot of %d bytes with a configuration of %d, at most %d and %d", errWire, size, conf, maxSnapshotBytes, maxConfigBytes)
	}
	s.Configuration = r.take(int(conf))
	data := r.take(int(size))
	s.Size = int64(size)
	return s, data, r.end("raft snapshot")
}

// Its answer: status, term 8, success 1: that of a vote.

// responseHeader is the RPCHeader of answers; raft looks at that of requests only.
var responseHeader = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}
