// Package testcu runs iscsi-test-cu, the conformance tests of libiscsi, and reads what
// it says.
package testcu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Outcome is how a test ended.
type Outcome string

const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Crashed Outcome = "crashed" // the target, or the tests
	Hung    Outcome = "hung"
	Skipped Outcome = "skipped" // passed, by its own word without having tested
)

// Outcomes are all of them, in the order of tables.
var Outcomes = []Outcome{Passed, Failed, Crashed, Hung, Skipped}

// Result is that of one test.
type Result struct {
	// Name is FAMILY.TEST.
	Name    string
	Outcome Outcome
	// Reason is why it did not pass, in the words of the tests.
	Reason string
}

// Family is the first part of the name.
func (r Result) Family() string {
	family, _, _ := strings.Cut(r.Name, ".")
	return family
}

// List returns the names of all tests.
func List() ([]string, error) {
	out, err := exec.Command("iscsi-test-cu", "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("iscsi-test-cu --list: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		// Other collections hold some of the same tests again.
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "ALL."); ok && strings.Contains(name, ".") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("iscsi-test-cu --list names no tests")
	}
	return names, nil
}

// Run is one process of the tests.
type Run struct {
	// Test is a name, or a family, or several with commas between them, or "" for
	// all.
	Test string
	// URL is the unit, all of whose data is lost; Second is another path to it.
	URL, Second string
	// Initiator, if set, is part of the names of the initiators, for runs side by side.
	Initiator string
	Limit     time.Duration
	// Alive, if set, says whether the target still runs.
	Alive func() bool
}

// Do runs the tests and returns the results of those that began, and all that they
// said.
func (r Run) Do(ctx context.Context) ([]Result, string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.Limit)
	defer cancel()
	args := []string{"--dataloss", "--allow-sanitize", "--test", patterns(r.Test)}
	if r.Initiator != "" {
		for i, flag := range []string{"--initiator-name", "--initiator-name-2"} {
			args = append(args, fmt.Sprintf("%s=iqn.2026-11.io.curve:%s-%d", flag, r.Initiator, i+1))
		}
	}
	args = append(args, r.URL)
	if r.Second != "" {
		args = append(args, r.Second)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "iscsi-test-cu", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	text := out.String()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		return nil, text, fmt.Errorf("iscsi-test-cu: %w", err)
	}
	how, reason := Failed, ""
	switch {
	case r.Alive != nil && !r.Alive():
		how, reason = Crashed, "the target is gone"
	case ctx.Err() != nil:
		how, reason = Hung, fmt.Sprintf("not done within %v", r.Limit)
	case exit != nil && exit.ExitCode() < 0:
		how, reason = Crashed, "iscsi-test-cu: "+exit.Error()
	case err != nil:
		reason = "iscsi-test-cu ended early"
	}
	results := parse(text)
	if len(results) == 0 { // it did not get as far as a test
		name := r.Test
		if name == "" {
			name = "none began"
		}
		results = append(results, Result{Name: name})
		if reason == "" || how == Failed {
			reason = lastLine(text)
		}
	}
	if last := &results[len(results)-1]; last.Outcome == "" {
		last.Outcome, last.Reason = how, reason
	} else if how == Crashed {
		last.Outcome, last.Reason = how, reason
	}
	return results, text, nil
}

// patterns is Test as the program takes it; it goes through them from the last one.
func patterns(test string) string {
	if test == "" {
		return "ALL"
	}
	all := strings.Split(test, ",")
	slices.Reverse(all)
	return "ALL." + strings.Join(all, ",ALL.")
}

// Apart is a test that takes a process of its own: the one before it ends without giving
// its RESERVE(6) back, which denies this one what it asks for until the target has seen
// the other path go. It sleeps for a minute while the unit is being overwritten.
const Apart = "Sanitize.Reset"

// Others are all tests but that.
const Others = "[!S]*,Sanitize.*[!t],StartStopUnit"

// All runs all tests, in as few processes as that takes.
func (r Run) All(ctx context.Context) ([]Result, string, error) {
	var results []Result
	var said string
	for _, r.Test = range []string{Others, Apart} {
		more, text, err := r.Do(ctx)
		results, said = append(results, more...), said+text
		if err != nil {
			return results, said, err
		}
	}
	return results, said, nil
}

var (
	suiteLine = regexp.MustCompile(`(?m)^Suite: (\S+)`)
	testLine  = regexp.MustCompile(`(?m)^  Test: (\S+) \.\.\.`)
	verdict   = regexp.MustCompile(`(?m)(?:^|\.\.\.)(passed|FAILED)`)
	skipNote  = regexp.MustCompile(`\[SKIPPED\] *([^\n]*)`)
	failNote  = regexp.MustCompile(`\[FAILED\] *([^\n]*)`)
	assertion = regexp.MustCompile(`(?m)^    1\. ([^\n]*)`)
)

// parse reads the results in the order of the tests; one that did not end has no
// outcome.
func parse(text string) []Result {
	var results []Result
	for _, suite := range sections(suiteLine, text) {
		for _, test := range sections(testLine, suite.text) {
			results = append(results, judge(suite.name+"."+test.name, test.text))
		}
	}
	return results
}

type section struct{ name, text string }

// sections cuts a text at the lines that name what follows.
func sections(line *regexp.Regexp, text string) (all []section) {
	at := line.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		all = append(all, section{text[m[2]:m[3]], text[m[0]:end]})
	}
	return all
}

// judge reads what one test said.
func judge(name, text string) Result {
	r := Result{Name: name}
	found := verdict.FindStringSubmatch(text)
	switch skip := skipNote.FindStringSubmatch(text); {
	case found == nil:
	case found[1] == "FAILED":
		r.Outcome = Failed
		for _, note := range []*regexp.Regexp{failNote, assertion} {
			if why := note.FindStringSubmatch(text); why != nil && r.Reason == "" {
				r.Reason = strings.TrimSpace(why[1])
			}
		}
	case skip != nil:
		r.Outcome, r.Reason = Skipped, strings.TrimSpace(skip[1])
	default:
		r.Outcome = Passed
	}
	return r
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
