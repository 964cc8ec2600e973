package control

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control/controlpb"
)

// Targets is what the server needs of whoever keeps the iSCSI targets. Errors wrap
// the sentinels of package backend.
type Targets interface {
	CreateTarget(ctx context.Context, name, alias string) (Target, error)
	Targets(ctx context.Context) ([]Target, error)
	Target(ctx context.Context, name string) (Target, error)
	RemoveTarget(ctx context.Context, name string, force bool) error
	AddUnit(ctx context.Context, target string, u UnitRequest) (Unit, error)
	// RemoveUnit takes a number or a volume.
	RemoveUnit(ctx context.Context, target, unit string, force bool) (Unit, error)
	Allow(ctx context.Context, target string, a Access) (Target, error)
	Disallow(ctx context.Context, target, initiator string) (Target, error)
	// In these, an empty target stands for discovery sessions.
	Login(ctx context.Context, target string) (Login, error)
	SetCredential(ctx context.Context, target string, c Credential) (Login, error)
	RemoveCredential(ctx context.Context, target string, c Credential) (Login, error)
}

// Target is an iSCSI target.
type Target struct {
	Name, Alias string
	CreatedAt   time.Time
	Units       []Unit
	Access      []Access
	Login       Login
	// Sessions are who is logged in at this gateway.
	Sessions []Session
}

// Unit is a volume as a logical unit.
type Unit struct {
	Number   int
	Volume   string
	VolumeID backend.VolumeID
	UnitOptions
}

// UnitOptions are what a unit is made with.
type UnitOptions struct {
	ReadOnly  bool
	Removable bool
	// PhysicalBlock is in bytes; 0 asks for the default.
	PhysicalBlock int64
}

// AnyNumber in a UnitRequest is the lowest free one.
const AnyNumber = -1

// UnitRequest asks for a unit.
type UnitRequest struct {
	Volume string
	Number int
	UnitOptions
}

// Access lets an initiator, or "any", see all units or those listed.
type Access struct {
	Initiator string
	AllUnits  bool
	Units     []int
}

// Login is who can prove themselves.
type Login struct {
	Users []string
	// Mutual is the name the target proves itself under, "" if it cannot.
	Mutual string
}

// Session is an initiator that is logged in, and what it has done since.
type Session struct {
	Initiator, Address string
	// User is whom it has proved to be, "" if no proof was asked for.
	User                                 string
	Since                                time.Time
	Reads, Writes, ReadBytes, WriteBytes uint64
}

// Credential is a user of a target or, Mutual, what the target proves itself with.
type Credential struct {
	Mutual bool
	User   string
	Secret Secret
}

// Secret is a secret on its way; it does not print.
type Secret []byte

// Format keeps every verb of fmt from the bytes.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// MarshalText keeps encoders from the bytes.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

func (s *service) CreateTarget(ctx context.Context, req *controlpb.CreateTargetRequest) (*controlpb.Target, error) {
	return withTargets(s, targetMessage, func(ts Targets) (Target, error) {
		return ts.CreateTarget(ctx, req.GetName(), req.GetAlias())
	})
}

func (s *service) ListTargets(ctx context.Context, _ *controlpb.ListTargetsRequest) (*controlpb.TargetList, error) {
	return withTargets(s, func(list []Target) *controlpb.TargetList {
		m := &controlpb.TargetList{Targets: make([]*controlpb.Target, len(list))}
		for i, t := range list {
			m.Targets[i] = targetMessage(t)
		}
		return m
	}, func(ts Targets) ([]Target, error) { return ts.Targets(ctx) })
}

func (s *service) GetTarget(ctx context.Context, req *controlpb.GetTargetRequest) (*controlpb.Target, error) {
	return withTargets(s, targetMessage, func(ts Targets) (Target, error) { return ts.Target(ctx, req.GetName()) })
}

func (s *service) RemoveTarget(ctx context.Context, req *controlpb.RemoveTargetRequest) (*controlpb.RemoveTargetReply, error) {
	return withTargets(s, func(struct{}) *controlpb.RemoveTargetReply { return &controlpb.RemoveTargetReply{} },
		func(ts Targets) (struct{}, error) {
			return struct{}{}, ts.RemoveTarget(ctx, req.GetName(), req.GetForce())
		})
}

func (s *service) AddUnit(ctx context.Context, req *controlpb.AddUnitRequest) (*controlpb.Unit, error) {
	return withTargets(s, unitMessage, func(ts Targets) (Unit, error) {
		return ts.AddUnit(ctx, req.GetTarget(), UnitRequest{
			Volume: req.GetVolume(), Number: int(req.GetNumber()),
			UnitOptions: UnitOptions{ReadOnly: req.GetReadOnly(), Removable: req.GetRemovable(), PhysicalBlock: req.GetPhysicalBlockBytes()},
		})
	})
}

func (s *service) RemoveUnit(ctx context.Context, req *controlpb.RemoveUnitRequest) (*controlpb.Unit, error) {
	return withTargets(s, unitMessage, func(ts Targets) (Unit, error) {
		return ts.RemoveUnit(ctx, req.GetTarget(), req.GetUnit(), req.GetForce())
	})
}

func (s *service) AllowInitiator(ctx context.Context, req *controlpb.AllowInitiatorRequest) (*controlpb.Target, error) {
	return withTargets(s, targetMessage, func(ts Targets) (Target, error) {
		return ts.Allow(ctx, req.GetTarget(), accessOf(req.GetAccess()))
	})
}

func (s *service) DisallowInitiator(ctx context.Context, req *controlpb.DisallowInitiatorRequest) (*controlpb.Target, error) {
	return withTargets(s, targetMessage, func(ts Targets) (Target, error) {
		return ts.Disallow(ctx, req.GetTarget(), req.GetInitiator())
	})
}

func (s *service) GetLogin(ctx context.Context, req *controlpb.GetLoginRequest) (*controlpb.Login, error) {
	return withTargets(s, loginMessage, func(ts Targets) (Login, error) { return ts.Login(ctx, req.GetTarget()) })
}

func (s *service) SetCredential(ctx context.Context, req *controlpb.SetCredentialRequest) (*controlpb.Login, error) {
	return withTargets(s, loginMessage, func(ts Targets) (Login, error) {
		return ts.SetCredential(ctx, req.GetTarget(), Credential{Mutual: req.GetMutual(), User: req.GetUser(), Secret: req.GetSecret()})
	})
}

func (s *service) RemoveCredential(ctx context.Context, req *controlpb.RemoveCredentialRequest) (*controlpb.Login, error) {
	return withTargets(s, loginMessage, func(ts Targets) (Login, error) {
		return ts.RemoveCredential(ctx, req.GetTarget(), Credential{Mutual: req.GetMutual(), User: req.GetUser()})
	})
}

var errNoTargets = fmt.Errorf("%w: this gateway has no iSCSI targets", backend.ErrNotSupported)

// withTargets asks the targets, if there are any, and turns what they say into a
// message.
func withTargets[T, M any](s *service, message func(T) *M, ask func(Targets) (T, error)) (*M, error) {
	if s.targets == nil {
		return nil, toStatus(errNoTargets)
	}
	answer, err := ask(s.targets)
	if err != nil {
		return nil, toStatus(err)
	}
	return message(answer), nil
}
