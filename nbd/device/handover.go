package device

import (
	"os"
	"slices"
	"sync"
)

// Handed are the sockets of a device, on their way from one gateway to another. The
// kernel does not notice: what it has sent meanwhile waits in them.
type Handed struct {
	// Backend is what the kernel knows the mapping by.
	Backend string
	Sockets []*os.File
}

func closeHanded(list []Handed) {
	for _, h := range list {
		for _, f := range h.Sockets {
			_ = f.Close()
		}
	}
}

// HandOver closes the manager, and returns the sockets of its devices, each between
// two requests with all of them answered.
func (m *Manager) HandOver() []Handed {
	m.mu.Lock()
	m.closed = true
	all := slices.Clone(m.all)
	m.mu.Unlock()
	for _, d := range all {
		d.stop()
	}
	handed := make([]Handed, len(all))
	var taking sync.WaitGroup
	for i, d := range all {
		<-d.kept
		if d.record.Ioctl {
			continue // Close takes it down
		}
		taking.Go(func() { handed[i] = Handed{Backend: d.record.Backend, Sockets: d.take()} })
	}
	taking.Wait()
	_ = m.Close()
	return slices.DeleteFunc(handed, func(h Handed) bool { return h.Backend == "" })
}

// take takes the sockets of a device from the server.
func (m *mapping) take() []*os.File {
	m.mu.Lock()
	links := slices.Clone(m.links)
	m.mu.Unlock()
	files := make([]*os.File, len(links))
	var taking sync.WaitGroup
	for i, a := range links {
		taking.Go(func() { files[i] = a.Take() })
	}
	taking.Wait()
	return slices.DeleteFunc(files, func(f *os.File) bool { return f == nil })
}
