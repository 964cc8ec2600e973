package scsi

import (
	"encoding/binary"
)

// The parameter list of SET TARGET PORT GROUPS (SPC-4, 6.45): 4 reserved bytes,
// then descriptors of state (1), reserved (1), group (2).
const (
	setGroupsHeader     = 4
	setGroupsDescriptor = 4
	maxSetGroups        = 256 // descriptors
)

func decodeSetGroups(_ *Unit, c *Command, _ uint64) *Sense {
	n := binary.BigEndian.Uint32(c.cdb[6:])
	if n == 0 {
		return nil
	}
	if n < setGroupsHeader || n%setGroupsDescriptor != 0 || n > setGroupsHeader+maxSetGroups*setGroupsDescriptor {
		return sense(IllegalRequest, ParameterListLength)
	}
	c.Direction, c.Transfer = DataOut, int64(n)
	return nil
}

// executeSetGroups gets the volume, where the list wants the group active that
// the command came through. Nothing else can be had: a group becomes standby by
// another's getting the volume.
func executeSetGroups(u *Unit, c *Command) verdict {
	if c.Transfer == 0 {
		return done
	}
	promote, s := u.wantsVolume(c)
	switch {
	case s != nil:
		return c.fail(s)
	case !promote:
		return done
	}
	u.promoting.Lock()
	defer u.promoting.Unlock()
	if u.Active() {
		return done
	}
	if err := u.promote(u.ctx); err != nil {
		return c.fail(sense(HardwareError, SetGroupsFailed))
	}
	return done
}

// wantsVolume looks the whole list over before anything is done.
func (u *Unit) wantsVolume(c *Command) (promote bool, s *Sense) {
	b, groups := c.parameters(), u.allGroups()
	mine := groupWith(groups, c.Nexus.port.ID)
	for at := setGroupsHeader; at < len(b); at += setGroupsDescriptor {
		state, id := AccessState(b[at]&0x0f), binary.BigEndian.Uint16(b[at+2:])
		group := groupByID(groups, id)
		switch {
		case group == nil:
			return false, badData(at+2, noBit)
		case group == mine && state == ActiveOptimized:
			promote = true
		case group == mine && state == u.stateOf(groups, c.Nexus.port.ID):
		case group != mine && (state == Standby || state == group.State):
		default:
			return false, badData(at, 3)
		}
	}
	return promote, nil
}

func groupByID(groups []PortGroup, id uint16) *PortGroup {
	for i := range groups {
		if groups[i].ID == id {
			return &groups[i]
		}
	}
	return nil
}
