package chunkserver

import (
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/copyset/raftnet"
)

// Options of a Server. Zero values stand for the defaults.
type Options struct {
	// Topology is the MDS.
	Topology backend.Topology
	// Cluster, when not "", is written into a new data directory, and must be that
	// of an old one and of every client that names one.
	Cluster string
	// Zone is the failure domain.
	Zone string

	// Listen and PeerListen are HOST:PORT of the chunk service and of the raft
	// links; port 0 picks a free one. Listener and PeerListener, where given, are
	// used instead; the Server closes them.
	Listen, PeerListen     string
	Listener, PeerListener net.Listener
	// Advertise and AdvertisePeer are how others reach them, by default the
	// listeners' own addresses, which then must not be the unspecified one.
	Advertise, AdvertisePeer string

	// Log, Net and Chunks configure the parts; what the Server sets itself is
	// overwritten.
	Log    raftlog.Options
	Net    raftnet.Options
	Chunks chunkstore.Options
	// Heartbeat is raft's own; see copyset.Options.
	Heartbeat time.Duration

	// MaxOps and MaxBytes bound the operations under way in the whole server and
	// their payload. Defaults 4096 and 64 MiB.
	MaxOps, MaxBytes int64
	// MaxStreams bounds the clients' streams. Default 256.
	MaxStreams int64

	// ReportEvery is the time between two reports to the MDS. Default 1 s.
	ReportEvery time.Duration
	// SnapshotEvery is the time between two raft snapshots of a copyset that
	// changed. Default 5 min. LogLimit is the size of the log, in bytes, beyond
	// which the copysets that keep it from shrinking are made to take one. Default
	// 512 MiB.
	SnapshotEvery time.Duration
	LogLimit      int64
	// CatchUpRate bounds the bytes per second that replicas pull to catch up, 0 for
	// no bound.
	CatchUpRate int64

	// Reserve is the free space, in bytes, below which the server takes no more
	// changes. Default 2 % of the disk, at least 1 GiB.
	Reserve int64
	// Space returns the disk's free and total bytes; statfs by default.
	Space func() (free, total int64, err error)
	// StallLimit is how long a write to the log or to the disk may take before the
	// server hands its leaderships over, and WellFor how long all must have been
	// well before it leads again. Defaults 1 s and 10 s.
	StallLimit, WellFor time.Duration

	// NoLock is for file systems that only this process has: tests.
	NoLock bool
	// Unfenced switches the fence off, to show that the checkers notice.
	Unfenced bool
	// Fatal is told once when the server cannot go on and its process should end. It
	// must not call Close itself, which waits for it.
	Fatal func(error)
	// Metrics gets the server's and its parts' counters; nil for none.
	Metrics prometheus.Registerer
	// Logger is slog.Default() by default.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Topology == nil {
		return o, fmt.Errorf("%w: a chunkserver needs a Topology", backend.ErrInvalid)
	}
	number := func(v *int64, to int64) {
		if *v <= 0 {
			*v = to
		}
	}
	duration := func(v *time.Duration, to time.Duration) {
		if *v <= 0 {
			*v = to
		}
	}
	number(&o.MaxOps, 4096)
	number(&o.MaxBytes, 64<<20)
	number(&o.MaxStreams, 256)
	number(&o.LogLimit, 512<<20)
	duration(&o.ReportEvery, time.Second)
	duration(&o.SnapshotEvery, 5*time.Minute)
	duration(&o.StallLimit, time.Second)
	duration(&o.WellFor, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Fatal == nil {
		o.Fatal = func(error) {}
	}
	return o, nil
}

// listen opens the listener that was not given.
func listen(given net.Listener, address string) (net.Listener, error) {
	if given != nil {
		return given, nil
	}
	if address == "" {
		return nil, fmt.Errorf("%w: a chunkserver needs a listener, or an address to listen at (HOST:PORT)", backend.ErrInvalid)
	}
	lis, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: listen at %s: %w", backend.ErrInvalid, address, err)
	}
	return lis, nil
}

// advertised is the address that others are told.
func advertised(given string, lis net.Listener) (string, error) {
	if given != "" {
		if _, _, err := net.SplitHostPort(given); err != nil {
			return "", fmt.Errorf("%w: advertised address %q: use HOST:PORT", backend.ErrInvalid, given)
		}
		return given, nil
	}
	if a, ok := lis.Addr().(*net.TCPAddr); ok && a.IP.IsUnspecified() {
		return "", fmt.Errorf("%w: listening at %v, all addresses of this machine: say which one the others shall use", backend.ErrInvalid, a)
	}
	return lis.Addr().String(), nil
}
