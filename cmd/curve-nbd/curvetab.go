package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control"
)

// curvetab is the table of what is mapped at boot, in the format of Curve's:
//
//   - /dev/nbd0	cbd:pool//pg-data_user_	read-only,timeout=5s	[mount point	mount options]
//   - /dev/nbd0
//
// A "-" takes back the "+" lines of its device before it. The table is read as a log
// and written without what was taken back. Fields are separated by white space, and
// what a line has beyond the fourth is kept.
type curvetab struct{ lines []tabLine }

// tabLine is an entry, or, with a text, a comment or an empty line.
type tabLine struct {
	text            string
	device, image   string
	options, behind string
}

// maxTabBytes is far more than a table of a thousand devices takes.
const maxTabBytes = 1 << 20

// defaultTab is where Curve's own curve-nbd has it.
const defaultTab = "/etc/curve/curvetab"

// readTab reads a table; one that is missing is empty.
func readTab(path string) (*curvetab, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &curvetab{}, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxTabBytes {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d", backend.ErrInvalid, path, info.Size(), maxTabBytes)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t, err := parseTab(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

func parseTab(text string) (*curvetab, error) {
	t := &curvetab{}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || strings.HasPrefix(fields[0], "#"):
			if text != "" {
				t.lines = append(t.lines, tabLine{text: line})
			}
		case fields[0] == "-" && len(fields) >= 2:
			t.remove(func(e tabLine) bool { return e.device == fields[1] })
		case fields[0] == "+" && len(fields) >= 4:
			t.lines = append(t.lines, tabLine{
				device: fields[1], image: fields[2], options: fields[3], behind: strings.Join(fields[4:], "\t"),
			})
		default:
			return nil, fmt.Errorf("%w: line %d: %q: write it as + DEVICE VOLUME OPTIONS", backend.ErrInvalid, i+1, line)
		}
	}
	return t, nil
}

func (t *curvetab) remove(which func(tabLine) bool) {
	var kept []tabLine
	for _, l := range t.lines {
		if l.image == "" || !which(l) {
			kept = append(kept, l)
		}
	}
	t.lines = kept
}

func (t *curvetab) entries() (list []tabLine) {
	for _, l := range t.lines {
		if l.image != "" {
			list = append(list, l)
		}
	}
	return list
}

func (t *curvetab) String() string {
	var b bytes.Buffer
	for _, l := range t.lines {
		switch {
		case l.image == "":
			b.WriteString(l.text)
		default:
			fmt.Fprintf(&b, "+\t%s\t%s\t%s", l.device, l.image, l.options)
			if l.behind != "" {
				b.WriteString("\t" + l.behind)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// editTab changes a table in place, whole, while no other curve-nbd does.
func editTab(path string, edit func(*curvetab)) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	t, err := readTab(path)
	if err != nil {
		return err
	}
	before := t.String()
	if edit(t); t.String() == before {
		return nil
	}
	return renameio.WriteFile(path, []byte(t.String()), 0o644)
}

// request is what mapping an entry asks of the gateway.
func (e tabLine) request() (control.MapRequest, error) {
	volume, err := volumeName(e.image)
	if err != nil {
		return control.MapRequest{}, err
	}
	req := control.MapRequest{Volume: volume, Device: e.device}
	for _, option := range strings.Split(e.options, ",") {
		name, value, _ := strings.Cut(option, "=")
		switch name = strings.ReplaceAll(name, "_", "-"); name {
		case "defaults", "try-netlink", "nebd-conf": // the last two mean nothing here
		case "read-only":
			req.ReadOnly = true
		case "no-exclusive":
			req.Shared = true
		case "try-ioctl":
			req.TryIoctl = true
		case "device":
			req.Device = value
		case "nbds-max":
			req.MaxDevices = value
		case "max-part":
			req.MaxPartitions = value
		case "connections":
			req.Connections, err = strconv.Atoi(value)
		case "timeout":
			req.Timeout, err = tabDuration(value)
		case "reattach-timeout":
			req.Reattach, err = tabDuration(value)
		default:
			err = errors.New("there is no such option")
		}
		if err != nil {
			return req, fmt.Errorf("%w: option %q of %s: %w", backend.ErrInvalid, option, e.image, err)
		}
	}
	return req, nil
}

// tabDuration takes Curve's seconds too.
func tabDuration(text string) (time.Duration, error) {
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	return time.ParseDuration(text)
}

// lineOf is the entry for a device as it is mapped.
func lineOf(d control.Device, shared, tryIoctl bool) tabLine {
	options := mappedViewOf(d).options()
	if shared {
		options = strings.TrimPrefix(options+",no-exclusive", "defaults,")
	}
	if tryIoctl {
		options = strings.TrimPrefix(options+",try-ioctl", "defaults,")
	}
	return tabLine{device: d.Path, image: d.Volume, options: options}
}
