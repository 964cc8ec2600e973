package device

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

func TestMappedDeviceWorksUntilItIsUnmapped(t *testing.T) {
	r := newRig(t)
	d := r.mapped(spec("a"))
	if d.Path != "/dev/nbd0" || d.Volume != "a" || d.State != StateAttached || d.Size != 8<<20 || d.PID != os.Getpid() {
		t.Errorf("mapped: %+v", d)
	}
	if !r.kernel.working(0) {
		t.Error("the device does not answer")
	}
	if seen := strings.Fields(r.kernel.seen(0)); len(seen) != 3 || seen[0] != "curve-nbd" || seen[2] != "a" {
		t.Errorf("udev saw %q, in which it finds no volume", seen)
	}
	second := r.mapped(spec("b"))
	if list := r.Devices(); len(list) != 2 || list[1].Path != second.Path {
		t.Errorf("devices: %+v", list)
	}
	for _, target := range []string{"/dev/nbd0", "b"} {
		if _, err := r.Unmap(t.Context(), target, false); err != nil {
			t.Error(err)
		}
	}
	r.until("nothing is mapped", func() bool { return len(r.Devices()) == 0 })
	if len(r.kernel.devices) != 0 {
		t.Error("the kernel still has devices")
	}
	if seen := r.kernel.seen(0) + r.kernel.seen(1); seen != "" {
		t.Errorf("udev saw last %q: its names stay", seen)
	}
	if records, err := loadState(r.path); err != nil || len(records) != 0 {
		t.Errorf("written down: %+v, %v", records, err)
	}
	// Nobody holds the volume any more.
	r.until("the volume can go", func() bool { _, err := r.gateway.RemoveVolume(t.Context(), "a", false); return err == nil })
}

func TestMapRefusesAndLeavesNothingBehind(t *testing.T) {
	for _, c := range []struct {
		name string
		prep func(*rig, *Spec)
		want error
		says string
	}{
		{"no such volume", func(_ *rig, s *Spec) { s.Volume = "none" }, backend.ErrNotFound, "none"},
		{"mapped already", func(r *rig, _ *Spec) { r.mapped(spec("a")) }, backend.ErrExists, "a is mapped to /dev/nbd0 already"},
		{"device taken", func(r *rig, s *Spec) { r.mapped(spec("b")); s.Index = 0 }, backend.ErrBusy, "/dev/nbd0"},
		{"driver fails", func(r *rig, _ *Spec) { r.kernel.fail = errors.New("out of luck") }, nil, "out of luck"},
		{"no connections", func(_ *rig, s *Spec) { s.Connections = 0 }, backend.ErrInvalid, "connections"},
		{"too many connections", func(_ *rig, s *Spec) { s.Connections = MaxConnections + 1 }, backend.ErrInvalid, "connections"},
		{"timeout below a second", func(_ *rig, s *Spec) { s.Timeout = time.Millisecond }, backend.ErrInvalid, "timeout"},
		{"re-attach below the timeout", func(_ *rig, s *Spec) { s.Reattach = s.Timeout / 2 }, backend.ErrInvalid, "re-attach"},
		{"never usable", func(r *rig, _ *Spec) { r.kernel.wrongSize = true }, context.DeadlineExceeded, "did not become usable"},
		{"closed", func(r *rig, _ *Spec) { r.Close() }, backend.ErrClosed, "shutting down"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			s := spec("a")
			c.prep(r, &s)
			before, devices := len(r.Devices()), len(r.kernel.devices)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := r.Map(ctx, s)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("refused with %v, want %v and %q", err, c.want, c.says)
			}
			if len(r.Devices()) != before || len(r.kernel.devices) != devices {
				t.Errorf("%d devices are left, of which the kernel has %d", len(r.Devices()), len(r.kernel.devices))
			}
		})
	}
}

func TestSharedVolumeHasSeveralDevices(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("a"))
	s := spec("a")
	s.Shared = true
	second := r.mapped(s)
	if _, err := r.Unmap(t.Context(), "a", false); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("unmapping one of two by the volume: %v", err)
	}
	if _, err := r.Unmap(t.Context(), second.Path, false); err != nil {
		t.Error(err)
	}
	r.until("one is left", func() bool { return len(r.Devices()) == 1 })
}

func TestBrokenConnectionsAreReplaced(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("a"))
	r.kernel.breakSocket(0, 1)
	r.until("the device works again", r.attached)
	r.kernel.breakSocket(0, 0)
	r.kernel.breakSocket(0, 1)
	r.until("the device works again, after both broke", r.attached)
}

func TestDevicesOutliveTheirGateway(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("a"))
	r.end()
	if len(r.kernel.devices) != 1 {
		t.Fatal("the device went with its gateway")
	}
	if _, err := r.gateway.ResizeVolume(t.Context(), "a", 16<<20); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.until("the device works again", r.attached)
	r.until("it has the volume's new size", func() bool { st, _ := r.kernel.State(0); return st.Size == 16<<20 })
	if _, err := r.Unmap(t.Context(), "a", false); err != nil {
		t.Error(err)
	}
}

func TestDevicesAreHandedOver(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("a"))
	sockets := r.kernel.devices[0].sockets
	server, client := transferPair(t)
	old := r.Manager
	sent := make(chan error, 1)
	handed := old.HandOver()
	r.end()
	go func() { sent <- Send(server, handed); closeHanded(handed) }()
	got, err := Receive(client)
	if err := errors.Join(err, <-sent); err != nil || len(got) != 1 || len(got[0].Sockets) != 2 {
		t.Fatalf("handed over: %+v, %v", got, err)
	}
	r.start()
	if err := r.Restore(got); err != nil {
		t.Fatal(err)
	}
	r.until("the device works on", r.attached)
	for i, s := range r.kernel.devices[0].sockets {
		if s != sockets[i] {
			t.Errorf("connection %d is another one than before", i)
		}
	}
}

// transferPair is a connection between two gateways.
func transferPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.FileConn(theirs)
	if err := errors.Join(err, theirs.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); other.Close() })
	return ours.(*net.UnixConn), other.(*net.UnixConn)
}

func TestHandOverThatMakesNoSenseIsRefused(t *testing.T) {
	for name, wire := range map[string]string{
		"nothing":          "",
		"half a length":    "\x00\x00",
		"endless name":     "\xff\xff\xff\xff",
		"name cut short":   "\x00\x00\x00\x09abc",
		"no end of a list": "\x00\x00\x00\x01a",
		"refused":          "\xff\xff\xff\xffnot now",
	} {
		a, b := transferPair(t)
		a.Write([]byte(wire))
		a.Close()
		if list, err := Receive(b); err == nil || list != nil {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
}

// A gateway that died while it mapped has not written the device's number down.
func TestDeviceOfUnknownNumberIsFoundAgain(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("a"))
	records, err := loadState(r.path)
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	lost := records[0]
	lost.Index = kernel.AnyDevice
	never := lost
	never.Backend = "curve-nbd never connected"
	r.end()
	if err := saveState(r.path, []record{lost, never}); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.until("the device works again, and there is no other", r.attached)
}

// TestDevicesOfOlderGatewaysAreTakenUp: their Backends did not name the volume.
func TestDevicesOfOlderGatewaysAreTakenUp(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("a"))
	r.end()
	records, err := loadState(r.path)
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	records[0].Backend = "curve-nbd ABCDEF"
	r.kernel.devices[0].config.Backend = records[0].Backend
	if err := saveState(r.path, records); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.until("the device works again", r.attached)
}

// TestLongestNameFits: whatever a volume may be called, its device can be written
// down and handed over.
func TestLongestNameFits(t *testing.T) {
	const maxNameSize = 255
	if id := backendID(strings.Repeat("x", maxNameSize)); len(id) > kernel.MaxBackend {
		t.Errorf("a Backend of %d bytes, at most %d", len(id), kernel.MaxBackend)
	}
}

func TestDeviceThatSomebodyElseTookIsForgotten(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("a"))
	r.end()
	r.kernel.devices[0].config.Backend = "another's"
	r.restart()
	r.until("the device is forgotten", func() bool { return len(r.Devices()) == 0 })
	if seen := r.kernel.seen(0); seen != "another's" {
		t.Errorf("udev saw last %q: the name stays", seen)
	}
	if len(r.kernel.devices) != 1 {
		t.Error("another's device was disconnected")
	}
}

func TestUnmapRefusesWhatIsInUse(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("a"))
	r.kernel.users = []string{"nbd0 is mounted on /mnt"}
	if _, err := r.Unmap(t.Context(), "a", false); !errors.Is(err, backend.ErrBusy) || !strings.Contains(err.Error(), "mounted on /mnt") {
		t.Errorf("in use: %v", err)
	}
	r.kernel.users, r.kernel.claimed = nil, true
	if _, err := r.Unmap(t.Context(), "a", false); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("claimed: %v", err)
	}
	if !r.attached() {
		t.Error("the device that was not unmapped does not work")
	}
	if _, err := r.Unmap(t.Context(), "a", true); err != nil {
		t.Errorf("by force: %v", err)
	}
	r.until("it is forgotten", func() bool { return len(r.Devices()) == 0 })
	if _, err := r.Unmap(t.Context(), "/dev/nbd0", true); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}

func TestResizeReachesTheDevice(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("a"))
	if _, err := r.gateway.ResizeVolume(t.Context(), "a", 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := r.Sync("a"); err != nil {
		t.Fatal(err)
	}
	if st, _ := r.kernel.State(0); st.Size != 16<<20 {
		t.Errorf("the device has %d bytes", st.Size)
	}
}

// Curve's own gateway reads the size once, when it opens the volume.
func TestD6SizeThatAnotherGatewaySetReachesTheDevice(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("a"))
	other := gateway.New(r.store.Meta(), r.store.Chunks(), gateway.Options{Owner: "other"})
	defer other.Close(context.Background())
	if _, err := other.ResizeVolume(t.Context(), "a", 16<<20); err != nil {
		t.Fatal(err)
	}
	r.until("the device has the new size", func() bool { st, _ := r.kernel.State(0); return st.Size == 16<<20 })
}

func TestStateFileThatCannotBeTrustedIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON":      "nonsense",
		"newer version": `{"version": 2}`,
		"no volume":     `{"version": 1, "devices": [{"index": 0, "backend": "x", "connections": 1, "timeout_ns": 1, "reattach_timeout_ns": 1}]}`,
		"many sockets":  `{"version": 1, "devices": [{"index": 0, "volume": "a", "backend": "x", "connections": 1000000, "timeout_ns": 1, "reattach_timeout_ns": 1}]}`,
	} {
		if _, err := decodeState("f", []byte(text)); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
