package chunkserver

import (
	"maps"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
)

// book is the address book of the cluster's chunkservers: what the MDS last said,
// kept on disk so that a restart finds the others without it.
type book struct {
	mu      sync.RWMutex
	servers map[backend.ServerID]bookEntry
}

type bookEntry struct {
	Address string `json:"address"`
	Peer    string `json:"peer"`
}

// bookRecord is the book's form on disk.
type bookRecord struct {
	Servers map[backend.ServerID]bookEntry `json:"servers"`
}

func (b *book) load(d *dataDir) error {
	var r bookRecord
	if _, err := getRecord(d.fs, d.path, bookName, &r); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.servers = r.Servers
	return nil
}

// update takes in what the MDS says, and reports whether it was news. What it does
// not mention stays: an MDS that has forgotten a server is no reason to lose it.
func (b *book) update(servers []backend.ServerInfo) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := maps.Clone(b.servers)
	if next == nil {
		next = make(map[backend.ServerID]bookEntry)
	}
	for _, s := range servers {
		e := bookEntry{Address: s.Address, Peer: s.PeerAddress}
		if s.ID != 0 && e.Address != "" && e.Peer != "" && next[s.ID] != e {
			next[s.ID] = e
			changed = true
		}
	}
	b.servers = next
	return changed
}

func (b *book) save(d *dataDir) error {
	b.mu.RLock()
	r := bookRecord{Servers: b.servers}
	b.mu.RUnlock()
	return putRecord(d.fs, d.path, bookName, r)
}

// address is where a server's chunk service is, "" for unknown.
func (b *book) address(id backend.ServerID) string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.servers[id].Address
}

func (b *book) peerAddresses() map[backend.ServerID]string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	peers := make(map[backend.ServerID]string, len(b.servers))
	for id, e := range b.servers {
		peers[id] = e.Peer
	}
	return peers
}
