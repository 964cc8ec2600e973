package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencurve/curve-nbd/scripts/iscsitarget"
)

// server is one server under test: of NBD, on a unix socket of its own, or of iSCSI.
type server struct {
	name   string
	socket string
	export string
	argv   []string
	setup  []string // command to run once it listens
	files  []string // sparse files to make first
	size   int64
	// file is set where there is no server and fio works on the file.
	file string
	// startTarget starts an iSCSI target, which is then target. counts is how many
	// requests of a workload fill the time of a run.
	startTarget func() (*iscsitarget.Target, error)
	target      *iscsitarget.Target
	counts      map[string]int
	// others are processes that serve with it; down ends them.
	others []process
	down   func()

	cmd *exec.Cmd
	log bytes.Buffer
}

type process struct {
	name string
	pid  int
}

// serversOf lists the servers of a comparison; ours is the first, the one that
// ratios are taken against the second.
func serversOf(set string, c config) ([]*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	size := fmt.Sprintf("%dM", c.sizeMiB)
	mk := func(name string, argv ...string) *server {
		id := strings.NewReplacer(" ", "-", "/", "-").Replace(set + "-" + name)
		s := &server{name: name, socket: filepath.Join(c.dir, id+".sock"), size: int64(c.sizeMiB) << 20}
		for _, a := range argv {
			a = strings.ReplaceAll(a, "{sock}", s.socket)
			s.argv = append(s.argv, strings.ReplaceAll(a, "{dir}", filepath.Join(c.dir, id)))
		}
		return s
	}
	file := func(s *server) *server {
		s.files = append(s.files, s.argv[len(s.argv)-1])
		return s
	}
	ours := func(flags ...string) *server {
		control := "unix:" + filepath.Join(c.dir, set+"-control.sock")
		argv := append([]string{c.bin, "serve", "--nbd-listen", "unix:{sock}", "--control", control, "--log-level", "warn"}, flags...)
		s := mk("curve-nbd "+set, argv...)
		s.export = "bench"
		s.setup = []string{c.bin, "volume", "create", "bench", "--size", size, "--control", control}
		return s
	}
	switch set {
	case "memory":
		return []*server{
			ours("--memory"),
			mk("nbdkit memory", "nbdkit", "-f", "-U", "{sock}", "memory", size),
			mk("nbdkit --no-sr", "nbdkit", "-f", "--no-sr", "-U", "{sock}", "memory", size),
			mk("nbdkit -t 1", "nbdkit", "-f", "-t", "1", "-U", "{sock}", "memory", size),
			mk("go-nbd memory", self, "go-nbd", "{sock}", "memory", size),
		}, nil
	case "file":
		return []*server{
			ours("--data-dir", "{dir}"),
			file(mk("nbdkit file", "nbdkit", "-f", "-U", "{sock}", "file", "{dir}.img")),
			file(mk("qemu-nbd", "qemu-nbd", "-f", "raw", "-t", "-e", "16", "-k", "{sock}", "{dir}.img")),
			file(mk("go-nbd file", self, "go-nbd", "{sock}", "file", "{dir}.img")),
		}, nil
	case "cluster":
		return clusterServers(c, ours)
	case "iscsi-memory", "iscsi-file":
		return iscsiServers(set, c)
	}
	return nil, fmt.Errorf("no comparison %q: choose memory, file, cluster, iscsi-memory or iscsi-file", set)
}

func (s *server) start() error {
	for _, f := range s.files {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			return err
		}
		if err := os.Truncate(f, s.size); err != nil {
			return err
		}
	}
	if s.file != "" {
		return nil
	}
	if s.startTarget != nil {
		var err error
		s.counts = make(map[string]int)
		s.target, err = s.startTarget()
		return err
	}
	s.cmd = exec.Command(s.argv[0], s.argv[1:]...)
	s.cmd.Stderr = &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	if err := s.waitListening(); err != nil {
		return err
	}
	if len(s.setup) > 0 {
		if out, err := exec.Command(s.setup[0], s.setup[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(s.setup, " "), err, out)
		}
	}
	return nil
}

func (s *server) waitListening() error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(s.socket); err != nil {
			continue
		}
		if c, err := net.Dial("unix", s.socket); err == nil {
			// A full handshake comes with the first run; a bare hang-up here
			// would end some servers.
			defer c.Close()
			greeting := make([]byte, 18)
			_ = c.SetDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(greeting); err == nil {
				_, err = c.Write([]byte{0, 0, 0, 1, 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 2, 0, 0, 0, 0})
				return err
			}
		}
	}
	return fmt.Errorf("does not listen on %s: %s", s.socket, s.log.String())
}

func (s *server) stop() {
	if s.down != nil {
		defer s.down()
	}
	if s.target != nil {
		s.target.Stop()
	}
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = s.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		_ = s.cmd.Process.Kill()
		<-done
	}
}

// result is one run of a workload.
type result struct {
	IOPS float64 `json:"iops"`
	// MiBps is bandwidth, CPUMicros the server's CPU time per IO.
	MiBps     float64 `json:"mib_per_s"`
	CPUMicros float64 `json:"server_cpu_us_per_io"`
	// ByProcess is CPUMicros of each process, where there are several.
	ByProcess []float64 `json:"by_process,omitempty"`
}

// run runs one workload; with no runtime it goes over the export once.
func (s *server) run(w workload, runtime time.Duration, sizeMiB int) (result, error) {
	if s.target != nil {
		return s.iscsi(w, runtime, sizeMiB)
	}
	return s.fio(w, runtime, sizeMiB)
}

// fio runs one workload; with no runtime it goes over the export once.
func (s *server) fio(w workload, runtime time.Duration, sizeMiB int) (result, error) {
	uri := "nbd+unix:///" + s.export + "?socket=" + s.socket
	out := s.socket + ".fio.json"
	args := []string{"--name=bench", "--ioengine=nbd", "--uri=" + uri, "--rw=" + w.rw, "--bs=" + w.bs,
		"--iodepth=" + strconv.Itoa(w.depth), "--numjobs=" + strconv.Itoa(w.numJobs)}
	if s.file != "" {
		args, out = s.fileArgs(w), s.file+".fio.json"
	}
	args = append(args, "--size="+strconv.Itoa(sizeMiB)+"M", "--group_reporting", "--output-format=json", "--output="+out)
	if runtime > 0 {
		args = append(args, "--time_based", fmt.Sprintf("--runtime=%dms", runtime.Milliseconds()))
	}
	ctx, cancel := context.WithTimeout(context.Background(), runtime+2*time.Minute)
	defer cancel()
	before, err := s.cpuTimes()
	if err != nil {
		return result{}, err
	}
	if text, err := exec.CommandContext(ctx, "fio", args...).CombinedOutput(); err != nil {
		return result{}, fmt.Errorf("fio: %w: %s", err, text)
	}
	after, err := s.cpuTimes()
	if err != nil {
		return result{}, err
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return result{}, err
	}
	if start := bytes.IndexByte(text, '{'); start > 0 {
		text = text[start:] // fio prints warnings there too
	}
	type side struct {
		IOPS     float64 `json:"iops"`
		BW       float64 `json:"bw_bytes"`
		TotalIOs float64 `json:"total_ios"`
	}
	var report struct{ Jobs []struct{ Read, Write side } }
	if err := json.Unmarshal(text, &report); err != nil || len(report.Jobs) != 1 {
		return result{}, fmt.Errorf("fio report: %v", err)
	}
	j := report.Jobs[0]
	r := result{IOPS: j.Read.IOPS + j.Write.IOPS, MiBps: (j.Read.BW + j.Write.BW) / (1 << 20)}
	for i := range after {
		one := float64((after[i] - before[i]).Microseconds()) / (j.Read.TotalIOs + j.Write.TotalIOs)
		r.CPUMicros += one
		if len(after) > 1 {
			r.ByProcess = append(r.ByProcess, one)
		}
	}
	return r, nil
}

// cpuTimes are those of the server's process and the others, in order.
func (s *server) cpuTimes() ([]time.Duration, error) {
	if s.file != "" {
		return nil, nil
	}
	pid, log := 0, s.log.String
	if s.target != nil {
		pid, log = s.target.PID(), s.target.Log
	} else {
		pid = s.cmd.Process.Pid
	}
	var times []time.Duration
	for _, p := range append([]process{{s.name, pid}}, s.others...) {
		t, err := cpuTime(p.pid)
		if err != nil {
			return nil, fmt.Errorf("%s is gone: %s", p.name, log())
		}
		times = append(times, t)
	}
	return times, nil
}

// cpuTime is user and system time of a process so far, to the clock tick (10 ms).
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}
