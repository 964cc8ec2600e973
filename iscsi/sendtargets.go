package iscsi

import (
	"net"
	"strconv"
	"strings"
)

// SendTargets is the question of a discovery session, RFC 7143 appendix C.

// SendTargetsAll asks for all targets; only a discovery session may.
const SendTargetsAll = "All"

// Portal is where a target can be reached.
type Portal struct {
	Host  string // name, IPv4 or IPv6 address without brackets
	Port  int    // 0 for 3260
	Group uint16 // target portal group tag
}

// DefaultPort is that of iSCSI, RFC 7143 4.2.7.
const DefaultPort = 3260

// String is the value of a TargetAddress: host[:port],group (RFC 7143 13.8).
func (p Portal) String() string {
	port := p.Port
	if port == 0 {
		port = DefaultPort
	}
	return net.JoinHostPort(strings.Trim(p.Host, "[]"), strconv.Itoa(port)) + "," + strconv.Itoa(int(p.Group))
}

// DiscoveredTarget is a target in the answer to SendTargets.
type DiscoveredTarget struct {
	Name    string
	Portals []Portal
}

// AppendTargets adds the answer to SendTargets to dst: for each target its
// name, then its addresses. No target at all is an empty text.
func AppendTargets(dst []byte, targets []DiscoveredTarget) []byte {
	for _, t := range targets {
		dst = AppendText(dst, Pair{keyTargetName, t.Name})
		for _, p := range t.Portals {
			dst = AppendText(dst, Pair{keyTargetAddress, p.String()})
		}
	}
	return dst
}
