package raftnet

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// Options of a Net. Zero durations stand for the defaults.
type Options struct {
	Self backend.ServerID
	// Cluster is a name that both ends of a link must have in common, so that a
	// chunkserver with another cluster's address book is refused.
	Cluster string
	// Listener accepts the links of the other chunkservers. Net closes it.
	Listener net.Listener
	// Dial opens a connection to a peer's listener. Default TCP. A refusal must
	// wrap syscall.ECONNREFUSED: it is proof that the process is gone.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Ping is the time between two pings to a peer. Default 30 ms.
	Ping time.Duration
	// Lease is for how long after a ping was sent its answer entitles a leader to
	// read locally. Default 150 ms. Promise is for how long after a ping arrived
	// the follower grants no vote; longer than Lease by the clock drift allowed
	// for. Default 220 ms.
	Lease, Promise time.Duration
	// Suspect is the silence after which a leader's chunkserver is taken for dead
	// and its followers campaign; up to three times as long for one that was silent and
	// came back within the last minute. Longer than Promise. Default 350 ms.
	Suspect time.Duration
	Logger  *slog.Logger
}

func (o *Options) setDefaults() error {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&o.Ping, 30 * time.Millisecond}, {&o.Lease, 150 * time.Millisecond}, {&o.Promise, 220 * time.Millisecond}, {&o.Suspect, 350 * time.Millisecond}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	switch {
	case o.Self == 0:
		return fmt.Errorf("%w: raft links of chunkserver 0: ids start at 1", backend.ErrInvalid)
	case o.Listener == nil:
		return fmt.Errorf("%w: raft links without a listener", backend.ErrInvalid)
	case o.Ping <= 0 || o.Lease < 2*o.Ping:
		return fmt.Errorf("%w: lease of %v with pings every %v: make it two pings at least", backend.ErrInvalid, o.Lease, o.Ping)
	case o.Promise < o.Lease+o.Lease/10:
		return fmt.Errorf("%w: promise of %v for a lease of %v: make it a tenth longer at least, for clocks that run apart", backend.ErrInvalid, o.Promise, o.Lease)
	case o.Suspect <= o.Promise:
		return fmt.Errorf("%w: suspecting after %v with promises of %v: make it longer", backend.ErrInvalid, o.Suspect, o.Promise)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		var d net.Dialer
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}
	}
	return nil
}

// clusterHash is what the handshake carries of the cluster's name.
func clusterHash(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}

// newIncarnation names one life of a process.
func newIncarnation() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:]) | 1 // 0 stands for none
}

// Limits. Bytes are of message bodies unless said otherwise.
const (
	// maxPeers and maxGroups bound what strangers can make a Net remember.
	maxPeers = 1024
	// maxControlBody is the largest control message: a ping of maxPingEntries.
	maxControlBody = pingHeadBytes + maxPingEntries*pingEntryBytes
	maxPingEntries = 1 << 15
	// maxSnapshotBytes bounds a raft snapshot: metadata, not chunks.
	maxSnapshotBytes = 8 << 20
	// maxAppendBody bounds an AppendEntries message; beyond softAppendBody the
	// sender leaves entries to the next one.
	maxAppendBody  = 64 << 20
	softAppendBody = 40 << 20
	maxLogEntries  = 4096
	maxConfigBytes = 1 << 20
	maxErrorBytes  = 512
	// pipelineDepth is how many AppendEntries of a pipeline may be in flight.
	pipelineDepth = 64
	// inboxCount and inboxBytes bound what waits for one group's raft.
	inboxCount = 192
	inboxBytes = 96 << 20
	// maxHeldVotes of one group; a candidate has one at a time.
	maxHeldVotes = 16
	// queueBytes is when senders of bulk wait for a connection to drain;
	// queueMax is when the connection is given up, as its peer reads nothing.
	queueBytes      = 16 << 20
	queueMax        = 192 << 20
	controlQueueMax = 4 << 20
)

// Times that need no tuning.
const (
	// voteTimeout bounds the round trip of a vote, which waits for the voter's disk,
	// and of a pre-vote, which may wait behind one. A voter that does not answer
	// because it is silent ends the wait earlier, by its link.
	voteTimeout = 30 * time.Second
	// askTimeout bounds what waits for no disk: how long a vote is held back, a
	// TimeoutNow, and a heartbeat's wait for raft to accept its sender.
	askTimeout = time.Second
	// appendTimeout bounds an AppendEntries round trip outside a pipeline, and
	// the wait for a link before it. A long wait is good: every failure makes
	// raft back off, up to 10 s, while a link that comes up ends the wait.
	appendTimeout = 10 * time.Second
	// snapshotTimeout bounds InstallSnapshot, the receiver's catch-up included.
	snapshotTimeout = 30 * time.Minute
	dialTimeout     = 500 * time.Millisecond
	redialMin       = 10 * time.Millisecond
	redialMax       = 200 * time.Millisecond
	writeTimeout    = 10 * time.Second
	// idleTimeout ends an inbound control connection that brings no pings.
	idleTimeout = 10 * time.Second
	// feedEvery is how often raft itself is told that its leader lives.
	feedEvery = 100 * time.Millisecond
)
