package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPlanIsDeterminedByItsSeed(t *testing.T) {
	run := func(seed uint64) (log []string) {
		synctest.Test(t, func(t *testing.T) {
			active := 0
			fault := func(name string, weight int) Fault {
				return Fault{Name: name, Weight: weight, Min: time.Second, Max: 3 * time.Second,
					Inject: func(_ context.Context, rnd *rand.Rand) (string, func() error, error) {
						if active++; active > 1 {
							t.Error("two faults at once")
						}
						return fmt.Sprint("victim ", rnd.IntN(3)), func() error { active--; return nil }, nil
					}}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			injected, err := Plan{
				Seed: seed, Faults: []Fault{fault("kill", 3), fault("stop", 1)}, GapMin: time.Second, GapMax: 2 * time.Second,
				Logf: func(f string, args ...any) { log = append(log, fmt.Sprintf(f, args...)) },
				Mark: func(name string) { log = append(log, "mark "+name) },
			}.Run(ctx)
			if err != nil || injected < 100 || active != 0 {
				t.Errorf("%d injected, %d not healed, %v", injected, active, err)
			}
		})
		return log
	}
	first := run(7)
	if !slices.Equal(first, run(7)) {
		t.Error("the same seed gives another plan")
	}
	if slices.Equal(first, run(8)) {
		t.Error("another seed gives the same plan")
	}
	if all := strings.Join(first, "\n"); !strings.Contains(all, "seed 7") || strings.Count(all, "mark kill") < strings.Count(all, "mark stop") {
		t.Errorf("the log says\n%s", all)
	}
}

func TestPlanStopsAtAFaultThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		_, err := Plan{Logf: t.Logf, Faults: []Fault{{Name: "kill", Weight: 1, Inject: func(context.Context, *rand.Rand) (string, func() error, error) {
			return "", nil, boom
		}}}}.Run(t.Context())
		if !errors.Is(err, boom) || !strings.Contains(err.Error(), "kill") {
			t.Error(err)
		}
		if _, err := (Plan{Logf: t.Logf}).Run(t.Context()); err == nil {
			t.Error("a plan of nothing runs")
		}
	})
}
