package raftnet

import (
	"context"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// AppendEntries implements raft.Transport. A heartbeat waits for a ping's answer.
// Anything else waits for a link, as raft backs off for seconds from a peer that
// failed a few times.
func (g *Group) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	to := ParsePeer(id)
	if isHeartbeat(args) {
		return g.beat(to, args, resp)
	}
	if err := fitAppend(args); err != nil {
		return err
	}
	l, err := g.net.dataLink(to, appendTimeout, g.closed)
	if err != nil {
		return err
	}
	c := &call{append: resp}
	commit := g.committed(args.LeaderCommitIndex)
	return g.roundTrip(l, typeAppend, c, appendTimeout, func(m *message) { putAppend(m, args, commit) })
}

// committed is how much of what raft has committed followers may be told: not
// more than is durable here, lest they apply what this replica may lose.
func (g *Group) committed(index uint64) uint64 {
	if g.gate != nil {
		index = min(index, g.gate.Durable())
	}
	return index
}

// TimeoutNow implements raft.Transport. The lease goes first.
func (g *Group) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, _ *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	ctx, cancel := context.WithTimeout(g.net.ctx, releaseWait)
	defer cancel()
	g.Release(ctx)
	_, err := g.control(ParsePeer(id), typeTimeoutNow, askTimeout, func(*message) {})
	resp.RPCHeader = responseHeader
	return err
}

// InstallSnapshot implements raft.Transport.
func (g *Group) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if args.Size > maxSnapshotBytes || len(args.Configuration) > maxConfigBytes {
		return fmt.Errorf("%w: raft snapshot of %d bytes with a configuration of %d, at most %d and %d", backend.ErrInvalid, args.Size, len(args.Configuration), maxSnapshotBytes, maxConfigBytes)
	}
	body := make([]byte, args.Size)
	if _, err := io.ReadFull(data, body); err != nil {
		return fmt.Errorf("reading the raft snapshot to send: %w", err)
	}
	l, err := g.net.dataLink(ParsePeer(id), appendTimeout, g.closed)
	if err != nil {
		return err
	}
	c := &call{}
	if err := g.roundTrip(l, typeSnapshot, c, snapshotTimeout, func(m *message) { putSnapshot(m, args, body) }); err != nil {
		return err
	}
	*resp = raft.InstallSnapshotResponse{RPCHeader: responseHeader, Term: c.term, Success: c.granted}
	return nil
}
