package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/control"
	"github.com/opencurve/curve-nbd/iscsi/target"
	"github.com/opencurve/curve-nbd/nbd"
	"github.com/opencurve/curve-nbd/nbd/device"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

// maxListeners bounds --nbd-listen; each may report one failure.
const maxListeners = 64

// serveOptions are the flags of serve, checked.
type serveOptions struct {
	gateway gateway.Options
	nbd     nbd.Options
	nbdOn   []string
	iscsi   target.Options
	iscsiOn []string
	// httpOn is HOST:PORT, "" for none.
	httpOn string
	// controlOn is the path of the control socket.
	controlOn string
}

func gatewayOptions(ctx *cli.Context, s *server) (serveOptions, error) {
	o := serveOptions{
		nbdOn:   ctx.StringSlice("nbd-listen"),
		iscsiOn: ctx.StringSlice("iscsi-listen"),
		httpOn:  ctx.String("http-listen"),
	}
	if len(o.nbdOn) > maxListeners {
		return o, usagef("--nbd-listen names %d addresses, at most %d", len(o.nbdOn), maxListeners)
	}
	if len(o.iscsiOn) > maxListeners {
		return o, usagef("--iscsi-listen names %d addresses, at most %d", len(o.iscsiOn), maxListeners)
	}
	group := ctx.Int("iscsi-portal-group")
	if group < 1 || group > 65535 {
		return o, usagef("--iscsi-portal-group %d: give 1 to 65535, another one for each gateway of a cluster", group)
	}
	var err error
	if o.controlOn, err = control.SocketPath(ctx.String("control")); err != nil {
		return o, fmt.Errorf("--control: %w", err)
	}
	maxBytes, err := parseSize("--max-inflight-bytes", ctx.String("max-inflight-bytes"))
	if err != nil {
		return o, err
	}
	if err := checkServeNumbers(ctx); err != nil {
		return o, err
	}
	o.gateway = gateway.Options{
		ReadOnly:    ctx.Bool("read-only"),
		MaxRequests: ctx.Int64("max-inflight-requests"),
		MaxBytes:    maxBytes,
		Owner:       gatewayOwner(ctx),
		TakeOver:    ctx.Bool("take-over"),
		Deadline:    ctx.Duration("io-deadline"),
		Logger:      s.log,
		Metrics:     s.metrics,
		Version:     buildVersion().Version,
	}
	o.nbd = nbd.Options{
		MaxConnections:   ctx.Int("max-connections"),
		HandshakeTimeout: ctx.Duration("handshake-timeout"),
		StallTimeout:     ctx.Duration("stall-timeout"),
		Logger:           s.log,
	}
	o.iscsi = target.Options{
		MaxConnections: ctx.Int("max-connections"),
		LoginTimeout:   ctx.Duration("handshake-timeout"),
		StallTimeout:   ctx.Duration("stall-timeout"),
		PortalGroup:    uint16(group),
		Logger:         s.log,
		Metrics:        s.metrics,
	}
	return o, nil
}

// checkServeNumbers refuses what the packages below would read as "default".
func checkServeNumbers(ctx *cli.Context) error {
	for _, flag := range []string{"max-connections", "max-inflight-requests", "handshake-timeout", "stall-timeout", "drain-timeout"} {
		if text := fmt.Sprint(ctx.Value(flag)); strings.HasPrefix(text, "-") || strings.HasPrefix(text, "0") {
			return usagef("--%s %s: give a value above zero", flag, text)
		}
	}
	if deadline := ctx.Duration("io-deadline"); deadline < 0 {
		return usagef("--io-deadline %s: give 0, for never, or more", deadline)
	}
	if keep := ctx.Duration("recycle-keep"); keep < 0 {
		return usagef("--recycle-keep %s: give 0 or more", keep)
	}
	return nil
}

// frontEnds starts what clients connect to.
type frontEnds struct {
	*server
	gw      *gateway.Gateway
	opts    serveOptions
	devices *devices
	targets *targets
	nbd     *nbd.Server
	iscsi   *target.Server
	store   store
	// inherited is from the gateway that this one replaces; successor is the one that
	// will replace this one.
	inherited inheritance
	successor *successor
}

// start brings NBD up last: a wrong address is found out before a client got in.
func (d *frontEnds) start() error {
	d.nbd = nbd.NewServer(d.gw, d.opts.nbd)
	d.devices = &devices{log: d.log, system: kernel.System{Claimer: claimer}}
	d.devices.manager = device.New(device.Options{
		Gateway: d.gw, Server: d.nbd, Driver: &d.devices.driver, Ioctl: &d.devices.ioctl, System: d.devices.system,
		StatePath: d.opts.controlOn + ".devices", Logger: d.log,
	})
	if err := d.restoreDevices(); err != nil { // first, as they wait
		return err
	}
	d.startTargets()
	controlOn, err := control.ListenUnix(d.opts.controlOn, control.SocketMode)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	d.startControl(controlOn)
	if err := d.startHTTPOn(d.opts.httpOn); err != nil {
		return err
	}
	if err := d.startNBD(d.nbd); err != nil {
		return err
	}
	if err := d.startISCSI(); err != nil {
		return err
	}
	d.running.push("devices", d.ctx.Duration("drain-timeout")+closeTimeout, d.stopDevices)
	if d.iscsi != nil { // first of all: nobody waits for initiators to leave while devices stand still
		d.running.push("iscsi initiators", d.ctx.Duration("drain-timeout"), d.iscsi.Drain)
	}
	if err := d.listenReplace(); err != nil {
		return err
	}
	for _, line := range d.lines {
		d.gw.AddListener(line[0] + " " + line[1])
	}
	return nil
}

func (d *frontEnds) startControl(on net.Listener) {
	server := control.NewServer(volumesOfUnits{d.gw, d.targets}, d.devices, d.targets)
	d.ready.also = server.SetServing
	d.lines = append(d.lines, [2]string{"control", "unix:" + on.Addr().String()})
	d.run("control", on, server.Serve, server.Shutdown)
}

func (d *frontEnds) startNBD(server *nbd.Server) error {
	var listeners []net.Listener
	closeAll := func() {
		for _, l := range listeners {
			l.Close()
		}
	}
	for _, address := range d.opts.nbdOn {
		l, err := listenNBD(address)
		if err != nil {
			closeAll()
			return fmt.Errorf("--nbd-listen: %w", err)
		}
		listeners = append(listeners, l)
		d.lines = append(d.lines, [2]string{"nbd", l.Addr().Network() + ":" + l.Addr().String()})
		if !isLoopback(l.Addr()) {
			d.log.Warn("NBD is open to the network without encryption or passwords", "address", l.Addr().String())
		}
	}
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() { d.report("nbd listener", server.Serve(l)) })
	}
	d.running.push("nbd", d.ctx.Duration("drain-timeout"), func(ctx context.Context) error {
		d.ready.set(false)
		err := d.drain(ctx, server)
		serving.Wait()
		return err
	})
	return nil
}

// drain lets the clients of a server finish until ctx ends. What then still waits, for
// a throttle or for metadata, would hold its connection for as long as it waits:
// closing the gateway's exports makes it fail.
func (d *frontEnds) drain(ctx context.Context, server interface{ Shutdown(context.Context) error }) error {
	var closeErr error
	closed := make(chan struct{})
	inTime := context.AfterFunc(ctx, func() {
		closeErr = d.gw.Close(ctx)
		close(closed)
	})
	err := server.Shutdown(ctx)
	if inTime() {
		return err
	}
	<-closed
	if err == nil { // the clients finished just as time ran out
		return closeErr
	}
	return errors.Join(closeErr, fmt.Errorf("requests were still in flight after %s, their clients were cut off", d.ctx.Duration("drain-timeout")))
}

// listenNBD listens on unix:PATH or tcp:HOST:PORT.
func listenNBD(address string) (net.Listener, error) {
	kind, where, _ := strings.Cut(address, ":")
	switch {
	case kind == "unix":
		// The umask decides who may connect, as it does for qemu-nbd.
		return control.ListenUnix(where, 0)
	case kind == "tcp":
		return listenTCP(where)
	}
	return nil, fmt.Errorf("%w: address %q: write it as unix:PATH or tcp:HOST:PORT", backend.ErrInvalid, address)
}

// listenTCP listens on HOST:PORT. Of the hosts that stand for all addresses, 0.0.0.0 is
// IPv4 alone; [::] and none are both, as everywhere on Linux.
func listenTCP(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: address %q: write it as HOST:PORT, with brackets around an IPv6 address", backend.ErrInvalid, address)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return nil, fmt.Errorf("%w: address %q: port %q is none: write it as HOST:PORT", backend.ErrInvalid, address, port)
	}
	network := "tcp"
	if ip := net.ParseIP(host); ip != nil && ip.To4() != nil {
		network = "tcp4" // else Go takes 0.0.0.0 for [::]
	}
	var config net.ListenConfig
	listener, err := config.Listen(context.Background(), network, address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: somebody listens on %s already: stop it or choose another port (0 picks a free one)", backend.ErrBusy, address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}
