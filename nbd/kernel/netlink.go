package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
)

// The driver's generic netlink family (linux/nbd-netlink.h).
const (
	familyName    = "nbd"
	familyVersion = 1

	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3

	attrIndex           = 1  // u32
	attrSize            = 2  // u64, bytes
	attrBlockSize       = 3  // u64, bytes
	attrTimeout         = 4  // u64, seconds
	attrServerFlags     = 5  // u64
	attrSockets         = 7  // nest of attrSocketItem
	attrDeadTimeout     = 8  // u64, seconds
	attrBackend         = 10 // string
	attrSocketItem      = 1  // nest of attrSocketFD
	attrSocketFD        = 1  // u32
	flagHasFlags        = 1 << 0
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendFUA         = 1 << 3
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
	flagMultiConn       = 1 << 8
)

// AnyDevice lets the driver pick a device, or make one.
const AnyDevice = -1

// MaxBackend is the longest Config.Backend, in bytes: sysfs shows it on one page, and
// the name of a volume fits in.
const MaxBackend = 512

// Config is what a device is connected to.
type Config struct {
	// Index is N of /dev/nbdN.
	Index int
	// Size of the device and of its logical blocks, in bytes.
	Size, BlockSize int64
	ReadOnly        bool
	// Timeout is how long a request may take before its socket is given up and it
	// is sent again on another; whole seconds, at least one.
	Timeout time.Duration
	// DeadTimeout is how long requests wait for a fresh socket when there is none,
	// before they fail; whole seconds.
	DeadTimeout time.Duration
	// Backend identifies the server: only who names it can bring fresh sockets.
	Backend string
	// Sockets are the kernel's ends, which it takes references of.
	Sockets []*os.File
}

// Driver is the nbd driver of the running kernel. Safe for concurrent use.
type Driver struct {
	mu     sync.Mutex
	conn   *genetlink.Conn
	family genetlink.Family
}

// Open finds the driver. backend.ErrNotSupported when the kernel has none (see Load).
func Open() (*Driver, error) {
	conn, err := genetlink.Dial(&netlink.Config{Strict: true})
	if err != nil {
		return nil, fmt.Errorf("generic netlink: %w", err)
	}
	family, err := conn.GetFamily(familyName)
	if err != nil {
		err = errors.Join(err, conn.Close())
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: no nbd driver with a generic netlink interface is to be seen here: load it with `modprobe nbd`; one older than Linux 4.12, and a network namespace of one's own, have none",
				backend.ErrNotSupported)
		}
		return nil, fmt.Errorf("generic netlink family nbd: %w", err)
	}
	return &Driver{conn: conn, family: family}, nil
}

// Close gives the netlink socket back. Devices stay as they are.
func (d *Driver) Close() error { return d.conn.Close() }

// Connect makes a device of c and returns its index. backend.ErrBusy when the device
// is connected already.
func (d *Driver) Connect(c Config) (index int, err error) {
	encoder := netlink.NewAttributeEncoder()
	if c.Index != AnyDevice {
		encoder.Uint32(attrIndex, uint32(c.Index))
	}
	encoder.Uint64(attrSize, uint64(c.Size))
	encoder.Uint64(attrBlockSize, uint64(c.BlockSize))
	encoder.Uint64(attrServerFlags, serverFlags(c))
	putServer(encoder, c)
	answers, err := d.execute(cmdConnect, encoder, netlink.Request)
	if errors.Is(err, unix.EBUSY) {
		return 0, fmt.Errorf("%w: %s is connected already", backend.ErrBusy, DevicePath(c.Index))
	}
	if err != nil {
		return 0, fmt.Errorf("connect an nbd device: %w", err)
	}
	for _, answer := range answers {
		decoder, err := netlink.NewAttributeDecoder(answer.Data)
		if err != nil {
			return 0, fmt.Errorf("the nbd driver's answer: %w", err)
		}
		for decoder.Next() {
			if decoder.Type() == attrIndex {
				return int(decoder.Uint32()), nil
			}
		}
		if err := decoder.Err(); err != nil {
			return 0, fmt.Errorf("the nbd driver's answer: %w", err)
		}
	}
	return 0, errors.New("the nbd driver does not say which device it has connected")
}

// Reconfigure gives a connected device fresh sockets in the place of broken ones.
// ErrNoBroken when none is broken, backend.ErrNotFound when the device is not
// connected, or by another backend.
func (d *Driver) Reconfigure(c Config) error {
	encoder := netlink.NewAttributeEncoder()
	encoder.Uint32(attrIndex, uint32(c.Index))
	putServer(encoder, c)
	_, err := d.execute(cmdReconfigure, encoder, netlink.Request|netlink.Acknowledge)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w of %s", ErrNoBroken, DevicePath(c.Index))
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: %s is not connected, or not to us: %w", backend.ErrNotFound, DevicePath(c.Index), err)
	}
	return fmt.Errorf("bring %s fresh sockets: %w", DevicePath(c.Index), err)
}

// ErrNoBroken: there is no broken socket that a fresh one could replace.
var ErrNoBroken = errors.New("no broken socket")

// Resize sets the size of a connected device.
func (d *Driver) Resize(index int, backendID string, size int64) error {
	encoder := netlink.NewAttributeEncoder()
	encoder.Uint32(attrIndex, uint32(index))
	encoder.Uint64(attrSize, uint64(size))
	encoder.String(attrBackend, backendID)
	if _, err := d.execute(cmdReconfigure, encoder, netlink.Request|netlink.Acknowledge); err != nil {
		return fmt.Errorf("resize %s to %d bytes: %w", DevicePath(index), size, err)
	}
	return nil
}

// Disconnect takes the device down; what waits for it fails. No error when it is
// not connected.
func (d *Driver) Disconnect(index int) error {
	encoder := netlink.NewAttributeEncoder()
	encoder.Uint32(attrIndex, uint32(index))
	_, err := d.execute(cmdDisconnect, encoder, netlink.Request|netlink.Acknowledge)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("disconnect %s: %w", DevicePath(index), err)
	}
	return nil
}

func serverFlags(c Config) uint64 {
	flags := uint64(flagHasFlags | flagSendFlush | flagSendFUA | flagSendTrim | flagSendWriteZeroes)
	if c.ReadOnly {
		flags |= flagReadOnly
	}
	if len(c.Sockets) > 1 {
		flags |= flagMultiConn
	}
	return flags
}

// putServer adds what Connect and Reconfigure have in common.
func putServer(encoder *netlink.AttributeEncoder, c Config) {
	encoder.Uint64(attrTimeout, seconds(c.Timeout))
	encoder.Uint64(attrDeadTimeout, seconds(c.DeadTimeout))
	encoder.String(attrBackend, c.Backend)
	encoder.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
		for _, socket := range c.Sockets {
			list.Nested(attrSocketItem, func(item *netlink.AttributeEncoder) error {
				item.Uint32(attrSocketFD, uint32(socket.Fd()))
				return nil
			})
		}
		return nil
	})
}

// seconds rounds up: 0 would mean something else to the driver.
func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }

func (d *Driver) execute(command uint8, encoder *netlink.AttributeEncoder, flags netlink.HeaderFlags) ([]genetlink.Message, error) {
	data, err := encoder.Encode()
	if err != nil {
		return nil, err
	}
	m := genetlink.Message{Header: genetlink.Header{Command: command, Version: familyVersion}, Data: data}
	// One at a time: the driver holds a lock meanwhile anyway.
	d.mu.Lock()
	defer d.mu.Unlock()
	answers, err := d.conn.Execute(m, d.family.ID, flags)
	if !errors.Is(err, unix.ENOENT) {
		return answers, err
	}
	// The module was loaded again, and the family has another number.
	family, missing := d.conn.GetFamily(familyName)
	if missing != nil {
		return nil, errors.Join(err, missing)
	}
	if family.ID == d.family.ID {
		return nil, err
	}
	d.family = family
	return d.conn.Execute(m, d.family.ID, flags)
}
