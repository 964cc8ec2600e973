package iscsi

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// pairsOf reads "A=1 B=2".
func pairsOf(s string) []Pair {
	var pairs []Pair
	for f := range strings.FieldsSeq(s) {
		k, v, _ := strings.Cut(f, "=")
		pairs = append(pairs, Pair{k, v})
	}
	return pairs
}

func textOf(pairs []Pair) string {
	return strings.TrimSuffix(strings.ReplaceAll(string(AppendText(nil, pairs...)), "\x00", " "), " ")
}

// Every key, offered alone to the default settings in the operational stage.
func TestNegotiateEveryKey(t *testing.T) {
	for _, c := range []struct {
		name  string
		offer string
		want  string
	}{
		{"digest in the initiator's order", "HeaderDigest=None,CRC32C", "HeaderDigest=None"},
		{"digest", "HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C"},
		{"digest alone", "DataDigest=CRC32C", "DataDigest=CRC32C"},
		{"digest after an unknown one", "DataDigest=Z-x,CRC32C", "DataDigest=CRC32C"},
		{"unknown digest only", "DataDigest=Z-x", "DataDigest=Reject"},
		{"list with an empty value", "DataDigest=,None", "DataDigest=Reject"},
		{"connections: minimum", "MaxConnections=8", "MaxConnections=1"},
		{"connections: out of range", "MaxConnections=0", "MaxConnections=Reject"},
		{"InitialR2T: OR, No", "InitialR2T=No", "InitialR2T=No"},
		{"InitialR2T: OR, Yes", "InitialR2T=Yes", "InitialR2T=Yes"},
		{"InitialR2T: no boolean", "InitialR2T=maybe", "InitialR2T=Reject"},
		{"ImmediateData: AND, Yes", "ImmediateData=Yes", "ImmediateData=Yes"},
		{"ImmediateData: AND, No", "ImmediateData=No", "ImmediateData=No"},
		{"ImmediateData: no boolean", "ImmediateData=1", "ImmediateData=Reject"},
		{"segment length is declared", "MaxRecvDataSegmentLength=8192", ""},
		{"burst: theirs is less", "MaxBurstLength=131072", "MaxBurstLength=131072"},
		{"burst: ours is less", "MaxBurstLength=16776192", "MaxBurstLength=1048576"},
		{"burst in hexadecimal", "MaxBurstLength=0x20000", "MaxBurstLength=131072"},
		{"burst below its range", "MaxBurstLength=511", "MaxBurstLength=Reject"},
		{"burst above its range", "MaxBurstLength=16777216", "MaxBurstLength=Reject"},
		{"burst with leading zero", "MaxBurstLength=0512", "MaxBurstLength=Reject"},
		{"first burst", "FirstBurstLength=65536", "FirstBurstLength=65536"},
		{"first burst: ours is less", "FirstBurstLength=16776192", "FirstBurstLength=262144"},
		{"first burst follows a burst behind it", "FirstBurstLength=262144 MaxBurstLength=65536", "FirstBurstLength=65536 MaxBurstLength=65536"},
		{"wait: maximum", "DefaultTime2Wait=0", "DefaultTime2Wait=2"},
		{"wait: theirs is more", "DefaultTime2Wait=30", "DefaultTime2Wait=30"},
		{"wait out of range", "DefaultTime2Wait=3601", "DefaultTime2Wait=Reject"},
		{"retain: minimum", "DefaultTime2Retain=20", "DefaultTime2Retain=0"},
		{"outstanding R2T: minimum", "MaxOutstandingR2T=16", "MaxOutstandingR2T=1"},
		{"outstanding R2T: out of range", "MaxOutstandingR2T=65536", "MaxOutstandingR2T=Reject"},
		{"PDU order: OR", "DataPDUInOrder=No", "DataPDUInOrder=Yes"},
		{"sequence order: OR", "DataSequenceInOrder=No", "DataSequenceInOrder=Yes"},
		{"recovery level: minimum", "ErrorRecoveryLevel=2", "ErrorRecoveryLevel=0"},
		{"recovery level out of range", "ErrorRecoveryLevel=3", "ErrorRecoveryLevel=Reject"},
		{"task reporting", "TaskReporting=FastAbort,ResponseFence,RFC3720", "TaskReporting=RFC3720"},
		{"protocol level: minimum", "iSCSIProtocolLevel=2", "iSCSIProtocolLevel=1"},
		{"protocol level out of range", "iSCSIProtocolLevel=32", "iSCSIProtocolLevel=Reject"},
		{"markers are obsolete", "OFMarker=Yes IFMarker=No OFMarkInt=1~2 IFMarkInt=1~2", "OFMarker=No IFMarker=No OFMarkInt=Irrelevant IFMarkInt=Irrelevant"},
		{"names are declared", "InitiatorName=iqn.2001-04.com.example InitiatorAlias=host SessionType=Normal TargetName=iqn.2001-04.com.example:t", ""},
		{"unknown key", "Frobnicate=Yes", "Frobnicate=NotUnderstood"},
		{"vendor keys", "X-com.example.k=1 X#k=2", "X-com.example.k=NotUnderstood X#k=NotUnderstood"},
		{"an unknown key's answer is not answered", "X-com.example.k=NotUnderstood", ""},
		{"answers keep the order", "ErrorRecoveryLevel=0 MaxBurstLength=512 HeaderDigest=None", "ErrorRecoveryLevel=0 MaxBurstLength=512 HeaderDigest=None"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answers, err := NewNegotiation(DefaultSettings(), true).Receive(PhaseOperational, pairsOf(c.offer))
			if err != nil || textOf(answers) != c.want {
				t.Errorf("got %q, %v, want %q", textOf(answers), err, c.want)
			}
		})
	}
}

func TestNegotiateRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		phase Phase
		texts []string
		err   error
	}{
		{"a key twice in two texts", PhaseOperational, []string{"MaxBurstLength=512", "MaxBurstLength=512"}, ErrRenegotiated},
		{"another name", PhaseSecurity, []string{"InitiatorName=iqn.2001-04.com.example", "InitiatorName=iqn.2001-04.com.example:b"}, ErrRenegotiated},
		{"an answer as an offer", PhaseOperational, []string{"MaxBurstLength=Irrelevant"}, ErrBadOffer},
		{"Reject as an offer", PhaseOperational, []string{"HeaderDigest=Reject"}, ErrBadOffer},
		{"NotUnderstood of a key we must know", PhaseOperational, []string{"InitialR2T=NotUnderstood"}, ErrBadOffer},
		{"SendTargets before full feature", PhaseOperational, []string{"SendTargets=All"}, ErrWrongPhase},
		{"operational key in the security stage", PhaseSecurity, []string{"MaxBurstLength=512"}, ErrWrongPhase},
		{"digest in the full feature phase", PhaseFullFeature, []string{"HeaderDigest=None"}, ErrWrongPhase},
		{"name in the full feature phase", PhaseFullFeature, []string{"InitiatorName=iqn.2001-04.com.example"}, ErrWrongPhase},
		{"alias of a target", PhaseOperational, []string{"TargetAlias=a"}, ErrWrongSender},
		{"address of a target", PhaseOperational, []string{"TargetAddress=a"}, ErrWrongSender},
		{"portal group", PhaseOperational, []string{"TargetPortalGroupTag=1"}, ErrWrongSender},
		{"segment of less than 512", PhaseOperational, []string{"MaxRecvDataSegmentLength=511"}, ErrBadOffer},
		{"segment of 16 MiB", PhaseOperational, []string{"MaxRecvDataSegmentLength=16777216"}, ErrBadOffer},
		{"segment of nothing", PhaseOperational, []string{"MaxRecvDataSegmentLength="}, ErrValue},
		{"bad name", PhaseSecurity, []string{"InitiatorName=me"}, ErrName},
		{"session type", PhaseSecurity, []string{"SessionType=Boot"}, errSessionType},
		{"alias too long", PhaseSecurity, []string{"InitiatorAlias=" + strings.Repeat("a", 256)}, ErrBadOffer},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := NewNegotiation(DefaultSettings(), true)
			var err error
			for i, text := range c.texts {
				if _, err = n.Receive(c.phase, pairsOf(text)); err != nil && i < len(c.texts)-1 {
					t.Fatalf("text %d: %v", i, err)
				}
			}
			if !errors.Is(err, c.err) {
				t.Errorf("got %v, want %v", err, c.err)
			}
		})
	}
}

func TestNegotiateDeclarationMayBeRepeated(t *testing.T) {
	n := NewNegotiation(DefaultSettings(), true)
	for _, phase := range []Phase{PhaseSecurity, PhaseOperational} {
		if _, err := n.Receive(phase, pairsOf("InitiatorName=iqn.2001-04.com.example SessionType=Normal")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNegotiateAddedConnection(t *testing.T) {
	n := NewNegotiation(DefaultSettings(), false)
	if _, err := n.Receive(PhaseOperational, pairsOf("HeaderDigest=CRC32C MaxRecvDataSegmentLength=65536 SessionType=Normal")); err != nil {
		t.Errorf("keys of a connection: %v", err)
	}
	if _, err := n.Receive(PhaseOperational, pairsOf("MaxBurstLength=512")); !errors.Is(err, ErrWrongPhase) {
		t.Errorf("a key of the session in an added connection: %v", err)
	}
}

func TestNegotiateDiscoveryMakesKeysIrrelevant(t *testing.T) {
	irrelevant := "MaxConnections=1 InitialR2T=No ImmediateData=Yes MaxBurstLength=512 FirstBurstLength=512 MaxOutstandingR2T=1 " +
		"DataPDUInOrder=Yes DataSequenceInOrder=Yes TaskReporting=RFC3720 iSCSIProtocolLevel=1"
	n := NewNegotiation(DefaultSettings(), true)
	// The type decides though it comes last.
	answers, err := n.Receive(PhaseOperational, pairsOf(irrelevant+" HeaderDigest=None DefaultTime2Wait=2 DefaultTime2Retain=20 ErrorRecoveryLevel=0 SessionType=Discovery"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		want := strings.Contains(irrelevant, a.Key)
		if (a.Value == ValueIrrelevant) != want {
			t.Errorf("%s=%s", a.Key, a.Value)
		}
	}
	if len(answers) != 14 {
		t.Errorf("%d answers: %v", len(answers), answers)
	}
	p, err := n.Parameters()
	if err != nil || p.MaxBurstLength != DefaultParameters.MaxBurstLength {
		t.Errorf("an irrelevant key was agreed: %+v, %v", p, err)
	}
}

func TestNegotiateParameters(t *testing.T) {
	digests := DefaultSettings()
	digests.RequireHeaderDigest = true
	data := DefaultSettings()
	data.RequireDataDigest = true
	careful := DefaultSettings()
	careful.InitialR2T, careful.ImmediateData = true, false
	for _, c := range []struct {
		name     string
		settings Settings
		offer    string
		change   func(*Parameters)
		err      error
	}{
		{"nothing offered", DefaultSettings(), "", func(*Parameters) {}, nil},
		{"all agreed", DefaultSettings(), "HeaderDigest=CRC32C DataDigest=CRC32C InitialR2T=No ImmediateData=No MaxRecvDataSegmentLength=4096 MaxBurstLength=524288 FirstBurstLength=131072 DefaultTime2Wait=5 DefaultTime2Retain=5",
			func(p *Parameters) {
				p.HeaderDigest, p.DataDigest = DigestCRC32C, DigestCRC32C
				p.InitialR2T, p.ImmediateData = false, false
				p.MaxSendDataSegmentLength, p.MaxBurstLength, p.FirstBurstLength = 4096, 524288, 131072
				p.DefaultTime2Wait, p.DefaultTime2Retain = 5, 0
			}, nil},
		{"a rejected offer keeps the default", DefaultSettings(), "MaxBurstLength=1 InitialR2T=no", func(*Parameters) {}, nil},
		{"first burst stays within a lowered burst", DefaultSettings(), "MaxBurstLength=8192", func(p *Parameters) { p.MaxBurstLength, p.FirstBurstLength = 8192, 8192 }, nil},
		{"target without unsolicited data", careful, "InitialR2T=No ImmediateData=Yes", func(p *Parameters) { p.ImmediateData = false }, nil},
		{"required header digest", digests, "HeaderDigest=None", func(*Parameters) {}, ErrNoDigest},
		{"required data digest", data, "HeaderDigest=CRC32C", func(p *Parameters) { p.HeaderDigest = DigestCRC32C }, ErrNoDigest},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := NewNegotiation(c.settings, true)
			if _, err := n.Receive(PhaseOperational, pairsOf(c.offer)); err != nil {
				t.Fatal(err)
			}
			if got := n.Declare(); !reflect.DeepEqual(got, pairsOf("MaxRecvDataSegmentLength=262144")) || n.Declare() != nil {
				t.Errorf("declared %v", got)
			}
			want := DefaultParameters
			want.MaxRecvDataSegmentLength = 262144
			c.change(&want)
			got, err := n.Parameters()
			if got != want || !errors.Is(err, c.err) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, want)
			}
		})
	}
	if p, _ := NewNegotiation(DefaultSettings(), true).Parameters(); p.MaxRecvDataSegmentLength != DefaultDataSegment {
		t.Errorf("without a declaration the initiator may send %d bytes", p.MaxRecvDataSegmentLength)
	}
}

func TestNegotiateFullFeature(t *testing.T) {
	n := NewNegotiation(DefaultSettings(), true)
	for _, size := range []string{"8192", "65536"} { // each text is a negotiation of its own
		if _, err := n.Receive(PhaseFullFeature, pairsOf("MaxRecvDataSegmentLength="+size)); err != nil {
			t.Fatal(err)
		}
	}
	if p, _ := n.Parameters(); p.MaxSendDataSegmentLength != 65536 {
		t.Errorf("we may send %d", p.MaxSendDataSegmentLength)
	}
	answers, err := n.Receive(PhaseFullFeature, pairsOf("SendTargets=All X-k=1"))
	if err != nil || textOf(answers) != "X-k=NotUnderstood" {
		t.Errorf("%v, %v", answers, err)
	}
	if v, ok := n.SendTargets(); v != SendTargetsAll || !ok {
		t.Errorf("asked for %q, %v", v, ok)
	}
	if _, ok := n.SendTargets(); ok {
		t.Error("the question is answered twice")
	}
}

func TestSettingsCheck(t *testing.T) {
	good := DefaultSettings()
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Settings){
		"MaxRecvDataSegmentLength": func(s *Settings) { s.MaxRecvDataSegmentLength = 511 },
		"MaxBurstLength":           func(s *Settings) { s.MaxBurstLength = 1 << 24 },
		"FirstBurstLength":         func(s *Settings) { s.FirstBurstLength = s.MaxBurstLength + 1 },
		"MaxConnections":           func(s *Settings) { s.MaxConnections = 0 },
		"DefaultTime2Wait":         func(s *Settings) { s.DefaultTime2Wait = 3601 },
		"iSCSIProtocolLevel":       func(s *Settings) { s.ProtocolLevel = 32 },
	} {
		s := DefaultSettings()
		spoil(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
