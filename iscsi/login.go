package iscsi

import (
	"crypto/rand"
	"io"
)

// The target's side of a login, RFC 7143 section 6.3 and 11.12 to 11.13.
//
//	        security ──AuthMethod agreed and done──► operational ──► full feature
//	           │                                                          ▲
//	           └──────────────────────────────────────────────────────────┘
//
// The initiator starts in either of the first two and asks for each step with
// T and NSG. Receive answers every request with one response: header checks,
// then text (login_text.go), then names and access, then the step.

// TargetInfo is what a login needs to know of a target.
type TargetInfo struct {
	PortalGroup uint16 // tag of the group the connection came in by
	Alias       string // may be empty
}

// SessionRequest is a login that has passed everything else.
type SessionRequest struct {
	Initiator string
	Target    string // empty for discovery
	Discovery bool
	ISID      ISID
	TSIH      uint16 // 0 opens a session
	CID       uint16
	CHAPName  string // empty without authentication
	// Parameters of the connection, and of the session it opens.
	Parameters Parameters
}

// Policy decides for a login. Names are in the form of ParseName; target is
// empty for a discovery session. Errors are those of login_status.go.
type Policy interface {
	// Target looks a target up by name.
	Target(name string) (TargetInfo, error)
	// Allow says if an initiator may log in to a target.
	Allow(initiator, target string) error
	// CHAP returns what the initiator must prove, nil if nothing.
	CHAP(initiator, target string) (*CHAPAccess, error)
	// OpenSession is asked last and once, of an authenticated initiator: with
	// TSIH 0 it replaces the initiator's session of the same ISID if there is
	// one (RFC 7143 6.3.5) and returns the handle of a new one, never 0; else
	// it joins or reinstates a connection and returns TSIH.
	OpenSession(SessionRequest) (tsih uint16, err error)
}

// LoginOptions are the caller's part of a login.
type LoginOptions struct {
	Settings Settings
	Policy   Policy
	// Random is for challenges; crypto/rand if nil.
	Random io.Reader
	// Text bounds one text, DefaultTextLimits if zero. MaxRounds and MaxBytes
	// bound requests and text of the whole login; 32 and 64 KiB if zero.
	Text      TextLimits
	MaxRounds int
	MaxBytes  int
	// Window is how many commands the session will take at once, at least 1.
	Window uint32
}

const (
	defaultLoginRounds = 32
	defaultLoginBytes  = 64 << 10
)

// LoginOutcome is where a login stands after a response.
type LoginOutcome uint8

// The outcomes. A response is to be sent in each.
const (
	LoginGoesOn LoginOutcome = iota // read the next request
	LoginDone                       // full feature phase
	LoginFailed                     // close the connection
)

// LoginResult is what a login that is done has agreed on.
type LoginResult struct {
	Parameters     Parameters
	Initiator      string
	InitiatorAlias string
	Target         string // empty for discovery
	Discovery      bool
	CHAPName       string
	ISID           ISID
	TSIH, CID      uint16
	CmdSN          uint32 // the first that a command will have
	StatSN         uint32 // the next for a response
	// Negotiation goes on in the full feature phase, with text requests.
	Negotiation *Negotiation
}

// LoginStep is the answer to one login request.
type LoginStep struct {
	Response LoginResponse
	Text     []byte // its data segment
	Outcome  LoginOutcome
	Result   *LoginResult // if done
	Err      error        // a *LoginError if failed
}

// Login is one connection's login. It is not for concurrent use.
type Login struct {
	options     LoginOptions
	negotiation *Negotiation
	text        *TextBuffer
	chap        *chapServer // nil unless CHAP is demanded
	target      TargetInfo

	first      LoginRequest // what all requests must repeat
	stage      Stage
	rounds     int
	bytes      int
	statSN     uint32
	unsent     []byte // of an answer that did not fit one response
	identified bool
	authAgreed bool // AuthMethod was answered
	told       bool // the target's own keys were sent
	over       bool
}

// NewLogin starts a login.
func NewLogin(o LoginOptions) *Login {
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Text == (TextLimits{}) {
		o.Text = DefaultTextLimits
	}
	if o.MaxRounds == 0 {
		o.MaxRounds = defaultLoginRounds
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultLoginBytes
	}
	o.Window = max(o.Window, 1)
	return &Login{options: o, text: NewTextBuffer(o.Text)}
}

// Receive takes a login request and its data segment, and returns what to send
// and how the login stands. It keeps no reference to data.
func (l *Login) Receive(r *LoginRequest, data []byte) LoginStep {
	if l.rounds == 0 {
		l.first, l.stage, l.statSN = *r, r.Current, r.ExpStatSN
	}
	l.rounds++
	step, err := l.receive(r, data)
	if err != nil {
		return l.fail(r, err)
	}
	return step
}

// Foreign is the answer to a PDU that is none of a login. Before the first request there
// is none, and the connection just ends (RFC 7143 6.3).
func (l *Login) Foreign(op Opcode) (step LoginStep, answered bool) {
	if l.rounds == 0 {
		return step, false
	}
	return l.fail(&l.first, refuse(StatusInvalidDuringLogin, "%v during the login", op)), true
}

func (l *Login) receive(r *LoginRequest, data []byte) (LoginStep, error) {
	if err := l.checkHeader(r); err != nil {
		return LoginStep{}, err
	}
	if l.bytes += len(data); l.bytes > l.options.MaxBytes {
		return LoginStep{}, refuse(StatusInitiatorError, "%w: %d bytes in this login, at most %d", ErrTextTooLong, l.bytes, l.options.MaxBytes)
	}
	if len(l.unsent) > 0 {
		if len(data) > 0 || r.Continue {
			return LoginStep{}, refuse(StatusInitiatorError, "text in a request that had to fetch the rest of an answer")
		}
		return l.answer(r, l.unsent)
	}
	if err := l.text.Add(data); err != nil {
		return LoginStep{}, err
	}
	if r.Continue {
		return LoginStep{Response: l.response(r)}, nil
	}
	pairs, err := l.text.Pairs()
	if err != nil {
		return LoginStep{}, err
	}
	answers, err := l.receiveText(pairs)
	if err != nil {
		return LoginStep{}, err
	}
	return l.answer(r, AppendText(nil, answers...))
}

// checkHeader holds a request against the rules of RFC 7143 11.12 and against
// the first of its login.
func (l *Login) checkHeader(r *LoginRequest) error {
	f := &l.first
	switch {
	case l.over:
		return refuse(StatusInvalidDuringLogin, "login request after the login")
	case r.VersionMin > Version:
		return refuse(StatusUnsupportedVersion, "initiator wants version %d at least, this is %d", r.VersionMin, Version)
	case l.rounds > l.options.MaxRounds:
		return refuse(StatusInitiatorError, "login takes more than %d requests", l.options.MaxRounds)
	case r.ISID != f.ISID || r.TSIH != f.TSIH || r.CID != f.CID || r.InitiatorTaskTag != f.InitiatorTaskTag:
		return refuse(StatusInitiatorError, "request has another ISID, TSIH, CID or task tag than the first of this login")
	case r.CmdSN != f.CmdSN:
		return refuse(StatusInitiatorError, "CmdSN changed from %d to %d during login", f.CmdSN, r.CmdSN)
	case SNBefore(l.statSN, r.ExpStatSN):
		return refuse(StatusInitiatorError, "acknowledges response %d, which was not sent: the next is %d", r.ExpStatSN-1, l.statSN)
	case r.Current != StageSecurity && r.Current != StageOperational:
		return refuse(StatusInvalidDuringLogin, "%v is no stage of a login", r.Current)
	case r.Current != l.stage:
		return refuse(StatusInvalidDuringLogin, "request is of %v, the login is in %v", r.Current, l.stage)
	case r.Transit && r.Continue:
		return refuse(StatusInitiatorError, "request wants the next stage with its text unfinished")
	case r.Transit && (r.Next <= r.Current || r.Next != StageOperational && r.Next != StageFullFeature):
		return refuse(StatusInitiatorError, "no way from %v to %v", r.Current, r.Next)
	}
	return nil
}

// Version is the protocol version of RFC 7143.
const Version = 0x00

// answer sends text, or what fits of it, and takes the step that r asks for if
// nothing is in its way.
func (l *Login) answer(r *LoginRequest, text []byte) (LoginStep, error) {
	s := LoginStep{}
	// A declaration counts in the full feature phase only, so whatever the
	// initiator's segment length, login responses keep to the default.
	s.Text, l.unsent = CutText(text, DefaultDataSegment)
	if len(l.unsent) > 0 {
		s.Response = l.response(r)
		s.Response.Continue, s.Response.DataLength = true, len(s.Text)
		return s, nil
	}
	transit := r.Transit && l.mayLeave()
	if transit && r.Next == StageFullFeature {
		result, err := l.open(r)
		if err != nil {
			return s, err
		}
		s.Outcome, s.Result = LoginDone, result
	}
	s.Response = l.response(r)
	s.Response.DataLength = len(s.Text)
	if transit {
		s.Response.Transit, s.Response.Next, l.stage = true, r.Next, r.Next
	}
	if s.Result != nil {
		s.Response.TSIH, s.Result.StatSN, l.over = s.Result.TSIH, l.statSN, true
	}
	return s, nil
}

// mayLeave says if the stage has reached its end.
func (l *Login) mayLeave() bool {
	return l.identified && (l.stage != StageSecurity || l.chap == nil || l.chap.done)
}

// open makes the session of a login that is through.
func (l *Login) open(r *LoginRequest) (*LoginResult, error) {
	p, err := l.negotiation.Parameters()
	if err != nil {
		return nil, err
	}
	n := &l.negotiation.names
	if n.discovery {
		n.target = "" // whatever the initiator named, it was not looked up
	}
	q := SessionRequest{
		Initiator: n.initiator, Target: n.target, Discovery: n.discovery,
		ISID: r.ISID, TSIH: r.TSIH, CID: r.CID, Parameters: p,
	}
	if l.chap != nil {
		q.CHAPName = l.chap.name
	}
	tsih, err := l.options.Policy.OpenSession(q)
	if err != nil {
		return nil, err
	}
	if tsih == 0 || r.TSIH != 0 && tsih != r.TSIH {
		return nil, refuse(StatusTargetError, "session handle %d for a login with %d", tsih, r.TSIH)
	}
	return &LoginResult{
		Parameters: p, Initiator: n.initiator, InitiatorAlias: n.alias, Target: n.target, Discovery: n.discovery,
		CHAPName: q.CHAPName, ISID: r.ISID, TSIH: tsih, CID: r.CID, CmdSN: r.CmdSN, Negotiation: l.negotiation,
	}, nil
}

// response is the header of an answer that stays in its stage. A login request
// is immediate: the CmdSN it carries is the one the next command will have.
func (l *Login) response(r *LoginRequest) LoginResponse {
	sn := l.statSN
	l.statSN++
	return LoginResponse{
		Current: r.Current, VersionMax: Version, VersionActive: Version,
		ISID: r.ISID, TSIH: r.TSIH, InitiatorTaskTag: r.InitiatorTaskTag,
		Window: Window{StatSN: sn, ExpCmdSN: r.CmdSN, MaxCmdSN: r.CmdSN + l.options.Window - 1},
	}
}

func (l *Login) fail(r *LoginRequest, err error) LoginStep {
	e := loginError(err)
	l.over = true
	s := LoginStep{Response: l.response(r), Outcome: LoginFailed, Err: e}
	s.Response.Status = e.Status
	if moved := redirect(e); moved != nil {
		s.Text = AppendText(nil, Pair{keyTargetAddress, moved.To.String()})
		s.Response.DataLength = len(s.Text)
	}
	return s
}
