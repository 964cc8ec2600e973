package faults

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
)

// dialer says whose process is at the other end of an accepted connection.
func (n *Network) dialer(c net.Conn) string {
	n.mu.Lock()
	parties := make(map[int]string, len(n.parties))
	for pid, name := range n.parties {
		parties[pid] = name
	}
	n.mu.Unlock()
	remote, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok || len(parties) == 0 {
		return Anyone
	}
	socket := socketOf(remote.Port, c.LocalAddr().(*net.TCPAddr).Port)
	for pid, name := range parties {
		if socket != "" && holds(pid, socket) {
			return name
		}
	}
	return Anyone
}

// socketOf finds the socket that is connected from one port of loopback to
// another, as /proc/PID/fd spells it; "" for none.
func socketOf(from, to int) string {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		defer f.Close()
		// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
		local, remote := fmt.Sprintf(":%04X", from), fmt.Sprintf(":%04X", to)
		for lines := bufio.NewScanner(f); lines.Scan(); {
			w := strings.Fields(lines.Text())
			if len(w) > 9 && strings.HasSuffix(w[1], local) && strings.HasSuffix(w[2], remote) {
				return "socket:[" + w[9] + "]"
			}
		}
	}
	return ""
}

func holds(pid int, socket string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	open, err := os.ReadDir(dir)
	if err != nil {
		return false // it ended
	}
	for _, fd := range open {
		if to, err := os.Readlink(dir + "/" + fd.Name()); err == nil && to == socket {
			return true
		}
	}
	return false
}
