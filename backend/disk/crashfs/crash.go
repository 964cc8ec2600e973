package crashfs

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// Kill ends the process that uses f and returns the machine as the next one
// finds it: the cache is whole, nothing became durable by it.
func (f *FS) Kill() *FS {
	f.dead.Store(true)
	return &FS{disk: f.disk}
}

// Crash returns a machine started from a state that the disk may be in if the
// power fails now. The seed chooses it. f itself goes on.
func (f *FS) Crash(seed uint64) *FS {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &survivor{from: d, to: &platter{opts: d.opts}, rng: rand.New(rand.NewPCG(seed, 1))}
	s.to.root = s.dir(d.root)
	return &FS{disk: s.to}
}

// survivor builds the disk after a crash.
type survivor struct {
	from, to *platter
	rng      *rand.Rand
}

// luck is how likely a version that was not synced is to be on the disk; drawn
// anew for each file and directory so that some lose all and others nothing.
func (s *survivor) luck() float64 {
	return [...]float64{0, 0.1, 0.5, 0.5, 0.9, 1}[s.rng.IntN(6)]
}

// pick chooses among n pending versions: an index, or -1 for the durable one.
func (s *survivor) pick(luck float64, n int) int {
	if n == 0 || s.rng.Float64() >= luck {
		return -1
	}
	if s.rng.IntN(2) == 0 {
		return n - 1
	}
	return s.rng.IntN(n)
}

func (s *survivor) dir(old *dir) *dir {
	fresh := newDir()
	luck := s.luck()
	for _, n := range sortedKeys(old.names) {
		e := old.names[n]
		kept := e.durable
		if i := s.pick(luck, len(e.pending)); i >= 0 {
			kept = e.pending[i]
		}
		switch kept := kept.(type) {
		case *dir:
			fresh.names[n] = &name{durable: s.dir(kept)}
		case *inode:
			fresh.names[n] = &name{durable: s.inode(kept)}
		}
	}
	return fresh
}

func (s *survivor) inode(old *inode) *inode {
	fresh := newInode()
	luck := s.luck()
	size := old.size.durable
	if i := s.pick(luck, len(old.size.pending)); i >= 0 {
		size = old.size.pending[i]
	}
	fresh.size = sizes{cached: size, durable: size}
	unitSize := int64(s.to.opts.Unit)
	for _, i := range sortedKeys(old.units) {
		u := old.units[i]
		content := u.durable
		if k := s.pick(luck, len(u.pending)); k >= 0 {
			content = u.pending[k]
		}
		if content == nil || i*unitSize >= size {
			continue
		}
		if rest := size - i*unitSize; rest < unitSize {
			content = slices.Clone(content)
			clear(content[rest:])
		}
		fresh.units[i] = &unit{cached: content, durable: content}
		s.to.used += unitSize
	}
	return fresh
}

// Flip inverts a bit of a file as it is on the disk and in the cache, which is
// what bit rot looks like.
func (f *FS) Flip(path string, off int64, bit uint8) error {
	return f.rot(path, off, func(b []byte) { b[0] ^= 1 << (bit % 8) })
}

// Wipe turns a range of a file, within one unit, to zeros the same way.
func (f *FS) Wipe(path string, off int64, length int) error {
	return f.rot(path, off, func(b []byte) { clear(b[:length]) })
}

func (f *FS) rot(path string, off int64, edit func([]byte)) error {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(path)
	if err != nil {
		return pathError("rot", path, err)
	}
	size := int64(d.opts.Unit)
	ino, ok := n.(*inode)
	if !ok || ino.units[off/size] == nil || ino.units[off/size].cached == nil {
		return fmt.Errorf("crashfs: nothing is stored at %d of %s", off, path)
	}
	u := ino.units[off/size]
	content := slices.Clone(u.cached)
	edit(content[off%size:])
	u.cached, u.durable, u.pending, u.dirty = content, content, nil, false
	return nil
}

func sortedKeys[K interface{ ~int64 | ~string }, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
