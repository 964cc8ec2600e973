package main

import (
	"time"

	"github.com/opencurve/curve-nbd/gateway/control"
)

// goldenTarget has every field set.
func goldenTarget() control.Target {
	return control.Target{
		Name: "iqn.2026-11.io.curve:vm1", Alias: "the database", CreatedAt: time.Unix(1700000000, 0),
		Units: []control.Unit{
			{Number: 0, Volume: "team/pg-data", VolumeID: 7, UnitOptions: control.UnitOptions{PhysicalBlock: 4096}},
			{Number: 300, Volume: "gone", VolumeID: 8, UnitOptions: control.UnitOptions{ReadOnly: true, Removable: true, PhysicalBlock: 512}},
		},
		Access: []control.Access{
			{Initiator: "iqn.1993-08.org.debian:01:host1", Units: []int{0, 300}}, {Initiator: "any", AllUnits: true}, {Initiator: "eui.0123456789abcdef"},
		},
		Login: control.Login{Users: []string{"a", "b"}, Mutual: "t"},
		Sessions: []control.Session{
			{
				Initiator: "eui.0123456789abcdef", Address: "10.0.0.9:40000", User: "a", Since: time.Unix(1700000001, 0),
				Reads: 5, ReadBytes: 20480, Writes: 6, WriteBytes: 24576,
			},
			{Initiator: "iqn.1993-08.org.debian:01:host1", Address: "[fe80::1]:40001", Since: time.Unix(1700000002, 0)},
		},
	}
}

// goldenTargets are what the commands for iSCSI show, for TestOutputIsFrozen.
func goldenTargets() map[string]result {
	full := targetViewOf(goldenTarget())
	full.Units[0].SizeBytes = 10 << 30
	fresh := targetViewOf(control.Target{Name: "eui.0123456789abcdef", CreatedAt: time.Unix(1700000000, 0)})
	return map[string]result{
		"target-info":   full,
		"target-fresh":  fresh,
		"target-list":   targetList{full, fresh},
		"target-none":   targetList{},
		"sessions":      full.Sessions,
		"sessions-none": fresh.Sessions,
		"lun-list":      unitList(full.Units),
		"acl-list":      accessList(full.Access),
		"acl-none":      accessList(fresh.Access),
		"chap-list":     loginView{Target: full.Name, Users: full.Users, MutualUser: full.MutualUser},
		"chap-none":     loginView{Discovery: true, Users: []string{}},
	}
}
