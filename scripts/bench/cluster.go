package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The set "cluster" compares a volume of three synced replicas, all on this
// machine, through NBD, with fio itself writing one copy to a file and syncing
// after each write: what the disk gives when nothing is between.

// clusterServers starts a cluster and returns it as a server, and the file.
func clusterServers(c config, ours func(flags ...string) *server) ([]*server, error) {
	dir := filepath.Join(c.dir, "cluster")
	up := exec.Command(c.bin, "cluster", "up", "--dir", dir, "--chunkservers", "3", "--copysets", strconv.Itoa(c.copysets))
	began := time.Now()
	if out, err := up.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cluster up: %w: %s", err, out)
	}
	fmt.Fprintf(os.Stderr, "cluster: up in %v\n", time.Since(began).Round(time.Millisecond))
	status, err := readStatus(c.bin, dir)
	if err != nil {
		return nil, err
	}
	s := ours("--mds", status.MDS[0].Address)
	for _, cs := range status.Chunkservers {
		s.others = append(s.others, process{cs.ID, cs.PID})
	}
	s.down = func() {
		if out, err := exec.Command(c.bin, "cluster", "down", "--dir", dir).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cluster down: %v: %s\n", err, out)
		}
	}
	file := &server{name: "fio, one file, fdatasync", file: filepath.Join(c.dir, "one-copy.img"), size: int64(c.sizeMiB) << 20}
	file.files = []string{file.file}
	return []*server{s, file}, nil
}

type clusterStatus struct {
	MDS []struct {
		Address string `json:"address"`
		PID     int    `json:"pid"`
	} `json:"mds"`
	Chunkservers []struct {
		ID  string `json:"id"`
		PID int    `json:"pid"`
	} `json:"chunkservers"`
}

func readStatus(bin, dir string) (clusterStatus, error) {
	var status clusterStatus
	out, err := exec.Command(bin, "cluster", "status", "--dir", dir, "-o", "json").Output()
	if err != nil {
		return status, fmt.Errorf("cluster status: %w", err)
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return status, fmt.Errorf("cluster status: %w", err)
	}
	if len(status.MDS) == 0 || len(status.Chunkservers) == 0 {
		return status, fmt.Errorf("cluster status: no servers in %s", out)
	}
	return status, nil
}

// fileArgs turn a workload into fio's own IO on a file: as many jobs as the queue
// is deep, each of which syncs what it wrote before it goes on.
func (s *server) fileArgs(w workload) []string {
	args := []string{"--name=bench", "--ioengine=psync", "--filename=" + s.file, "--rw=" + w.rw, "--bs=" + w.bs,
		"--iodepth=1", "--numjobs=" + strconv.Itoa(w.depth*w.numJobs)}
	if strings.Contains(w.rw, "write") {
		args = append(args, "--fdatasync=1")
	}
	return args
}
