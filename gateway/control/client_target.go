package control

import (
	"context"
	"fmt"
	"math"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control/controlpb"
)

// The methods below are Targets, asked of a gateway.
var _ Targets = (*Client)(nil)

// CreateTarget makes an iSCSI target that lets nobody in.
func (c *Client) CreateTarget(ctx context.Context, name, alias string) (Target, error) {
	m, err := c.control.CreateTarget(ctx, &controlpb.CreateTargetRequest{Name: name, Alias: alias})
	return answer(c, targetOf, m, err)
}

// Targets lists the iSCSI targets by name.
func (c *Client) Targets(ctx context.Context) ([]Target, error) {
	m, err := c.control.ListTargets(ctx, &controlpb.ListTargetsRequest{})
	return answer(c, func(m *controlpb.TargetList) []Target {
		list := make([]Target, len(m.GetTargets()))
		for i, t := range m.GetTargets() {
			list[i] = targetOf(t)
		}
		return list
	}, m, err)
}

// Target looks an iSCSI target up.
func (c *Client) Target(ctx context.Context, name string) (Target, error) {
	m, err := c.control.GetTarget(ctx, &controlpb.GetTargetRequest{Name: name})
	return answer(c, targetOf, m, err)
}

// RemoveTarget forgets a target; with force though initiators are logged in.
func (c *Client) RemoveTarget(ctx context.Context, name string, force bool) error {
	_, err := c.control.RemoveTarget(ctx, &controlpb.RemoveTargetRequest{Name: name, Force: force})
	return c.fromStatus(err)
}

// AddUnit makes a volume a unit of a target.
func (c *Client) AddUnit(ctx context.Context, target string, u UnitRequest) (Unit, error) {
	number, err := wireNumber(u.Number)
	if err != nil {
		return Unit{}, err
	}
	m, err := c.control.AddUnit(ctx, &controlpb.AddUnitRequest{
		Target: target, Volume: u.Volume, Number: number,
		ReadOnly: u.ReadOnly, Removable: u.Removable, PhysicalBlockBytes: u.PhysicalBlock,
	})
	return answer(c, unitOf, m, err)
}

// wireNumber is a unit's number on its way; how high it may be, the gateway says.
func wireNumber(n int) (int32, error) {
	if n < math.MinInt32 || n > math.MaxInt32 {
		return 0, fmt.Errorf("%w: unit %d", backend.ErrInvalid, n)
	}
	return int32(n), nil
}

// RemoveUnit takes the unit of a number or a volume off a target; with force though
// initiators that see it are logged in.
func (c *Client) RemoveUnit(ctx context.Context, target, unit string, force bool) (Unit, error) {
	m, err := c.control.RemoveUnit(ctx, &controlpb.RemoveUnitRequest{Target: target, Unit: unit, Force: force})
	return answer(c, unitOf, m, err)
}

// Allow lets an initiator in, in place of what it was allowed before.
func (c *Client) Allow(ctx context.Context, target string, a Access) (Target, error) {
	for _, n := range a.Units {
		if _, err := wireNumber(n); err != nil {
			return Target{}, err
		}
	}
	m, err := c.control.AllowInitiator(ctx, &controlpb.AllowInitiatorRequest{Target: target, Access: accessMessage(a)})
	return answer(c, targetOf, m, err)
}

// Disallow takes back what Allow gave.
func (c *Client) Disallow(ctx context.Context, target, initiator string) (Target, error) {
	m, err := c.control.DisallowInitiator(ctx, &controlpb.DisallowInitiatorRequest{Target: target, Initiator: initiator})
	return answer(c, targetOf, m, err)
}

// Login lists who can prove themselves to a target, or "" for discovery.
func (c *Client) Login(ctx context.Context, target string) (Login, error) {
	m, err := c.control.GetLogin(ctx, &controlpb.GetLoginRequest{Target: target})
	return answer(c, loginOf, m, err)
}

// SetCredential adds or replaces a user, or what the target proves itself with.
func (c *Client) SetCredential(ctx context.Context, target string, cred Credential) (Login, error) {
	m, err := c.control.SetCredential(ctx, &controlpb.SetCredentialRequest{Target: target, Mutual: cred.Mutual, User: cred.User, Secret: cred.Secret})
	return answer(c, loginOf, m, err)
}

// RemoveCredential forgets a user, or what the target proves itself with.
func (c *Client) RemoveCredential(ctx context.Context, target string, cred Credential) (Login, error) {
	m, err := c.control.RemoveCredential(ctx, &controlpb.RemoveCredentialRequest{Target: target, Mutual: cred.Mutual, User: cred.User})
	return answer(c, loginOf, m, err)
}

// answer turns what a call returned into words.
func answer[M, T any](c *Client, words func(M) T, m M, err error) (T, error) {
	if err != nil {
		var none T
		return none, c.fromStatus(err)
	}
	return words(m), nil
}
