package kerneltest

import (
	"encoding/json"
	"os"
	"testing"
	"time"
)

// cluster is a `curve-nbd cluster` in the guest. Its files are the host's: the
// guest's own are memory.
type cluster struct {
	t   *testing.T
	dir string
}

type clusterStatus struct {
	MDS []struct {
		ID, Address string
	}
	Chunkservers []struct {
		ID      string
		State   string
		Leaders int
	}
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(here, "cluster")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t, dir}
	t.Cleanup(func() {
		c.run("down", "--purge")
		os.RemoveAll(dir)
	})
	c.ok("up", "--copysets", "3", "--timeout", "170s")
	return c
}

func (c *cluster) run(command string, args ...string) outcome {
	c.t.Helper()
	return execute(c.t, nil, os.Getenv("CURVE_NBD"), append([]string{"cluster", command, "--dir", c.dir}, args...)...)
}

func (c *cluster) ok(command string, args ...string) outcome {
	c.t.Helper()
	o := c.run(command, args...)
	if o.code != 0 {
		c.t.Fatalf("cluster %s: exit code %d: %s%s", command, o.code, o.out, o.errors)
	}
	return o
}

func (c *cluster) status() (s clusterStatus) {
	c.t.Helper()
	o := c.run("status", "-o", "json")
	if err := json.Unmarshal([]byte(o.out), &s); err != nil {
		c.t.Fatalf("%v: %s%s", err, o.out, o.errors)
	}
	return s
}

// leader is the chunkserver that leads most.
func (c *cluster) leader() string {
	c.t.Helper()
	id, most := "", -1
	for _, s := range c.status().Chunkservers {
		if s.State == "online" && s.Leaders > most {
			id, most = s.ID, s.Leaders
		}
	}
	return id
}

func (c *cluster) awaitHealthy() {
	c.t.Helper()
	until(c.t, "the cluster is healthy", func() bool { return c.run("status").code == 0 })
}

// testExt4OnCluster has D6 of Curve's defects too: a resize by another gateway.
func testExt4OnCluster(t *testing.T) {
	c := startCluster(t)
	mds := c.status().MDS[0].Address
	ext4Life(t, startGateway(t, "--mds", mds), startGateway(t, "--mds", mds))
}

// testLeaderKilled: a file system on replicated chunks, and their leader dies.
func testLeaderKilled(t *testing.T) {
	c := startCluster(t)
	g := startGateway(t, "--mds", c.status().MDS[0].Address)
	dev := g.device("replicated", "128M")
	dir := mount(t, "ext4", dev)
	kills := inForm(2, 24)
	c.killLeaders(kills, startLoad(t, dir, time.Duration(kills)*5*time.Second))
	wantSound(t, dir, dev)
	g.ok("unmap", dev)
}

// killLeaders kills the chunkserver that leads most, every 5 s under a load of that
// length.
func (c *cluster) killLeaders(kills int, l *load) {
	c.t.Helper()
	for range kills {
		begun := time.Now()
		c.awaitHealthy()
		leader := c.leader()
		c.ok("stop", leader, "--kill")
		c.ok("start", leader)
		time.Sleep(time.Until(begun.Add(5 * time.Second))) // how often it dies
	}
	l.end()
}

// testNoMDS: open devices need no MDS.
func testNoMDS(t *testing.T) {
	c := startCluster(t)
	mds := c.status().MDS[0]
	g := startGateway(t, "--mds", mds.Address)
	dev := g.device("mindless", "128M")
	dir := mount(t, "ext4", dev)
	c.ok("stop", mds.ID, "--kill")
	startLoad(t, dir, inForm(3*time.Second, 60*time.Second)).end()
	c.ok("start", mds.ID)
	wantSound(t, dir, dev)
	g.ok("unmap", dev)
}
