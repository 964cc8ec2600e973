package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
)

// maxIndex is the largest minor number over the partitions that a device may have.
const maxIndex = 1<<20/16 - 1

// DevicePath is /dev/nbdN.
func DevicePath(index int) string { return fmt.Sprintf("/dev/nbd%d", index) }

// ParseDevice takes /dev/nbdN, or nbdN. backend.ErrInvalid.
func ParseDevice(text string) (index int, err error) {
	digits, ok := strings.CutPrefix(strings.TrimPrefix(text, "/dev/"), "nbd")
	index, err = strconv.Atoi(digits)
	if !ok || err != nil || index < 0 || index > maxIndex || strconv.Itoa(index) != digits {
		return 0, fmt.Errorf("%w: device %q: write it as /dev/nbd0", backend.ErrInvalid, text)
	}
	return index, nil
}

// State is what sysfs says of a device.
type State struct {
	// Connected: it has a server, or waits for one that broke off.
	Connected bool
	// Backend is the Config.Backend that it was connected with, "" if by ioctl; PID
	// the process that did, or its thread.
	Backend string
	PID     int64
	// Size in bytes, BlockSize of a logical block.
	Size, BlockSize int64
	ReadOnly        bool
}

// System is where the kernel shows its devices.
type System struct {
	// Claimer is the command of a process that calls Claim with the device that is
	// its last argument, for Flush.
	Claimer []string
	root    string // "" is this machine
}

func (s System) path(elem ...string) string {
	root := s.root
	if root == "" {
		root = "/"
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

func (s System) block(index int, elem ...string) string {
	return s.path(append([]string{"sys/block", filepath.Base(DevicePath(index))}, elem...)...)
}

// State of a device. A device that does not exist is not connected.
func (s System) State(index int) (State, error) {
	var st State
	var err error
	if st.PID, err = s.number(index, "pid"); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) { // just going
			err = nil
		}
		return State{}, err
	}
	st.Connected = true
	// A kernel that cannot tell has been given no identifier either.
	if st.Backend, err = read(s.block(index, "backend")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return st, err
	}
	sectors, err := s.number(index, "size")
	if err != nil {
		return st, err
	}
	st.Size = sectors * 512 // whatever the block size
	if st.BlockSize, err = s.number(index, "queue/logical_block_size"); err != nil {
		return st, err
	}
	ro, err := s.number(index, "ro")
	st.ReadOnly = ro != 0
	return st, err
}

// Devices are the indices of those that exist, in order.
func (s System) Devices() ([]int, error) {
	entries, err := os.ReadDir(s.path("sys/block"))
	if err != nil {
		return nil, err
	}
	var list []int
	for _, e := range entries {
		if index, err := ParseDevice(e.Name()); err == nil {
			list = append(list, index)
		}
	}
	slices.Sort(list)
	return list, nil
}

func (s System) number(index int, file string) (int64, error) {
	text, err := read(s.block(index, file))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.block(index, file), err)
	}
	return n, nil
}

func read(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}
