package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/opencurve/curve-nbd/scripts/testcu"
)

func count(results []testcu.Result) map[testcu.Outcome]int {
	n := make(map[testcu.Outcome]int)
	for _, r := range results {
		n[r.Outcome]++
	}
	return n
}

// tally spells numbers out: "5 passed, 1 failed".
func tally(n map[testcu.Outcome]int) string {
	var parts []string
	for _, o := range testcu.Outcomes {
		if n[o] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[o], o))
		}
	}
	return strings.Join(parts, ", ")
}

// report prints, as Markdown, the families, the totals, and what did not pass.
func report(w io.Writer, all []*judged, names []string) {
	families(w, all, names)
	totals(w, all)
	for _, j := range all {
		for i, mode := range j.done {
			reasons(w, fmt.Sprintf("%s, %s", j.name, mode), j.modes[mode], j.modes[j.done[max(0, i-1)]], i > 0)
		}
	}
}

// families is a row for each family with the results of the first mode.
func families(w io.Writer, all []*judged, names []string) {
	fmt.Fprint(w, "\n| family | tests |")
	for _, j := range all {
		fmt.Fprintf(w, " %s, %s |", j.name, j.done[0])
	}
	fmt.Fprintf(w, "\n|---|---|%s\n", strings.Repeat("---|", len(all)))
	var order []string
	tests := make(map[string]int)
	for _, name := range names {
		family := testcu.Result{Name: name}.Family()
		if tests[family]++; tests[family] == 1 {
			order = append(order, family)
		}
	}
	for _, family := range order {
		fmt.Fprintf(w, "| %s | %d |", family, tests[family])
		for _, j := range all {
			var of []testcu.Result
			for _, r := range j.modes[j.done[0]] {
				if r.Family() == family {
					of = append(of, r)
				}
			}
			fmt.Fprintf(w, " %s |", tally(count(of)))
		}
		fmt.Fprintln(w)
	}
}

// totals is a row for each target and mode.
func totals(w io.Writer, all []*judged) {
	fmt.Fprint(w, "\n| target, mode | tests |")
	for _, o := range testcu.Outcomes {
		fmt.Fprintf(w, " %s |", o)
	}
	fmt.Fprintf(w, "\n|---|---|%s\n", strings.Repeat("---|", len(testcu.Outcomes)))
	for _, j := range all {
		for _, mode := range j.done {
			n := count(j.modes[mode])
			fmt.Fprintf(w, "| %s, %s | %d |", j.name, mode, len(j.modes[mode]))
			for _, o := range testcu.Outcomes {
				fmt.Fprintf(w, " %d |", n[o])
			}
			fmt.Fprintln(w)
		}
	}
}

// reasons lists what did not pass, and why; of later modes only what went otherwise in
// the one before.
func reasons(w io.Writer, title string, results, earlier []testcu.Result, onlyOther bool) {
	before := make(map[string]testcu.Outcome)
	for _, r := range earlier {
		before[r.Name] = r.Outcome
	}
	what := "what did not pass"
	if onlyOther {
		what = "what went otherwise than in the mode before"
	}
	fmt.Fprintf(w, "\n%s, %s:\n\n", title, what)
	none := true
	for _, r := range results {
		if onlyOther && before[r.Name] == r.Outcome || !onlyOther && r.Outcome == testcu.Passed {
			continue
		}
		none = false
		fmt.Fprintf(w, "- %s %s: %s\n", r.Outcome, r.Name, r.Reason)
	}
	if none {
		fmt.Fprintln(w, "- nothing")
	}
}
