package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/opencurve/curve-nbd/backend"
)

// clusterView is a cluster as JSON shows it.
type clusterView struct {
	// State is healthy or degraded; Reasons say why it is degraded.
	State        string            `json:"state"`
	Reasons      []string          `json:"reasons"`
	MDS          []mdsView         `json:"mds"`
	Chunkservers []chunkserverView `json:"chunkservers"`
	Copysets     []copysetView     `json:"copysets"`
}

type mdsView struct {
	ID      string `json:"id"`
	PID     int    `json:"pid"`
	Address string `json:"address"`
	// Leader: it is the one that serves.
	Leader bool   `json:"leader"`
	State  string `json:"state"`
}

type chunkserverView struct {
	ID          string `json:"id"`
	PID         int    `json:"pid"`
	Address     string `json:"address"`
	PeerAddress string `json:"peer_address"`
	Zone        string `json:"zone"`
	// State is the MDS's word for it, "down" when its process is known to be
	// gone, "unknown" when no MDS answers.
	State     string `json:"state"`
	Trouble   string `json:"trouble"`
	Leaders   int    `json:"leaders"`
	Copysets  int    `json:"copysets"`
	UsedBytes int64  `json:"used_bytes"`
	FreeBytes int64  `json:"free_bytes"`
}

type copysetView struct {
	ID uint32 `json:"id"`
	// Leader and Peers are chunkservers; no leader is "".
	Leader  string   `json:"leader"`
	Peers   []string `json:"peers"`
	Term    uint64   `json:"term"`
	Applied uint64   `json:"applied"`
	// Lag is how many log entries the peer furthest behind has yet to apply.
	Lag      uint64        `json:"lag"`
	Chunks   int64         `json:"chunks"`
	Replicas []replicaView `json:"replicas"`
}

type replicaView struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Applied uint64 `json:"applied"`
}

// States that no MDS knows of.
const (
	stateDown    = "down"
	stateUnknown = "unknown"
	stateServing = "serving"
)

// clusterFacts is what is known of a cluster, from several sources that may each
// be missing.
type clusterFacts struct {
	// members are those that `cluster up` started here, nil for a cluster that was
	// started otherwise; alive says which of them run.
	members *clusterFile
	alive   func(processID) bool
	// mds is where the metadata was asked, when there are no members.
	mds []string
	// topologyErr says why servers and copysets are not known.
	topologyErr error
	servers     []backend.ServerInfo
	copysets    []backend.CopysetInfo
}

// view judges and shows the facts.
func (f *clusterFacts) view() clusterView {
	v := clusterView{
		State: "healthy", Reasons: []string{}, MDS: f.viewMDS(),
		Chunkservers: f.viewChunkservers(), Copysets: []copysetView{},
	}
	down := map[string]bool{}
	for _, c := range v.Chunkservers {
		down[c.ID] = c.State == stateDown
	}
	for _, c := range f.copysets {
		v.Copysets = append(v.Copysets, f.viewCopyset(c, down))
	}
	v.judge(f.topologyErr)
	return v
}

func (f *clusterFacts) viewMDS() []mdsView {
	views := []mdsView{}
	state := func(serving bool) string {
		if serving {
			return stateServing
		}
		return stateUnknown
	}
	serving := f.topologyErr == nil
	if f.members == nil {
		for i, a := range f.mds {
			views = append(views, mdsView{ID: fmt.Sprintf("mds%d", i+1), Address: a, Leader: serving && i == 0, State: state(serving)})
		}
		return views
	}
	for _, m := range f.members.of(roleMDS) {
		view := mdsView{ID: m.ID, Address: m.Address, Leader: serving, State: state(serving)}
		if f.alive(m.Process) {
			view.PID = m.Process.PID
		} else if !serving {
			view.State = stateDown
		}
		views = append(views, view)
	}
	return views
}

// viewChunkservers is the cluster's own chunkservers and those that the MDS knows
// besides, by id.
func (f *clusterFacts) viewChunkservers() []chunkserverView {
	views := []chunkserverView{}
	for _, s := range f.servers {
		views = append(views, chunkserverView{
			ID: serverName(s.ID), PID: s.PID, Address: s.Address, PeerAddress: s.PeerAddress, Zone: s.Zone,
			State: string(s.State), Trouble: s.Trouble, Leaders: s.Leaders, Copysets: s.Copysets,
			UsedBytes: s.UsedBytes, FreeBytes: s.FreeBytes,
		})
	}
	if f.members == nil {
		return views
	}
	for _, m := range f.members.of(roleChunkserver) {
		i := slices.IndexFunc(views, func(v chunkserverView) bool { return v.ID == m.ID })
		if i < 0 {
			views = append(views, chunkserverView{ID: m.ID, Address: m.Address, PeerAddress: m.PeerAddress, State: stateUnknown})
			i = len(views) - 1
		}
		view := &views[i]
		if view.PID = m.Process.PID; !f.alive(m.Process) {
			view.PID, view.State, view.Leaders = 0, stateDown, 0
		}
	}
	return views
}

func (f *clusterFacts) viewCopyset(c backend.CopysetInfo, down map[string]bool) copysetView {
	v := copysetView{
		ID: uint32(c.ID), Leader: serverName(c.Leader), Peers: []string{}, Term: c.Term,
		Applied: c.Applied, Chunks: c.Chunks, Replicas: []replicaView{},
	}
	// What the MDS heard last may be from before the leader's end.
	if down[v.Leader] {
		v.Leader = ""
	}
	committed := c.Applied
	for _, r := range c.Replicas {
		committed = max(committed, r.Committed)
	}
	for _, peer := range c.Peers {
		name := serverName(peer)
		v.Peers = append(v.Peers, name)
		r := c.Replicas[peer]
		replica := replicaView{ID: name, State: string(r.State), Applied: r.Applied}
		switch {
		case down[name]:
			replica.State = stateDown
		case replica.State == "":
			replica.State = stateUnknown
		}
		v.Replicas = append(v.Replicas, replica)
		if committed > r.Applied {
			v.Lag = max(v.Lag, committed-r.Applied)
		}
	}
	return v
}

// judge finds what is wrong.
func (v *clusterView) judge(topologyErr error) {
	bad := func(format string, args ...any) { v.Reasons = append(v.Reasons, fmt.Sprintf(format, args...)) }
	if topologyErr != nil {
		bad("no MDS answers, what is shown is what the chunkservers say themselves: %v", topologyErr)
	}
	for _, c := range v.Chunkservers {
		switch {
		case c.State == stateDown:
			bad("chunkserver %s is down", c.ID)
		case c.State == stateUnknown && topologyErr == nil:
			bad("chunkserver %s is not known to the MDS", c.ID)
		case c.Trouble != "":
			bad("chunkserver %s is %s: %s", c.ID, c.State, c.Trouble)
		case c.State != string(backend.ServerOnline) && c.State != stateUnknown:
			bad("chunkserver %s is %s", c.ID, c.State)
		}
	}
	if topologyErr == nil && len(v.Copysets) == 0 {
		bad("there are no copysets: they are made when enough chunkservers have joined")
	}
	for _, c := range v.Copysets {
		if c.Leader == "" {
			bad("copyset %d has no leader", c.ID)
		}
		for _, r := range c.Replicas {
			if r.State != string(backend.ReplicaOK) && r.State != stateDown {
				bad("copyset %d on %s is %s", c.ID, r.ID, r.State)
			}
		}
	}
	if len(v.Reasons) > 0 {
		v.State = "degraded"
	}
}

// serverName is what people call a chunkserver; "" for none.
func serverName(id backend.ServerID) string {
	if id == 0 {
		return ""
	}
	return fmt.Sprintf("cs%d", id)
}

func (v clusterView) table(t table.Writer) {
	t.AppendRow(table.Row{"State", v.State})
	for _, r := range v.Reasons {
		t.AppendRow(table.Row{"", r})
	}
	mds := newTable()
	mds.AppendHeader(table.Row{"ID", "PID", "Address", "State"})
	for _, m := range v.MDS {
		mds.AppendRow(table.Row{m.ID, pidText(m.PID), m.Address, m.State})
	}
	t.AppendRow(table.Row{"MDS", mds.Render()})
	t.AppendRow(table.Row{"Chunkservers", subTable(chunkserverList(v.Chunkservers))})
	t.AppendRow(table.Row{"Copysets", subTable(copysetList(v.Copysets))})
}

// subTable draws a listing inside another table.
func subTable(r result) string {
	t := newTable()
	r.table(t)
	return t.Render()
}

// chunkserverList and copysetList are the parts as listings of their own.
type (
	chunkserverList []chunkserverView
	copysetList     []copysetView
)

func (list chunkserverList) table(t table.Writer) {
	t.AppendHeader(table.Row{"ID", "PID", "Address", "Zone", "State", "Leaders", "Copysets", "Used", "Free"})
	for _, c := range list {
		t.AppendRow(table.Row{c.ID, pidText(c.PID), c.Address, orDash(c.Zone), c.State, c.Leaders, c.Copysets,
			sizeText(c.UsedBytes), sizeText(c.FreeBytes)})
	}
}

func (list copysetList) table(t table.Writer) {
	t.AppendHeader(table.Row{"ID", "Leader", "Peers", "Term", "Applied", "Lag", "Chunks", "Not OK"})
	for _, c := range list {
		var notOK []string
		for _, r := range c.Replicas {
			if r.State != string(backend.ReplicaOK) {
				notOK = append(notOK, r.ID+" "+r.State)
			}
		}
		t.AppendRow(table.Row{c.ID, orDash(c.Leader), strings.Join(c.Peers, ","), c.Term, c.Applied, c.Lag, c.Chunks,
			orDash(strings.Join(notOK, ", "))})
	}
}

func pidText(pid int) string {
	if pid == 0 {
		return "-"
	}
	return fmt.Sprint(pid)
}
