package kernel

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Announce tells whoever listens to the kernel, udev above all, that a device and its
// partitions have changed. A device that does not exist has nothing to tell.
func (s System) Announce(index int) error {
	nodes, err := s.nodes(index)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range nodes {
		if err := announce(n); !errors.Is(err, fs.ErrNotExist) { // a partition that went meanwhile
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func announce(n node) error {
	// Not to be created: sysfs has it, or the device is gone.
	f, err := os.OpenFile(filepath.Join(n.dir, "uevent"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("change")
	return errors.Join(err, f.Close())
}
