package raftnet

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opencurve/curve-nbd/backend"
)

// stats are counted since the start.
type stats struct {
	pings, heldVotes, campaigns, deaths, suspicions atomic.Int64
}

// Stats of a Net, since its start.
type Stats struct {
	// Pings sent.
	Pings int64
	// HeldVotes waited for a promise to run out.
	HeldVotes int64
	// Campaigns are elections that were held because a leader's process was lost.
	Campaigns int64
	// Deaths and Suspicions of peers.
	Deaths, Suspicions int64
	// Gaps are the longest times between two pings, by peer.
	Gaps map[backend.ServerID]time.Duration
}

// Stats returns what was counted.
func (n *Net) Stats() Stats {
	s := Stats{
		Pings: n.stats.pings.Load(), HeldVotes: n.stats.heldVotes.Load(), Campaigns: n.stats.campaigns.Load(),
		Deaths: n.stats.deaths.Load(), Suspicions: n.stats.suspicions.Load(),
		Gaps: map[backend.ServerID]time.Duration{},
	}
	for id, p := range *n.peers.Load() {
		p.mu.Lock()
		s.Gaps[id] = time.Duration(p.gap)
		p.mu.Unlock()
	}
	return s
}

var (
	descPings      = desc("pings_total", "Pings sent.")
	descHeldVotes  = desc("held_votes_total", "Votes held back until a promise to the leader had run out.")
	descCampaigns  = desc("campaigns_total", "Elections held because a leader's process was lost.")
	descDeaths     = desc("peer_deaths_total", "Peers found dead: refused connections or restarts.")
	descSuspicions = desc("peer_suspicions_total", "Peers found silent. Alert when peers live: they, the network or this process stall.")
	descGap        = prometheus.NewDesc("curve_raftnet_ping_gap_max_seconds", "Longest time between two pings from a peer.", []string{"peer"}, nil)
)

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("curve_raftnet_"+name, help, nil, nil)
}

// Describe implements prometheus.Collector.
func (n *Net) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPings, descHeldVotes, descCampaigns, descDeaths, descSuspicions, descGap} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (n *Net) Collect(ch chan<- prometheus.Metric) {
	s := n.Stats()
	for _, c := range []struct {
		desc  *prometheus.Desc
		value int64
	}{{descPings, s.Pings}, {descHeldVotes, s.HeldVotes}, {descCampaigns, s.Campaigns}, {descDeaths, s.Deaths}, {descSuspicions, s.Suspicions}} {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(c.value))
	}
	for id, gap := range s.Gaps {
		ch <- prometheus.MustNewConstMetric(descGap, prometheus.GaugeValue, gap.Seconds(), strconv.FormatUint(uint64(id), 10))
	}
}
