package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
)

// withGateway runs ask against the gateway that --control names, within
// --control-timeout.
func withGateway(ctx *cli.Context, ask func(context.Context, *control.Client) error) (err error) {
	deadline, cancel := context.WithTimeout(ctx.Context, ctx.Duration("control-timeout"))
	defer cancel()
	client, err := control.Dial(deadline, ctx.String("control"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return ask(deadline, client)
}
