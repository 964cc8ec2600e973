package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestVolumeOutlivesEveryServer keeps a volume busy, with everything checked that
// is read, while one server after the other is lost and comes back.
func TestVolumeOutlivesEveryServer(t *testing.T) {
	start := time.Now()
	c := clusterUp(t)
	t.Logf("cluster up took %v", time.Since(start).Round(time.Millisecond))
	before := c.awaitHealthy()
	if len(before.MDS) != 1 || !before.MDS[0].Leader || len(before.Chunkservers) != 3 || len(before.Copysets) != 6 {
		t.Fatalf("an MDS, 3 chunkservers and 6 copysets were asked for: %+v", before)
	}
	g := c.serve()
	load := g.startLoad("pg")
	load.progress(100)

	t.Run("leader killed", func(t *testing.T) {
		c := c.at(t)
		for range rounds(50) {
			victim := c.awaitHealthy().mostLeading()
			load.meter.Mark("kill -9 of the leader")
			c.kill(victim)
			load.progress(100)
			c.must("cluster", "start", victim)
		}
		victim := c.awaitHealthy().mostLeading()
		load.meter.Mark("kill -9 of " + victim)
		c.kill(victim)
		load.progress(100)
		v := c.await("degraded, every copyset led", func(v clusterJSON, code int) bool {
			return code == exitDegraded && !slices.ContainsFunc(v.Copysets, func(s copysetJSON) bool { return s.Leader == "" })
		})
		if v.pid(victim) != 0 || v.chunkserver(victim).State != "down" {
			t.Errorf("%s was killed, and its status is %+v", victim, v.chunkserver(victim))
		}
		c.must("cluster", "start", victim)
		if v := c.awaitHealthy(); v.pid(victim) == 0 || v.pid(victim) == before.pid(victim) {
			t.Errorf("%s has pid %d after its restart, had %d", victim, v.pid(victim), before.pid(victim))
		}
	})

	t.Run("leader stopped in good order", func(t *testing.T) {
		leader := c.at(t).awaitHealthy().mostLeading()
		load.meter.Mark("stop of " + leader)
		c.must("cluster", "stop", leader)
		load.progress(100)
		c.must("cluster", "start", leader)
		c.awaitHealthy()
	})

	t.Run("leadership transferred", func(t *testing.T) {
		s := c.at(t).awaitHealthy().Copysets[0]
		for _, to := range s.Peers {
			load.meter.Mark("transfer to " + to)
			c.must("leader", "transfer", "--copyset", itoa(s.ID), "--to", to)
			c.await("led by "+to, func(v clusterJSON, _ int) bool { return v.Copysets[0].Leader == to })
		}
	})

	t.Run("MDS killed", func(t *testing.T) {
		c := c.at(t)
		load.meter.Mark("kill -9 of mds1")
		c.kill("mds1")
		load.progress(500)
		g.open("pg").Close() // one more client of a volume that is open
		v, code := c.status()
		if code != exitDegraded || v.pid("mds1") != 0 || v.MDS[0].Leader || len(v.Chunkservers) != 3 {
			t.Errorf("exit code %d, %+v: the MDS is down, the rest is not", code, v)
		}
		// A leader that falls while there is no MDS is followed all the same.
		c.kill("cs2")
		load.progress(100)
		c.must("cluster", "start")
		c.awaitHealthy()
	})

	load.end()
	load.verify(g)
	for _, e := range load.meter.Stalls().Marked {
		t.Logf("%-24s stall %v", e.Name, e.Stall.Round(time.Millisecond))
	}
	t.Log("leader killed:", load.meter.Stalls().Only("kill -9 of the leader"))

	t.Run("everything killed at once", func(t *testing.T) {
		c := c.at(t)
		g.stop()
		c.must("cluster", "stop", "--kill")
		if v, code := c.status(); code != exitDegraded || slices.ContainsFunc(v.Chunkservers, func(s chunkserverJSON) bool { return s.PID != 0 }) {
			t.Errorf("exit code %d, %+v: nothing runs any more", code, v)
		}
		c.must("cluster", "up")
		after := c.awaitHealthy()
		if after.MDS[0].Address != before.MDS[0].Address {
			t.Errorf("the MDS moved from %s to %s", before.MDS[0].Address, after.MDS[0].Address)
		}
		load.verify(c.serve())
	})
}

// rounds is how often something is done: once, or long times in the long form.
func rounds(long int) int {
	if os.Getenv("CURVE_FAULTS_LONG") != "" {
		return long
	}
	return 1
}

// TestClusterUpIsIdempotentAndGrows starts what is missing, and no more.
func TestClusterUpIsIdempotentAndGrows(t *testing.T) {
	c := clusterUp(t, "--chunkservers", "1", "--copysets", "2")
	before := c.awaitHealthy()
	if len(before.Copysets) != 2 || !slices.Equal(before.Copysets[0].Peers, []string{"cs1"}) {
		t.Fatalf("one chunkserver with two copysets was asked for: %+v", before)
	}
	c.must("cluster", "up")
	if again := c.awaitHealthy(); again.pid("mds1") != before.pid("mds1") || again.pid("cs1") != before.pid("cs1") {
		t.Errorf("up started again what ran: %+v, was %+v", again, before)
	}
	c.must("cluster", "up", "--chunkservers", "2")
	grown := c.awaitHealthy()
	if len(grown.Chunkservers) != 2 || grown.pid("cs2") == 0 || grown.pid("cs1") != before.pid("cs1") {
		t.Errorf("it did not grow by cs2 alone: %+v", grown)
	}
	o := c.cli("cluster", "up", "--chunkservers", "1")
	if o.code != exitUsage || !strings.Contains(o.stderr, "retire") {
		t.Errorf("exit code %d, %s: it cannot shrink", o.code, o.stderr)
	}
}

// TestClusterServersOutliveTheCommandThatStartedThem: they are in sessions of
// their own, so that the end of a terminal does not reach them.
func TestClusterServersOutliveTheCommandThatStartedThem(t *testing.T) {
	c := clusterUp(t, "--chunkservers", "1")
	v := c.awaitHealthy()
	for _, id := range []string{"mds1", "cs1"} {
		sid, err := sessionOf(v.pid(id))
		if err != nil || sid != v.pid(id) {
			t.Errorf("%s, pid %d, is in session %d, %v", id, v.pid(id), sid, err)
		}
	}
	c.must("cluster", "down", "--keep")
	for _, id := range []string{"mds1", "cs1"} {
		if _, err := os.Stat(filepath.Join(c.dir, id)); err != nil {
			t.Errorf("down removed the data: %v", err)
		}
	}
	if v, code := c.status(); code != exitDegraded || v.pid("mds1") != 0 {
		t.Errorf("exit code %d, %+v: it is down", code, v)
	}
}

// TestQemuUsesAVolumeOfACluster lets a program that is not ours read and write.
func TestQemuUsesAVolumeOfACluster(t *testing.T) {
	qemuIO, err := exec.LookPath("qemu-io")
	if err != nil {
		if os.Getenv("CURVE_REQUIRE_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skip("SKIPPED: qemu-io is not installed")
	}
	c := clusterUp(t)
	g := c.serve()
	g.must("volume", "create", "disk", "--size", "64M")
	_, socket, _ := strings.Cut(g.address("nbd"), ":")
	uri := "nbd+unix:///disk?socket=" + socket
	for _, commands := range [][]string{
		{"write -P 0xa5 1M 3M", "write -z 2M 64k", "flush"},
		{"read -P 0xa5 1M 1M", "read -P 0 2M 64k", "read -P 0xa5 2112k 64k", "read -P 0 0 1M"},
	} {
		args := []string{"-f", "raw"}
		for _, command := range commands {
			args = append(args, "-c", command)
		}
		out, err := exec.Command(qemuIO, append(args, uri)...).CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("failed")) {
			t.Errorf("%v: %v\n%s", commands, err, out)
		}
	}
	du := mustJSON[volumeJSON](g, "volume", "info", "disk")
	if du.AllocatedBytes < 3<<20 || du.AllocatedBytes > 16<<20 {
		t.Errorf("%d bytes allocated for 3 MiB written", du.AllocatedBytes)
	}
}

// TestSecondGatewayMayTakeAVolumeOver: the first one's open volume excludes the
// second, unless that says otherwise; then the first one is refused everything.
func TestSecondGatewayMayTakeAVolumeOver(t *testing.T) {
	c := clusterUp(t)
	first := c.serve("--owner", "first")
	first.must("volume", "create", "pg", "--size", "8M")
	conn := first.open("pg")
	ctx := context.Background()
	mine := bytes.Repeat([]byte{1}, 4096)
	if err := conn.Write(ctx, mine, 0, 0); err != nil {
		t.Fatal(err)
	}
	polite := c.serve("--owner", "second")
	if _, err := polite.tryOpen("pg"); err == nil {
		t.Error("a second gateway opened the volume too")
	}
	rude := c.serve("--owner", "third", "--take-over")
	theirs := bytes.Repeat([]byte{2}, 4096)
	other := rude.open("pg")
	if err := other.Write(ctx, theirs, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := conn.Write(ctx, mine, 0, 0); err == nil {
		t.Error("the first gateway still writes")
	}
	if o := first.cli("health"); o.code != exitDegraded || !strings.Contains(o.stdout, "lost") {
		t.Errorf("health of the first gateway: exit code %d, %s", o.code, o.stdout)
	}
	got := make([]byte, 4096)
	if err := other.Read(ctx, got, 0, 0); err != nil || !bytes.Equal(got, theirs) {
		t.Errorf("the volume holds %d.. (%v), want what the new owner wrote", got[0], err)
	}
}

// TestServerThatHangsCanBeStopped: SIGTERM alone would wait for ever.
func TestServerThatHangsCanBeStopped(t *testing.T) {
	c := clusterUp(t, "--chunkservers", "1")
	v := c.awaitHealthy()
	if err := syscall.Kill(v.pid("cs1"), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.must("cluster", "stop", "cs1")
	if v, _ := c.status(); v.pid("cs1") != 0 {
		t.Errorf("cs1 still runs: %+v", v)
	}
}

// TestServersByHandAsOnManyMachines runs each role by its own command.
func TestServersByHandAsOnManyMachines(t *testing.T) {
	dir := t.TempDir()
	mds := launch(t, nil, "mds", "--data-dir", filepath.Join(dir, "mds"), "--listen", "127.0.0.1:0",
		"--min-servers", "1", "--replicas", "1", "--copysets", "1")
	address := mds.address("mds")
	chunkserver := launch(t, nil, "chunkserver", "--data-dir", filepath.Join(dir, "cs"), "--mds", address,
		"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--zone", "rack-7")
	chunkserver.awaitLog("listening chunkserver ")
	ask := &cluster{t: t, dir: filepath.Join(dir, "none")}
	for deadline := time.Now().Add(patience); ask.cli("cluster", "status", "--mds", address).code != 0; {
		if time.Now().After(deadline) {
			t.Fatal(ask.cli("cluster", "status", "--mds", address).stderr)
		}
	}
	var list []struct{ ID, Zone string }
	if err := json.Unmarshal([]byte(ask.must("chunkserver", "list", "-o", "json", "--mds", address)), &list); err != nil ||
		len(list) != 1 || list[0].Zone != "rack-7" {
		t.Errorf("chunkserver list: %+v, %v", list, err)
	}
	g := serve(t, nil, "--mds", address, "--nbd-listen", "tcp:127.0.0.1:0")
	g.must("volume", "create", "pg", "--size", "8M")
	conn := g.open("pg")
	if err := conn.Write(context.Background(), make([]byte, 4096), 0, 0); err != nil {
		t.Fatal(err)
	}
	if o := ask.cli("chunkserver", "retire", "cs9", "--mds", address); o.code != exitNotFound {
		t.Errorf("exit code %d, want %d: %s", o.code, exitNotFound, o.stderr)
	}
	if o := ask.cli("leader", "transfer", "--copyset", "9", "--mds", address); o.code != exitNotFound {
		t.Errorf("exit code %d, want %d: %s", o.code, exitNotFound, o.stderr)
	}
	g.stop()
	chunkserver.stop()
	mds.stop()
}

// TestNewChunkserverWaitsForItsMDS, and lets itself be stopped meanwhile.
func TestNewChunkserverWaitsForItsMDS(t *testing.T) {
	c := launch(t, nil, "chunkserver", "--data-dir", filepath.Join(t.TempDir(), "cs"), "--mds", deadAddress(t),
		"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0")
	c.awaitLog("waiting for the MDS")
	c.stop()
}
