package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// udevPatience bounds how long a command waits for udev, which may be at work on
// others' devices too.
const udevPatience = 10 * time.Second

// udevSocket is there when udev runs.
const udevSocket = "/run/udev/control"

// deviceLink is the name that our rule has udev give to the device of a volume.
func deviceLink(volume string) string { return filepath.Join("/dev/curve", volume) }

// deviceOf follows a link, such as udev makes, to the device. What is no link stays.
func deviceOf(text string) string {
	if !strings.HasPrefix(text, "/dev/") {
		return text
	}
	path, err := filepath.EvalSymlinks(text)
	if err != nil {
		return text
	}
	return path
}

// awaitUdev waits until udev has dealt with what has happened to devices so far, or,
// with a link, until that is there. False when there is no udev, or it takes too long:
// names are a convenience, nothing fails for want of them.
func awaitUdev(ctx context.Context, link string) bool {
	if _, err := os.Stat(udevSocket); err != nil {
		return false
	}
	args := []string{"settle", fmt.Sprintf("--timeout=%d", int(udevPatience.Seconds()))}
	if _, err := os.Lstat(link); errors.Is(err, fs.ErrNotExist) && link != "" { // else it may be another's
		args = append(args, "--exit-if-exists="+link)
	}
	return exec.CommandContext(ctx, "udevadm", args...).Run() == nil
}
