package main

import (
	"slices"
	"strings"
)

// workload is one fio job. Every job of numjobs is a connection of its own.
type workload struct {
	name    string
	rw      string
	bs      string
	depth   int
	numJobs int
	// sync is "fua" where every write is to be durable, "flush" where a flush comes
	// after as many writes as the queue is deep.
	sync string
}

// workloads are those of a set whose names contain filter.
func workloads(set, filter string) []workload {
	all := nbdWorkloads
	switch set {
	case "iscsi-memory":
		all = iscsiWorkloads
	case "iscsi-file":
		all = append(slices.Clone(iscsiWorkloads), durableWorkloads...)
	}
	var chosen []workload
	for _, w := range all {
		if strings.Contains(w.name, filter) {
			chosen = append(chosen, w)
		}
	}
	return chosen
}

var (
	nbdWorkloads = []workload{
		{"4k randread QD1", "randread", "4k", 1, 1, ""},
		{"4k randwrite QD1", "randwrite", "4k", 1, 1, ""},
		{"4k randread QD32", "randread", "4k", 32, 1, ""},
		{"4k randwrite QD32", "randwrite", "4k", 32, 1, ""},
		{"4k randread QD128", "randread", "4k", 128, 1, ""},
		{"4k randwrite QD128", "randwrite", "4k", 128, 1, ""},
		{"4k randread QD32 x 4 connections", "randread", "4k", 32, 4, ""},
		{"4k randwrite QD32 x 4 connections", "randwrite", "4k", 32, 4, ""},
		{"128k read QD16", "read", "128k", 16, 1, ""},
		{"128k write QD16", "write", "128k", 16, 1, ""},
		{"1M read QD16", "read", "1M", 16, 1, ""},
		{"1M write QD16", "write", "1M", 16, 1, ""},
	}
	iscsiWorkloads = []workload{
		{"4k randread QD1", "randread", "4k", 1, 1, ""},
		{"4k randwrite QD1", "randwrite", "4k", 1, 1, ""},
		{"4k randread QD32", "randread", "4k", 32, 1, ""},
		{"4k randwrite QD32", "randwrite", "4k", 32, 1, ""},
		{"128k read QD8", "read", "128k", 8, 1, ""},
		{"128k write QD8", "write", "128k", 8, 1, ""},
		{"1M read QD4", "read", "1M", 4, 1, ""},
		{"1M write QD4", "write", "1M", 4, 1, ""},
	}
	durableWorkloads = []workload{
		{"4k randwrite FUA QD1", "randwrite", "4k", 1, 1, "fua"},
		{"4k randwrite FUA QD32", "randwrite", "4k", 32, 1, "fua"},
		{"4k randwrite QD32, flush after 32", "randwrite", "4k", 32, 1, "flush"},
	}
)
