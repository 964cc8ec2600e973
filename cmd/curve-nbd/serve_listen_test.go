package main

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// Who says 0.0.0.0 has thought of IPv4, and of a firewall for it.
func TestListenerIsOfTheFamilyItSays(t *testing.T) {
	has6 := func() bool {
		l, err := net.Listen("tcp6", "[::1]:0")
		if err == nil {
			l.Close()
		}
		return err == nil
	}
	for _, c := range []struct {
		address  string
		ip4, ip6 bool
	}{
		{"0.0.0.0:0", true, false},
		{"127.0.0.1:0", true, false},
		{"[::1]:0", false, true},
		{"[::]:0", true, true},
		{":0", true, true},
	} {
		t.Run(c.address, func(t *testing.T) {
			if c.ip6 && !has6() {
				t.Skip("SKIPPED: there is no IPv6 here")
			}
			l, err := listenTCP(c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			_, port, err := net.SplitHostPort(l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			for host, want := range map[string]bool{"127.0.0.1": c.ip4, "::1": c.ip6} {
				conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
				if (err == nil) != want {
					t.Errorf("to %s: %v, want it to be reached: %v", host, err, want)
				}
				if err == nil {
					conn.Close()
				}
			}
		})
	}
}

func TestAddressesThatAreNone(t *testing.T) {
	for address, says := range map[string]string{
		"":                "HOST:PORT",
		"3260":            "HOST:PORT",
		"127.0.0.1":       "HOST:PORT",
		"::1:3260":        "brackets",
		"unix:/tmp/x":     `port "/tmp/x"`,
		"127.0.0.1:x":     `port "x"`,
		"127.0.0.1:99999": `port "99999"`,
		"127.0.0.1:-1":    `port "-1"`,
	} {
		l, err := listenTCP(address)
		if err == nil {
			l.Close()
		}
		if !errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want ErrInvalid that says %s", address, err, says)
		}
	}
}
