package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/opencurve/curve-nbd/iscsi/target"
)

// startISCSI opens the portals, if any are asked for.
func (d *frontEnds) startISCSI() error {
	if len(d.opts.iscsiOn) == 0 {
		return nil
	}
	// Before the first initiator comes, the targets have to be known: one that finds
	// none would give up.
	if err := d.targets.registry.Refresh(d.starting); err != nil {
		return fmt.Errorf("iSCSI targets: %w", err)
	}
	cluster, err := d.store.Meta().ClusterID(d.starting)
	if err != nil {
		return fmt.Errorf("id of the cluster: %w", err)
	}
	var listeners []net.Listener
	closeAll := func() {
		for _, l := range listeners {
			l.Close()
		}
	}
	for _, address := range d.opts.iscsiOn {
		l, err := listenTCP(strings.TrimPrefix(address, "tcp:"))
		if err != nil {
			closeAll()
			return fmt.Errorf("--iscsi-listen: %w", err)
		}
		listeners = append(listeners, l)
		d.lines = append(d.lines, [2]string{"iscsi", l.Addr().Network() + ":" + l.Addr().String()})
		if !isLoopback(l.Addr()) {
			d.log.Warn("iSCSI is open to the network without encryption: use CHAP, and a network you trust", "address", l.Addr().String())
		}
	}
	o := d.opts.iscsi
	o.Records, o.Cluster = d.store.Meta(), cluster
	o.Shared = len(d.ctx.StringSlice("mds")) > 0
	d.iscsi = target.NewServer(d.gw, d.targets.registry, o)
	d.targets.registry.SetSessions(d.iscsi)
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() { d.report("iscsi listener", d.iscsi.Serve(l)) })
	}
	d.running.push("iscsi", d.ctx.Duration("drain-timeout"), func(ctx context.Context) error {
		err := d.drain(ctx, d.iscsi)
		serving.Wait()
		return err
	})
	return nil
}
