package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
)

// Module are the parameters that the driver is loaded with, as text; "" leaves the
// driver's own.
type Module struct{ MaxDevices, MaxPartitions string }

// Load loads the driver if it is not there; then the parameters count for nothing,
// and loaded is false. backend.ErrNotSupported when it cannot be.
func (s System) Load(ctx context.Context, p Module) (loaded bool, err error) {
	switch _, err := os.Stat(s.path("sys/module/nbd")); {
	case err == nil:
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	args := []string{"nbd"}
	if p.MaxDevices != "" {
		args = append(args, "nbds_max="+p.MaxDevices)
	}
	if p.MaxPartitions != "" {
		args = append(args, "max_part="+p.MaxPartitions)
	}
	said, err := exec.CommandContext(ctx, "modprobe", args...).CombinedOutput()
	if err != nil {
		return false, fmt.Errorf("%w: the kernel has no nbd driver, and modprobe %s failed: %w: %s",
			backend.ErrNotSupported, strings.Join(args, " "), err, strings.TrimSpace(string(said)))
	}
	return true, nil
}
