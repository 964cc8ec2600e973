package main

import (
	"errors"
	"net"
	"testing"
)

func TestAdvertisedAddressIsOneThatOthersCanUse(t *testing.T) {
	addr := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, c := range []struct{ name, given, on, want string }{
		{"where it listens", "", "127.0.0.1:6710", "127.0.0.1:6710"},
		{"given", "box.example:7000", "0.0.0.0:6710", "box.example:7000"},
		{"everywhere", "", "0.0.0.0:6710", ""},
		{"everywhere, IPv6", "", "[::]:6710", ""},
		{"no port", "box.example", "127.0.0.1:1", ""},
		{"port 0", "box.example:0", "127.0.0.1:1", ""},
		{"no host", ":7000", "127.0.0.1:1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := advertised("advertise", c.given, addr(c.on))
			if got != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, errUsage) {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}
