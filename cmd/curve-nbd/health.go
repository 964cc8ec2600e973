package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/control"
)

// defaultStallAfter is far above what any healthy disk takes for one request.
const defaultStallAfter = 5 * time.Second

func healthCommand() *cli.Command {
	return &cli.Command{
		Name:  "health",
		Usage: "say by exit code whether a gateway is well",
		Description: `Exit code 0: healthy. 7: degraded, and the reasons are printed: it starts or
drains, a request has been waiting for longer than --stall-after, or a volume was
taken over by another gateway.
6: no gateway answers.

   curve-nbd health
   curve-nbd health --stall-after 30s || alert`,
		Flags: append([]cli.Flag{
			&cli.DurationFlag{
				Name: "stall-after", Usage: "call a request that waits longer than `D` a stall",
				Value: defaultStallAfter, EnvVars: env("stall-after"),
			},
			outputFlag(),
		}, clientFlags()...),
		Action: checkHealth,
	}
}

// healthView is what health shows.
type healthView struct {
	State   string   `json:"state"`
	Reasons []string `json:"reasons"`
}

func (h healthView) table(t table.Writer) {
	t.AppendRow(table.Row{h.State})
	for _, r := range h.Reasons {
		t.AppendRow(table.Row{"  " + r})
	}
}

func checkHealth(ctx *cli.Context) error {
	if _, err := arguments(ctx); err != nil {
		return err
	}
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		serving, err := gw.Serving(deadline)
		if err != nil {
			return err
		}
		s, err := gw.Status(deadline)
		if err != nil {
			return err
		}
		health := judge(serving, s, ctx.Duration("stall-after"))
		if err := show(ctx, health); err != nil {
			return err
		}
		if len(health.Reasons) > 0 {
			return fmt.Errorf("%w: %s", errDegraded, strings.Join(health.Reasons, "; "))
		}
		return nil
	})
}

func judge(serving bool, s gateway.Status, stallAfter time.Duration) healthView {
	health := healthView{State: "healthy", Reasons: []string{}}
	if !serving {
		health.Reasons = append(health.Reasons, "the gateway takes no new work: it is starting or shutting down")
	}
	for _, e := range s.Exports {
		if e.Lost != "" {
			health.Reasons = append(health.Reasons, fmt.Sprintf("export %s is lost: %s", e.Name, e.Lost))
		}
		if e.OldestQueued > stallAfter {
			health.Reasons = append(health.Reasons, fmt.Sprintf("export %s stalls: its oldest of %d requests has waited for %s",
				e.Name, e.Queued, e.OldestQueued.Round(time.Millisecond)))
		}
	}
	if len(health.Reasons) > 0 {
		health.State = "degraded"
	}
	return health
}
