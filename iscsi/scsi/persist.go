package scsi

import (
	"encoding/binary"
)

// snapshot is the state that is enforced.
func (u *Unit) snapshot() Reservations {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.persist
}

// upToDate loads the state before it is told: an initiator with paths to several
// gateways reads at one what it ordered at another. If that fails, what an active
// unit enforces is the answer all the same (Options.Enforced).
func upToDate(answer step) step {
	return func(u *Unit, c *Command) verdict {
		if _, err := u.reload(u.ctx); err != nil && !u.Active() {
			return c.fail(sense(AbortedCommand, InternalTargetFailure))
		}
		return answer(u, c)
	}
}

// answerPersist answers with the generation, a length, and data.
func answerPersist(c *Command, r *Reservations, data []byte) verdict {
	b := binary.BigEndian.AppendUint32(nil, r.Generation)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return c.reply(append(b, data...))
}

func executeReadKeys(u *Unit, c *Command) verdict {
	r := u.snapshot()
	var b []byte
	for _, g := range r.Registrations {
		b = binary.BigEndian.AppendUint64(b, g.Key)
	}
	return answerPersist(c, &r, b)
}

func executeReadReservation(u *Unit, c *Command) verdict {
	r := u.snapshot()
	var b []byte
	if r.Type != NoReservation {
		b = binary.BigEndian.AppendUint64(b, r.holderKey())
		b = append(b, 0, 0, 0, 0, 0, byte(r.Type), 0, 0)
	}
	return answerPersist(c, &r, b)
}

func executeReportCapabilities(u *Unit, c *Command) verdict {
	r := u.snapshot()
	const specificPorts, allPorts, durable = 0x08, 0x04, 0x01
	b := []byte{0, 8, specificPorts, 0x80, 0xea, 0x01, 0, 0}
	if !u.elsewhere {
		b[2] |= allPorts
	}
	if u.reservations.Durable() {
		b[2] |= durable
	}
	if r.Persist {
		b[3] |= 0x01 // PTPL_A
	}
	return c.reply(b)
}

func executeReadFullStatus(u *Unit, c *Command) verdict {
	r := u.snapshot()
	var b []byte
	for _, g := range r.Registrations {
		b = binary.BigEndian.AppendUint64(b, g.Key)
		b = append(b, 0, 0, 0, 0)
		if r.holds(g.Initiator, g.Port) {
			b = append(b, 0x01, byte(r.Type))
		} else {
			b = append(b, 0, 0)
		}
		b = append(b, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, g.Port)
		id := transportID(g.Initiator)
		b = binary.BigEndian.AppendUint32(b, uint32(len(id)))
		b = append(b, id...)
	}
	return answerPersist(c, &r, b)
}

// The parameter list of PERSISTENT RESERVE OUT (SPC-4, 6.16.3).
const (
	persistList     = 24
	persistSpecific = 0x08 // SPEC_I_PT, in byte 20
	persistAllPorts = 0x04 // ALL_TG_PT
	persistDurable  = 0x01 // APTPL
)

func decodePersistOut(_ *Unit, c *Command, _ uint64) *Sense {
	n := binary.BigEndian.Uint32(c.cdb[5:])
	if n < persistList || n > maxParameter {
		return sense(IllegalRequest, ParameterListLength)
	}
	switch c.op.action {
	case saReserve, saRelease, saPreempt, saPreemptAndAbort:
		if c.cdb[2]>>4 != 0 { // the scope is the unit
			return badCDB(2, 7)
		}
		if !ReservationType(c.cdb[2] & 0x0f).valid() {
			return badCDB(2, 3)
		}
	}
	c.Direction, c.Transfer = DataOut, int64(n)
	return nil
}

// orderOf decodes the parameter list.
func (u *Unit) orderOf(c *Command) (*order, *Sense) {
	b := c.parameters()
	o := &order{
		action:    c.op.action,
		initiator: c.Nexus.initiator,
		port:      c.Nexus.port.ID,
		key:       binary.BigEndian.Uint64(b),
		actionKey: binary.BigEndian.Uint64(b[8:]),
		kind:      ReservationType(c.cdb[2] & 0x0f),
	}
	if o.action == saRegisterAndMove {
		return o, u.moveOf(o, b)
	}
	return o, u.registerOf(o, b)
}

func (u *Unit) registerOf(o *order, b []byte) *Sense {
	flags := b[20]
	registers := o.action == saRegister || o.action == saRegisterAndIgnore
	o.persist = flags&persistDurable != 0 && registers
	o.specific = flags&persistSpecific != 0
	switch {
	case o.persist && !u.reservations.Durable():
		return badData(20, 0)
	case o.specific && o.action != saRegister:
		return badData(20, 3)
	case !o.specific && len(b) != persistList:
		return sense(IllegalRequest, ParameterListLength)
	}
	if registers && flags&persistAllPorts != 0 {
		if u.elsewhere {
			return badData(20, 2)
		}
		for _, g := range u.allGroups() {
			o.ports = append(o.ports, g.Ports...)
		}
	}
	if !o.specific {
		return nil
	}
	if len(b) < persistList+4 || int(binary.BigEndian.Uint32(b[persistList:])) != len(b)-persistList-4 {
		return sense(IllegalRequest, ParameterListLength)
	}
	for at := persistList + 4; at < len(b); {
		name, n := parseTransportID(b[at:])
		if n == 0 || len(o.others) == maxRegistrations {
			return badData(at, noBit)
		}
		o.others = append(o.others, name)
		at += n
	}
	return nil
}

func (u *Unit) moveOf(o *order, b []byte) *Sense {
	const unregister, durable = 0x02, 0x01
	o.unregister, o.persist = b[17]&unregister != 0, b[17]&durable != 0
	o.toPort = binary.BigEndian.Uint16(b[18:])
	if o.persist && !u.reservations.Durable() {
		return badData(17, 0)
	}
	if int(binary.BigEndian.Uint32(b[20:])) != len(b)-persistList {
		return sense(IllegalRequest, ParameterListLength)
	}
	name, n := parseTransportID(b[persistList:])
	if n == 0 {
		return badData(persistList, noBit)
	}
	groups := u.allGroups()
	if len(groups) > 0 && groupWith(groups, o.toPort) == nil || o.toPort == 0 {
		return badData(18, noBit)
	}
	o.toInitiator = name
	return nil
}

// A TransportID of iSCSI names an initiator port (SPC-4, 7.6.4.6): format and
// protocol, 1 reserved, the length of the rest, a name ended by NUL.
const (
	transportISCSIPort = 0x40 | 5
	transportHeader    = 4
	transportMinimum   = 20
)

func transportID(initiator string) []byte {
	n := max((len(initiator)+4)/4*4, transportMinimum)
	b := make([]byte, transportHeader+n)
	b[0] = transportISCSIPort
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[transportHeader:], initiator)
	return b
}

// parseTransportID returns the initiator port and how long the TransportID is, 0
// for one that is not right.
func parseTransportID(b []byte) (initiator string, length int) {
	if len(b) < transportHeader || b[0] != transportISCSIPort {
		return "", 0
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < transportMinimum || n%4 != 0 || len(b) < transportHeader+n {
		return "", 0
	}
	name := b[transportHeader:][:n]
	end := 0
	for end < len(name) && name[end] != 0 {
		if name[end] < 0x20 || name[end] > 0x7e { // what may stand in an iSCSI name, and more
			return "", 0
		}
		end++
	}
	if end == 0 || end == len(name) || end > maxPortName {
		return "", 0
	}
	return string(name[:end]), transportHeader + n
}
