// Command bench compares curve-nbd with other NBD servers and iSCSI targets on this
// machine: one client drives one after the other, round after round, and the table
// shows medians and ratios of the same run. Run it through `make bench`.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type config struct {
	bin      string
	dir      string
	sizeMiB  int
	rounds   int
	runtime  time.Duration
	set      string
	workload string
	server   string
	jsonFile string
	copysets int
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "go-nbd" {
		exit(serveGoNBD(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "gotgt" {
		exit(serveGoTgt(os.Args[2:]))
	}
	var c config
	flag.StringVar(&c.bin, "bin", "bin/curve-nbd", "the curve-nbd to measure")
	flag.StringVar(&c.dir, "dir", "", "where the files of the file servers go (default: a new directory in .cache)")
	flag.IntVar(&c.sizeMiB, "size", 1024, "size of the exports, MiB")
	flag.IntVar(&c.rounds, "rounds", 5, "times that each server runs each workload")
	flag.DurationVar(&c.runtime, "time", 2*time.Second, "length of one run")
	flag.StringVar(&c.set, "set", "memory,file,iscsi-memory,iscsi-file", "which comparisons: memory, file, cluster, iscsi-memory, iscsi-file")
	flag.IntVar(&c.copysets, "copysets", 0, "copysets of the cluster, 0 for its default")
	flag.StringVar(&c.workload, "workload", "", "only workloads whose name contains this")
	flag.StringVar(&c.server, "server", "", "only servers whose name contains one of these words, divided by commas")
	flag.StringVar(&c.jsonFile, "json", "", "write every single result to this file too")
	flag.Parse()
	exit(run(c))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(c config) error {
	if c.dir == "" {
		if err := os.MkdirAll(".cache", 0o755); err != nil {
			return err
		}
		dir, err := os.MkdirTemp(".cache", "bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c.dir = dir
	}
	dir, err := filepath.Abs(c.dir)
	if err != nil {
		return err
	}
	c.dir = dir
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)

	for _, set := range strings.Split(c.set, ",") {
		if strings.HasPrefix(set, "iscsi-") && c.wants("curve-nbd") && !servesISCSI(c.bin) {
			fmt.Fprintf(os.Stderr, "%s: NOT RUN: this curve-nbd has no serve --iscsi-listen\n", set)
			continue
		}
		servers, err := serversOf(set, c)
		if err != nil {
			return err
		}
		servers = slices.DeleteFunc(servers, func(s *server) bool { return !c.wants(s.name) })
		if len(servers) == 0 {
			return fmt.Errorf("no server of %s is called %q", set, c.server)
		}
		err = compare(c, set, servers, interrupted)
		for _, s := range servers {
			s.stop()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c config) wants(server string) bool {
	return slices.ContainsFunc(strings.Split(c.server, ","), func(word string) bool { return strings.Contains(server, word) })
}

// compare starts the servers of a set, fills their exports and runs every
// workload on each in turn.
func compare(c config, set string, servers []*server, interrupted <-chan os.Signal) error {
	for _, s := range servers {
		if err := s.start(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if _, err := s.run(workload{name: "fill", rw: "write", bs: "1M", depth: 8, numJobs: 1}, 0, c.sizeMiB); err != nil {
			return fmt.Errorf("fill %s: %w", s.name, err)
		}
	}
	results := newResults(set, servers)
	for _, w := range workloads(set, c.workload) {
		for round := range c.rounds {
			for i := range servers {
				// Another one goes first each round.
				s := servers[(round+i)%len(servers)]
				select {
				case <-interrupted:
					return fmt.Errorf("interrupted")
				default:
				}
				r, err := s.run(w, c.runtime, c.sizeMiB)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", w.name, s.name, err)
				}
				results.add(w, s, r)
			}
		}
		fmt.Fprintf(os.Stderr, "%s: %s done\n", set, w.name)
	}
	results.print(os.Stdout)
	if c.jsonFile != "" {
		return results.save(c.jsonFile)
	}
	return nil
}
