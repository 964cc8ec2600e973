package target

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/gateway/stream"
	"github.com/opencurve/curve-nbd/iscsi"
)

// session is an initiator's session, which is one connection in its full feature
// phase. The connection's reader owns every field that has no other comment.
type session struct {
	server    *Server
	conn      *conn
	id        nexusID
	initiator string
	target    string // "" for discovery
	user      string
	discovery bool
	cid       uint16
	tsih      uint16 // set by sessions.open
	joined    bool   // it is a connection reinstatement
	// inherited is what the session agreed on that a joined one goes on with.
	inherited *iscsi.Parameters
	since     time.Time

	params      iscsi.Parameters
	negotiation *iscsi.Negotiation
	limits      iscsi.Limits
	digests     digests
	exchange    exchange // of text
	batch       batch
	logout      *iscsi.LogoutRequest // that ended the session
	answered    int                  // batches, for timing one in so many
	complained  int64                // the clock when a fault of the initiator was last logged

	// expCmdSN is the next that is taken. The reader changes it.
	expCmdSN atomic.Uint32
	// immediates are the immediate commands under way.
	immediates atomic.Int32
	traffic    traffic
	writer     stream.Writer[reply]
	sender     sender
	units      unitTable

	mu      sync.Mutex // guards all below
	tasks   map[uint32]*task
	starved starved
	// transfer is the target transfer tag given last.
	transfer uint32
	// ended: nothing is sent unasked, since the session has not begun or is about to end.
	ended  bool
	pinged int64 // the clock when the initiator was asked whether it is there, 0 if it answered

	over chan struct{} // closed when the session has left its units: its successor may begin
}

func newSession(c *conn, r *iscsi.SessionRequest) *session {
	s := &session{
		server: c.server, conn: c,
		id:        nexusID{r.Initiator, r.Target, r.ISID},
		initiator: r.Initiator, target: r.Target, user: r.CHAPName, discovery: r.Discovery,
		cid:    r.CID,
		since:  time.Now(),
		params: r.Parameters,
		tasks:  make(map[uint32]*task),
		over:   make(chan struct{}),
		ended:  true, // or a message could go out in the middle of the login
	}
	s.sender.session, s.units.session = s, s
	s.writer.Init(s)
	s.starved.session = s
	return s
}

// start begins the full feature phase.
func (s *session) start(r *iscsi.LoginResult) {
	s.params, s.negotiation = r.Parameters, r.Negotiation
	if s.inherited != nil {
		s.params = s.inherited.Join(r.Parameters)
	}
	s.limits = iscsi.Limits{MaxDataSegment: int(r.Parameters.MaxRecvDataSegmentLength), MaxAHS: iscsi.MaxCommandAHS}
	s.digests = digests{header: r.Parameters.HeaderDigest != iscsi.DigestNone, data: r.Parameters.DataDigest != iscsi.DigestNone}
	s.expCmdSN.Store(r.CmdSN)
	s.sender.statSN = r.StatSN
	s.sender.maxCmdSN.Store(r.CmdSN + window - 1)
	s.sender.maxData = r.Parameters.MaxSendDataSegmentLength
	s.mu.Lock()
	s.ended = false
	s.mu.Unlock()
	s.conn.heard.Store(s.server.clock.Load())
	s.conn.session.Store(s)
}

// abandon ends a session that never began: its login failed after all.
func (s *session) abandon() {
	s.leaveUnits()
	s.units.wait()
}

// leaveUnits makes room for a session of the same nexus. What is in execution still comes
// before what that one does: its units see to it.
func (s *session) leaveUnits() {
	s.units.detachAll()
	s.server.sessions.remove(s)
	close(s.over)
}

// end ends the session: what was not executed yet is dropped, what is in execution
// is aborted and waited for, and nothing of it lasts.
func (s *session) end(cause error) {
	if cause != nil && cause != errOver && !s.conn.draining.Load() {
		s.conn.fail(cause) // now, though commands may be in execution for long
	}
	s.batch.release()
	s.dropWaiting(func(*task) bool { return true })
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	if s.conn.draining.Load() {
		s.writer.Close() // which answers what was read
	} else {
		s.units.abortAll()
	}
	s.conn.cancel(errOver) // a change of units that waits for one ends
	s.leaveUnits()
	s.writer.Close()
	if s.logout != nil { // whoever comes after it meets nothing of this session
		s.answerLogout()
	}
	s.units.wait()
}

// initiatorPort is the SCSI name of the initiator's port (RFC 7143 4.4).
func (s *session) initiatorPort() string { return fmt.Sprintf("%s,i,0x%s", s.initiator, s.id.isid) }

// targetPort is that of ours.
func (s *session) targetPort() string {
	return fmt.Sprintf("%s,t,0x%04x", s.target, s.server.opts.PortalGroup)
}
