package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	defaultUpTimeout    = time.Minute
	defaultChunkservers = 3
	// maxChunkservers is above what makes sense on one machine.
	maxChunkservers = 32
	defaultReplicas = 3
	// copysetsPerServer: a raft round costs the same for one request or twenty, so
	// few groups are quicker than many.
	copysetsPerServer = 2
	maxCopysets       = 10000
	// portsPerMember leaves room between a server's ports and the next one's, so
	// that they are easy to tell apart: cs1 on 6710, cs2 on 6720.
	portsPerMember = 10
	// settleTime is above the time between two reports of a chunkserver.
	settleTime = 2 * time.Second
	// upTries is how often a new cluster looks for other ports when somebody took
	// one between the look and the start.
	upTries = 5
)

func clusterUpCommand() *cli.Command {
	return &cli.Command{
		Name:  "up",
		Usage: "make a cluster, or start what is missing of it",
		Description: `Starts an MDS and chunkservers on 127.0.0.1 and waits until every copyset has a
leader. A cluster that exists is started as it is; more --chunkservers than it has
are added. Ports are picked once, from --base-port on if they are free.

   curve-nbd cluster up
   curve-nbd cluster up --dir /tmp/c --chunkservers 5 --copysets 12`,
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "chunkservers", Usage: "run `N` chunkservers", Value: defaultChunkservers},
			// Strings of other commands are addresses; here it is how many.
			&cli.StringFlag{Name: "mds", Usage: "run `N` MDS; 1 is all there can be yet", Value: "1"},
			&cli.IntFlag{Name: "copysets", Usage: "make `N` copysets; 0 for two per chunkserver (new clusters only)", EnvVars: env("copysets")},
			&cli.IntFlag{Name: "base-port", Usage: "listen on `PORT` and above if they are free (new servers only)", Value: defaultBasePort, EnvVars: env("base-port")},
			&cli.StringSliceFlag{Name: "chunkserver-flag", Usage: "start every chunkserver with `FLAG`, such as --chunkserver-flag=--log-level=debug (new clusters only)"},
			timeoutFlag("give up when the cluster is not ready after `D`", defaultUpTimeout),
			outputFlag(),
		}, clusterFlags()...),
		Action: clusterUp,
	}
}

// upRequest is what a user asks of cluster up.
type upRequest struct {
	chunkservers      int
	chunkserversGiven bool
	copysets          int
	basePort          int
	flags             []string
}

func upRequestOf(ctx *cli.Context) (upRequest, error) {
	r := upRequest{
		chunkservers: ctx.Int("chunkservers"), chunkserversGiven: ctx.IsSet("chunkservers"),
		copysets: ctx.Int("copysets"), basePort: ctx.Int("base-port"), flags: ctx.StringSlice("chunkserver-flag"),
	}
	switch {
	case ctx.String("mds") != "1":
		return r, usagef("--mds %s: a cluster has one MDS; several are not supported yet", ctx.String("mds"))
	case r.chunkservers < 1 || r.chunkservers > maxChunkservers:
		return r, usagef("--chunkservers %d: give 1 to %d", r.chunkservers, maxChunkservers)
	case r.copysets < 0 || r.copysets > maxCopysets:
		return r, usagef("--copysets %d: give 1 to %d, or 0 for two per chunkserver", r.copysets, maxCopysets)
	case r.basePort < 1 || r.basePort > maxBasePort:
		return r, usagef("--base-port %d: give 1 to %d; the ports above are those of outgoing connections", r.basePort, maxBasePort)
	}
	return r, nil
}

func clusterUp(ctx *cli.Context) (err error) {
	if _, err := arguments(ctx); err != nil {
		return err
	}
	if err := checkOutput(ctx.String("output")); err != nil {
		return err
	}
	request, err := upRequestOf(ctx)
	if err != nil {
		return err
	}
	program, err := thisProgram()
	if err != nil {
		return err
	}
	deadline, cancel, err := withTimeout(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	c, fresh, err := openOrCreateCluster(deadline, ctx.String("dir"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	starter := &clusterStarter{clusterDir: c, program: program, notes: ctx.App.ErrWriter}
	if err := starter.up(deadline, fresh, request); err != nil {
		return err
	}
	facts, err := starter.awaitLeaders(deadline)
	if err != nil {
		return err
	}
	if err := show(ctx, facts.view()); err != nil {
		return err
	}
	explainCluster(ctx.App.ErrWriter, ctx.String("dir"), c)
	return nil
}

func openOrCreateCluster(ctx context.Context, dir string) (c *clusterDir, fresh bool, err error) {
	c, err = openCluster(ctx, dir)
	if !errors.Is(err, backend.ErrNotFound) {
		return c, false, err
	}
	c, err = createCluster(ctx, dir)
	if errors.Is(err, backend.ErrExists) { // made by another command just now
		c, err = openCluster(ctx, dir)
		return c, false, err
	}
	return c, true, err
}

// up makes the cluster what the request says, and starts what does not run.
func (s *clusterStarter) up(ctx context.Context, fresh bool, r upRequest) error {
	if !fresh {
		if err := s.grow(r); err != nil {
			return err
		}
		return s.startInOrder(ctx)
	}
	for try := 1; ; try++ {
		if err := s.design(r); err != nil {
			return err
		}
		err := s.startInOrder(ctx)
		if err == nil || !isBusy(err) || try == upTries {
			return err
		}
		// Another process took a port between the look and the start. Nothing was
		// stored yet that knows the ports.
		fmt.Fprintf(s.notes, "%v; trying other ports\n", err)
		if err := stopMembers(ctx, s.notes, &s.file, syscall.SIGKILL); err != nil {
			return err
		}
		r.basePort = minBasePort
	}
}

// design plans a new cluster.
func (s *clusterStarter) design(r upRequest) error {
	ports, err := pickPorts(r.basePort, portsPerMember*(1+r.chunkservers))
	if err != nil {
		return err
	}
	s.file = clusterFile{
		Format: clusterFormat, Copysets: r.copysets,
		Replicas: min(defaultReplicas, r.chunkservers), ChunkserverFlags: r.flags,
		Members: []member{{ID: "mds1", Role: roleMDS, Address: hostPort(ports[0]), HTTPAddress: hostPort(ports[1])}},
	}
	if s.file.Copysets == 0 {
		s.file.Copysets = copysetsPerServer * r.chunkservers
	}
	for i := range r.chunkservers {
		s.file.Members = append(s.file.Members, newChunkserver(i+1, ports[portsPerMember*(i+1):]))
	}
	return s.save()
}

func newChunkserver(n int, ports []int) member {
	return member{
		ID: fmt.Sprintf("cs%d", n), Role: roleChunkserver,
		Address: hostPort(ports[0]), PeerAddress: hostPort(ports[1]), HTTPAddress: hostPort(ports[2]),
	}
}

// grow adds the chunkservers that the request has more.
func (s *clusterStarter) grow(r upRequest) error {
	have := len(s.file.of(roleChunkserver))
	switch {
	case r.copysets != 0 && r.copysets != s.file.Copysets, len(r.flags) > 0:
		return fmt.Errorf("%w: the cluster in %s exists: --copysets and --chunkserver-flag are for new ones", backend.ErrExists, s.path)
	case !r.chunkserversGiven || r.chunkservers == have:
		return nil
	case r.chunkservers < have:
		return usagef("the cluster in %s has %d chunkservers: to have fewer, empty one first with `curve-nbd chunkserver retire`", s.path, have)
	}
	ports, err := pickPorts(r.basePort+portsPerMember*(1+have), portsPerMember*(r.chunkservers-have))
	if err != nil {
		return err
	}
	for i := range r.chunkservers - have {
		s.file.Members = append(s.file.Members, newChunkserver(have+i+1, ports[portsPerMember*i:]))
	}
	return s.save()
}

// startInOrder starts what does not run. Chunkservers that the MDS does not know
// come one after the other: it numbers them as they come, and cs2 shall be its
// number 2.
func (s *clusterStarter) startInOrder(ctx context.Context) error {
	if err := s.startAndWait(ctx, s.file.of(roleMDS)...); err != nil {
		return err
	}
	client, err := dialTopology(s.file.mdsAddresses())
	if err != nil {
		return err
	}
	defer client.Close()
	servers, err := client.Servers(ctx)
	if err != nil {
		return fmt.Errorf("ask the new MDS: %w", err)
	}
	var known, unknown []*member
	for _, m := range s.file.of(roleChunkserver) {
		if registered(servers, m) {
			known = append(known, m)
		} else {
			unknown = append(unknown, m)
		}
	}
	if err := s.startAndWait(ctx, known...); err != nil {
		return err
	}
	for _, m := range unknown {
		started, err := s.start(m)
		if err != nil {
			return err
		}
		if err := s.awaitRegistered(ctx, client, started); err != nil {
			return err
		}
	}
	return nil
}

func registered(servers []backend.ServerInfo, m *member) bool {
	for _, server := range servers {
		if server.ID == m.serverID() {
			return true
		}
	}
	return false
}

// awaitRegistered waits until the MDS knows a chunkserver under its number.
func (s *clusterStarter) awaitRegistered(ctx context.Context, client *topologyClient, m startedMember) error {
	for {
		servers, err := client.Servers(ctx)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", m.ID, err)
		}
		for _, server := range servers {
			if server.Address == m.Address && server.ID != m.serverID() {
				return fmt.Errorf("%w: the MDS calls %s %s: a chunkserver that is not of this directory has joined this cluster; "+
					"stop it, and make the cluster anew", backend.ErrExists, m.ID, serverName(server.ID))
			}
		}
		if registered(servers, m.member) {
			return s.awaitReady(ctx, m)
		}
		if m.child != nil {
			select {
			case <-m.child.exited:
				return s.exited(m)
			default:
			}
		}
		if err := pause(ctx, readyPoll); err != nil {
			return notInTime(ctx, fmt.Sprintf("%s has not registered with the MDS; see %s", m.ID, s.logFile(m.member)))
		}
	}
}

// awaitLeaders waits until every copyset has a leader and then, for a moment, for
// what else comes by itself: the first report of each chunkserver.
func (s *clusterStarter) awaitLeaders(ctx context.Context) (clusterFacts, error) {
	client, err := dialTopology(s.file.mdsAddresses())
	if err != nil {
		return clusterFacts{}, err
	}
	defer client.Close()
	var allLed time.Time // zero until they are
	for {
		facts := gatherFacts(ctx, client, &s.file, nil)
		view := facts.view()
		led := 0
		for _, c := range view.Copysets {
			if c.Leader != "" {
				led++
			}
		}
		if facts.topologyErr == nil && led == len(facts.copysets) && led >= s.file.Copysets {
			if allLed.IsZero() {
				allLed = time.Now()
			}
			if len(view.Reasons) == 0 || time.Since(allLed) > settleTime {
				return facts, nil
			}
		}
		if err := pause(ctx, readyPoll); err != nil {
			what := fmt.Sprintf("%d of %d copysets have a leader; see the logs in %s", led, s.file.Copysets, s.path)
			if facts.topologyErr != nil {
				what += fmt.Sprintf(" (%v)", facts.topologyErr)
			}
			return facts, notInTime(ctx, what)
		}
	}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// explainCluster says how to go on.
func explainCluster(w io.Writer, dir string, c *clusterDir) {
	mds := strings.Join(c.file.mdsAddresses(), ",")
	dirFlag := ""
	if dir != defaultClusterDir {
		dirFlag = " --dir " + dir
	}
	fmt.Fprintf(w, `
The cluster is up. Next:
  curve-nbd serve --mds %s --nbd-listen unix:./nbd.sock --control unix:./control.sock
  curve-nbd volume create demo --size 1G --control unix:./control.sock
  qemu-img info 'nbd+unix:///demo?socket=nbd.sock'
  curve-nbd cluster status%s
  curve-nbd cluster stop cs1 --kill%s
  curve-nbd cluster down%s
Logs are in %s/%s.
`, mds, dirFlag, dirFlag, dirFlag, c.path, clusterLogsName)
}
