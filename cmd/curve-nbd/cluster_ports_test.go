package main

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func TestPortsInARowAvoidTheOnesInUse(t *testing.T) {
	ports, err := pickPorts(minBasePort, 20)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", hostPort(ports[7]))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := freeRow(ports[0], 20); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a row with a port in use: %v", err)
	}
	others, err := pickPorts(ports[0], 20)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range others {
		if p == ports[7] || p != others[0]+i {
			t.Errorf("ports %v: want a row without %d", others, ports[7])
		}
		// Above, the kernel hands ports to outgoing connections.
		if p >= 32768 {
			t.Errorf("port %d is in the range of outgoing connections", p)
		}
	}
}

func TestPortsOutOfRangeAreRefused(t *testing.T) {
	for _, base := range []int{-1, 0, 65530} {
		if _, err := pickPorts(base, 20); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("base %d: %v", base, err)
		}
	}
}
