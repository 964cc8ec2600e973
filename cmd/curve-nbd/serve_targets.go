package main

import (
	"context"
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/control"
	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// targets is the gateway's side of the commands for iSCSI targets. Names and
// numbers are checked below.
type targets struct{ registry *registry.Registry }

// startTargets opens the registry of targets. It is there without any listener for
// iSCSI too: another gateway may have one. It waits for nothing: where metadata of an
// older program keep no records, a gateway serves NBD as ever.
func (f *frontEnds) startTargets() {
	f.targets = &targets{registry: registry.New(f.store.Meta(), registry.Options{Logger: f.log})}
	f.running.push("iSCSI targets", closeTimeout, func(context.Context) error { return f.targets.registry.Close() })
}

// freshFor bounds how long a listing waits to be as the metadata have it.
const freshFor = time.Second

// refresh brings in what other gateways have just changed, if that is soon to be had.
func (t *targets) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, freshFor)
	defer cancel()
	_ = t.registry.Refresh(ctx) // the registry logs what is wrong, and what is known is shown
}

func (t *targets) CreateTarget(ctx context.Context, name, alias string) (control.Target, error) {
	return t.one(t.registry.Create(ctx, name, alias))
}

func (t *targets) Targets(ctx context.Context) ([]control.Target, error) {
	t.refresh(ctx)
	list := []control.Target{}
	for _, target := range t.registry.Targets() {
		list = append(list, t.view(target))
	}
	return list, nil
}

func (t *targets) Target(ctx context.Context, name string) (control.Target, error) {
	target, err := t.find(ctx, name)
	return t.one(target, err)
}

func (t *targets) find(ctx context.Context, name string) (*registry.Target, error) {
	parsed, err := iscsi.ParseName(name)
	if err != nil {
		return nil, fmt.Errorf("%w: target name: %w", backend.ErrInvalid, err)
	}
	t.refresh(ctx)
	target, ok := t.registry.Target(parsed)
	if !ok {
		return nil, fmt.Errorf("%w: no target %s", backend.ErrNotFound, parsed)
	}
	return target, nil
}

func (t *targets) RemoveTarget(ctx context.Context, name string, force bool) error {
	return t.registry.Remove(ctx, name, force)
}

func (t *targets) AddUnit(ctx context.Context, target string, u control.UnitRequest) (control.Unit, error) {
	number := u.Number
	if number == control.AnyNumber {
		number = registry.AnyNumber
	}
	unit, err := t.registry.AddUnit(ctx, target, registry.Unit{
		Volume: u.Volume, Number: number, ReadOnly: u.ReadOnly, Removable: u.Removable, PhysicalBlock: u.PhysicalBlock,
	})
	return controlUnit(unit), err
}

func (t *targets) RemoveUnit(ctx context.Context, target, unit string, force bool) (control.Unit, error) {
	gone, err := t.registry.RemoveUnit(ctx, target, unit, force)
	return controlUnit(gone), err
}

func (t *targets) Allow(ctx context.Context, target string, a control.Access) (control.Target, error) {
	units := a.Units
	if a.AllUnits {
		units = nil
	} else if units == nil {
		units = []int{}
	}
	return t.one(t.registry.Allow(ctx, target, a.Initiator, units))
}

func (t *targets) Disallow(ctx context.Context, target, initiator string) (control.Target, error) {
	return t.one(t.registry.Disallow(ctx, target, initiator))
}

func (t *targets) Login(ctx context.Context, target string) (control.Login, error) {
	if target == "" {
		t.refresh(ctx)
		return controlLogin(t.registry.DiscoveryLogin()), nil
	}
	found, err := t.find(ctx, target)
	if err != nil {
		return control.Login{}, err
	}
	return controlLogin(registry.Login{Users: found.Users, Mutual: found.Mutual}), nil
}

func (t *targets) SetCredential(ctx context.Context, target string, c control.Credential) (control.Login, error) {
	credential := registry.Credential{Name: c.User, Secret: iscsi.NewSecret(string(c.Secret))}
	set := t.registry.SetUser
	if c.Mutual {
		set = t.registry.SetMutual
	}
	login, err := set(ctx, orDiscovery(target), credential)
	return controlLogin(login), err
}

func (t *targets) RemoveCredential(ctx context.Context, target string, c control.Credential) (control.Login, error) {
	var login registry.Login
	var err error
	if c.Mutual {
		login, err = t.registry.ClearMutual(ctx, orDiscovery(target))
	} else {
		login, err = t.registry.RemoveUser(ctx, orDiscovery(target), c.User)
	}
	return controlLogin(login), err
}

func orDiscovery(target string) string {
	if target == "" {
		return registry.Discovery
	}
	return target
}

// volumesOfUnits is a gateway that keeps the volumes that are units: initiators would
// find their disk gone, of which they would learn at their next login.
type volumesOfUnits struct {
	*gateway.Gateway
	targets *targets
}

func (g volumesOfUnits) RemoveVolume(ctx context.Context, name string, purge bool) (backend.VolumeInfo, error) {
	v, err := g.Gateway.Volume(ctx, name)
	if err != nil {
		return v, err
	}
	g.targets.refresh(ctx)
	if err := g.targets.registry.Unused(v.ID); err != nil {
		return v, err
	}
	return g.Gateway.RemoveVolume(ctx, name, purge)
}

func (t *targets) one(target *registry.Target, err error) (control.Target, error) {
	if err != nil {
		return control.Target{}, err
	}
	return t.view(target), nil
}

// view is a target as the control protocol has it: without secrets.
func (t *targets) view(target *registry.Target) control.Target {
	c := control.Target{
		Name: target.Name, Alias: target.Alias, CreatedAt: target.CreatedAt,
		Login: controlLogin(registry.Login{Users: target.Users, Mutual: target.Mutual}),
	}
	for _, u := range target.Units {
		c.Units = append(c.Units, controlUnit(u))
	}
	for _, a := range target.Access {
		c.Access = append(c.Access, control.Access{Initiator: a.Initiator, AllUnits: a.Units == nil, Units: a.Units})
	}
	for _, s := range t.registry.SessionsOf(target.Name) {
		c.Sessions = append(c.Sessions, control.Session{
			Initiator: s.Initiator, Address: s.Address, User: s.User, Since: s.Since,
			Reads: s.Reads, Writes: s.Writes, ReadBytes: s.ReadBytes, WriteBytes: s.WriteBytes,
		})
	}
	return c
}

func controlUnit(u registry.Unit) control.Unit {
	return control.Unit{
		Number: u.Number, Volume: u.Volume, VolumeID: u.ID,
		UnitOptions: control.UnitOptions{ReadOnly: u.ReadOnly, Removable: u.Removable, PhysicalBlock: u.PhysicalBlock},
	}
}

func controlLogin(l registry.Login) control.Login {
	c := control.Login{}
	for _, u := range l.Users {
		c.Users = append(c.Users, u.Name)
	}
	if l.Mutual != nil {
		c.Mutual = l.Mutual.Name
	}
	return c
}
