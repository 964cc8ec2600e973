package mds

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// maxServers and maxCopysets bound what is kept in memory and what one
	// answer to a heartbeat may hold.
	maxServers  = 4096
	maxCopysets = 16384
)

// ClusterOptions are the rules for chunkservers. The zero value is good.
type ClusterOptions struct {
	// UnstableAfter and OfflineAfter are how long a chunkserver may be silent.
	// Defaults 5 s and 5 min. What is on an offline one is made again elsewhere.
	UnstableAfter, OfflineAfter time.Duration
	// MinFree is the space, in bytes, below which a chunkserver is full, and gets
	// no new chunks and copysets. Default 256 MiB.
	MinFree int64
	// ScatterWidth is with how many others a chunkserver shares copysets, at
	// most where it can be. Default 12.
	ScatterWidth int
	// MaxMoves bounds the copysets that change their peers at the same time.
	// Default 2.
	MaxMoves int
	// Auto makes the first copysets without being asked.
	Auto AutoCopysets
}

// AutoCopysets says which copysets to make as soon as there are chunkservers
// enough, where there is no copyset yet.
type AutoCopysets struct {
	// MinServers that must be online; 0 for never.
	MinServers int
	// Replicas of each copyset. Default 3.
	Replicas int
	// Count of copysets in all; where it is 0, PerServer for each chunkserver,
	// by default 2: few, since each costs rounds of raft of its own.
	Count, PerServer int
}

func (o ClusterOptions) withDefaults() (ClusterOptions, error) {
	o.UnstableAfter = cmp.Or(o.UnstableAfter, 5*time.Second)
	o.OfflineAfter = cmp.Or(o.OfflineAfter, 5*time.Minute)
	o.MinFree = cmp.Or(o.MinFree, 256<<20)
	o.ScatterWidth = cmp.Or(o.ScatterWidth, 12)
	o.MaxMoves = cmp.Or(o.MaxMoves, 2)
	o.Auto.Replicas = cmp.Or(o.Auto.Replicas, 3)
	o.Auto.PerServer = cmp.Or(o.Auto.PerServer, 2)
	switch {
	case o.UnstableAfter < 0 || o.OfflineAfter < o.UnstableAfter:
		return o, fmt.Errorf("%w: chunkservers unstable after %s and offline after %s: the second must not be shorter", backend.ErrInvalid, o.UnstableAfter, o.OfflineAfter)
	case o.MinFree < 0 || o.ScatterWidth < 0 || o.MaxMoves < 0 || o.Auto.MinServers < 0 || o.Auto.Count < 0 || o.Auto.PerServer < 0:
		return o, fmt.Errorf("%w: cluster options %+v: must not be negative", backend.ErrInvalid, o)
	case o.Auto.Replicas < 1 || o.Auto.Replicas > maxReplicas:
		return o, fmt.Errorf("%w: %d replicas: use 1 to %d", backend.ErrInvalid, o.Auto.Replicas, maxReplicas)
	}
	return o, nil
}

// topology is what is stored of chunkservers and copysets, in order of their
// ids. Immutable: a change makes a new one.
type topology struct {
	servers  []serverRecord
	copysets []copysetRecord
}

func (t *topology) server(id backend.ServerID) (serverRecord, bool) {
	i, ok := slices.BinarySearchFunc(t.servers, id, func(s serverRecord, id backend.ServerID) int { return cmp.Compare(s.ID, id) })
	if !ok {
		return serverRecord{}, false
	}
	return t.servers[i], true
}

func (t *topology) copyset(id backend.CopysetID) (copysetRecord, bool) {
	i, ok := slices.BinarySearchFunc(t.copysets, id, func(c copysetRecord, id backend.CopysetID) int { return cmp.Compare(c.ID, id) })
	if !ok {
		return copysetRecord{}, false
	}
	return t.copysets[i], true
}

// with returns t with records new or changed. Ids only grow, so what is new
// belongs at the end.
func (t *topology) with(servers []serverRecord, copysets []copysetRecord) *topology {
	next := &topology{servers: slices.Clone(t.servers), copysets: slices.Clone(t.copysets)}
	for _, s := range servers {
		i, ok := slices.BinarySearchFunc(next.servers, s.ID, func(a serverRecord, id backend.ServerID) int { return cmp.Compare(a.ID, id) })
		if ok {
			next.servers[i] = s
		} else {
			next.servers = slices.Insert(next.servers, i, s)
		}
	}
	for _, c := range copysets {
		i, ok := slices.BinarySearchFunc(next.copysets, c.ID, func(a copysetRecord, id backend.CopysetID) int { return cmp.Compare(a.ID, id) })
		if ok {
			next.copysets[i] = c
		} else {
			next.copysets = slices.Insert(next.copysets, i, c)
		}
	}
	return next
}

// cluster is the part of an MDS that knows chunkservers and copysets.
type cluster struct {
	opts  ClusterOptions
	store Store
	now   func() time.Time
	log   *slog.Logger
	start time.Time

	// change is held by the one who changes known, while the store makes the
	// change durable. It holds a token while it is free.
	change chan struct{}
	known  atomic.Pointer[topology]

	mu sync.Mutex
	// beat counts heartbeats, to tell what was reported before what.
	beat    uint64                                                  // guarded by mu
	live    map[backend.ServerID]*liveServer                        // guarded by mu
	reports map[backend.CopysetID]map[backend.ServerID]*replicaView // guarded by mu
	planned time.Time                                               // guarded by mu: when the scheduler last ran
}

func openCluster(store Store, opts ClusterOptions, now func() time.Time, log *slog.Logger) (*cluster, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &cluster{
		opts: opts, store: store, now: now, log: log, start: now(),
		change:  make(chan struct{}, 1),
		live:    map[backend.ServerID]*liveServer{},
		reports: map[backend.CopysetID]map[backend.ServerID]*replicaView{},
	}
	c.change <- struct{}{}
	var known *topology
	err = store.View(context.Background(), func(tx Txn) error {
		known = new(topology)
		err := tx.Scan([]byte{keyServer}, nil, func(_, value []byte) (bool, error) {
			s, err := decodeServer(value)
			known.servers = append(known.servers, s)
			return true, err
		})
		if err != nil {
			return err
		}
		return tx.Scan([]byte{keyCopyset}, nil, func(_, value []byte) (bool, error) {
			record, err := decodeCopyset(value)
			known.copysets = append(known.copysets, record)
			return true, err
		})
	})
	c.known.Store(known)
	return c, err
}

// lock waits for the right to change the topology.
func (c *cluster) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case <-c.change:
		return func() { c.change <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// save makes records durable, and known then. Called with the lock held.
func (c *cluster) save(ctx context.Context, servers []serverRecord, copysets []copysetRecord) error {
	// Not ctx: an update that is cut short may have happened, and what is known
	// must be what is stored.
	err := c.store.Update(context.WithoutCancel(ctx), func(tx Txn) error {
		for _, s := range servers {
			b, err := encodeRecord(serverVersion, s)
			if err != nil {
				return err
			}
			if err := tx.Put(serverKey(s.ID), b); err != nil {
				return err
			}
			if err := growCounter(tx, counterServer, uint64(s.ID)); err != nil {
				return err
			}
		}
		for _, r := range copysets {
			b, err := encodeRecord(copysetVersion, r)
			if err != nil {
				return err
			}
			if err := tx.Put(copysetKey(r.ID), b); err != nil {
				return err
			}
			if err := growCounter(tx, counterCopyset, uint64(r.ID)); err != nil {
				return err
			}
		}
		return enterCluster(tx)
	})
	if err != nil {
		return err
	}
	c.known.Store(c.known.Load().with(servers, copysets))
	return nil
}

// growCounter makes a counter at least n.
func growCounter(tx Txn, counter string, n uint64) error {
	last, err := getCounter(tx, counter)
	if err != nil || last >= n {
		return err
	}
	return putCounter(tx, counter, n)
}

// enterCluster makes the store one of a cluster, see layoutCluster.
func enterCluster(tx Txn) error {
	format, err := tx.Get([]byte(keyFormat))
	if err != nil || bytes.Equal(format, []byte{layoutCluster}) {
		return err
	}
	chunks, err := getCounter(tx, counterChunk)
	if err != nil {
		return err
	}
	if chunks != 0 {
		return fmt.Errorf("%w: the metadata is of one machine that holds chunks: a cluster needs metadata of its own", backend.ErrInvalid)
	}
	return tx.Put([]byte(keyFormat), []byte{layoutCluster})
}

// chunkservers returns the cluster, if there is one and the store is open: what
// is kept in memory would be answered even after Close.
func (m *MDS) chunkservers(ctx context.Context) (*cluster, error) {
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	if m.cluster == nil {
		return nil, fmt.Errorf("%w: this metadata is of one machine, without chunkservers", backend.ErrNotSupported)
	}
	return m.cluster, nil
}

func (m *MDS) usable(ctx context.Context) error {
	return m.store.View(ctx, func(Txn) error { return nil })
}

// Register implements backend.Topology.
func (m *MDS) Register(ctx context.Context, info backend.ServerInfo) (backend.ServerInfo, error) {
	c, err := m.chunkservers(ctx)
	if err != nil {
		return backend.ServerInfo{}, fmt.Errorf("register chunkserver: %w", err)
	}
	registered, err := c.register(ctx, info)
	if err != nil {
		return backend.ServerInfo{}, fmt.Errorf("register chunkserver %.80q at %.80q: %w", info.UUID, info.Address, err)
	}
	c.schedule(ctx)
	return registered, nil
}

func (c *cluster) register(ctx context.Context, info backend.ServerInfo) (backend.ServerInfo, error) {
	record := serverRecord{UUID: info.UUID, Address: info.Address, PeerAddress: info.PeerAddress, Zone: info.Zone, PID: info.PID}
	if err := record.check(); err != nil {
		return backend.ServerInfo{}, err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return backend.ServerInfo{}, err
	}
	defer unlock()
	known := c.known.Load()
	i := slices.IndexFunc(known.servers, func(s serverRecord) bool { return s.UUID == record.UUID })
	switch {
	case i < 0 && len(known.servers) >= maxServers:
		return backend.ServerInfo{}, fmt.Errorf("%w: the cluster has %d chunkservers: at most %d", backend.ErrNoSpace, len(known.servers), maxServers)
	case i < 0:
		if record.ID, err = c.nextServerID(ctx); err != nil {
			return backend.ServerInfo{}, err
		}
	default:
		old := known.servers[i]
		moved := old.Address != record.Address || old.PeerAddress != record.PeerAddress
		if moved && c.alive(old.ID) {
			return backend.ServerInfo{}, fmt.Errorf("%w: its identity is alive as %s at %s: stop that one, or use a data directory that is no copy", backend.ErrBusy, old.ID, old.Address)
		}
		record.ID, record.Retiring = old.ID, old.Retiring
	}
	if i < 0 || known.servers[i] != record {
		if err := c.save(ctx, []serverRecord{record}, nil); err != nil {
			return backend.ServerInfo{}, err
		}
		c.log.Info("chunkserver registered", "chunkserver", uint32(record.ID), "address", record.Address, "zone", record.Zone, "pid", record.PID)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.hear(record.ID)
	l.draining, l.trouble = false, ""
	return c.info(record, l, c.now()), nil
}

// nextServerID returns the id of a server to be saved. Called with the lock held.
func (c *cluster) nextServerID(ctx context.Context) (id backend.ServerID, err error) {
	err = c.store.View(ctx, func(tx Txn) error {
		last, err := getCounter(tx, counterServer)
		id = backend.ServerID(last + 1)
		return err
	})
	return id, err
}

// Servers implements backend.Topology.
func (m *MDS) Servers(ctx context.Context) ([]backend.ServerInfo, error) {
	c, err := m.chunkservers(ctx)
	if err != nil {
		return nil, fmt.Errorf("list chunkservers: %w", err)
	}
	known := c.known.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addressBook(known), nil
}

// addressBook describes all servers. Called with mu held.
func (c *cluster) addressBook(known *topology) []backend.ServerInfo {
	now := c.now()
	infos := make([]backend.ServerInfo, len(known.servers))
	for i, s := range known.servers {
		infos[i] = c.info(s, c.live[s.ID], now)
	}
	return infos
}

// Retire marks a chunkserver as leaving: its replicas move to others, and it may
// be stopped once it holds none. Repeating it is no error. ErrNotFound.
func (m *MDS) Retire(ctx context.Context, id backend.ServerID) error {
	c, err := m.chunkservers(ctx)
	if err != nil {
		return fmt.Errorf("retire %s: %w", id, err)
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, ok := c.known.Load().server(id)
	switch {
	case !ok:
		return fmt.Errorf("retire: %w: no %s", backend.ErrNotFound, id)
	case s.Retiring:
		return nil
	}
	s.Retiring = true
	if err := c.save(ctx, []serverRecord{s}, nil); err != nil {
		return fmt.Errorf("retire %s: %w", id, err)
	}
	c.log.Info("chunkserver is retiring", "chunkserver", uint32(id))
	return nil
}

// isCtx says whether err only tells that somebody stopped waiting.
func isCtx(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
