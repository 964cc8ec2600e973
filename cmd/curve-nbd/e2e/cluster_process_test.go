package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend/audit"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// cluster is a running `curve-nbd cluster`: processes of their own, which are
// killed at the end of the test.
type cluster struct {
	t   *testing.T
	dir string
}

// clusterJSON is what `cluster status -o json` promises, and what else the tests
// look at.
type clusterJSON struct {
	State        string            `json:"state"`
	MDS          []mdsJSON         `json:"mds"`
	Chunkservers []chunkserverJSON `json:"chunkservers"`
	Copysets     []copysetJSON     `json:"copysets"`
}

type mdsJSON struct {
	ID      string `json:"id"`
	PID     int    `json:"pid"`
	Address string `json:"address"`
	Leader  bool   `json:"leader"`
}

type chunkserverJSON struct {
	ID        string `json:"id"`
	PID       int    `json:"pid"`
	Address   string `json:"address"`
	State     string `json:"state"`
	Leaders   int    `json:"leaders"`
	UsedBytes int64  `json:"used_bytes"`
}

type copysetJSON struct {
	ID      int      `json:"id"`
	Leader  string   `json:"leader"`
	Peers   []string `json:"peers"`
	Term    uint64   `json:"term"`
	Applied uint64   `json:"applied"`
	Lag     uint64   `json:"lag"`
}

// clusterPort keeps the clusters of this process apart, so that they do not race
// for the same ports.
var clusterPort = struct {
	sync.Mutex
	next int
}{next: 12000 + os.Getpid()%100*100}

// clusterUp starts a cluster.
func clusterUp(t *testing.T, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: filepath.Join(socketDir(t), "c")}
	clusterPort.Lock()
	base := clusterPort.next
	clusterPort.next += 100
	clusterPort.Unlock()
	t.Cleanup(c.end)
	c.must(append([]string{"cluster", "up", "--base-port", fmt.Sprint(base)}, args...)...)
	return c
}

// at is the cluster for a part of the test.
func (c *cluster) at(t *testing.T) *cluster { return &cluster{t: t, dir: c.dir} }

func (c *cluster) end() {
	if c.t.Failed() {
		c.t.Logf("servers said:\n%s", c.logs())
	}
	if o := c.cli("cluster", "down", "--kill", "--purge"); o.code != 0 && o.code != exitNotFound {
		c.t.Errorf("cluster down: exit code %d: %s", o.code, o.stderr)
	}
	if _, err := os.Stat(c.dir); !errors.Is(err, fs.ErrNotExist) {
		c.t.Errorf("the purged directory is still there (%v)", err)
	}
}

// logs returns the end of each server's log.
func (c *cluster) logs() string {
	const tail = 8 << 10
	var all strings.Builder
	names, _ := filepath.Glob(filepath.Join(c.dir, "logs", "*.log"))
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err == nil && info.Size() > tail {
			_, _ = f.Seek(-tail, io.SeekEnd)
		}
		text, _ := io.ReadAll(f)
		fmt.Fprintf(&all, "== %s\n%s\n", filepath.Base(name), text)
		f.Close()
	}
	return all.String()
}

// cli runs a command on this cluster.
func (c *cluster) cli(args ...string) outcome {
	c.t.Helper()
	return cli(c.t, []string{"CURVE_DIR=" + c.dir}, args...)
}

// must is cli for a command that has to succeed; it returns stdout.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	o := c.cli(args...)
	if o.code != 0 {
		c.t.Fatalf("curve-nbd %s: exit code %d: %s\n%s", strings.Join(args, " "), o.code, o.stderr, c.logs())
	}
	return o.stdout
}

// status returns the cluster's status and the exit code that came with it.
func (c *cluster) status() (clusterJSON, int) {
	c.t.Helper()
	o := c.cli("cluster", "status", "-o", "json")
	var v clusterJSON
	if err := json.Unmarshal([]byte(o.stdout), &v); err != nil {
		c.t.Fatalf("cluster status: exit code %d, %v: %s%s", o.code, err, o.stdout, o.stderr)
	}
	return v, o.code
}

// await waits until the status is as cond wants it.
func (c *cluster) await(what string, cond func(v clusterJSON, code int) bool) clusterJSON {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		v, code := c.status()
		if cond(v, code) {
			return v
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("not in time: %s: exit code %d, %+v\n%s", what, code, v, c.logs())
		}
	}
}

func (c *cluster) awaitHealthy() clusterJSON {
	c.t.Helper()
	return c.await("healthy", func(_ clusterJSON, code int) bool { return code == 0 })
}

// mostLeading is the chunkserver that leads the most copysets.
func (v clusterJSON) mostLeading() string {
	led := map[string]int{}
	best := ""
	for _, s := range v.Copysets {
		if led[s.Leader]++; s.Leader != "" && (best == "" || led[s.Leader] > led[best]) {
			best = s.Leader
		}
	}
	return best
}

func (v clusterJSON) chunkserver(id string) chunkserverJSON {
	for _, s := range v.Chunkservers {
		if s.ID == id {
			return s
		}
	}
	return chunkserverJSON{}
}

// pid returns a server's process, 0 for none.
func (v clusterJSON) pid(id string) int {
	for _, m := range v.MDS {
		if m.ID == id {
			return m.PID
		}
	}
	return v.chunkserver(id).PID
}

// kill ends a server as a crash would.
func (c *cluster) kill(id string) {
	c.t.Helper()
	c.must("cluster", "stop", id, "--kill")
}

// serve starts a gateway on the cluster.
func (c *cluster) serve(args ...string) *gateway {
	c.t.Helper()
	v, _ := c.status()
	socket := filepath.Join(socketDir(c.t), "nbd.sock")
	return serve(c.t, nil, append([]string{"--mds", v.MDS[0].Address, "--nbd-listen", "unix:" + socket}, args...)...)
}

// nbdDevice is a connection to an export, for audit.
type nbdDevice struct{ *client.Conn }

func (d nbdDevice) Read(ctx context.Context, p []byte, off int64) error {
	return d.Conn.Read(ctx, p, uint64(off), 0)
}

func (d nbdDevice) Write(ctx context.Context, p []byte, off int64) error {
	return d.Conn.Write(ctx, p, uint64(off), 0)
}

// verifiedLoad is a load on a volume that runs in the background.
type verifiedLoad struct {
	t    *testing.T
	g    *gateway
	name string
	// address is the gateway's.
	address string
	// probe is a connection of progress, open from the start: without an MDS there
	// are no new ones.
	probe *client.Conn
	log   *audit.Log
	meter *audit.Meter
	stop  context.CancelFunc
	done  chan error
}

// loadVolume is the volume of startLoad, in bytes.
const loadVolume = 64 << 20

// startLoad makes a volume and keeps it busy until the test ends it.
func (g *gateway) startLoad(name string) *verifiedLoad {
	g.t.Helper()
	g.must("volume", "create", name, "--size", fmt.Sprint(loadVolume))
	log, err := audit.NewLog(audit.LogOptions{Volume: 1, Blocks: loadVolume / audit.BlockBytes, Seed: uint64(time.Now().UnixNano())})
	if err != nil {
		g.t.Fatal(err)
	}
	l := &verifiedLoad{t: g.t, g: g, name: name, address: g.address("nbd"), probe: g.open(name), log: log, meter: audit.NewMeter(), done: make(chan error, 1)}
	work := audit.Workload{
		Open:    func(ctx context.Context, _ int) (audit.Device, error) { return l.connect(ctx) },
		Workers: 2, Depth: 4, Reads: 0.5, Log: log, Meter: l.meter,
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	g.t.Cleanup(cancel)
	go func() {
		outcome, err := work.Run(ctx, patience)
		g.t.Log(outcome)
		l.done <- errors.Join(err, outcome.Err())
	}()
	return l
}

// connect opens the volume; unlike gateway.open it may run on any goroutine.
func (l *verifiedLoad) connect(ctx context.Context) (audit.Device, error) {
	network, address, _ := strings.Cut(l.address, ":")
	conn, err := client.Open(ctx, client.Target{Network: network, Address: address, Export: l.name}, client.Options{})
	if err != nil {
		return nil, err
	}
	return nbdDevice{conn}, nil
}

// end stops the load and fails the test for every error and every block that was
// wrong.
func (l *verifiedLoad) end() {
	l.t.Helper()
	l.stop()
	select {
	case err := <-l.done:
		if err != nil {
			l.t.Error(err)
		}
	case <-time.After(2 * patience):
		l.t.Fatal("the load does not end")
	}
}

// tryOpen is open for a volume that may be refused.
func (g *gateway) tryOpen(volume string) (*client.Conn, error) {
	g.t.Helper()
	network, address, _ := strings.Cut(g.address("nbd"), ":")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := client.Open(ctx, client.Target{Network: network, Address: address, Export: volume}, client.Options{})
	if err == nil {
		g.t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// verify reads every block.
func (l *verifiedLoad) verify(g *gateway) {
	l.t.Helper()
	device := nbdDevice{g.open(l.name)}
	defer device.Close()
	if err := audit.VerifyAll(context.Background(), l.log, device); err != nil {
		l.t.Error(err)
	}
}

// progress waits until n reads of its own have completed, whoever leads.
func (l *verifiedLoad) progress(n int) {
	l.t.Helper()
	block := make([]byte, 4096)
	for i := range n {
		if err := l.probe.Read(context.Background(), block, uint64(i)*4096, 0); err != nil {
			l.t.Fatal(err)
		}
	}
}

// takenPort is a port on which somebody listens until the test ends.
func takenPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// sessionOf returns the session that a process is in.
func sessionOf(pid int) (int, error) { return unix.Getsid(pid) }

func itoa(n int) string { return strconv.Itoa(n) }
