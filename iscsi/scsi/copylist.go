package scsi

import "encoding/binary"

// Bounds of one EXTENDED COPY.
const (
	maxCopyUnits    = 8
	maxCopySegments = 32
	maxCopyList     = 1024 // bytes of descriptors
	maxSegmentBytes = 64 << 20
)

// The parameter list of EXTENDED COPY (LID1) (SPC-4, 6.4): list identifier (1),
// flags (1), bytes of unit descriptors (2), 4 reserved, bytes of segment
// descriptors (4), bytes of inline data (4); then the descriptors.
const (
	copyHeader        = 16
	copyUnit          = 32   // a CSCD descriptor
	copyUnitNamed     = 0xe4 // by a designation descriptor
	copySegment       = 28   // of blocks to blocks
	copyBlocks        = 0x02 // its type
	copyListUsage     = 0x18 // in the flags
	copyListDiscard   = 0x10 // the result is not asked for
	copyListAnonymous = 0x18 // and the list has no identifier
)

// segment is a stretch to copy.
type segment struct {
	from, to       *end
	source, target uint64 // blocks
	count          uint64
}

// end is a unit that is copied from or to.
type end struct {
	unit  *Unit
	mount *mount
	path  *Nexus // of the initiator to it
	epoch uint64 // of the path
}

// copyList is a decoded parameter list.
type copyList struct {
	id       byte
	usage    byte
	ends     []end
	segments []segment
}

// parseCopy decodes a list and finds the units that it names.
func (u *Unit) parseCopy(n *Nexus, b []byte) (*copyList, *Sense) {
	units, segments := int(binary.BigEndian.Uint16(b[2:])), int64(binary.BigEndian.Uint32(b[8:]))
	total := int64(units) + segments
	switch {
	case total > maxCopyList || copyHeader+total > int64(len(b)):
		return nil, sense(IllegalRequest, ParameterListLength)
	case binary.BigEndian.Uint32(b[12:]) != 0:
		return nil, sense(IllegalRequest, InlineDataLength)
	case units%copyUnit != 0:
		return nil, badData(2, noBit)
	case units/copyUnit > maxCopyUnits:
		return nil, sense(IllegalRequest, TooManyCopyUnits)
	}
	l := &copyList{id: b[0], usage: b[1] & copyListUsage}
	if l.usage == 0x08 || l.usage == copyListAnonymous && l.id != 0 {
		return nil, badData(1, 4)
	}
	at := copyHeader
	for ; at < copyHeader+units; at += copyUnit {
		e, s := u.copyEnd(n, b[at:at+copyUnit], at)
		if s != nil {
			return nil, s
		}
		l.ends = append(l.ends, e)
	}
	return l, l.takeSegments(b[:copyHeader+total], at)
}

// copyEnd finds the unit of a descriptor: this one, or another of the target.
func (u *Unit) copyEnd(n *Nexus, b []byte, at int) (end, *Sense) {
	if b[0] != copyUnitNamed || b[1]&0x1f != 0 {
		return end{}, sense(IllegalRequest, UnsupportedCopyUnit)
	}
	size := int(b[7])
	if size > 20 {
		return end{}, badData(at+7, noBit)
	}
	blockSize := int64(binary.BigEndian.Uint32(b[28:]) & 0xffffff)
	peers := []*Unit{u}
	if u.peers != nil {
		peers = append(peers, u.peers(n)...)
	}
	for _, peer := range peers {
		if !peer.named(b[4]&0x0f, b[5]&0x3f, b[8:8+size]) {
			continue
		}
		if peer.blockSize != blockSize {
			return end{}, badData(at+29, noBit)
		}
		return end{unit: peer}, nil
	}
	return end{}, sense(CopyAborted, CopyUnitUnreachable)
}

// named says whether a designator is the unit's own name.
func (u *Unit) named(codeSet, kind byte, value []byte) bool {
	return codeSet == codeBinary && kind == ofUnit|designatorNAA && len(value) == 8 &&
		binary.BigEndian.Uint64(value) == u.names.naa
}

// takeSegments decodes the segment descriptors, all before any is carried out.
func (l *copyList) takeSegments(b []byte, at int) *Sense {
	for ; at < len(b); at += copySegment {
		switch {
		case b[at] != copyBlocks:
			return sense(IllegalRequest, UnsupportedSegment)
		case len(l.segments) == maxCopySegments:
			return sense(IllegalRequest, TooManySegments)
		case len(b)-at < copySegment:
			return sense(IllegalRequest, ParameterListLength)
		case binary.BigEndian.Uint16(b[at+2:]) != copySegment-4:
			return badData(at+2, noBit)
		}
		s, why := l.segment(b[at:], at)
		if why != nil {
			return why
		}
		l.segments = append(l.segments, s)
	}
	return nil
}

func (l *copyList) segment(b []byte, at int) (segment, *Sense) {
	from, to := int(binary.BigEndian.Uint16(b[4:])), int(binary.BigEndian.Uint16(b[6:]))
	if from >= len(l.ends) || to >= len(l.ends) {
		return segment{}, sense(CopyAborted, UnreachableCopyUnit)
	}
	s := segment{
		from: &l.ends[from], to: &l.ends[to],
		count:  uint64(binary.BigEndian.Uint16(b[10:])),
		source: binary.BigEndian.Uint64(b[12:]), target: binary.BigEndian.Uint64(b[20:]),
	}
	switch {
	case s.from.unit.blockSize != s.to.unit.blockSize:
		return s, badData(at+6, noBit)
	case s.count*uint64(s.from.unit.blockSize) > maxSegmentBytes:
		return s, badData(at+10, noBit)
	case !s.from.unit.spans(s.source, s.count) || !s.to.unit.spans(s.target, s.count):
		return s, sense(CopyAborted, NoAdditionalSense)
	}
	return s, nil
}

// spans says whether blocks are on the medium.
func (u *Unit) spans(lba, count uint64) bool {
	blocks := u.blocks()
	return lba <= blocks && count <= blocks-lba
}
