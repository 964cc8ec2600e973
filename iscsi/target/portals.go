package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi"
)

// Gateways that serve the same targets tell each other where, through records of the
// metadata, so that an initiator that asks one of them finds the paths through all.
const (
	portalPrefix = "iscsi-portal/"
	// announceEvery is how often a gateway says that it is still there; portalLife how
	// long one is believed that says so no more. It is long, as clocks differ: a portal
	// that is listed and gone costs an initiator a login that fails.
	announceEvery = 30 * time.Second
	portalLife    = 10 * time.Minute
	// portalPatience bounds what an initiator that asks waits for the metadata.
	portalPatience = 2 * time.Second
	maxPortals     = 64
)

// portalRecord is a gateway's portals as they are stored.
type portalRecord struct {
	Group     uint16    `json:"group"`
	Addresses []string  `json:"addresses"`
	Updated   time.Time `json:"updated"`
}

// portals returns the address the initiator reached us at, our others, and those of the
// gateways that serve the same.
func (c *conn) portals() []iscsi.Portal {
	own := iscsi.Portal{Group: c.server.opts.PortalGroup, Host: fmt.Sprint(c.nc.LocalAddr())}
	if a, ok := c.nc.LocalAddr().(*net.TCPAddr); ok {
		own.Host, own.Port = a.IP.String(), a.Port
	}
	portals := append([]iscsi.Portal{own}, c.server.otherPortals(own)...)
	if !c.server.opts.Shared || c.server.opts.Records == nil {
		return portals
	}
	ctx, cancel := context.WithTimeout(c.ctx, portalPatience)
	defer cancel()
	records, err := c.server.opts.Records.Records(ctx, portalPrefix)
	if err != nil {
		c.server.log.Warn("the other portals are not known", "error", err)
	}
	now := time.Now()
	for _, r := range records {
		if p, err := decodePortals(r.Data); err == nil && p.Group != own.Group && now.Sub(p.Updated) < portalLife {
			portals = append(portals, p.portals()...)
		}
	}
	return portals[:min(len(portals), maxPortals)]
}

// otherPortals are those of this gateway but for the one that was reached. Which of all
// addresses of the machine others may use nobody has said, so a listener on all of them
// has but the one; and who came from elsewhere has no use for the loopback's.
func (s *Server) otherPortals(reached iscsi.Portal) (others []iscsi.Portal) {
	local := net.ParseIP(reached.Host).IsLoopback()
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.listeners {
		a, ok := l.Addr().(*net.TCPAddr)
		if !ok || a.IP.IsUnspecified() || a.IP.IsLoopback() && !local {
			continue
		}
		if p := (iscsi.Portal{Host: a.IP.String(), Port: a.Port, Group: reached.Group}); p != reached {
			others = append(others, p)
		}
	}
	slices.SortFunc(others, func(a, b iscsi.Portal) int { return strings.Compare(a.String(), b.String()) })
	return others
}

func decodePortals(b []byte) (portalRecord, error) {
	var p portalRecord
	if err := json.Unmarshal(b, &p); err != nil {
		return p, err
	}
	if p.Group == 0 || len(p.Addresses) > maxPortals {
		return p, fmt.Errorf("%w: group %d with %d addresses", backend.ErrInvalid, p.Group, len(p.Addresses))
	}
	return p, nil
}

// portals are those of a record; what is no address is left out.
func (p *portalRecord) portals() (all []iscsi.Portal) {
	for _, a := range p.Addresses {
		host, port, err := net.SplitHostPort(a)
		number, notNumber := strconv.ParseUint(port, 10, 16)
		if err == nil && notNumber == nil && host != "" {
			all = append(all, iscsi.Portal{Host: host, Port: int(number), Group: p.Group})
		}
	}
	return all
}

// announcePortals keeps the record of this gateway until ctx ends, and then removes it.
func (s *Server) announcePortals(ctx context.Context) {
	if !s.opts.Shared || s.opts.Records == nil {
		return
	}
	key := portalPrefix + strconv.Itoa(int(s.opts.PortalGroup))
	ticker := time.NewTicker(announceEvery)
	defer ticker.Stop()
	trouble := false
	for {
		version, err := s.announcePortal(ctx, key)
		if err != nil && !trouble && ctx.Err() == nil {
			s.log.Warn("other gateways do not learn of this one's portals yet", "error", err)
		}
		trouble = err != nil
		select {
		case <-ticker.C:
		case <-s.listening: // there is one more
		case <-ctx.Done():
			if version != 0 {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), portalPatience)
				defer cancel()
				_ = s.opts.Records.DeleteRecord(ctx, key, version) // it is forgotten after a while anyway
			}
			return
		}
	}
}

// announcePortal writes the record, whatever was in it, and returns its version.
func (s *Server) announcePortal(ctx context.Context, key string) (uint64, error) {
	addresses := s.addresses()
	if len(addresses) == 0 {
		return 0, nil
	}
	b, err := json.Marshal(portalRecord{Group: s.opts.PortalGroup, Addresses: addresses, Updated: time.Now().UTC()})
	if err != nil {
		return 0, err
	}
	for {
		old, err := s.opts.Records.Record(ctx, key)
		if err != nil && !errors.Is(err, backend.ErrNotFound) {
			return 0, err
		}
		version, err := s.opts.Records.PutRecord(ctx, key, b, old.Version)
		if !errors.Is(err, backend.ErrConflict) {
			return version, err
		}
	}
}

// addresses are those of all listeners; one that listens everywhere has those of the
// machine, without the loopback's.
func (s *Server) addresses() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.listeners {
		a, ok := l.Addr().(*net.TCPAddr)
		switch {
		case !ok:
		case !a.IP.IsUnspecified():
			all = append(all, a.String())
		default:
			ip4 := a.IP.To4() != nil // 0.0.0.0, and not [::]
			for _, ip := range machineAddresses() {
				if !ip4 || ip.To4() != nil {
					all = append(all, net.JoinHostPort(ip.String(), strconv.Itoa(a.Port)))
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func machineAddresses() (all []net.IP) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			all = append(all, n.IP)
		}
	}
	return all
}
