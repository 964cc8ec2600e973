package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/opencurve/curve-nbd/scripts/iscsitarget"
)

// The sets "iscsi-memory" and "iscsi-file" compare iSCSI targets. Debian's fio has no
// engine for that, so the clients are those of libiscsi: its iscsi-perf for random
// reads, and qemu-img bench, which goes through the block driver of QEMU's virtual
// machines, for all else.
//
// The file set is on one file system, and both targets have a write cache that is
// volatile, as they tell initiators: the same promise. The workloads with "FUA" and
// "flush" say what keeping it costs.

// iscsiBlock is what initiators expect of a disk, and tgt's default.
const iscsiBlock = 512

func servesISCSI(bin string) bool {
	out, err := exec.Command(bin, "serve", "--help").Output()
	return err != nil || bytes.Contains(out, []byte("--iscsi-listen"))
}

// iscsiServers lists the targets of a comparison.
func iscsiServers(set string, c config) ([]*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o := iscsitarget.Options{Program: c.bin, Dir: c.dir, Store: c.dir, Units: 1, MiB: c.sizeMiB, BlockBytes: iscsiBlock}
	o.Serve = []string{"--data-dir", filepath.Join(c.dir, "iscsi-data")}
	if set == "iscsi-memory" {
		o.Serve, o.Store = []string{"--memory"}, "/dev/shm"
	}
	servers := []*server{
		{name: "curve-nbd " + strings.TrimPrefix(set, "iscsi-"), startTarget: func() (*iscsitarget.Target, error) { return iscsitarget.Ours(o) }},
		{name: "tgt", startTarget: func() (*iscsitarget.Target, error) { return iscsitarget.Tgt(o) }},
	}
	if set == "iscsi-memory" {
		servers[1].name = "tgt, /dev/shm"
		servers = append(servers, &server{name: "gotgt memory", startTarget: func() (*iscsitarget.Target, error) {
			return iscsitarget.Peer("gotgt", []string{self, "gotgt"}, o)
		}})
	}
	return servers, nil
}

// iscsi runs one workload on a target; with no runtime it goes over the unit once.
func (s *server) iscsi(w workload, runtime time.Duration, sizeMiB int) (result, error) {
	block, err := blockBytes(w.bs)
	if err != nil {
		return result{}, err
	}
	url := s.target.URLs[0]
	if runtime == 0 {
		return result{}, fill(url, w, block, sizeMiB)
	}
	drive := func(count int) (float64, error) { return qemuBench(url, w, block, 0, count) }
	count := 0
	if w.rw == "randread" {
		drive = func(int) (float64, error) { return iscsiPerf(url, w, block, runtime) }
	} else if count, err = s.countFor(w, block, runtime, drive); err != nil {
		return result{}, err
	}
	before, err := s.cpuTimes()
	if err != nil {
		return result{}, err
	}
	rate, err := drive(count)
	if err != nil {
		return result{}, err
	}
	after, err := s.cpuTimes()
	if err != nil {
		return result{}, err
	}
	done := float64(count)
	if w.rw == "randread" {
		done = rate * perfTime(runtime).Seconds()
	}
	r := result{IOPS: rate, MiBps: rate * float64(block) / (1 << 20)}
	r.CPUMicros = float64((after[0] - before[0]).Microseconds()) / done
	return r, nil
}

// fill goes over the unit in short sessions: gotgt's hang when the initiator asks after
// 5 s whether they live.
func fill(url string, w workload, block, sizeMiB int) error {
	const piece = 128
	for at := 0; at < sizeMiB; at += piece {
		if _, err := qemuBench(url, w, block, at<<20, min(piece, sizeMiB-at)<<20/block); err != nil {
			return err
		}
	}
	return nil
}

// countFor is how many requests take a time, which a short run tells the first time.
func (s *server) countFor(w workload, block int, runtime time.Duration, drive func(count int) (float64, error)) (int, error) {
	if s.counts[w.name] == 0 {
		rate, err := drive(min(4000, 64<<20/block))
		if err != nil {
			return 0, err
		}
		s.counts[w.name] = max(w.depth, int(rate*runtime.Seconds()))
	}
	return s.counts[w.name], nil
}

// perfTime is how long iscsi-perf runs, which knows whole seconds only.
func perfTime(runtime time.Duration) time.Duration {
	return max(time.Second, runtime.Round(time.Second))
}

func blockBytes(bs string) (int, error) {
	units := map[byte]int{'k': 1 << 10, 'M': 1 << 20}
	n, err := strconv.Atoi(bs[:len(bs)-1])
	if unit := units[bs[len(bs)-1]]; err == nil && unit > 0 {
		return n * unit, nil
	}
	return 0, fmt.Errorf("block size %q", bs)
}

var perfIOPS = regexp.MustCompile(`iops average (\d+)`)

// iscsiPerf reads at random for a time.
func iscsiPerf(url string, w workload, block int, runtime time.Duration) (float64, error) {
	seconds := strconv.Itoa(int(perfTime(runtime).Seconds()))
	out, err := client(runtime, "iscsi-perf", "-r", "-m", strconv.Itoa(w.depth), "-b", strconv.Itoa(block/iscsiBlock), "-t", seconds, url)
	if err != nil {
		return 0, err
	}
	found := perfIOPS.FindAllStringSubmatch(out, -1)
	if found == nil {
		return 0, fmt.Errorf("iscsi-perf says no average: %s", out)
	}
	return strconv.ParseFloat(found[len(found)-1][1], 64)
}

// scatter is a prime number of blocks: going that far each time, and round the end,
// comes to every block, in an order that nobody reads ahead.
const scatter = 104729

var benchSeconds = regexp.MustCompile(`Run completed in ([0-9.]+) seconds`)

// qemuBench does a number of requests, the first at off, and returns how many a second.
func qemuBench(url string, w workload, block, off, count int) (float64, error) {
	args := []string{"bench", "-f", "raw", "-t", "none", "-c", strconv.Itoa(count), "-d", strconv.Itoa(w.depth), "-s", strconv.Itoa(block), "-o", strconv.Itoa(off)}
	if strings.HasPrefix(w.rw, "rand") {
		args = append(args, "-S", strconv.Itoa(scatter*block))
	}
	if strings.Contains(w.rw, "write") {
		args = append(args, "-w")
	}
	switch w.sync {
	case "fua":
		args[4] = "writethrough"
	case "flush":
		args = append(args, "--flush-interval", strconv.Itoa(w.depth))
	}
	out, err := client(0, "qemu-img", append(args, url)...)
	if err != nil {
		return 0, err
	}
	found := benchSeconds.FindStringSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("qemu-img bench says no time: %s", out)
	}
	seconds, err := strconv.ParseFloat(found[1], 64)
	if err != nil || seconds <= 0 {
		return 0, fmt.Errorf("qemu-img bench says %s seconds", found[1])
	}
	return float64(count) / seconds, nil
}

func client(runtime time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runtime+time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}
