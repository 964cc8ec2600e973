package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// results of one comparison: every run of every server on every workload.
type results struct {
	set     string
	servers []*server
	names   []string // workloads, in order
	runs    map[string]map[string][]result
}

func newResults(set string, servers []*server) *results {
	return &results{set: set, servers: servers, runs: make(map[string]map[string][]result)}
}

func (r *results) add(w workload, s *server, one result) {
	if r.runs[w.name] == nil {
		r.runs[w.name] = make(map[string][]result)
		r.names = append(r.names, w.name)
	}
	r.runs[w.name][s.name] = append(r.runs[w.name][s.name], one)
}

func median(runs []result, of func(result) float64) float64 {
	values := make([]float64, len(runs))
	for i, one := range runs {
		values[i] = of(one)
	}
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

func iops(r result) float64 { return r.IOPS }
func cpu(r result) float64  { return r.CPUMicros }

// print writes the table as Markdown: for each server IOPS in thousands (or
// MiB/s for large blocks), server CPU per IO, and how many times its IOPS ours
// are.
func (r *results) print(w io.Writer) {
	head := []string{"workload"}
	for _, s := range r.servers {
		head = append(head, s.name)
	}
	fmt.Fprintf(w, "\n| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, name := range r.names {
		ours := r.runs[name][r.servers[0].name]
		row := []string{name}
		for i, s := range r.servers {
			runs := r.runs[name][s.name]
			rate := fmt.Sprintf("%.1fk", median(runs, iops)/1000)
			if !strings.HasPrefix(name, "4k") {
				rate = fmt.Sprintf("%.0f MiB/s", median(runs, func(r result) float64 { return r.MiBps }))
			}
			cell := fmt.Sprintf("%s, %.1f us", rate, median(runs, cpu))
			if s.file != "" {
				cell = fmt.Sprintf("%s (%.2fx)", rate, median(ours, iops)/median(runs, iops))
			} else if i == 0 {
				cell = "**" + rate + "**" + cell[len(rate):] + byProcess(runs)
			} else {
				cell += fmt.Sprintf(" (%.2fx, cpu %.2fx)", median(ours, iops)/median(runs, iops), median(ours, cpu)/median(runs, cpu))
			}
			row = append(row, cell)
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
}

// byProcess spells the CPU time per IO of each process, where there are several.
func byProcess(runs []result) string {
	var parts []string
	for i := range runs[0].ByProcess {
		parts = append(parts, fmt.Sprintf("%.0f", median(runs, func(r result) float64 { return r.ByProcess[i] })))
	}
	if len(parts) == 0 {
		return ""
	}
	return " = " + strings.Join(parts, " + ")
}

// save appends every single run to a file, one JSON object a comparison.
func (r *results) save(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	err = json.NewEncoder(f).Encode(map[string]any{"set": r.set, "runs": r.runs})
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
