package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

const (
	// retryFirst and retryMost are the waits between attempts to bring a device its
	// connections back.
	retryFirst = 20 * time.Millisecond
	retryMost  = time.Second
	// sizeCheck is how often the size of a volume is compared with its device's:
	// another gateway may have resized it.
	sizeCheck = time.Second
	// openTimeout bounds one attempt to open a volume again.
	openTimeout = 10 * time.Second
)

// mapping is one device. Its keeper goroutine brings back what breaks.
type mapping struct {
	manager *Manager
	// record changes only before the keeper runs, under both locks: see number.
	record record

	// live is the number of connections that are served.
	live     atomic.Int64
	siblings nbd.Siblings
	// handed are sockets of another gateway's that the keeper is to go on with.
	handed []*os.File
	// wake has a token when the keeper should look.
	wake chan struct{}
	// life ends when the mapping is to be kept no more; kept is closed after the
	// keeper's last act.
	life context.Context
	stop context.CancelFunc
	kept chan struct{}

	mu      sync.Mutex // guards all below
	anchor  *gateway.Handle
	links   []*nbd.Attachment // those that are served
	state   string
	problem string // why it is not attached, in words
	size    int64  // the device's
	thread  int64  // that has it, when attached by ioctl
}

func newMapping(m *Manager, r record, state string) *mapping {
	d := &mapping{manager: m, record: r, state: state, wake: make(chan struct{}, 1), kept: make(chan struct{})}
	d.life, d.stop = context.WithCancel(context.Background())
	return d
}

func (m *mapping) path() string { return kernel.DevicePath(m.record.Index) }

// poke has the keeper look. It does not block.
func (m *mapping) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mapping) set(state string, problem error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == StateDetaching {
		return
	}
	m.state, m.problem = state, ""
	if problem != nil {
		m.problem = problem.Error()
	}
}

// config is what the kernel is told of the mapping.
func (m *mapping) config(s *sockets) kernel.Config {
	return kernel.Config{
		Index: m.record.Index, ReadOnly: m.record.ReadOnly,
		Timeout: m.record.Timeout, DeadTimeout: m.record.Reattach,
		Backend: m.record.Backend, Sockets: s.ends,
	}
}

// open opens the volume, which stays open for as long as the mapping does.
func (m *mapping) open(ctx context.Context) (*gateway.Handle, error) {
	m.mu.Lock()
	h := m.anchor
	m.mu.Unlock()
	if h != nil {
		return h, nil
	}
	h, err := m.manager.gateway.Open(ctx, m.record.Volume)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.anchor = h
	m.mu.Unlock()
	return h, nil
}

// release gives the volume back.
func (m *mapping) release() {
	m.mu.Lock()
	h := m.anchor
	m.anchor = nil
	m.mu.Unlock()
	if h != nil {
		h.Release()
	}
}

// connect makes the device, and waits until it is usable.
func (m *mapping) connect(ctx context.Context) error {
	h, err := m.open(ctx)
	if err != nil {
		return err
	}
	s, err := m.link(ctx, m.record.Connections)
	if err != nil {
		return err
	}
	defer s.close()
	info := h.Info()
	c := m.config(s)
	c.Size, c.BlockSize = info.Size, info.BlockSize
	index, err := m.driver().Connect(c)
	if err != nil {
		return err
	}
	m.manager.number(m, index)
	m.mu.Lock()
	m.size = info.Size
	m.mu.Unlock()
	if err := m.usable(ctx, c); err != nil {
		return errors.Join(err, m.driver().Disconnect(m.record.Index))
	}
	return nil
}

// usable waits until the kernel shows the device as it was asked for.
func (m *mapping) usable(ctx context.Context, c kernel.Config) error {
	for {
		st, err := m.manager.system.State(m.record.Index)
		if err == nil && st.Connected && st.Size == c.Size && st.BlockSize == c.BlockSize && st.ReadOnly == c.ReadOnly {
			m.mu.Lock()
			m.thread = st.PID
			m.mu.Unlock()
			return nil
		}
		select {
		case <-time.After(retryFirst):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s did not become usable: %w: wanted %d bytes in blocks of %d, read-only %v, and there is %+v",
				m.path(), ctx.Err(), c.Size, c.BlockSize, c.ReadOnly, st), err)
		}
	}
}

// keep brings back what breaks, until stopped or until the device is gone.
func (m *mapping) keep() {
	defer close(m.kept)
	check := time.NewTicker(sizeCheck)
	defer check.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	wait := retryFirst
	for {
		select {
		case <-m.life.Done():
			return
		case <-m.wake:
		case <-check.C:
		case <-retry.C:
		}
		err := m.restore()
		if m.life.Err() != nil {
			return
		}
		if errors.Is(err, errGone) {
			m.manager.log.Warn("device is gone", "device", m.path(), "volume", m.record.Volume, "reason", err)
			m.manager.announce(m)
			go m.manager.forget(m) // it waits for this goroutine
			return
		}
		if err == nil {
			err = m.resize()
		}
		if err == nil {
			wait = retryFirst
			m.set(StateAttached, m.reduced())
			continue
		}
		m.set(StateReattaching, err)
		retry.Reset(wait)
		wait = min(2*wait, retryMost)
	}
}

// errGone: the kernel has no such device of ours any more.
var errGone = errors.New("somebody else disconnected it")

// restore replaces the connections that have ended.
func (m *mapping) restore() error {
	if m.missing() <= 0 {
		return nil
	}
	if m.record.Ioctl {
		return m.broken()
	}
	st, err := m.manager.system.State(m.record.Index)
	if err != nil {
		return err
	}
	if !m.is(st) {
		return errGone
	}
	m.set(StateReattaching, errors.New("connections to the kernel broke"))
	ctx, cancel := context.WithTimeout(m.life, openTimeout)
	defer cancel()
	if _, err := m.open(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	m.size = st.Size
	m.mu.Unlock()
	if err := m.adopt(ctx); err != nil {
		return err
	}
	missing := m.missing()
	if missing <= 0 {
		return nil
	}
	s, err := m.link(ctx, missing)
	if err != nil {
		return err
	}
	defer s.close()
	// What the kernel has no use for, as it has not noticed yet that a connection is
	// gone, ends when it is closed here, and is made again.
	if err := m.driver().Reconfigure(m.config(s)); err != nil {
		return err
	}
	m.manager.log.Info("device has fresh connections", "device", m.path(), "volume", m.record.Volume, "connections", missing)
	return nil
}

func (m *mapping) missing() int { return m.record.Connections - int(m.live.Load()) }

// resize tells the kernel when the volume has another size.
func (m *mapping) resize() error {
	m.mu.Lock()
	h, known := m.anchor, m.size
	m.mu.Unlock()
	if h == nil {
		return nil
	}
	size := h.Info().Size
	if size == known {
		return nil
	}
	if err := m.driver().Resize(m.record.Index, m.record.Backend, size); err != nil {
		return err
	}
	m.mu.Lock()
	m.size = size
	m.mu.Unlock()
	m.manager.log.Info("device resized", "device", m.path(), "volume", m.record.Volume, "size", size)
	return nil
}

// busyError is backend.ErrBusy that names the users of a device.
func busyError(what string, users []string) error {
	text := what
	for i, u := range users {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		text += sep + u
	}
	return fmt.Errorf("%w: %s", backend.ErrBusy, text)
}
