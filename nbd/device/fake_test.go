package device

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

// fakeKernel is a Driver and a System without a kernel. Like the driver it holds the
// sockets that it is given, and takes a fresh one only for a broken one.
type fakeKernel struct {
	mu      sync.Mutex
	devices map[int]*fakeDevice
	// fail, when set, is what the next Connect says; wrongSize makes devices that do
	// not become usable.
	fail      error
	wrongSize bool
	users     []string
	claimed   bool
	// announced is what udev last saw of each device: its Backend, "" for none.
	announced map[int]string
}

type fakeDevice struct {
	config  kernel.Config
	sockets []net.Conn // nil for a broken one
	size    int64
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{devices: make(map[int]*fakeDevice), announced: make(map[int]string)}
}

func takeSocket(f *os.File) net.Conn {
	c, err := net.FileConn(f)
	if err != nil {
		panic(err)
	}
	return c
}

func (k *fakeKernel) Connect(c kernel.Config) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return 0, k.fail
	}
	index := c.Index
	for index == kernel.AnyDevice || c.Index == kernel.AnyDevice && k.devices[index] != nil {
		index++
	}
	if k.devices[index] != nil {
		return 0, fmt.Errorf("%w: %s", backend.ErrBusy, kernel.DevicePath(index))
	}
	d := &fakeDevice{config: c, size: c.Size}
	for _, f := range c.Sockets {
		d.sockets = append(d.sockets, takeSocket(f))
	}
	k.devices[index] = d
	return index, nil
}

func (k *fakeKernel) Reconfigure(c kernel.Config) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devices[c.Index]
	if d == nil || d.config.Backend != c.Backend {
		return backend.ErrNotFound
	}
	for _, f := range c.Sockets {
		for i, s := range d.sockets {
			if s == nil {
				d.sockets[i] = takeSocket(f)
				break
			}
		}
	}
	return nil
}

func (k *fakeKernel) Resize(index int, id string, size int64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := k.devices[index]; d != nil && d.config.Backend == id {
		d.size = size
		return nil
	}
	return backend.ErrNotFound
}

func (k *fakeKernel) Disconnect(index int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := k.devices[index]; d != nil {
		for _, s := range d.sockets {
			if s != nil {
				s.Close()
			}
		}
	}
	delete(k.devices, index)
	return nil
}

func (k *fakeKernel) State(index int) (kernel.State, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devices[index]
	if d == nil {
		return kernel.State{}, nil
	}
	st := kernel.State{Connected: true, Backend: d.config.Backend, PID: int64(index) + 100, Size: d.size, BlockSize: d.config.BlockSize, ReadOnly: d.config.ReadOnly}
	if k.wrongSize {
		st.Size = 0
	}
	return st, nil
}

func (k *fakeKernel) Devices() (list []int, err error) {
	for i := range 4 {
		list = append(list, i)
	}
	return list, nil
}

func (k *fakeKernel) Users(int) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.users, nil
}

func (k *fakeKernel) Flush(context.Context, int) (func(), error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.claimed {
		return nil, backend.ErrBusy
	}
	return func() {}, nil
}

func (k *fakeKernel) Announce(index int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.announced[index] = ""
	if d := k.devices[index]; d != nil {
		k.announced[index] = d.config.Backend
	}
	return nil
}

// seen is what udev last saw of a device.
func (k *fakeKernel) seen(index int) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.announced[index]
}

// breakSocket breaks one connection of a device.
func (k *fakeKernel) breakSocket(index, socket int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.devices[index].sockets[socket].Close()
	k.devices[index].sockets[socket] = nil
}

// working says that every connection of a device answers.
func (k *fakeKernel) working(index int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devices[index]
	if d == nil {
		return false
	}
	for _, s := range d.sockets {
		if s == nil || ask(s) != nil {
			return false
		}
	}
	return true
}

// ask sends a flush and takes the answer.
func ask(c net.Conn) error {
	request := make([]byte, 28)
	copy(request, []byte{0x25, 0x60, 0x95, 0x13, 0, 0, 0, 3})
	if _, err := c.Write(request); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(patience))
	reply := make([]byte, 16)
	if n, err := c.Read(reply); err != nil || n != 16 {
		return errors.Join(err, fmt.Errorf("%d bytes of a reply", n))
	}
	if reply[7] != 0 {
		return fmt.Errorf("error %d", reply[7])
	}
	return nil
}

const patience = 30 * time.Second

// rig is a gateway with volumes a and b, and a manager on a fake kernel.
type rig struct {
	t      *testing.T
	dir    string
	kernel *fakeKernel
	store  *embedded.Backend
	*Manager
	gateway *gateway.Gateway
	end     func()
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: t.TempDir(), kernel: newFakeKernel()}
	store, err := embedded.OpenMemory(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	r.store = store
	r.gateway = gateway.New(store.Meta(), store.Chunks(), gateway.Options{Owner: "test"})
	for _, name := range []string{"a", "b"} {
		if _, err := r.gateway.CreateVolume(t.Context(), backend.VolumeSpec{Name: name, Size: 8 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	t.Cleanup(func() { r.end(); r.gateway.Close(context.Background()) })
	return r
}

// start makes a manager as a gateway that starts does.
func (r *rig) start() {
	r.t.Helper()
	server := nbd.NewServer(r.gateway, nbd.Options{})
	r.Manager = New(Options{Gateway: r.gateway, Server: server, Driver: r.kernel, Ioctl: fakeIoctl{r.kernel}, System: r.kernel, StatePath: filepath.Join(r.dir, "run", "devices")})
	m := r.Manager
	r.end = func() {
		m.Close()
		server.Shutdown(context.Background())
	}
}

// restart ends the manager and starts another, which takes the devices up.
func (r *rig) restart() {
	r.t.Helper()
	r.end()
	r.kernel.mu.Lock()
	for _, d := range r.kernel.devices { // the kernel sees its peers end
		for i, s := range d.sockets {
			if s != nil {
				s.Close()
			}
			d.sockets[i] = nil
		}
	}
	r.kernel.mu.Unlock()
	r.start()
	if err := r.Restore(nil); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not within %v: %s; devices %+v", patience, what, r.Devices())
		}
	}
}

func spec(volume string) Spec {
	return Spec{Volume: volume, Index: kernel.AnyDevice, Connections: 2, Timeout: time.Second, Reattach: time.Minute}
}

func (r *rig) mapped(s Spec) Device {
	r.t.Helper()
	d, err := r.Map(r.t.Context(), s)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// attached says that there is one device, and that it works.
func (r *rig) attached() bool {
	list := r.Devices()
	return len(list) == 1 && list[0].State == StateAttached && r.kernel.working(0)
}
