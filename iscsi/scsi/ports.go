package scsi

// AccessState is the asymmetric access state of a target port group.
type AccessState byte

// Access states.
const (
	ActiveOptimized    AccessState = 0x0
	ActiveNonOptimized AccessState = 0x1
	Standby            AccessState = 0x2
	Unavailable        AccessState = 0x3
	Transitioning      AccessState = 0xf
)

// PortGroup is a target port group: the ports of one gateway.
type PortGroup struct {
	ID        uint16
	State     AccessState
	Preferred bool
	// Ports are relative target port identifiers.
	Ports []uint16
}

// notReady refuses what needs an active path.
func notReady(s AccessState) *Sense {
	switch s {
	case Standby:
		return sense(NotReady, NotReadyStandby)
	case Unavailable:
		return sense(NotReady, NotReadyUnavailable)
	case Transitioning:
		return sense(NotReady, NotReadyTransition)
	}
	return nil
}

// stateOf is the state of a port here: without a medium there is no active one.
func (u *Unit) stateOf(groups []PortGroup, port uint16) AccessState {
	state := ActiveOptimized
	if g := groupWith(groups, port); g != nil {
		state = g.State
	}
	if u.mount.Load() == nil && (state == ActiveOptimized || state == ActiveNonOptimized) {
		return Standby
	}
	return state
}

func groupWith(groups []PortGroup, port uint16) *PortGroup {
	for i := range groups {
		for _, id := range groups[i].Ports {
			if id == port {
				return &groups[i]
			}
		}
	}
	return nil
}

func portsOf(groups []PortGroup) (n int) {
	for _, g := range groups {
		n += len(g.Ports)
	}
	return n
}

func (u *Unit) allGroups() []PortGroup {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.groups
}

func (u *Unit) groupOf(port uint16) (uint16, bool) {
	if g := groupWith(u.allGroups(), port); g != nil {
		return g.ID, true
	}
	return 0, false
}

// executeReportGroups answers REPORT TARGET PORT GROUPS. Without groups there
// is one, with the port that the command came through.
func executeReportGroups(u *Unit, c *Command) verdict {
	groups := u.allGroups()
	if len(groups) == 0 {
		groups = []PortGroup{{ID: 1, Ports: []uint16{c.Nexus.port.ID}}}
	}
	mine := groupWith(groups, c.Nexus.port.ID)
	const supported = 0x8f // transitioning, unavailable, standby, non-optimized, optimized
	b := make([]byte, 4)
	switch c.cdb[1] >> 5 {
	case 0:
	case 1: // extended header: no time is known for transitions
		b = append(b, 0x10, 0, 0, 0)
	default:
		return c.fail(badCDB(1, 7))
	}
	for i := range groups {
		g := &groups[i]
		state := byte(g.State)
		if g == mine {
			state = byte(u.stateOf(groups, c.Nexus.port.ID))
		}
		if g.Preferred {
			state |= 0x80
		}
		b = append(b, state, supported, byte(g.ID>>8), byte(g.ID), 0, 0x02, 0, byte(len(g.Ports)))
		for _, id := range g.Ports {
			b = append(b, 0, 0, byte(id>>8), byte(id))
		}
	}
	n := len(b) - 4
	b[2], b[3] = byte(n>>8), byte(n)
	return c.reply(b)
}
