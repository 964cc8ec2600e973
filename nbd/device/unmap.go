package device

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

// gonePoll is how often the kernel is asked whether a device is gone.
const gonePoll = 10 * time.Millisecond

// Unmap takes the device of a volume, or /dev/nbdN, down and returns when it is gone.
// backend.ErrBusy, naming the users, while it is in use; with force it goes anyway,
// and what its users do fails. backend.ErrNotFound when nothing of the name is mapped.
func (m *Manager) Unmap(ctx context.Context, target string, force bool) (Device, error) {
	d, err := m.lookup(target)
	if err != nil {
		return Device{}, err
	}
	if d.device().State == StateConnecting {
		return Device{}, fmt.Errorf("%w: %s is just being mapped", backend.ErrBusy, d.record.Volume)
	}
	release := func() {}
	if !force {
		if release, err = m.claim(ctx, d); err != nil {
			return d.device(), err
		}
	}
	if !d.beginDetach() {
		release()
		return d.device(), fmt.Errorf("%w: %s is being unmapped already", backend.ErrBusy, d.path())
	}
	d.stop()
	select {
	case <-d.kept:
	case <-ctx.Done(): // it hangs on the volume, and notices the end by itself
	}
	err = d.driver().Disconnect(d.record.Index)
	release()
	if err != nil {
		return d.device(), err
	}
	forgotten := make(chan struct{})
	go func() { defer close(forgotten); m.forget(d) }()
	if err := m.gone(ctx, d); err != nil {
		return d.device(), err
	}
	select {
	case <-forgotten: // the volume can be mapped, opened elsewhere and removed
	case <-ctx.Done():
	}
	return d.device(), nil
}

// lookup finds a mapping by its device or by its volume.
func (m *Manager) lookup(target string) (*mapping, error) {
	index, notDevice := kernel.ParseDevice(target)
	m.mu.Lock()
	defer m.mu.Unlock()
	var found *mapping
	for _, d := range m.all {
		switch {
		case notDevice == nil && d.record.Index == index, notDevice != nil && found == nil && d.record.Volume == target:
			found = d
		case notDevice != nil && d.record.Volume == target:
			return nil, fmt.Errorf("%w: %s has more than one device: say which", backend.ErrInvalid, target)
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%w: %s is not mapped here", backend.ErrNotFound, target)
	}
	return found, nil
}

// claim makes sure that nobody uses the device, nor begins to until release, and
// that the kernel's cache of it is written back.
func (m *Manager) claim(ctx context.Context, d *mapping) (release func(), err error) {
	users, err := m.system.Users(d.record.Index)
	if err != nil {
		return nil, fmt.Errorf("find out who uses %s: %w", d.path(), err)
	}
	if len(users) > 0 {
		return nil, busyError(d.path()+" is in use", users)
	}
	release, err = m.system.Flush(ctx, d.record.Index)
	if errors.Is(err, backend.ErrBusy) { // somebody came in between, or hides
		users, _ = m.system.Users(d.record.Index)
		return nil, busyError(d.path()+" is in use", users)
	}
	return release, err
}

func (m *mapping) beginDetach() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == StateDetaching {
		return false
	}
	m.state, m.problem = StateDetaching, ""
	return true
}

// gone waits until the kernel has let the device go.
func (m *Manager) gone(ctx context.Context, d *mapping) error {
	for {
		st, err := m.system.State(d.record.Index)
		if err == nil && !d.is(st) {
			m.announce(d)
			m.log.Info("device detached", "device", d.path(), "volume", d.record.Volume)
			return nil
		}
		select {
		case <-time.After(gonePoll):
		case <-ctx.Done():
			users, _ := m.system.Users(d.record.Index)
			return errors.Join(busyError(d.path()+" is disconnected, and goes when its users let go of it", users), err)
		}
	}
}
