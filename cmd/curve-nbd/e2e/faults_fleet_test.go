package e2e

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/audit"
	"github.com/opencurve/curve-nbd/backend/faults"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// The fault tests have a short form, which is part of every test run, and a long
// one, which judges the stalls too: a machine that is busy with other tests says
// nothing about those.
var longFaults = os.Getenv("CURVE_FAULTS_LONG") == "1"

// inForm chooses between the short and the long form.
func inForm[T any](short, long T) T {
	if longFaults {
		return long
	}
	return short
}

// parallelInShortForm saves time where stalls are not judged.
func parallelInShortForm(t *testing.T) {
	if !longFaults {
		t.Parallel()
	}
}

// fleet is a cluster whose servers this test runs itself, with proxies between
// them and in front of them.
type fleet struct {
	t *testing.T
	// whole is the test that the processes belong to; t may be a part of it.
	whole   *testing.T
	o       fleetOptions
	dir     string
	net     *faults.Network
	mds     *fleetServer
	servers map[string]*fleetServer // chunkservers by name: cs1, ...
	meta    *remote.Meta
	volumes *fleetVolumes
}

// fleetVolumes are what the parts of a test share: chunks take long to delete.
type fleetVolumes struct {
	log *audit.Log // of the volume "pg", nil before there is one
	// contended is the first block of the volume "contended" that no part used.
	contended int64
}

type fleetOptions struct {
	copysets int
	// streams puts a faults.Streams in front of every chunkserver instead of a TCP
	// proxy.
	streams bool
	// flags of every chunkserver.
	flags []string
}

// fleetServer is one process, through all its restarts.
type fleetServer struct {
	name string
	args func(s *fleetServer) []string
	// id is what the MDS gave a chunkserver.
	id backend.ServerID
	// listen and peer are where it listens, the same after a restart.
	listen, peer string
	chunkProxy   *faults.Proxy
	peerProxy    *faults.Proxy
	streams      *faults.Streams

	daemon  *gateway // its log
	process *faults.Process
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := faults.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func startFleet(t *testing.T, o fleetOptions) *fleet {
	t.Helper()
	f := &fleet{t: t, whole: t, o: o, dir: socketDir(t), net: faults.NewNetwork(1), servers: map[string]*fleetServer{}, volumes: &fleetVolumes{}}
	t.Cleanup(f.net.Close)
	f.mds = &fleetServer{name: "mds", listen: freeAddress(t), args: func(s *fleetServer) []string {
		return []string{"mds", "--data-dir", filepath.Join(f.dir, "mds"), "--listen", s.listen,
			"--copysets", fmt.Sprint(o.copysets), "--min-servers", "3", "--lease-ttl", "5m"}
	}}
	f.start(f.mds)
	var err error
	if f.meta, err = remote.DialMeta([]string{f.mds.listen}, remote.MetaOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.meta.Close() })
	for i := range 3 {
		s := f.newChunkserver(fmt.Sprintf("cs%d", i+1))
		f.servers[s.name] = s
	}
	f.start(f.byName()...)
	f.await("three chunkservers", func(ctx context.Context) bool {
		infos, err := f.meta.Servers(ctx)
		for _, info := range infos {
			for _, s := range f.servers {
				if info.Address == s.advertised() {
					s.id = info.ID
				}
			}
		}
		return err == nil && len(infos) == 3
	})
	f.awaitHealthy()
	return f
}

// nowhere is a target that refuses.
const nowhere = "127.0.0.1:1"

func (f *fleet) newChunkserver(name string) *fleetServer {
	s := &fleetServer{name: name, listen: freeAddress(f.t), peer: freeAddress(f.t)}
	var err error
	if f.o.streams {
		if s.streams, err = faults.NewStreams(nowhere); err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(s.streams.Close)
	} else if s.chunkProxy, err = f.net.Listen(name, nowhere); err != nil {
		f.t.Fatal(err)
	}
	if s.peerProxy, err = f.net.Listen(name, nowhere); err != nil {
		f.t.Fatal(err)
	}
	s.args = func(s *fleetServer) []string {
		return append([]string{"chunkserver", "--data-dir", filepath.Join(f.dir, name), "--mds", f.mds.listen,
			"--listen", s.listen, "--peer-listen", s.peer, "--zone", name,
			"--advertise", s.advertised(), "--advertise-peer", s.peerProxy.Addr(), "--reserve", "64M",
			// The last ones of a cluster have nobody to hand over to.
			"--drain-timeout", "2s"}, f.o.flags...)
	}
	return s
}

func (s *fleetServer) advertised() string {
	if s.streams != nil {
		return s.streams.Addr()
	}
	return s.chunkProxy.Addr()
}

// at is the fleet for a part of the test.
func (f *fleet) at(t *testing.T) *fleet {
	part := *f
	part.t = t
	return &part
}

// start runs a server and waits until it listens.
func (f *fleet) start(servers ...*fleetServer) {
	f.t.Helper()
	for _, s := range servers {
		f.launch(s)
	}
	for _, s := range servers {
		f.awaitListening(s)
	}
}

func (f *fleet) launch(s *fleetServer) {
	f.t.Helper()
	s.daemon = startDaemon(f.whole, s.name, s.args(s)...)
	pid := s.daemon.cmd.Process.Pid
	f.net.Identify(pid, s.name)
	var err error
	if s.process, err = faults.FindProcess(pid); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) awaitListening(s *fleetServer) {
	f.t.Helper()
	if s == f.mds {
		s.listen = s.daemon.address("mds")
		return
	}
	s.listen, s.peer = s.daemon.address("chunkserver"), s.daemon.address("peers")
	s.peerProxy.SetTarget(s.peer)
	if s.streams != nil {
		s.streams.SetTarget(s.listen)
	} else {
		s.chunkProxy.SetTarget(s.listen)
	}
}

// startDaemon runs this program as a server until the end of the test.
func startDaemon(t *testing.T, name string, args ...string) *gateway {
	t.Helper()
	g := &gateway{t: t, addresses: map[string][]string{}, watch: map[string]chan struct{}{}, exited: make(chan struct{})}
	g.cmd = exec.Command(program, args...)
	g.cmd.Env = cleanEnv()
	stderr, err := g.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.exited)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			g.line(lines.Text())
		}
		_ = g.cmd.Wait() // the code is in ProcessState
	}()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		<-g.exited
		if t.Failed() {
			t.Logf("%s (pid %d) said:\n%s", name, g.cmd.Process.Pid, g.said())
		}
	})
	return g
}

func (f *fleet) kill(s *fleetServer) {
	f.t.Helper()
	if err := s.process.Kill(); err != nil {
		f.t.Fatal(err)
	}
	s.daemon.wait()
	s.process.Close()
}

func (f *fleet) stop(s *fleetServer) {
	f.t.Helper()
	if err := s.process.Stop(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) resume(s *fleetServer) {
	f.t.Helper()
	if err := s.process.Continue(); err != nil {
		f.t.Fatal(err)
	}
}

// terminate ends a server in good order.
func (f *fleet) terminate(s *fleetServer) {
	f.t.Helper()
	s.daemon.stop()
	s.process.Close()
}

// byName lists the chunkservers in order.
func (f *fleet) byName() []*fleetServer {
	var list []*fleetServer
	for _, name := range slices.Sorted(maps.Keys(f.servers)) {
		list = append(list, f.servers[name])
	}
	return list
}

func (f *fleet) byID(id backend.ServerID) *fleetServer {
	for _, s := range f.servers {
		if s.id == id {
			return s
		}
	}
	return nil
}

// serve starts a gateway.
func (f *fleet) serve(args ...string) *gateway {
	f.t.Helper()
	socket := filepath.Join(socketDir(f.whole), "nbd.sock")
	g := serve(f.whole, nil, append([]string{"--mds", f.mds.listen, "--nbd-listen", "unix:" + socket}, args...)...)
	f.net.Identify(g.cmd.Process.Pid, "gateway")
	return g
}
