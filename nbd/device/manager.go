package device

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

// States of a device, see the package's drawing.
const (
	StateConnecting  = "connecting"
	StateAttached    = "attached"
	StateReattaching = "reattaching"
	StateDetaching   = "detaching"
)

// Defaults and limits of a mapping.
const (
	DefaultConnections = 1
	MaxConnections     = 16
	DefaultTimeout     = 5 * time.Second
	MinTimeout         = time.Second
	// DefaultReattach is a year: a device waits rather than fails.
	DefaultReattach = 365 * 24 * time.Hour
	MaxReattach     = 10 * DefaultReattach
)

// Driver is the kernel's nbd driver; see kernel.Driver.
type Driver interface {
	Connect(kernel.Config) (index int, err error)
	Reconfigure(kernel.Config) error
	Resize(index int, backend string, size int64) error
	Disconnect(index int) error
}

// System is what the kernel shows; see kernel.System.
type System interface {
	State(index int) (kernel.State, error)
	Devices() ([]int, error)
	Users(index int) ([]string, error)
	Flush(ctx context.Context, index int) (release func(), err error)
	Announce(index int) error
}

// Options of New.
type Options struct {
	Gateway *gateway.Gateway
	Server  *nbd.Server
	Driver  Driver
	// Ioctl attaches what is not to be attached by Driver.
	Ioctl  Driver
	System System
	// StatePath is the file that what is mapped is written to.
	StatePath string
	Logger    *slog.Logger
}

// Manager has the devices of one gateway. Safe for concurrent use.
type Manager struct {
	gateway *gateway.Gateway
	server  *nbd.Server
	driver  Driver
	ioctl   Driver
	system  System
	path    string
	log     *slog.Logger

	mu     sync.Mutex // guards all below
	all    []*mapping
	closed bool
}

// New returns a manager that has no devices yet; Restore brings those back that the
// state file has.
func New(o Options) *Manager {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Manager{gateway: o.Gateway, server: o.Server, driver: o.Driver, ioctl: o.Ioctl, system: o.System, path: o.StatePath, log: o.Logger}
}

// Spec is what a device shall be.
type Spec struct {
	Volume string
	// Index is N of /dev/nbdN, or kernel.AnyDevice.
	Index       int
	ReadOnly    bool
	Connections int
	// Timeout is after which a request is sent again over another connection, and
	// Reattach how long requests wait for the gateway before they fail.
	Timeout, Reattach time.Duration
	// Shared allows a volume to have more than one device.
	Shared bool
	// Ioctl attaches the device by ioctl, without netlink: it goes with the gateway.
	Ioctl bool
}

func (s Spec) check() error {
	switch {
	case s.Index < kernel.AnyDevice:
		return fmt.Errorf("%w: device number %d", backend.ErrInvalid, s.Index)
	case s.Connections < 1 || s.Connections > MaxConnections:
		return fmt.Errorf("%w: %d connections: give 1 to %d", backend.ErrInvalid, s.Connections, MaxConnections)
	case s.Timeout < MinTimeout:
		return fmt.Errorf("%w: timeout %v: give %v or more", backend.ErrInvalid, s.Timeout, MinTimeout)
	case s.Reattach < s.Timeout || s.Reattach > MaxReattach:
		return fmt.Errorf("%w: re-attach timeout %v: give more than the timeout, %v, and at most %v", backend.ErrInvalid, s.Reattach, s.Timeout, MaxReattach)
	}
	return nil
}

// Device describes a mapping.
type Device struct {
	Path, Volume string
	State        string
	// Problem says why the device is not attached, "" when it is.
	Problem     string
	Size        int64
	ReadOnly    bool
	Connections int
	Timeout     time.Duration
	Reattach    time.Duration
	Since       time.Time
	PID         int
	// Ioctl: see Spec.
	Ioctl bool
}

func (m *mapping) device() Device {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.record
	return Device{
		Path: m.path(), Volume: r.Volume, State: m.state, Problem: m.problem, Size: m.size, ReadOnly: r.ReadOnly,
		Connections: r.Connections, Timeout: r.Timeout, Reattach: r.Reattach, Since: r.Since, PID: os.Getpid(),
		Ioctl: r.Ioctl,
	}
}

// Map makes a device of a volume and returns when it is usable, or leaves nothing
// behind. backend.ErrExists when the volume has a device and the spec is not Shared;
// ErrBusy when the device is taken, or the volume open elsewhere; ErrNotFound,
// ErrInvalid, ErrNotSupported, ErrClosed.
func (m *Manager) Map(ctx context.Context, spec Spec) (Device, error) {
	if err := spec.check(); err != nil {
		return Device{}, err
	}
	info, err := m.gateway.Describe(ctx, spec.Volume)
	if err != nil {
		return Device{}, err
	}
	d := newMapping(m, record{
		Index: spec.Index, Volume: info.Name, Backend: backendID(info.Name), ReadOnly: spec.ReadOnly || info.ReadOnly,
		Connections: spec.Connections, Timeout: spec.Timeout, Reattach: spec.Reattach, Since: time.Now().UTC().Truncate(time.Second),
		Ioctl: spec.Ioctl,
	}, StateConnecting)
	if err := m.add(d, spec.Shared); err != nil {
		return Device{}, err
	}
	if err := d.connect(ctx); err != nil {
		d.stop()
		close(d.kept)
		m.forget(d)
		return Device{}, fmt.Errorf("map %s: %w", info.Name, err)
	}
	d.set(StateAttached, nil)
	m.announce(d)
	// Were the number not written down, a gateway that starts again would look for
	// the mapping by its Backend.
	if err := m.save(); err != nil {
		m.log.Warn("device is mapped, but its number is not written down", "device", d.path(), "error", err)
	}
	go d.keep()
	m.log.Info("device attached", "device", d.path(), "volume", info.Name, "connections", spec.Connections)
	return d.device(), nil
}

// backendID is what the kernel shows of a mapping: whose it is, which no other is
// called, and the volume, from which udev makes the device's name. A volume's name
// holds neither spaces nor anything else that udev would change.
func backendID(volume string) string { return backendPrefix + rand.Text() + " " + volume }

const backendPrefix = "curve-nbd "

// IsBackend says whether a device that shows such a Backend is a gateway's.
func IsBackend(text string) bool { return strings.HasPrefix(text, backendPrefix) }

// announce has udev look at a device again. What the kernel says by itself, it says
// before the device shows its Backend, or not at all.
func (m *Manager) announce(d *mapping) {
	if err := m.system.Announce(d.record.Index); err != nil {
		m.log.Warn("udev may not know what the device is now", "device", d.path(), "error", err)
	}
}

// add takes a mapping in, and writes it down before anything is done.
func (m *Manager) add(d *mapping, shared bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return fmt.Errorf("gateway is shutting down: %w", backend.ErrClosed)
	}
	for _, other := range m.all {
		if other.record.Volume == d.record.Volume && !shared {
			return fmt.Errorf("%w: %s is mapped to %s already", backend.ErrExists, d.record.Volume, other.device().Path)
		}
	}
	m.all = append(m.all, d)
	if err := m.saveLocked(); err != nil {
		m.all = m.all[:len(m.all)-1]
		return err
	}
	return nil
}

// number sets which device the mapping has got.
func (m *Manager) number(d *mapping, index int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.record.Index = index
}

// forget drops a mapping whose device is gone.
func (m *Manager) forget(d *mapping) {
	d.stop()
	<-d.kept
	m.mu.Lock()
	m.all = slices.DeleteFunc(m.all, func(x *mapping) bool { return x == d })
	err := m.saveLocked()
	m.mu.Unlock()
	if err != nil {
		m.log.Warn("device is gone, but still written down", "device", d.path(), "error", err)
	}
	d.release()
}

func (m *Manager) save() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saveLocked()
}

func (m *Manager) saveLocked() error {
	var records []record
	for _, d := range m.all {
		records = append(records, d.record)
	}
	return saveState(m.path, records)
}

// Devices lists what is mapped, by number.
func (m *Manager) Devices() []Device {
	m.mu.Lock()
	all := slices.Clone(m.all)
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b *mapping) int { return a.record.Index - b.record.Index })
	list := make([]Device, len(all))
	for i, d := range all {
		list[i] = d.device()
	}
	return list
}

// Sync has the devices of a volume take its size over now.
func (m *Manager) Sync(volume string) error {
	m.mu.Lock()
	all := slices.Clone(m.all)
	m.mu.Unlock()
	var errs []error
	for _, d := range all {
		if d.record.Volume == volume && d.device().State == StateAttached {
			errs = append(errs, d.resize())
		}
	}
	return errors.Join(errs...)
}

// Restore takes up again what the state file has, in the background: devices wait
// for it. Those that are gone are forgotten. Sockets that another gateway has handed
// over are gone on with. backend.ErrInvalid for a state file that cannot be read.
func (m *Manager) Restore(handed []Handed) error {
	records, err := loadState(m.path)
	if err != nil {
		return err
	}
	defer closeHanded(handed)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range records {
		if r.Ioctl {
			m.lost(r)
			continue
		}
		if r.Index == kernel.AnyDevice {
			if r.Index, err = m.find(r.Backend); err != nil {
				return err
			}
		}
		if r.Index == kernel.AnyDevice {
			continue // it was never connected
		}
		d := newMapping(m, r, StateReattaching)
		for i := range handed {
			if handed[i].Backend == r.Backend {
				d.handed, handed[i].Sockets = handed[i].Sockets, nil
			}
		}
		m.all = append(m.all, d)
		go d.keep()
	}
	return m.saveLocked()
}

// find looks for the device of a mapping.
func (m *Manager) find(backendID string) (int, error) {
	devices, err := m.system.Devices()
	if err != nil {
		return 0, err
	}
	for _, index := range devices {
		if st, err := m.system.State(index); err == nil && st.Backend == backendID {
			return index, nil
		}
	}
	return kernel.AnyDevice, nil
}

// Close keeps the devices no more, and leaves them to the next gateway, but for
// those that are attached by ioctl, which it takes down. The server is shut down
// after it.
func (m *Manager) Close() error {
	m.mu.Lock()
	m.closed = true
	all := slices.Clone(m.all)
	m.mu.Unlock()
	for _, d := range all {
		d.stop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	var errs []error
	for _, d := range all {
		<-d.kept
		if d.record.Ioctl {
			errs = append(errs, m.end(ctx, d))
		}
		d.release()
	}
	return errors.Join(errs...)
}
