package device

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

// endTimeout bounds how long the devices that go with the gateway may take to.
const endTimeout = 10 * time.Second

func (m *mapping) driver() Driver {
	if m.record.Ioctl {
		return m.manager.ioctl
	}
	return m.manager.driver
}

// is says that the kernel's device is this mapping's, and there.
func (m *mapping) is(st kernel.State) bool {
	if !m.record.Ioctl {
		return st.Connected && st.Backend == m.record.Backend
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return st.Connected && st.PID == m.thread
}

// broken says what it means that a device which is attached by ioctl has lost
// connections: the kernel goes on with the others, and ends it with the last.
func (m *mapping) broken() error {
	if m.live.Load() > 0 {
		return nil
	}
	return errLost
}

// reduced says what is wrong with a device that works.
func (m *mapping) reduced() error {
	if missing := m.missing(); m.record.Ioctl && missing > 0 {
		return fmt.Errorf("%d of %d connections broke, which attached by ioctl cannot be brought back", missing, m.record.Connections)
	}
	return nil
}

var errLost = fmt.Errorf("%w, or it broke: what is attached by ioctl cannot get fresh connections: map it again", errGone)

// end takes a device down that would go with the gateway anyway.
func (m *Manager) end(ctx context.Context, d *mapping) error {
	release := func() {}
	users, err := m.system.Users(d.record.Index)
	if err == nil && len(users) == 0 {
		if release, err = m.system.Flush(ctx, d.record.Index); err != nil {
			release = func() {}
		}
	}
	if err != nil || len(users) > 0 {
		m.log.Warn("device is attached by ioctl and goes with this gateway, though it is in use",
			"device", d.path(), "volume", d.record.Volume, "users", users, "error", err)
	}
	d.beginDetach()
	err = d.driver().Disconnect(d.record.Index)
	release()
	if err == nil && len(users) == 0 {
		err = m.gone(ctx, d)
	}
	m.forget(d)
	return err
}

// lost tells of a device that an earlier gateway did not take down.
func (m *Manager) lost(r record) {
	if r.Index == kernel.AnyDevice {
		return // it never was one
	}
	var users []string
	if st, err := m.system.State(r.Index); err == nil && st.Connected && st.Backend == "" {
		users, _ = m.system.Users(r.Index) // to say more, if that is possible
	}
	m.log.Warn("device was attached by ioctl and is gone with its gateway: map it again",
		"device", kernel.DevicePath(r.Index), "volume", r.Volume, "users", users)
}

// MayHandOver says why the devices cannot go over to another gateway, nil when they
// can. backend.ErrNotSupported.
func (m *Manager) MayHandOver() error {
	var errs []error
	for _, d := range m.Devices() {
		if d.Ioctl {
			errs = append(errs, fmt.Errorf("%w: %s, of %s, is attached by ioctl and would be lost: unmap it first", backend.ErrNotSupported, d.Path, d.Volume))
		}
	}
	return errors.Join(errs...)
}
