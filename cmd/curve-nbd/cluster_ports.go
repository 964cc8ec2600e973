package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"

	"github.com/opencurve/curve-nbd/backend"
)

// Ports of a cluster's servers. They are below where Linux takes the ports of
// outgoing connections from (32768 on): there, a client that dials a stopped
// server again and again would one day be given the server's own port, and so
// either connect to itself or keep the server from coming back.
const (
	defaultBasePort = 6700
	minBasePort     = 10000
	maxBasePort     = 32000
	// portBlock is how far apart the blocks are that are tried.
	portBlock = 100
	// portTries bounds the search.
	portTries = 200

	clusterHost = "127.0.0.1"
)

// pickPorts returns n free ports of 127.0.0.1 in a row: from base on if they are
// free, from some random port on otherwise. Nothing keeps them free.
func pickPorts(base, n int) ([]int, error) {
	var last error
	for range portTries {
		ports, err := freeRow(base, n)
		if err == nil {
			return ports, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EACCES) {
			return nil, err
		}
		last = err
		base = minBasePort + portBlock*rand.IntN((maxBasePort-minBasePort)/portBlock)
	}
	return nil, fmt.Errorf("%w: no %d free ports in a row found in %d tries: %w", backend.ErrBusy, n, portTries, last)
}

// freeRow returns the n ports from base on, if all are free.
func freeRow(base, n int) ([]int, error) {
	if base < 1 || base+n > 1<<16 {
		return nil, fmt.Errorf("%w: ports %d to %d: ports are 1 to 65535", backend.ErrInvalid, base, base+n-1)
	}
	ports := make([]int, n)
	for i := range ports {
		ports[i] = base + i
		l, err := net.Listen("tcp", hostPort(base+i))
		if err != nil {
			return nil, err
		}
		// Held until all are found, and closed without ever having accepted: the
		// port can be listened on again at once.
		defer l.Close()
	}
	return ports, nil
}

func hostPort(port int) string { return net.JoinHostPort(clusterHost, strconv.Itoa(port)) }
