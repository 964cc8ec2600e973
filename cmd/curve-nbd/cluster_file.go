package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	clusterFormat = 1
	// maxClusterFile is far above any cluster that one machine can run, in bytes.
	maxClusterFile = 1 << 20
)

type memberRole string

const (
	roleMDS         memberRole = "mds"
	roleChunkserver memberRole = "chunkserver"
)

// clusterFile is cluster.json.
type clusterFile struct {
	Format   int `json:"format"`
	Copysets int `json:"copysets"`
	Replicas int `json:"replicas"`
	// ChunkserverFlags go to every chunkserver, after those made from members.
	ChunkserverFlags []string `json:"chunkserver_flags,omitempty"`
	Members          []member `json:"members"`
}

// member is one server of a cluster.
type member struct {
	// ID is mds1, or cs and the ServerID that the MDS gives the chunkserver.
	ID          string     `json:"id"`
	Role        memberRole `json:"role"`
	Address     string     `json:"address"`
	PeerAddress string     `json:"peer_address,omitempty"`
	HTTPAddress string     `json:"http_address"`
	// Process is the one last started; it may be long gone.
	Process processID `json:"process"`
}

// memberIDs is what a member may be called: it becomes a file name.
var memberIDs = regexp.MustCompile(`^(mds|cs)[1-9][0-9]{0,5}$`)

// decodeClusterFile is strict about what this program writes, after it has looked
// whether a newer one wrote it.
func decodeClusterFile(b []byte) (clusterFile, error) {
	bad := func(format string, args ...any) (clusterFile, error) {
		return clusterFile{}, fmt.Errorf("%w: "+format, append([]any{backend.ErrInvalid}, args...)...)
	}
	if len(b) > maxClusterFile {
		return bad("more than %d bytes", maxClusterFile)
	}
	var newer struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &newer); err != nil {
		return bad("not the JSON it should be (%w)", err)
	}
	if newer.Format > clusterFormat {
		return clusterFile{}, fmt.Errorf("%w: format %d, this program knows up to %d: use the newer program",
			backend.ErrNotSupported, newer.Format, clusterFormat)
	}
	var f clusterFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return bad("%w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("bytes after its end")
	}
	if f.Format < 1 || f.Copysets < 1 || f.Replicas < 1 {
		return bad("format %d, %d copysets, %d replicas: each must be 1 or more", f.Format, f.Copysets, f.Replicas)
	}
	for i, m := range f.Members {
		if err := m.check(); err != nil {
			return bad("member %d: %w", i, err)
		}
		if f.index(m.ID) != i {
			return bad("member %s is there twice", m.ID)
		}
	}
	if len(f.of(roleMDS)) != 1 {
		return bad("it has %d MDS, want 1", len(f.of(roleMDS)))
	}
	return f, nil
}

func (m *member) check() error {
	prefix := map[memberRole]string{roleMDS: "mds", roleChunkserver: "cs"}[m.Role]
	if prefix == "" || !memberIDs.MatchString(m.ID) || !strings.HasPrefix(m.ID, prefix) {
		return fmt.Errorf("id %q, role %q: want mds1 or cs1 and the like, with role mds or chunkserver", m.ID, m.Role)
	}
	addresses := []string{m.Address, m.HTTPAddress}
	if m.Role == roleChunkserver {
		addresses = append(addresses, m.PeerAddress)
	}
	for _, a := range addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("%s: address %q: want HOST:PORT", m.ID, a)
		}
	}
	if m.Process.PID < 0 {
		return fmt.Errorf("%s: pid %d", m.ID, m.Process.PID)
	}
	return nil
}

// index returns where the member is, -1 for none.
func (f *clusterFile) index(id string) int {
	return slices.IndexFunc(f.Members, func(m member) bool { return m.ID == id })
}

// of returns the members of a role, in their order.
func (f *clusterFile) of(role memberRole) []*member {
	var found []*member
	for i := range f.Members {
		if f.Members[i].Role == role {
			found = append(found, &f.Members[i])
		}
	}
	return found
}

// member looks one up by its id. backend.ErrNotFound.
func (f *clusterFile) member(id string) (*member, error) {
	if i := f.index(id); i >= 0 {
		return &f.Members[i], nil
	}
	var ids []string
	for _, m := range f.Members {
		ids = append(ids, m.ID)
	}
	return nil, fmt.Errorf("%w: the cluster has no server %q: it has %s", backend.ErrNotFound, id, strings.Join(ids, ", "))
}

// mdsAddresses is where clients find the metadata.
func (f *clusterFile) mdsAddresses() []string {
	var addresses []string
	for _, m := range f.of(roleMDS) {
		addresses = append(addresses, m.Address)
	}
	return addresses
}

// serverID is the chunkserver's number, 0 for an MDS.
func (m *member) serverID() backend.ServerID {
	n, err := strconv.ParseUint(strings.TrimPrefix(m.ID, "cs"), 10, 32)
	if err != nil {
		return 0
	}
	return backend.ServerID(n)
}
