package iscsi

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"
)

// pduOf returns an empty PDU of an opcode, nil if there is none to encode.
func pduOf(o Opcode) codec {
	for _, c := range goldenPDUs {
		var b BHS
		c.pdu.Encode(&b)
		if b.Opcode() == o {
			return reflect.New(reflect.TypeOf(c.pdu).Elem()).Interface().(codec)
		}
	}
	return nil
}

// FuzzPDU decodes any header and additional headers. What decodes comes back
// the same when encoded and decoded again, and lengths keep to the limits.
func FuzzPDU(f *testing.F) {
	for _, c := range goldenPDUs {
		f.Add(bhs(f, c.hex)[:], []byte{})
	}
	for _, c := range conversations {
		for _, e := range c.exchanges {
			f.Add(e.request(f)[:], []byte{})
		}
	}
	f.Add(bhs(f, "01c1000000000000000000000000000055eabd9000000040241ab6fb0000000612000000400000000000000000000000")[:], []byte{0, 5, 2, 0, 0, 0, 16, 0})
	f.Add(bhs(f, goldenPDUs[3].hex)[:], append([]byte{0, 17, 1, 0}, make([]byte, 16)...))
	f.Fuzz(func(t *testing.T, header, ahs []byte) {
		if len(header) != BHSSize {
			return
		}
		b := (*BHS)(header)
		limits := Limits{MaxDataSegment: 65536, MaxAHS: MaxCommandAHS}
		if b.CheckLengths(limits) == nil && (b.DataLength() > limits.MaxDataSegment || b.AHSLength() > limits.MaxAHS) {
			t.Fatal("a header beyond its limits passed")
		}
		if b.Check(limits) == nil && !b.Opcode().FromInitiator() {
			t.Fatal("a PDU that no initiator sends passed")
		}
		_ = (&Snack{}).Decode(b)
		if p := pduOf(b.Opcode()); p != nil && p.Decode(b) == nil {
			var again BHS
			p.Encode(&again)
			q := pduOf(b.Opcode())
			if err := q.Decode(&again); err != nil || !reflect.DeepEqual(p, q) {
				t.Fatalf("%+v comes back as %+v, %v", p, q, err)
			}
			if b.Opcode().mayCarryData() && again.DataLength() != b.DataLength() {
				t.Fatal("the data length changed")
			}
		}
		if c, err := ParseCommandAHS(ahs); err == nil {
			if len(c.ExtendedCDB) > MaxCDB-baseCDB {
				t.Fatalf("CDB of %d more bytes", len(c.ExtendedCDB))
			}
			again, err := ParseCommandAHS(c.Append(nil))
			if err != nil || !bytes.Equal(again.ExtendedCDB, c.ExtendedCDB) || again.HasBidi != c.HasBidi || again.BidiReadLength != c.BidiReadLength {
				t.Fatalf("%+v comes back as %+v, %v", c, again, err)
			}
		}
	})
}

// FuzzText decodes any text: what is accepted keeps to its bounds and comes
// back the same, however it is cut. Every parser of values sees every value.
func FuzzText(f *testing.F) {
	for _, c := range conversations {
		for _, e := range c.exchanges {
			f.Add([]byte(e.text), uint16(100))
		}
	}
	f.Add([]byte("CHAP_N=alice\x00CHAP_R=0xDF29C8F16587BCF304BA460965199273\x00CHAP_I=1\x00CHAP_C=0bAP8=\x00OFMarkInt=1~0x1000\x00"), uint16(7))
	limits := TextLimits{MaxBytes: 4096, MaxPairs: 32}
	f.Fuzz(func(t *testing.T, text []byte, cut uint16) {
		pairs, err := DecodeText(text, limits)
		if err != nil {
			return
		}
		if len(text) > limits.MaxBytes || len(pairs) > limits.MaxPairs {
			t.Fatal("a text beyond its limits passed")
		}
		buffer, rest := NewTextBuffer(limits), AppendText(nil, pairs...)
		for len(rest) > 0 {
			var segment []byte
			segment, rest = CutText(rest, int(cut%512)+1)
			if err := buffer.Add(segment); err != nil {
				t.Fatal(err)
			}
		}
		if again, err := buffer.Pairs(); err != nil || len(again) != len(pairs) || len(pairs) > 0 && !reflect.DeepEqual(again, pairs) {
			t.Fatalf("%q comes back as %q, %v", pairs, again, err)
		}
		for _, p := range pairs {
			if len(p.Key) > MaxKey {
				t.Fatalf("key of %d bytes", len(p.Key))
			}
			fuzzValue(t, p.Value)
		}
	})
}

func fuzzValue(t *testing.T, v string) {
	if b, err := ParseBinary(v, 64); err == nil {
		if again, err := ParseBinary(FormatBinary(b), 64); err != nil || !bytes.Equal(again, b) || len(b) > 64 {
			t.Fatalf("%x comes back as %x, %v", b, again, err)
		}
	}
	if low, high, err := ParseRange(v); err == nil && low > high {
		t.Fatalf("range %d to %d", low, high)
	}
	if list, err := ParseList(v); err == nil && len(list) > maxList {
		t.Fatalf("list of %d", len(list))
	}
	if name, err := ParseName(v); err == nil {
		if again, err := ParseName(name); err != nil || again != name || len(name) > MaxName {
			t.Fatalf("name %q becomes %q, %v", name, again, err)
		}
	}
	_, _ = ParseNumber(v)
	_, _ = ParseBool(v)
}

// FuzzNegotiate offers any text in any phase to a target of any kind. Whatever
// is agreed is within RFC 7143's ranges and never more than the settings give,
// and no key is answered that was not offered.
func FuzzNegotiate(f *testing.F) {
	for i, c := range conversations {
		for _, e := range c.exchanges {
			f.Add([]byte(e.text), []byte(e.text), uint8(i))
		}
	}
	f.Add([]byte("SendTargets=All\x00"), []byte("MaxRecvDataSegmentLength=512\x00"), uint8(255))
	f.Fuzz(func(t *testing.T, first, second []byte, kind uint8) {
		s := DefaultSettings()
		s.InitialR2T, s.ImmediateData = kind&1 != 0, kind&2 != 0
		phase := []Phase{PhaseSecurity, PhaseOperational, PhaseFullFeature, PhaseOperational}[kind>>2&3]
		n := NewNegotiation(s, kind&16 == 0)
		for _, text := range [][]byte{first, second} {
			pairs, err := DecodeText(text, DefaultTextLimits)
			if err != nil {
				return
			}
			answers, err := n.Receive(phase, pairs)
			if err != nil {
				return
			}
			for _, a := range answers {
				if _, ok := lookup(pairs, a.Key); !ok || a.Value == noAnswer {
					t.Fatalf("answers %v, which was not offered", a)
				}
			}
		}
		n.Declare()
		p, err := n.Parameters()
		if err != nil {
			t.Fatal(err)
		}
		checkParameters(t, p, s)
	})
}

func checkParameters(t *testing.T, p Parameters, s Settings) {
	t.Helper()
	inRange := p.MaxSendDataSegmentLength >= 512 && p.MaxSendDataSegmentLength <= maxDataSegment &&
		p.MaxBurstLength >= 512 && p.MaxBurstLength <= max(s.MaxBurstLength, DefaultParameters.MaxBurstLength) &&
		p.FirstBurstLength >= 512 && p.FirstBurstLength <= p.MaxBurstLength &&
		p.MaxConnections == 1 && p.MaxOutstandingR2T == 1 && p.ErrorRecoveryLevel == 0 &&
		p.DefaultTime2Wait <= maxSeconds && p.DefaultTime2Retain <= maxSeconds &&
		p.DataPDUInOrder && p.DataSequenceInOrder && (!s.InitialR2T || p.InitialR2T) &&
		(p.MaxRecvDataSegmentLength == s.MaxRecvDataSegmentLength || p.MaxRecvDataSegmentLength == DefaultDataSegment)
	if !inRange {
		t.Fatalf("agreed %+v with %+v", p, s)
	}
}

// FuzzLogin plays any requests against a target, with or without CHAP. The
// stream is a header byte pair (flags, changes), a length and a text for each.
// A login is done only after an authentication that was required, and ends
// within its rounds.
func FuzzLogin(f *testing.F) {
	for _, c := range conversations {
		var stream []byte
		for _, e := range c.exchanges {
			stream = append(stream, e.request(f)[1], 0)
			stream = binary.BigEndian.AppendUint16(stream, uint16(len(e.text)))
			stream = append(stream, e.text...)
		}
		f.Add(stream, false)
		f.Add(stream, true)
	}
	keys := AppendText(nil, pairsOf(firstKeys)...)
	chap := append([]byte{0x01, 0, 0, byte(len(keys))}, keys...)
	chap = append(chap, "\x01\x00\x00\x09CHAP_A=5\x00\x87\x00\x00\x19CHAP_N=alice\x00CHAP_R=0x00\x00"...)
	f.Add(chap, true)
	f.Fuzz(func(t *testing.T, stream []byte, auth bool) {
		p := &policy{tsih: 7}
		if auth {
			p = chapPolicy()
		}
		fl, rounds := startFlow(t, p), 0
		for len(stream) >= 4 {
			flags, change, length := stream[0], stream[1], int(binary.BigEndian.Uint16(stream[2:]))%(DefaultDataSegment+1)
			stream = stream[4:]
			text := stream[:min(length, len(stream))]
			stream = stream[len(text):]
			r := fl.req
			r.Transit, r.Continue = flags&flagFinal != 0, flags&flagContinue != 0
			r.Current, r.Next, r.DataLength = Stage(flags>>2&3), Stage(flags&3), len(text)
			r.VersionMin, r.TSIH = change&1, uint16(change>>1&1)
			r.CmdSN += uint32(change >> 2 & 1)
			step := fl.login.Receive(&r, text)
			checkStep(t, &r, step)
			fl.req.ExpStatSN = step.Response.StatSN + 1
			if rounds++; step.Outcome == LoginGoesOn && rounds > defaultLoginRounds {
				t.Fatal("the login does not end")
			}
			if step.Outcome == LoginDone {
				if auth {
					t.Fatal("logged in without knowing the secret")
				}
				if !step.Result.Discovery && (len(p.lookedUp) != 1 || p.lookedUp[0] != step.Result.Target) {
					t.Fatalf("logged in to %q, the policy was asked about %q", step.Result.Target, p.lookedUp)
				}
				checkParameters(t, step.Result.Parameters, DefaultSettings())
			}
			if step.Outcome != LoginGoesOn {
				break
			}
		}
		if len(p.opened) > 1 {
			t.Fatalf("%d sessions by one login", len(p.opened))
		}
	})
}
