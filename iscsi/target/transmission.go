package target

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencurve/curve-nbd/gateway/stream"
	"github.com/opencurve/curve-nbd/iscsi"
)

// bufferedData is the longest data segment that is served from the read buffer; a
// longer one goes where it belongs without passing there.
const bufferedData = 16 << 10

// pdu is one as it was received. Header and data are valid until the next read.
type pdu struct {
	bhs *iscsi.BHS
	ahs []byte
	// size is the length of the data segment. It is in data, its digest checked,
	// or, when it is longer than bufferedData, still on its way.
	size int
	data []byte
}

func (p *pdu) buffered() bool { return p.size <= bufferedData }

var (
	errHeaderDigest = errors.New("header digest is wrong")
	errDataDigest   = errors.New("data digest is wrong")
)

// transmit serves PDUs until the initiator leaves or the server says stop.
//
// Everything that is there is served before the answers go out together, and none
// is held back while the reader waits for anything.
func (s *session) transmit() error {
	c := s.conn
	for {
		c.heard.Store(s.server.clock.Load())
		served, err := s.serveBuffered()
		if err == nil && served > 1 {
			// An initiator with a full queue has probably sent more meanwhile.
			if err = c.in.More(); err == nil {
				c.heard.Store(s.server.clock.Load())
				continue
			}
			if err == stream.ErrNothingYet {
				err = nil
			}
		}
		if sendErr := s.flush(); err == nil {
			err = sendErr
		}
		c.in.NoteBatch(served, s.writer.Busy())
		if err == nil {
			err = c.in.Fill(len(c.in.Bytes()) > 0)
		}
		switch {
		case err == nil:
		case c.draining.Load() && errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		default:
			return err
		}
	}
}

// serveBuffered serves the complete PDUs in the read buffer.
func (s *session) serveBuffered() (served int, err error) {
	for {
		p, complete, err := s.next()
		if err != nil || !complete {
			return served, err
		}
		if err := s.serve(&p); err != nil {
			return served, err
		}
		served++
	}
}

// next takes the next PDU off the input. It is not complete while its headers, or a
// data segment that is served from the buffer, are still under way; then nothing is
// taken.
func (s *session) next() (p pdu, complete bool, err error) {
	b := s.conn.in.Bytes()
	if len(b) < iscsi.BHSSize {
		return p, false, nil
	}
	p.bhs = (*iscsi.BHS)(b[:iscsi.BHSSize])
	p.size = p.bhs.DataLength()
	ahs := p.bhs.AHSLength()
	if p.size > s.limits.MaxDataSegment || ahs > s.limits.MaxAHS {
		// What follows cannot be trusted to be what it says.
		return p, false, p.bhs.CheckLengths(s.limits)
	}
	size := s.digests.headerSize() + ahs
	if p.buffered() {
		size = s.digests.frameSize(p.size) + ahs
	}
	if len(b) < size {
		return p, false, nil
	}
	p.ahs = b[iscsi.BHSSize : iscsi.BHSSize+ahs]
	at := iscsi.BHSSize + ahs
	if s.digests.header {
		if iscsi.GetDigest(b[at:]) != iscsi.HeaderDigest(p.bhs, p.ahs) {
			return p, false, errHeaderDigest
		}
		at += iscsi.DigestSize
	}
	if p.buffered() && p.size > 0 {
		padded := b[at : at+iscsi.Padded(p.size)]
		if s.digests.data && iscsi.GetDigest(b[at+len(padded):]) != iscsi.DataDigestOf(padded) {
			return p, false, errDataDigest
		}
		p.data = padded[:p.size]
	}
	s.conn.in.Skip(size)
	return p, true, nil
}

// skip drops data that is still on its way.
func (s *session) skip(p *pdu) error {
	if p.buffered() {
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	n := iscsi.Padded(p.size)
	if s.digests.data {
		n += iscsi.DigestSize
	}
	return s.conn.in.Discard(int64(n))
}

// receive brings data that is still on its way into slices, from off on; what has no
// room there is dropped.
func (s *session) receive(p *pdu, slices [][]byte, off int64) error {
	in := s.conn.in
	if p.size > len(in.Bytes()) {
		if err := s.flush(); err != nil {
			return err
		}
	}
	crc, left := uint32(0), int64(p.size)
	var err error
	each(slices, off, left, func(b []byte) {
		if err == nil {
			err = in.ReadFull(b)
		}
		if s.digests.data {
			crc = iscsi.DataDigestAdd(crc, b, -1)
		}
		left -= int64(len(b))
	})
	if err != nil {
		return err
	}
	for left > 0 {
		b := in.Bytes()
		b = b[:min(int64(len(b)), left)]
		if len(b) == 0 {
			if err := in.Need(1); err != nil {
				return err
			}
			continue
		}
		crc = iscsi.DataDigestAdd(crc, b, -1)
		in.Skip(len(b))
		left -= int64(len(b))
	}
	return s.endOfData(p.size, crc)
}

// endOfData takes the padding and the digest that end a data segment.
func (s *session) endOfData(size int, crc uint32) error {
	in, pad := s.conn.in, iscsi.Padded(size)-size
	n := pad
	if s.digests.data {
		n += iscsi.DigestSize
	}
	if n == 0 {
		return nil
	}
	if err := in.Need(n); err != nil {
		return err
	}
	b := in.Bytes()[:n]
	in.Skip(n)
	if s.digests.data && iscsi.GetDigest(b[pad:]) != iscsi.DataDigestAdd(crc, b[:pad], -1) {
		return errDataDigest
	}
	return nil
}

// place copies data that was buffered into slices, from off on.
func place(p *pdu, slices [][]byte, off int64) {
	data := p.data
	each(slices, off, int64(len(data)), func(b []byte) { data = data[copy(b, data):] })
}

// serve answers one PDU, or starts to. The error ends the connection.
func (s *session) serve(p *pdu) error {
	op := p.bhs.Opcode()
	s.conn.in.Bulk = !p.buffered()
	if op == iscsi.OpScsiCommand && !s.discovery {
		return s.scsiCommand(p)
	}
	if op == iscsi.OpDataOut && !s.discovery {
		return s.dataOut(p)
	}
	if err := p.bhs.Check(s.limits); err != nil {
		return s.refuse(p, err)
	}
	switch op {
	case iscsi.OpNopOut:
		return s.nopOut(p)
	case iscsi.OpTextRequest:
		return s.textRequest(p)
	case iscsi.OpLogoutRequest:
		return s.logoutRequest(p)
	case iscsi.OpTaskRequest:
		if !s.discovery {
			return s.taskRequest(p)
		}
	case iscsi.OpSnack: // 11.16: none at ErrorRecoveryLevel 0
		return s.reject(p, iscsi.RejectSnack)
	case iscsi.OpLoginRequest:
		return s.reject(p, iscsi.RejectProtocolError)
	}
	return s.reject(p, iscsi.RejectCommandNotSupported)
}

// inOrder says whether a request is due (4.2.2.1); takePlace follows, unless it is
// rejected (7.3). One that came before, or is beyond the window, is to be dropped. One
// that leaves a gap breaks the order of this connection, which is the only one: the gap
// would never be filled.
func (s *session) inOrder(cmdSN uint32, immediate bool) (due bool, err error) {
	if immediate {
		return true, nil
	}
	next := s.expCmdSN.Load()
	if cmdSN == next && !iscsi.SNBefore(s.sender.maxCmdSN.Load(), cmdSN) {
		return true, nil
	}
	if iscsi.SNBefore(cmdSN, next) || iscsi.SNBefore(s.sender.maxCmdSN.Load(), cmdSN) {
		s.server.log.Debug("request outside of the command window", "initiator", s.initiator, "cmdsn", cmdSN, "expected", next)
		return false, nil
	}
	return false, fmt.Errorf("CmdSN %d where %d is next", cmdSN, next)
}

// takePlace takes the place of a request that is due: in the command window, or among
// the immediate ones, of which there may be too many: then it says false.
func (s *session) takePlace(immediate bool) bool {
	if immediate {
		return s.takeImmediate()
	}
	s.expCmdSN.Add(1)
	return true
}

// maxImmediate bounds the immediate commands that are under way, which the window
// does not.
const maxImmediate = 64

// takeImmediate counts an immediate request; false if there are too many.
func (s *session) takeImmediate() bool {
	if s.immediates.Add(1) > maxImmediate {
		s.immediates.Add(-1)
		return false
	}
	return true
}
