package target_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/iscsi/registry"
	"github.com/opencurve/curve-nbd/iscsi/target"
)

// portals asks at an address for the portals of the target.
func portals(t *testing.T, address string) (all []string) {
	t.Helper()
	i := (&portal{address: address}).dial(t)
	i.discover()
	pairs, _ := i.ask("SendTargets=" + targetName)
	for _, pair := range pairs {
		if where, ok := strings.CutPrefix(pair, "TargetAddress="); ok {
			all = append(all, where)
		}
	}
	i.close()
	return all
}

// alsoServe gives a server one more listener, for as long as it lives.
func (p *portal) alsoServe(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(l) }()
	t.Cleanup(func() {
		p.stop()
		must(t, <-served)
	})
	return l.Addr().String()
}

// An initiator that asks at one of a gateway's portals learns of all of them: they are
// its paths.
func TestDiscoveryNamesAllPortalsOfAGateway(t *testing.T) {
	p := serve(t, setup{})
	second := p.alsoServe(t, "tcp", "127.0.0.2:0")
	everywhere := p.alsoServe(t, "tcp4", "0.0.0.0:0")
	_, port, err := net.SplitHostPort(everywhere)
	must(t, err)
	reached := "127.0.0.1:" + port
	for _, c := range []struct {
		at   string
		want []string // in any order but for the first, which was reached
	}{
		{p.address, []string{p.address, second}},
		{second, []string{second, p.address}},
		{reached, []string{reached, p.address, second}},
	} {
		for i := range c.want {
			c.want[i] += ",1"
		}
		got := portals(t, c.at)
		if len(got) == 0 || got[0] != c.want[0] {
			t.Errorf("at %s the first portal is not it: %q", c.at, got)
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("at %s there are the portals %q, want %q", c.at, got, c.want)
		}
	}
}

// Gateways that serve the same targets name each other, with addresses that can be
// reached, and only while they are there.
func TestGatewaysNameEachOther(t *testing.T) {
	b, err := embedded.OpenMemory(embedded.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	start := func(group uint16, address string) (at string, stop func()) {
		g := gateway.New(b.Meta(), b.Chunks(), gateway.Options{})
		r := registry.New(b.Meta(), registry.Options{Poll: time.Hour, Logger: slog.New(slog.DiscardHandler)})
		must(t, r.Refresh(t.Context()))
		s := target.NewServer(g, r, target.Options{PortalGroup: group, Records: b.Meta(), Shared: true})
		l, err := net.Listen("tcp4", address)
		must(t, err)
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		return l.Addr().String(), func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for _, err := range []error{s.Shutdown(ctx), <-served, r.Close(), g.Close(ctx)} {
				must(t, err)
			}
		}
	}
	r := registry.New(b.Meta(), registry.Options{Poll: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	must(t, errOf(r.Create(t.Context(), targetName, "")))
	must(t, errOf(r.Allow(t.Context(), targetName, registry.AnyInitiator, nil)))
	must(t, r.Close())

	first, stopFirst := start(1, "127.0.0.1:0")
	defer stopFirst()
	second, stopSecond := start(2, "127.0.0.1:0")
	eventually(t, "the first names the second", func() bool {
		return slices.Equal(portals(t, first), []string{first + ",1", second + ",2"})
	})
	third, stopThird := start(3, "0.0.0.0:0")
	_, port, err := net.SplitHostPort(third)
	must(t, err)
	own := 0
	for _, a := range machine(t) {
		if a.Is4() {
			own++
		}
	}
	eventually(t, "the first names the third", func() bool { return len(portals(t, first)) == 2+own })
	for _, p := range portals(t, first)[2:] {
		address, err := netip.ParseAddrPort(strings.TrimSuffix(p, ",3"))
		if err != nil || !address.Addr().Is4() || address.Addr().IsLoopback() || !strings.HasSuffix(p, ":"+port+",3") {
			t.Errorf("one that listens on all of IPv4 is at %s: %v", p, err)
		}
	}
	stopThird()
	stopSecond()
	if got := portals(t, first); !slices.Equal(got, []string{first + ",1"}) {
		t.Errorf("those that have stopped are still named: %q", got)
	}
}

// machine is the addresses that others may reach this machine at.
func machine(t *testing.T) (all []netip.Addr) {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			all = append(all, p.Addr())
		}
	}
	return all
}
