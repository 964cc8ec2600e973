package iscsi

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const (
	initiatorName = "iqn.1993-08.org.debian:01:abc"
	targetName    = "iqn.2001-04.com.example:disk"
	firstKeys     = "InitiatorName=" + initiatorName + " SessionType=Normal TargetName=" + targetName + " AuthMethod=CHAP,None"
	discoveryKeys = "InitiatorName=" + initiatorName + " SessionType=Discovery AuthMethod=None"
)

// policy is a Policy by its answers; opened counts sessions.
type policy struct {
	target, allow, chapErr, open error
	chap                         *CHAPAccess
	opened                       []SessionRequest
	tsih                         uint16
	lookedUp                     []string
}

func (p *policy) Target(name string) (TargetInfo, error) {
	p.lookedUp = append(p.lookedUp, name)
	if name != targetName && p.target == nil {
		return TargetInfo{}, ErrTargetNotFound
	}
	return TargetInfo{PortalGroup: 1, Alias: "disk"}, p.target
}
func (p *policy) Allow(string, string) error               { return p.allow }
func (p *policy) CHAP(string, string) (*CHAPAccess, error) { return p.chap, p.chapErr }
func (p *policy) OpenSession(r SessionRequest) (uint16, error) {
	p.opened = append(p.opened, r)
	return p.tsih, p.open
}

func chapPolicy() *policy {
	a := testAccess()
	return &policy{tsih: 7, chap: &a}
}

func testLogin(p Policy) *Login {
	return NewLogin(LoginOptions{Settings: DefaultSettings(), Policy: p, Random: &counting{}, Window: 32})
}

// flow drives a login as an initiator would.
type flow struct {
	t     testing.TB
	login *Login
	req   LoginRequest
	last  LoginStep
}

func startFlow(t testing.TB, p Policy) *flow {
	return &flow{t: t, login: testLogin(p), req: LoginRequest{
		ISID: ISID{0, 2, 0x3d, 0, 0, 1}, InitiatorTaskTag: 5, CID: 1, CmdSN: 100, ExpStatSN: 40,
	}}
}

// send goes from stage to stage; next equal to current asks for no step.
func (f *flow) send(current, next Stage, text string) LoginStep {
	f.t.Helper()
	return f.raw(current, next, AppendText(nil, pairsOf(text)...))
}

func (f *flow) raw(current, next Stage, data []byte) LoginStep {
	f.t.Helper()
	f.req.Current, f.req.Next, f.req.Transit, f.req.DataLength = current, next, next != current, len(data)
	f.last = f.login.Receive(&f.req, data)
	checkStep(f.t, &f.req, f.last)
	f.req.ExpStatSN = f.last.Response.StatSN + 1
	return f.last
}

// checkStep holds a response against what is true of every one.
func checkStep(t testing.TB, r *LoginRequest, s LoginStep) {
	t.Helper()
	p := s.Response
	switch {
	case p.InitiatorTaskTag != r.InitiatorTaskTag || p.ISID != r.ISID:
		t.Fatalf("response %+v is not of request %+v", p, *r)
	case p.DataLength != len(s.Text) || len(s.Text) > DefaultDataSegment:
		t.Fatalf("data length %d for %d bytes", p.DataLength, len(s.Text))
	case p.ExpCmdSN != r.CmdSN:
		t.Fatalf("ExpCmdSN %d for CmdSN %d", p.ExpCmdSN, r.CmdSN)
	case p.Transit && (p.Continue || !r.Transit || p.Next != r.Next):
		t.Fatalf("response %+v takes a step that was not asked for by %+v", p, *r)
	case (s.Outcome == LoginDone) != (p.Transit && p.Next == StageFullFeature):
		t.Fatalf("outcome %d with response %+v", s.Outcome, p)
	case (s.Outcome == LoginDone) != (s.Result != nil), (s.Outcome == LoginFailed) != (s.Err != nil), (s.Outcome == LoginFailed) != (p.Status != StatusSuccess):
		t.Fatalf("outcome %d, result %v, status %v, error %v", s.Outcome, s.Result, p.Status, s.Err)
	case s.Outcome == LoginDone && (p.TSIH == 0 || s.Result.TSIH != p.TSIH):
		t.Fatalf("logged in with TSIH %d", p.TSIH)
	}
}

func (f *flow) wantText(want string) {
	f.t.Helper()
	pairs, err := DecodeText(f.last.Text, DefaultTextLimits)
	if err != nil || textOf(pairs) != want {
		f.t.Fatalf("answered %q, %v, want %q (%v)", textOf(pairs), err, want, f.last.Err)
	}
}

// respond answers the challenge in the last response.
func (f *flow) respond(secret, more string) string {
	f.t.Helper()
	pairs, err := DecodeText(f.last.Text, DefaultTextLimits)
	if err != nil {
		f.t.Fatal(err)
	}
	a, _ := lookup(pairs, keyCHAPAlgorithm)
	i, _ := lookup(pairs, keyCHAPIdentifier)
	c, _ := lookup(pairs, keyCHAPChallenge)
	algorithm, _ := ParseNumber(a)
	id, _ := ParseNumber(i)
	challenge, err := ParseBinary(c, maxChallenge)
	if err != nil {
		f.t.Fatalf("no challenge in %v", pairs)
	}
	return "CHAP_N=alice CHAP_R=" + FormatBinary(chapResponse(CHAPAlgorithm(algorithm), byte(id), NewSecret(secret), challenge)) + more
}

func TestLoginNormal(t *testing.T) {
	p := &policy{tsih: 7}
	f := startFlow(t, p)
	f.send(StageSecurity, StageOperational, firstKeys)
	f.wantText("TargetPortalGroupTag=1 TargetAlias=disk AuthMethod=None")
	f.send(StageOperational, StageFullFeature, "HeaderDigest=CRC32C,None InitialR2T=No MaxRecvDataSegmentLength=65536")
	f.wantText("MaxRecvDataSegmentLength=262144 HeaderDigest=CRC32C InitialR2T=No")
	r := f.last.Result
	if r == nil || r.Initiator != initiatorName || r.Target != targetName || r.Discovery || r.TSIH != 7 || r.CID != 1 ||
		r.ISID != f.req.ISID || r.CmdSN != 100 || r.StatSN != 42 || r.Parameters.HeaderDigest != DigestCRC32C ||
		r.Parameters.MaxSendDataSegmentLength != 65536 || r.Parameters.InitialR2T {
		t.Errorf("result %+v", r)
	}
	if f.last.Response.MaxCmdSN != 131 || f.last.Response.StatSN != 41 {
		t.Errorf("response %+v", f.last.Response)
	}
	if len(p.opened) != 1 || p.opened[0].Target != targetName || p.opened[0].CHAPName != "" {
		t.Errorf("opened %+v", p.opened)
	}
	if f.send(StageOperational, StageFullFeature, "").Response.Status != StatusInvalidDuringLogin || len(p.opened) != 1 {
		t.Error("a login went on after its end")
	}
}

func TestLoginWays(t *testing.T) {
	for _, c := range []struct {
		name  string
		first Stage
		steps func(*flow)
	}{
		{"straight from the operational stage", StageOperational, func(f *flow) {
			f.send(StageOperational, StageFullFeature, strings.ReplaceAll(firstKeys, " AuthMethod=CHAP,None", ""))
			f.wantText("TargetPortalGroupTag=1 TargetAlias=disk MaxRecvDataSegmentLength=262144")
		}},
		{"straight from the security stage", StageSecurity, func(f *flow) {
			f.send(StageSecurity, StageFullFeature, firstKeys)
			if got := f.last.Result.Parameters; got != DefaultParameters {
				f.t.Errorf("agreed %+v", got)
			}
		}},
		{"without AuthMethod", StageSecurity, func(f *flow) {
			f.send(StageSecurity, StageFullFeature, strings.ReplaceAll(firstKeys, " AuthMethod=CHAP,None", ""))
		}},
		{"a step at a time", StageSecurity, func(f *flow) {
			f.send(StageSecurity, StageSecurity, firstKeys)
			f.send(StageSecurity, StageOperational, "")
			f.send(StageOperational, StageOperational, "MaxBurstLength=512")
			f.wantText("MaxRecvDataSegmentLength=262144 MaxBurstLength=512")
			f.send(StageOperational, StageOperational, "FirstBurstLength=4096")
			f.wantText("FirstBurstLength=512")
			f.send(StageOperational, StageFullFeature, "")
			f.wantText("")
		}},
		{"discovery", StageSecurity, func(f *flow) {
			f.send(StageSecurity, StageOperational, discoveryKeys)
			f.wantText("AuthMethod=None")
			f.send(StageOperational, StageFullFeature, "MaxBurstLength=512 MaxRecvDataSegmentLength=32768")
			f.wantText("MaxRecvDataSegmentLength=262144 MaxBurstLength=Irrelevant")
			if r := f.last.Result; r == nil || !r.Discovery || r.Target != "" {
				f.t.Errorf("result %+v", r)
			}
		}},
		{"names in capitals", StageSecurity, func(f *flow) {
			f.send(StageSecurity, StageFullFeature, "InitiatorName=IQN.1993-08.org.debian:01:ABC TargetName=IQN.2001-04.COM.EXAMPLE:DISK")
			if r := f.last.Result; r == nil || r.Initiator != initiatorName || r.Target != targetName {
				f.t.Errorf("result %+v", r)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &policy{tsih: 7}
			f := startFlow(t, p)
			c.steps(f)
			if f.last.Outcome != LoginDone || len(p.opened) != 1 {
				t.Errorf("outcome %d, %v, opened %v", f.last.Outcome, f.last.Err, p.opened)
			}
		})
	}
}

func TestLoginTextOverSeveralRequests(t *testing.T) {
	f := startFlow(t, &policy{tsih: 7})
	text := AppendText(nil, pairsOf(firstKeys)...)
	for len(text) > 10 {
		var piece []byte
		piece, text = CutText(text, 10)
		f.req.Continue = true
		if s := f.raw(StageSecurity, StageSecurity, piece); s.Outcome != LoginGoesOn || len(s.Text) > 0 {
			t.Fatalf("answered %q, %v", s.Text, s.Err)
		}
	}
	f.req.Continue = false
	f.raw(StageSecurity, StageFullFeature, text)
	if f.last.Outcome != LoginDone {
		t.Error(f.last.Err)
	}
}

// Many keys that nobody knows make an answer of more than 8192 bytes.
func TestLoginAnswerOverSeveralResponses(t *testing.T) {
	f := startFlow(t, &policy{tsih: 7})
	f.send(StageSecurity, StageOperational, firstKeys)
	var keys strings.Builder
	for i := range 200 {
		fmt.Fprintf(&keys, "X-%d%s=1 ", i, strings.Repeat("x", 50))
	}
	s := f.send(StageOperational, StageFullFeature, keys.String())
	text := s.Text
	for s.Response.Continue {
		if s.Response.Transit || s.Outcome != LoginGoesOn {
			t.Fatalf("a step with half an answer: %+v", s.Response)
		}
		s = f.send(StageOperational, StageFullFeature, "")
		text = append(text, s.Text...)
	}
	pairs, err := DecodeText(text, DefaultTextLimits)
	if err != nil || len(pairs) != 201 || len(text) <= DefaultDataSegment || s.Outcome != LoginDone {
		t.Errorf("%d pairs in %d bytes, %v, outcome %d", len(pairs), len(text), err, s.Outcome)
	}
}

func TestLoginTextWhereTheRestOfAnAnswerIsFetched(t *testing.T) {
	f := startFlow(t, &policy{tsih: 7})
	var keys strings.Builder
	for i := range 200 {
		fmt.Fprintf(&keys, "X-%d%s=1 ", i, strings.Repeat("x", 50))
	}
	f.send(StageSecurity, StageOperational, firstKeys+" "+keys.String())
	if s := f.send(StageSecurity, StageOperational, "X-more=1"); s.Response.Status != StatusInitiatorError {
		t.Errorf("answered %v", s.Response.Status)
	}
}

func TestLoginPolicyAnswers(t *testing.T) {
	boom := errors.New("metadata server is down")
	for _, c := range []struct {
		name   string
		policy policy
		want   LoginStatus
		text   string
	}{
		{"target unknown", policy{target: ErrTargetNotFound}, StatusNotFound, ""},
		{"target removed", policy{target: ErrTargetRemoved}, StatusRemoved, ""},
		{"target not available", policy{target: fmt.Errorf("volume: %w", ErrUnavailable)}, StatusUnavailable, ""},
		{"target moved", policy{target: &Redirect{To: Portal{Host: "10.0.0.2", Group: 1}}}, StatusMovedTemporarily, "TargetAddress=10.0.0.2:3260,1"},
		{"target moved for good", policy{target: &Redirect{To: Portal{Host: "10.0.0.2", Group: 1}, Permanent: true}}, StatusMovedPermanently, "TargetAddress=10.0.0.2:3260,1"},
		{"initiator not allowed", policy{allow: ErrNotAllowed}, StatusNotAuthorized, ""},
		{"secrets cannot be read", policy{chapErr: boom}, StatusTargetError, ""},
		{"too many connections", policy{open: ErrTooManyConnections}, StatusTooManyConnections, ""},
		{"cannot join", policy{open: ErrCannotInclude}, StatusCannotInclude, ""},
		{"no such session", policy{open: ErrNoSession}, StatusNoSession, ""},
		{"no room", policy{open: ErrOutOfResources}, StatusOutOfResources, ""},
		{"anything else", policy{open: boom}, StatusTargetError, ""},
		{"a policy without a handle", policy{tsih: 0}, StatusTargetError, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := startFlow(t, &c.policy)
			f.send(StageSecurity, StageFullFeature, firstKeys)
			if f.last.Response.Status != c.want {
				t.Errorf("status %v, want %v: %v", f.last.Response.Status, c.want, f.last.Err)
			}
			f.wantText(c.text)
		})
	}
}

// A login with a TSIH is a matter for the policy, at the end and authenticated:
// a peer that knows one gets nothing for it.
func TestLoginToAnExistingSession(t *testing.T) {
	for _, c := range []struct {
		name string
		open error
		want LoginStatus
	}{{"joins", nil, StatusSuccess}, {"unknown session", ErrNoSession, StatusNoSession}, {"session is full", ErrTooManyConnections, StatusTooManyConnections}} {
		t.Run(c.name, func(t *testing.T) {
			p := chapPolicy()
			p.tsih, p.open = 9, c.open
			f := startFlow(t, p)
			f.req.TSIH = 9
			f.send(StageSecurity, StageOperational, firstKeys)
			f.send(StageSecurity, StageOperational, "CHAP_A=5")
			if len(p.opened) > 0 {
				t.Fatal("the session was touched before the initiator was authenticated")
			}
			f.send(StageSecurity, StageFullFeature, f.respond(userSecret, ""))
			if f.last.Response.Status != c.want || len(p.opened) != 1 || p.opened[0].TSIH != 9 || p.opened[0].CHAPName != "alice" {
				t.Errorf("status %v, opened %+v", f.last.Response.Status, p.opened)
			}
		})
	}
	f := startFlow(t, &policy{tsih: 9})
	f.req.TSIH = 9
	if s := f.send(StageSecurity, StageFullFeature, discoveryKeys); s.Response.Status != StatusCannotInclude {
		t.Errorf("discovery joins a session: %v", s.Response.Status)
	}
	f = startFlow(t, &policy{tsih: 10})
	f.req.TSIH = 9
	if s := f.send(StageSecurity, StageFullFeature, firstKeys); s.Response.Status != StatusTargetError {
		t.Errorf("joined another session than it asked for: %v", s.Response.Status)
	}
}
