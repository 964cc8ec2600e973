package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// login serves login requests until one ends it. A failure has been answered.
func (c *conn) login() (*session, error) {
	p := &policy{conn: c}
	// What is asked for ends in time for an answer.
	p.ctx, p.cancel = context.WithTimeout(c.ctx, c.server.opts.LoginTimeout*2/3)
	defer p.cancel()
	l := iscsi.NewLogin(iscsi.LoginOptions{Settings: c.server.opts.Settings, Policy: p, Window: window})
	for {
		step, err := c.loginStep(l)
		if err == nil && step.Outcome == iscsi.LoginGoesOn {
			continue
		}
		if err != nil || step.Outcome == iscsi.LoginFailed {
			outcome := loginRefused
			if step.Outcome != iscsi.LoginFailed {
				outcome = loginBroken
			}
			c.server.metrics.logins.WithLabelValues(outcome).Inc()
			if p.session != nil {
				p.session.abandon()
			}
			return nil, errors.Join(err, step.Err)
		}
		c.server.metrics.logins.WithLabelValues(loginOK).Inc()
		p.session.start(step.Result)
		return p.session, nil
	}
}

// loginStep serves one request.
func (c *conn) loginStep(l *iscsi.Login) (step iscsi.LoginStep, err error) {
	if err := c.in.Need(iscsi.BHSSize); err != nil {
		return step, err
	}
	var bhs iscsi.BHS
	c.in.Skip(copy(bhs[:], c.in.Bytes()))
	if op := bhs.Opcode(); op != iscsi.OpLoginRequest {
		step, answered := l.Foreign(op)
		if !answered {
			return step, fmt.Errorf("%v before login", op)
		}
		return step, c.answerLogin(&step)
	}
	if err := bhs.Check(iscsi.LoginLimits); err != nil {
		return step, err
	}
	n := bhs.DataLength()
	if err := c.in.Need(iscsi.Padded(n)); err != nil {
		return step, err
	}
	data := c.in.Bytes()[:n]
	c.in.Skip(iscsi.Padded(n))
	var request iscsi.LoginRequest
	if err := request.Decode(&bhs); err != nil {
		return step, err
	}
	c.asked++
	step = l.Receive(&request, data)
	return step, c.answerLogin(&step)
}

func (c *conn) answerLogin(step *iscsi.LoginStep) error {
	var answer iscsi.BHS
	step.Response.Encode(&answer)
	var padding [3]byte
	text := step.Text
	return c.out.Write([][]byte{answer[:], text, padding[:iscsi.Padded(len(text))-len(text)]})
}

// policy decides about one login, from the directory.
type policy struct {
	conn    *conn
	ctx     context.Context
	cancel  context.CancelFunc
	session *session // opened, if the login came that far
}

// Target implements iscsi.Policy.
func (p *policy) Target(name string) (iscsi.TargetInfo, error) {
	p.conn.target = name
	t, ok := p.conn.server.directory.Target(name)
	if !ok && p.lookAgain() {
		t, ok = p.conn.server.directory.Target(name)
	}
	if !ok {
		return iscsi.TargetInfo{}, fmt.Errorf("%w: %q", iscsi.ErrTargetNotFound, name)
	}
	return iscsi.TargetInfo{PortalGroup: p.conn.server.opts.PortalGroup, Alias: t.Alias}, nil
}

// lookPatience bounds what a login waits for the metadata.
const lookPatience = 2 * time.Second

// lookAgain has the directory look for news before a login is refused: what it lacks may
// just have been added at another gateway, and initiators take such a refusal for final.
// However many logins ask, one looks at a time.
func (p *policy) lookAgain() bool {
	ctx, cancel := context.WithTimeout(p.ctx, lookPatience)
	defer cancel()
	return p.conn.server.directory.Refresh(ctx) == nil
}

// Allow implements iscsi.Policy.
func (p *policy) Allow(initiator, target string) error {
	p.conn.initiator, p.conn.target = initiator, target
	if target == "" { // discovery shows what the initiator may log in to
		return nil
	}
	t, ok := p.conn.server.directory.Target(target)
	if !ok {
		return iscsi.ErrTargetNotFound
	}
	_, allowed := t.Sees(initiator)
	if !allowed && p.lookAgain() {
		if t, ok = p.conn.server.directory.Target(target); !ok {
			return iscsi.ErrTargetNotFound
		}
		_, allowed = t.Sees(initiator)
	}
	if !allowed {
		return fmt.Errorf("%w: let it in with `acl add %s %s`", iscsi.ErrNotAllowed, target, initiator)
	}
	return nil
}

// CHAP implements iscsi.Policy.
func (p *policy) CHAP(_, target string) (*iscsi.CHAPAccess, error) {
	if target == "" {
		l := p.conn.server.directory.DiscoveryLogin()
		return access(l.Users, l.Mutual), nil
	}
	t, ok := p.conn.server.directory.Target(target)
	if !ok {
		return nil, iscsi.ErrTargetNotFound
	}
	return access(t.Users, t.Mutual), nil
}

func access(users []registry.Credential, mutual *registry.Credential) *iscsi.CHAPAccess {
	if len(users) == 0 {
		return nil
	}
	a := &iscsi.CHAPAccess{Secret: func(name string) (iscsi.Secret, bool) {
		i := slices.IndexFunc(users, func(c registry.Credential) bool { return c.Name == name })
		if i < 0 {
			return iscsi.Secret{}, false
		}
		return users[i].Secret, true
	}}
	if mutual != nil {
		a.MutualName, a.MutualSecret = mutual.Name, mutual.Secret
	}
	return a
}

// OpenSession implements iscsi.Policy.
func (p *policy) OpenSession(r iscsi.SessionRequest) (uint16, error) {
	s := newSession(p.conn, &r)
	if err := p.conn.server.sessions.open(p.ctx, s, r.TSIH); err != nil {
		return 0, err
	}
	p.session = s
	if r.Discovery {
		return s.tsih, nil
	}
	if err := s.attachUnits(p.ctx); err != nil {
		return 0, err
	}
	return s.tsih, nil
}
