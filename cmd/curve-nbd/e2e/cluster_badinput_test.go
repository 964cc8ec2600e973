package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// deadAddress is where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

type badInput struct {
	name string
	args []string
	code int
	says []string
}

func checkBadInput(t *testing.T, variables []string, cases []badInput) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := cli(t, variables, c.args...)
			if o.code != c.code {
				t.Errorf("exit code %d, want %d: %s", o.code, c.code, o.stderr)
			}
			if o.stdout != "" {
				t.Errorf("stdout is not empty: %q", o.stdout)
			}
			for _, part := range append(c.says, "curve-nbd: ") {
				if !strings.Contains(o.stderr, part) {
					t.Errorf("stderr does not say %q: %s", part, o.stderr)
				}
			}
		})
	}
}

// What is wrong with a command line is found before anything is started.
func TestBadInputOfClusterCommands(t *testing.T) {
	foreign := t.TempDir()
	file := filepath.Join(foreign, "holiday.jpg")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "cluster.json"), []byte(`{"format":1`), 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(t.TempDir(), "none")
	nobody := deadAddress(t)
	line := strings.Fields
	checkBadInput(t, []string{"CURVE_DIR=" + none}, []badInput{
		{"no command", line("cluster"), exitUsage, []string{"up", "down"}},
		{"up: argument", line("cluster up now"), exitUsage, []string{`"now"`}},
		{"up: no chunkservers", line("cluster up --chunkservers 0"), exitUsage, []string{"--chunkservers"}},
		{"up: too many", line("cluster up --chunkservers 1000"), exitUsage, []string{"1000"}},
		{"up: not a number", line("cluster up --chunkservers three"), exitUsage, []string{"three"}},
		{"up: two MDS", line("cluster up --mds 2"), exitUsage, []string{"--mds 2"}},
		{"up: negative copysets", line("cluster up --copysets -1"), exitUsage, []string{"--copysets"}},
		{"up: port of outgoing connections", line("cluster up --base-port 40000"), exitUsage, []string{"40000"}},
		{"up: foreign directory", []string{"cluster", "up", "--dir", foreign}, exitUsage, []string{"holiday.jpg"}},
		{"up: file", []string{"cluster", "up", "--dir", file}, exitUsage, []string{file}},
		{"up: damaged file", []string{"cluster", "up", "--dir", damaged}, exitUsage, []string{"cluster.json"}},
		{"up: no time", line("cluster up --timeout 0s"), exitUsage, []string{"--timeout"}},
		{"up: output", line("cluster up -o xml"), exitUsage, []string{"xml"}},
		{"status: no cluster", line("cluster status"), exitNotFound, []string{none, "cluster up"}},
		{"status: nobody there", []string{"cluster", "status", "--mds", nobody, "--timeout", "1s"}, exitNoServer, []string{nobody}},
		{"status: address", line("cluster status --mds here"), exitUsage, []string{"HOST:PORT"}},
		{"start: no cluster", line("cluster start cs1"), exitNotFound, []string{none}},
		{"stop: no cluster", line("cluster stop"), exitNotFound, []string{none}},
		{"stop: two", line("cluster stop cs1 cs2"), exitUsage, []string{`"cs2"`}},
		{"down: no cluster", line("cluster down"), exitNotFound, []string{none}},
		{"down: contradiction", line("cluster down --keep --purge"), exitUsage, []string{"--keep"}},
		{"transfer: no copyset", line("leader transfer --to cs1"), exitUsage, []string{"--copyset"}},
		{"transfer: not a number", line("leader transfer --copyset one"), exitUsage, []string{"one"}},
		{"transfer: not a server", line("leader transfer --copyset 1 --to mds1"), exitUsage, []string{"mds1", "cs2"}},
		{"transfer: no cluster", line("leader transfer --copyset 1 --to cs1"), exitNotFound, []string{none}},
		{"copysets: nobody there", []string{"copyset", "list", "--mds", nobody, "--timeout", "1s"}, exitNoServer, []string{nobody}},
		{"chunkservers: output", []string{"chunkserver", "list", "-o", "xml", "--mds", nobody}, exitUsage, []string{"xml"}},
		{"retire: nobody", line("chunkserver retire"), exitUsage, []string{"CHUNKSERVER"}},
		{"retire: not a server", line("chunkserver retire disk7"), exitUsage, []string{"disk7"}},
		{"unknown subcommand", line("chunkserver lst"), exitUsage, []string{"list"}},
	})
	if _, err := os.Stat(none); err == nil {
		t.Error("bad input made a cluster directory")
	}
}

func TestBadInputOfServers(t *testing.T) {
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "holiday.jpg"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(foreign, "holiday.jpg")
	taken, nobody := takenPort(t), deadAddress(t)
	fresh := func() string { return filepath.Join(t.TempDir(), "fresh") }
	mds := func(more ...string) []string {
		return append([]string{"mds", "--listen", "127.0.0.1:0", "--data-dir", fresh()}, more...)
	}
	chunkserver := func(more ...string) []string {
		return append([]string{"chunkserver", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0",
			"--mds", nobody, "--data-dir", fresh()}, more...)
	}
	serve := func(more ...string) []string {
		return append([]string{"serve", "--control", "unix:" + filepath.Join(socketDir(t), "c.sock"), "--nbd-listen", "tcp:127.0.0.1:0"}, more...)
	}
	checkBadInput(t, nil, []badInput{
		{"mds: argument", mds("now"), exitUsage, []string{`"now"`}},
		{"mds: port in use", mds("--listen", taken), exitBusy, []string{taken}},
		{"mds: HTTP port in use", mds("--http-listen", taken), exitBusy, []string{taken}},
		{"mds: no port", mds("--listen", "127.0.0.1"), exitUsage, []string{"HOST:PORT"}},
		{"mds: foreign directory", mds("--data-dir", foreign), exitUsage, []string{"holiday.jpg"}},
		{"mds: file for a directory", mds("--data-dir", file), exitUsage, []string{file}},
		{"mds: no replicas", mds("--replicas", "0"), exitUsage, []string{"--replicas"}},
		{"mds: more replicas than servers", mds("--replicas", "5"), exitUsage, []string{"--min-servers 3", "--replicas 5"}},
		{"mds: lease of no length", mds("--lease-ttl", "0s"), exitUsage, []string{"--lease-ttl"}},
		{"mds: negative time", mds("--recycle-keep", "-1s"), exitUsage, []string{"--recycle-keep"}},
		{"mds: log level", mds("--log-level", "loud"), exitUsage, []string{"loud"}},
		{"chunkserver: no MDS", []string{"chunkserver", "--data-dir", fresh()}, exitUsage, []string{"--mds"}},
		{"chunkserver: MDS address", chunkserver("--mds", "here"), exitUsage, []string{"HOST:PORT"}},
		{"chunkserver: port in use", chunkserver("--listen", taken), exitBusy, []string{taken}},
		{"chunkserver: peer port in use", chunkserver("--peer-listen", taken), exitBusy, []string{taken}},
		{"chunkserver: everywhere is nowhere", chunkserver("--listen", "0.0.0.0:0"), exitUsage, []string{"--advertise"}},
		{"chunkserver: advertise", chunkserver("--advertise", "here"), exitUsage, []string{"--advertise", "HOST:PORT"}},
		{"chunkserver: log-sync", chunkserver("--log-sync", "never"), exitUsage, []string{"never", "overlapped"}},
		{"chunkserver: foreign directory", chunkserver("--data-dir", foreign), exitUsage, []string{"holiday.jpg"}},
		{"chunkserver: no drain", chunkserver("--drain-timeout", "0s"), exitUsage, []string{"--drain-timeout"}},
		{"chunkserver: reserve", chunkserver("--reserve", "lots"), exitUsage, []string{"lots"}},
		{"serve: MDS address", serve("--mds", "here"), exitUsage, []string{"HOST:PORT"}},
		{"serve: two places", serve("--mds", nobody, "--data-dir", fresh()), exitUsage, []string{"--data-dir"}},
		{"serve: RAM and cluster", serve("--mds", nobody, "--memory"), exitUsage, []string{"--memory"}},
		{"serve: owner of a directory", serve("--owner", "me", "--memory"), exitUsage, []string{"--owner"}},
	})
}

// TestServeWithoutAnMDSSaysSo takes as long as a gateway is patient.
func TestServeWithoutAnMDSSaysSo(t *testing.T) {
	t.Parallel()
	nobody := deadAddress(t)
	o := cli(t, nil, "serve", "--mds", nobody, "--control", "unix:"+filepath.Join(socketDir(t), "c.sock"), "--nbd-listen", "tcp:127.0.0.1:0")
	if o.code != exitNoServer || !strings.Contains(o.stderr, nobody) {
		t.Errorf("exit code %d, want %d with the address: %s", o.code, exitNoServer, o.stderr)
	}
}
