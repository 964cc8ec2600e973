package control

import (
	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control/controlpb"
)

func targetMessage(t Target) *controlpb.Target {
	m := &controlpb.Target{Name: t.Name, Alias: t.Alias, CreatedAtNs: timeToNs(t.CreatedAt), Login: loginMessage(t.Login)}
	for _, u := range t.Units {
		m.Units = append(m.Units, unitMessage(u))
	}
	for _, a := range t.Access {
		m.Access = append(m.Access, accessMessage(a))
	}
	for _, s := range t.Sessions {
		m.Sessions = append(m.Sessions, sessionMessage(s))
	}
	return m
}

func targetOf(m *controlpb.Target) Target {
	t := Target{Name: m.GetName(), Alias: m.GetAlias(), CreatedAt: nsToTime(m.GetCreatedAtNs()), Login: loginOf(m.GetLogin())}
	for _, u := range m.GetUnits() {
		t.Units = append(t.Units, unitOf(u))
	}
	for _, a := range m.GetAccess() {
		t.Access = append(t.Access, accessOf(a))
	}
	for _, s := range m.GetSessions() {
		t.Sessions = append(t.Sessions, sessionOf(s))
	}
	return t
}

func sessionMessage(s Session) *controlpb.Session {
	return &controlpb.Session{
		Initiator: s.Initiator, Address: s.Address, User: s.User, SinceNs: timeToNs(s.Since),
		Reads: s.Reads, Writes: s.Writes, ReadBytes: s.ReadBytes, WriteBytes: s.WriteBytes,
	}
}

func sessionOf(m *controlpb.Session) Session {
	return Session{
		Initiator: m.GetInitiator(), Address: m.GetAddress(), User: m.GetUser(), Since: nsToTime(m.GetSinceNs()),
		Reads: m.GetReads(), Writes: m.GetWrites(), ReadBytes: m.GetReadBytes(), WriteBytes: m.GetWriteBytes(),
	}
}

func unitMessage(u Unit) *controlpb.Unit {
	return &controlpb.Unit{
		Number: int32(u.Number), Volume: u.Volume, VolumeId: uint64(u.VolumeID),
		ReadOnly: u.ReadOnly, Removable: u.Removable, PhysicalBlockBytes: u.PhysicalBlock,
	}
}

func unitOf(m *controlpb.Unit) Unit {
	return Unit{
		Number: int(m.GetNumber()), Volume: m.GetVolume(), VolumeID: backend.VolumeID(m.GetVolumeId()),
		UnitOptions: UnitOptions{ReadOnly: m.GetReadOnly(), Removable: m.GetRemovable(), PhysicalBlock: m.GetPhysicalBlockBytes()},
	}
}

func accessMessage(a Access) *controlpb.Access {
	m := &controlpb.Access{Initiator: a.Initiator, AllUnits: a.AllUnits}
	for _, n := range a.Units {
		m.Units = append(m.Units, int32(n))
	}
	return m
}

func accessOf(m *controlpb.Access) Access {
	a := Access{Initiator: m.GetInitiator(), AllUnits: m.GetAllUnits()}
	for _, n := range m.GetUnits() {
		a.Units = append(a.Units, int(n))
	}
	return a
}

func loginMessage(l Login) *controlpb.Login {
	return &controlpb.Login{Users: l.Users, MutualUser: l.Mutual}
}

func loginOf(m *controlpb.Login) Login {
	return Login{Users: m.GetUsers(), Mutual: m.GetMutualUser()}
}
