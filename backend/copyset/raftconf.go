package copyset

import (
	"context"
	"io"
	"log"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftnet"
)

func (r *Replica) raftConfig() *raft.Config {
	return &raft.Config{
		ProtocolVersion:    raft.ProtocolVersionMax,
		LocalID:            raftnet.PeerID(r.opts.Self),
		HeartbeatTimeout:   r.opts.Heartbeat,
		ElectionTimeout:    r.opts.Heartbeat,
		LeaderLeaseTimeout: r.opts.Heartbeat,
		// Between changes a follower learns of the last commit only this late, and
		// after a break of the link, what was under way is sent again; a follower
		// that is behind gets MaxAppendEntries each time.
		CommitTimeout:    200 * time.Millisecond,
		MaxAppendEntries: 128,
		BatchApplyCh:     true,
		ShutdownOnRemove: false,
		TrailingLogs:     max(r.opts.TrailingLogs, 1),
		// Raft snapshots are taken when the chunkserver asks for them.
		SnapshotInterval:         24 * time.Hour,
		SnapshotThreshold:        math.MaxUint64,
		NoSnapshotRestoreOnStart: true,
		NoLegacyTelemetry:        true,
		NotifyCh:                 r.life.notify,
		Logger:                   newRaftLogger(r.slog),
	}
}

// startRaft founds the group if this replica is to, and joins it.
func (r *Replica) startRaft() error {
	conf := r.raftConfig()
	if len(r.opts.Found) > 0 {
		if err := r.found(conf); err != nil {
			return err
		}
	}
	rf, err := raft.NewRaft(conf, fsm{r}, r.log, &ballots{groupLog: r.log}, r.snaps, r.net)
	if err != nil {
		return err
	}
	rf.RegisterObserver(raft.NewObserver(nil, false, r.life.observe))
	r.raft.Store(rf)
	r.net.OnPatience(r.waitForVotes)
	r.life.catchUp(rf)
	r.configureNet()
	return nil
}

// waitForVotes sets for how long an election waits for votes at least.
func (r *Replica) waitForVotes(d time.Duration) {
	rf := r.raft.Load()
	conf := rf.ReloadableConfig()
	conf.ElectionTimeout = max(r.opts.Heartbeat, d)
	if err := rf.ReloadConfig(conf); err != nil {
		r.slog.Error("elections cannot wait longer for votes", "for", d, "err", err)
	}
}

// found writes the first configuration, unless the replica has a history.
func (r *Replica) found(conf *raft.Config) error {
	has, err := raft.HasExistingState(r.log, r.log, r.snaps)
	if err != nil || has {
		return err
	}
	var servers []raft.Server
	for _, id := range r.opts.Found {
		servers = append(servers, raft.Server{ID: raftnet.PeerID(id), Address: raftnet.PeerAddress(id)})
	}
	if err := raft.BootstrapCluster(conf, r.log, r.log, r.snaps, r.net, raft.Configuration{Servers: servers}); err != nil {
		return err
	}
	return r.log.WaitDurable(1)
}

// configureNet tells the net who votes, as far as this replica knows.
func (r *Replica) configureNet() {
	if rf := r.raft.Load(); rf != nil {
		voters, _ := membersOf(rf.GetConfiguration().Configuration())
		r.net.Configure(voters)
	}
}

// membersOf sorts a configuration into voters and learners.
func membersOf(c raft.Configuration) (voters, learners []backend.ServerID) {
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, raftnet.ParsePeer(s.ID))
		} else {
			learners = append(learners, raftnet.ParsePeer(s.ID))
		}
	}
	return voters, learners
}

// raftLogger gives raft's log to slog, a level lower than raft sees it: elections
// and unreachable peers are ordinary, and told of by ourselves. A message that
// repeats is let through once a second.
type raftLogger struct {
	hclog.Logger // the null logger, for what raft never calls
	out          *slog.Logger
	name         string

	state *raftLogState
}

type raftLogState struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// maxLogKeys bounds the messages remembered; raft has a fixed set of them.
const maxLogKeys = 256

func newRaftLogger(out *slog.Logger) hclog.Logger {
	return &raftLogger{Logger: hclog.NewNullLogger(), out: out, state: &raftLogState{last: make(map[string]time.Time)}}
}

func (l *raftLogger) allow(msg string) bool {
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	now := time.Now()
	if last, ok := l.state.last[msg]; ok && now.Sub(last) < time.Second {
		return false
	}
	if len(l.state.last) >= maxLogKeys {
		clear(l.state.last)
	}
	l.state.last[msg] = now
	return true
}

func (l *raftLogger) write(level slog.Level, msg string, args []any) {
	if l.out.Enabled(context.Background(), level) && l.allow(msg) {
		l.out.Log(context.Background(), level, "raft: "+msg, args...)
	}
}

func (l *raftLogger) Trace(string, ...any)          {}
func (l *raftLogger) Debug(string, ...any)          {}
func (l *raftLogger) Info(msg string, args ...any)  { l.write(slog.LevelDebug, msg, args) }
func (l *raftLogger) Warn(msg string, args ...any)  { l.write(slog.LevelDebug, msg, args) }
func (l *raftLogger) Error(msg string, args ...any) { l.write(slog.LevelInfo, msg, args) }

func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	switch {
	case level >= hclog.Error:
		l.Error(msg, args...)
	case level >= hclog.Info:
		l.Info(msg, args...)
	}
}

func (l *raftLogger) IsTrace() bool { return false }
func (l *raftLogger) IsDebug() bool { return false }
func (l *raftLogger) IsInfo() bool  { return l.out.Enabled(context.Background(), slog.LevelDebug) }
func (l *raftLogger) IsWarn() bool  { return l.IsInfo() }
func (l *raftLogger) IsError() bool { return true }

func (l *raftLogger) With(args ...any) hclog.Logger {
	return &raftLogger{Logger: l.Logger, out: l.out.With(args...), name: l.name, state: l.state}
}

func (l *raftLogger) Named(name string) hclog.Logger {
	return &raftLogger{Logger: l.Logger, out: l.out, name: name, state: l.state}
}
func (l *raftLogger) ResetNamed(name string) hclog.Logger { return l.Named(name) }
func (l *raftLogger) Name() string                        { return l.name }

func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(io.Discard, "", 0)
}
func (l *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }
