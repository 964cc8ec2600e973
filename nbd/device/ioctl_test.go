package device

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

// fakeIoctl makes devices that nobody can identify nor bring fresh connections.
type fakeIoctl struct{ *fakeKernel }

func (k fakeIoctl) Connect(c kernel.Config) (int, error) {
	c.Backend = ""
	return k.fakeKernel.Connect(c)
}

func (k fakeIoctl) Reconfigure(kernel.Config) error { return backend.ErrNotSupported }

func (k fakeIoctl) Resize(index int, _ string, size int64) error {
	return k.fakeKernel.Resize(index, "", size)
}

func ioctlSpec(volume string) Spec {
	s := spec(volume)
	s.Ioctl = true
	return s
}

func TestDeviceByIoctlWorksUntilItIsUnmapped(t *testing.T) {
	r := newRig(t)
	if d := r.mapped(ioctlSpec("a")); !d.Ioctl || !r.attached() {
		t.Errorf("mapped: %+v", d)
	}
	if _, err := r.gateway.ResizeVolume(t.Context(), "a", 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := r.Sync("a"); err != nil || r.kernel.devices[0].size != 16<<20 {
		t.Errorf("resized to %d bytes, %v", r.kernel.devices[0].size, err)
	}
	if _, err := r.Unmap(t.Context(), "a", false); err != nil || len(r.kernel.devices) != 0 {
		t.Errorf("unmapped: %v, the kernel has %d devices", err, len(r.kernel.devices))
	}
	r.until("it is forgotten", func() bool { return len(r.Devices()) == 0 })
}

func TestDeviceByIoctlGoesWithItsGateway(t *testing.T) {
	for name, users := range map[string][]string{"idle": nil, "in use": {"nbd0 is mounted on /mnt"}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.mapped(ioctlSpec("a"))
			r.mapped(spec("b"))
			r.kernel.users = users
			r.end()
			if len(r.kernel.devices) != 1 || r.kernel.devices[0] != nil {
				t.Errorf("the kernel has %d devices, want that of b alone", len(r.kernel.devices))
			}
			records, err := loadState(r.path)
			if err != nil || len(records) != 1 || records[0].Volume != "b" {
				t.Errorf("written down: %+v, %v", records, err)
			}
		})
	}
}

// What a gateway that was killed had attached by ioctl is not taken for another's.
func TestDeviceByIoctlOfADeadGatewayIsForgotten(t *testing.T) {
	r := newRig(t)
	r.mapped(ioctlSpec("a"))
	records, err := loadState(r.path)
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	r.end()
	if err := saveState(r.path, records); err != nil {
		t.Fatal(err)
	}
	r.kernel.devices[0] = &fakeDevice{} // somebody else's by now
	r.restart()
	if len(r.Devices()) != 0 || r.kernel.devices[0] == nil {
		t.Errorf("mapped: %+v; the kernel has %v", r.Devices(), r.kernel.devices)
	}
	delete(r.kernel.devices, 0)
	r.mapped(ioctlSpec("a"))
}

func TestDeviceByIoctlEndsWithItsLastConnection(t *testing.T) {
	r := newRig(t)
	r.mapped(ioctlSpec("a"))
	r.kernel.breakSocket(0, 1)
	r.until("a connection is missed", func() bool { return strings.Contains(r.Devices()[0].Problem, "1 of 2 connections broke") })
	if list := r.Devices(); len(list) != 1 || list[0].State != StateAttached {
		t.Errorf("with one connection left: %+v", list)
	}
	r.kernel.breakSocket(0, 0)
	r.until("the device is forgotten", func() bool { return len(r.Devices()) == 0 })
}

func TestDevicesByIoctlAreNotHandedOver(t *testing.T) {
	r := newRig(t)
	r.mapped(spec("b"))
	if err := r.MayHandOver(); err != nil {
		t.Errorf("a device by netlink: %v", err)
	}
	r.mapped(ioctlSpec("a"))
	reason := r.MayHandOver()
	if !errors.Is(reason, backend.ErrNotSupported) || !strings.Contains(reason.Error(), "/dev/nbd1, of a,") {
		t.Errorf("a device by ioctl: %v", reason)
	}
	server, client := transferPair(t)
	if err := errors.Join(Refuse(server, reason), server.Close()); err != nil {
		t.Fatal(err)
	}
	if list, err := Receive(client); !errors.Is(err, backend.ErrBusy) || list != nil || !strings.Contains(err.Error(), reason.Error()) {
		t.Errorf("received %v, %v", list, err)
	}
	// One that came after the question goes down, and not over.
	handed := r.HandOver()
	if len(handed) != 1 || handed[0].Backend == "" || r.kernel.devices[1] != nil {
		t.Errorf("handed over: %+v; the kernel has %v", handed, r.kernel.devices)
	}
	closeHanded(handed)
}
