package mds

import (
	"reflect"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// told is a replica's view in a table: in which configuration it thinks it is,
// and whether it was reported before and after the replica in question became
// unwanted.
func told(term uint64, leader backend.ServerID, before uint64, voters ...backend.ServerID) *replicaView {
	return &replicaView{
		status: backend.ReplicaStatus{Copyset: 1, State: backend.ReplicaOK, Leader: leader, Term: term, Voters: voters},
		beat:   before + 1, before: before,
	}
}

// bad is a view of a replica that is unwanted since heartbeat 10.
func bad(state backend.ReplicaState, voters ...backend.ServerID) *replicaView {
	return &replicaView{
		status: backend.ReplicaStatus{Copyset: 1, State: state, Voters: voters},
		beat:   15, before: 14, unwanted: 10, generation: 1,
	}
}

func ids(list ...backend.ServerID) []backend.ServerID { return list }

func TestOrders(t *testing.T) {
	type views = map[backend.ServerID]*replicaView
	started := copysetRecord{ID: 1, Peers: ids(1, 2, 3), Generation: 1, Started: true}
	founding := copysetRecord{ID: 1, Peers: ids(1, 2, 3), Generation: 1}
	learning := func(v *replicaView, l ...backend.ServerID) *replicaView { v.status.Learners = l; return v }
	dam := backend.ReplicaDamaged
	plain := backend.ReplicaOrder{Copyset: 1, Peers: ids(1, 2, 3)}
	rebuild := func(wipe bool, which ...backend.ServerID) *backend.ReplicaOrder {
		o := plain
		o.Rebuild, o.Wipe = which, wipe
		return &o
	}
	wipe := &backend.ReplicaOrder{Copyset: 1, Peers: ids(1, 2, 3), Wipe: true}
	for _, c := range []struct {
		name   string
		record copysetRecord
		views  views
		server backend.ServerID
		want   *backend.ReplicaOrder // nil: nothing
	}{
		{"a peer that was never heard of makes its first replica", founding, views{}, 2,
			&backend.ReplicaOrder{Copyset: 1, Peers: ids(1, 2, 3), Founding: true}},
		{"founding goes on until there is a leader", founding, views{1: told(1, 0, 5, 1, 2, 3)}, 2,
			&backend.ReplicaOrder{Copyset: 1, Peers: ids(1, 2, 3), Founding: true}},
		{"a peer without replica starts empty once there was one", started, views{1: told(1, 1, 5, 1, 2, 3)}, 2, &plain},
		{"a stranger is told nothing", started, views{1: told(1, 1, 5, 1, 2, 3)}, 9, nil},
		{"all well", started, views{1: told(1, 1, 5, 1, 2, 3), 2: told(1, 1, 6, 1, 2, 3)}, 1, &plain},

		{"damaged: not believed when it is said once", started, views{1: told(4, 1, 20, 1, 2, 3), 3: func() *replicaView {
			v := bad(dam)
			v.unwanted = 0
			return v
		}()}, 1, &plain},
		{"damaged: the leader takes it out", started, views{1: told(4, 1, 20, 1, 2, 3), 2: told(4, 1, 21, 1, 2, 3), 3: bad(dam)}, 1, rebuild(false, 3)},
		{"damaged: not wiped while the leader has it", started, views{1: told(4, 1, 20, 1, 2, 3), 2: told(4, 1, 21, 1, 2), 3: bad(dam)}, 3, rebuild(false, 3)},
		{"damaged: not wiped while it is a learner", started, views{1: learning(told(4, 1, 20, 1, 2), 3), 2: told(4, 1, 21, 1, 2), 3: bad(dam)}, 3, rebuild(false, 3)},
		{"damaged: not wiped on the leader's word alone", started, views{1: told(4, 1, 20, 1, 2), 2: told(4, 1, 21, 1, 2, 3), 3: bad(dam)}, 3, rebuild(false, 3)},
		{"damaged: not wiped while the other is unheard of", started, views{1: told(4, 1, 20, 1, 2), 3: bad(dam)}, 3, rebuild(false, 3)},
		{"damaged: not wiped by a follower of another term", started, views{1: told(4, 1, 20, 1, 2), 2: told(5, 0, 21, 1, 2), 3: bad(dam)}, 3, rebuild(false, 3)},
		{"damaged: not wiped by a follower of another leader", started, views{1: told(4, 1, 20, 1, 2), 2: told(4, 7, 21, 1, 2), 3: bad(dam)}, 3, rebuild(false, 3)},
		{"damaged: not wiped without leader", started, views{1: told(4, 0, 20, 1, 2), 2: told(4, 0, 21, 1, 2), 3: bad(dam)}, 3, rebuild(false, 3)},
		{"damaged: not wiped before the leader was told", started, views{1: told(4, 1, 9, 1, 2), 2: told(4, 1, 21, 1, 2), 3: bad(dam)}, 3, rebuild(false, 3)},
		{"damaged: not wiped by a follower's old report", started, views{1: told(4, 1, 20, 1, 2), 2: told(4, 1, 9, 1, 2), 3: bad(dam)}, 3, rebuild(false, 3)},
		{"damaged: a leader of an older term has no say", started, views{1: told(4, 1, 20, 1, 2), 2: told(5, 2, 21, 1, 2, 3), 3: bad(dam)}, 3, rebuild(false, 3)},
		{"damaged: wiped once it is out for certain", started, views{1: told(4, 1, 20, 1, 2), 2: told(4, 1, 21, 1, 2), 3: bad(dam)}, 3, rebuild(true, 3)},
		{"damaged: the leader is not told to take it in yet", started, views{1: told(4, 1, 20, 1, 2), 2: told(4, 1, 21, 1, 2), 3: bad(dam)}, 1, rebuild(false, 3)},
		{"damaged twice: a majority of five is enough", copysetRecord{ID: 1, Peers: ids(1, 2, 3), Generation: 1, Started: true},
			views{1: told(4, 1, 20, 1, 2, 5), 2: told(4, 1, 21, 1, 2, 5), 3: bad(dam)}, 3, rebuild(true, 3)},
		{"damaged: a leader that says it is itself damaged has no say", started, views{1: func() *replicaView {
			v := told(4, 1, 20, 1, 2)
			v.status.State = dam
			return v
		}(), 2: told(4, 1, 21, 1, 2), 3: bad(dam)}, 3, rebuild(false, 3)},

		{"no longer a peer: kept while it is a member", started, views{1: told(4, 1, 20, 1, 2, 3, 4), 2: told(4, 1, 21, 1, 2, 3, 4), 4: bad(backend.ReplicaOK)}, 4, &plain},
		{"no longer a peer: wiped once it is out", started, views{1: told(4, 1, 20, 1, 2, 3), 2: told(4, 1, 21, 1, 2, 3), 4: bad(backend.ReplicaOK)}, 4, wipe},
		{"no longer a peer: the leader still learns what is wanted", started, views{4: told(4, 4, 20, 1, 2, 3, 4)}, 4, &plain},
		{"unwanted under older peers only: not wiped", copysetRecord{ID: 1, Peers: ids(1, 2, 3), Generation: 2, Started: true},
			views{1: told(4, 1, 20, 1, 2, 3), 2: told(4, 1, 21, 1, 2, 3), 4: bad(backend.ReplicaOK)}, 4, &plain},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, ok := orderFor(c.record, c.views, c.server)
			if ok != (c.want != nil) {
				t.Fatalf("told %v: %+v, want %+v", ok, o, c.want)
			}
			if ok && !reflect.DeepEqual(o, *c.want) {
				t.Errorf("told %+v, want %+v", o, *c.want)
			}
		})
	}
}

// TestAReplicaIsWipedOnlyWhereEveryConditionHolds goes through all combinations
// of what the rule looks at: whichever one is missing, the replica stays.
func TestAReplicaIsWipedOnlyWhereEveryConditionHolds(t *testing.T) {
	record := copysetRecord{ID: 1, Peers: ids(1, 2, 3), Generation: 1, Started: true}
	wiped := 0
	for bits := range 1 << 8 {
		bit := func(n int) bool { return bits>>n&1 == 1 }
		voters := func(out bool) []backend.ServerID {
			if out {
				return ids(1, 2)
			}
			return ids(1, 2, 3)
		}
		beat := func(late bool) uint64 {
			if late {
				return 20
			}
			return 9
		}
		leader, follower, mine := told(4, 1, beat(bit(0)), voters(bit(1))...), told(4, 1, beat(bit(2)), voters(bit(3))...), bad(backend.ReplicaDamaged)
		if !bit(4) {
			follower.status.Term = 5
		}
		if !bit(5) {
			leader.status.Leader = 0
		}
		if !bit(6) {
			mine.unwanted = 0
		}
		if !bit(7) {
			mine.generation = 7
		}
		o, _ := orderFor(record, map[backend.ServerID]*replicaView{1: leader, 2: follower, 3: mine}, 3)
		if o.Wipe != (bits == 1<<8-1) {
			t.Errorf("conditions %08b: wipe is %v", bits, o.Wipe)
		}
		if o.Wipe {
			wiped++
		}
	}
	if wiped != 1 {
		t.Errorf("wiped in %d of 256 cases, want 1", wiped)
	}
}

func TestSettledIsExactlyWhatIsWanted(t *testing.T) {
	record := copysetRecord{ID: 1, Peers: ids(3, 1, 2), Generation: 1, Started: true}
	learning := told(1, 1, 5, 1, 2, 3)
	learning.status.Learners = ids(4)
	for name, c := range map[string]struct {
		leader *replicaView
		want   bool
	}{
		"same":       {told(1, 1, 5, 1, 2, 3), true},
		"one missed": {told(1, 1, 5, 1, 2), false},
		"one more":   {told(1, 1, 5, 1, 2, 3, 4), false},
		"another":    {told(1, 1, 5, 1, 2, 4), false},
		"learning":   {learning, false},
		"no leader":  {told(1, 0, 5, 1, 2, 3), false},
	} {
		if got := settled(record, map[backend.ServerID]*replicaView{1: c.leader}); got != c.want {
			t.Errorf("%s: settled is %v", name, got)
		}
	}
}

func TestReplicasAreJudgedByWhatTheySayAgain(t *testing.T) {
	record := copysetRecord{ID: 1, Peers: ids(1, 2, 3), Generation: 4, Started: true}
	view := func(state backend.ReplicaState, unwanted, generation uint64) *replicaView {
		return &replicaView{status: backend.ReplicaStatus{State: state}, beat: 20, unwanted: unwanted, generation: generation}
	}
	const ok, dam = backend.ReplicaOK, backend.ReplicaDamaged
	for _, c := range []struct {
		name   string
		server backend.ServerID
		state  backend.ReplicaState
		was    *replicaView
		want   uint64
	}{
		{"sound", 3, ok, nil, 0},
		{"sound again", 3, ok, view(dam, 7, 4), 0},
		{"damaged, said once", 3, dam, nil, 0},
		{"damaged, was sound", 3, dam, view(ok, 0, 0), 0},
		{"damaged, said twice", 3, dam, view(dam, 0, 0), 20},
		{"damaged for long", 3, dam, view(dam, 7, 4), 7},
		{"damaged, peers changed since", 3, dam, view(dam, 7, 3), 20},
		{"no peer", 9, ok, nil, 20},
		{"no peer for long", 9, ok, view(ok, 7, 4), 7},
		{"no peer, peers changed since", 9, ok, view(ok, 7, 3), 20},
		{"no peer and damaged", 9, dam, nil, 20},
	} {
		r := view(c.state, 0, 0)
		r.judge(record, c.server, c.was)
		if r.unwanted != c.want || (c.want != 0 && r.generation != 4) {
			t.Errorf("%s: unwanted since %d of generation %d, want %d", c.name, r.unwanted, r.generation, c.want)
		}
	}
}
