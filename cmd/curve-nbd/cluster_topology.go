package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// topologyClient asks the MDS about servers and copysets.
type topologyClient struct{ *remote.Meta }

// dialTopology prepares to ask the MDS at addresses; it does not wait for one.
func dialTopology(addresses []string) (*topologyClient, error) {
	meta, err := remote.DialMeta(addresses, remote.MetaOptions{})
	if err != nil {
		return nil, err
	}
	return &topologyClient{meta}, nil
}

// checkMDSAddresses refuses what can be no address.
func checkMDSAddresses(addresses []string) error {
	for _, a := range addresses {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return usagef("--mds %q: write it as HOST:PORT, such as %s", a, hostPort(defaultBasePort))
		}
	}
	return nil
}

// findCopyset returns what the MDS knows of a copyset. backend.ErrNotFound.
func (c *topologyClient) findCopyset(ctx context.Context, id backend.CopysetID) (backend.CopysetInfo, error) {
	all, err := c.Copysets(ctx)
	if err != nil {
		return backend.CopysetInfo{}, err
	}
	for _, info := range all {
		if info.ID == id {
			return info, nil
		}
	}
	return backend.CopysetInfo{}, fmt.Errorf("%w: the cluster has no copyset %d; `curve-nbd copyset list` shows them", backend.ErrNotFound, id)
}

// transferLeader returns when the other chunkserver leads.
func (c *topologyClient) transferLeader(ctx context.Context, id backend.CopysetID, to backend.ServerID) error {
	chunks := remote.NewChunks(c.Meta, remote.Options{Client: "leader transfer on " + hostName()})
	return errors.Join(chunks.TransferLeader(ctx, id, to), chunks.Close())
}

// requirePeer fails for a chunkserver that does not hold the copyset.
func requirePeer(info backend.CopysetInfo, to backend.ServerID) error {
	if slices.Contains(info.Peers, to) {
		return nil
	}
	var names []string
	for _, peer := range info.Peers {
		names = append(names, serverName(peer))
	}
	return fmt.Errorf("%w: copyset %d is on %s, not on %s", backend.ErrNotFound, info.ID, strings.Join(names, ", "), serverName(to))
}
