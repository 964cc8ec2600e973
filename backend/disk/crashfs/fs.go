package crashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend/disk"
)

// ErrDead is what a killed or powered-off machine answers.
var ErrDead = errors.New("crashfs: machine is dead")

// OpKind is a kind of call that may change what is on the disk.
type OpKind uint8

// The calls that count as steps and can be made to fail.
const (
	OpMkdir OpKind = iota
	OpOpen
	OpCreate
	OpRemove
	OpRead
	OpWrite
	OpPunch
	OpSyncData
	OpSyncDir
	OpSyncAll
)

var opNames = [...]string{"mkdir", "open", "create", "remove", "read", "write", "punch", "sync-data", "sync-dir", "sync-all"}

func (k OpKind) String() string { return opNames[k] }

// Changes says whether a crash before and after such a call may differ.
func (k OpKind) Changes() bool { return k != OpOpen && k != OpRead }

// Call describes a call about to be made.
type Call struct {
	Op   OpKind
	Path string
	Off  int64
	Len  int
}

func (c Call) String() string {
	return fmt.Sprintf("%v %s [%d,+%d)", c.Op, path.Base(c.Path), c.Off, c.Len)
}

// PartialError makes a write store, or a punch free, N bytes before it fails
// with Err.
type PartialError struct {
	N   int
	Err error
}

func (e *PartialError) Error() string { return fmt.Sprintf("after %d bytes: %v", e.N, e.Err) }

// Options of a new machine.
type Options struct {
	// Unit is the atomic unit of the disk, 512 or 4096; default 512.
	Unit int
	// Capacity bounds the bytes that files take; 0 for no bound.
	Capacity int64
	// MissEvery makes every n-th TryReadAt find nothing in the cache; 0 for none.
	MissEvery int
}

// FS is a running machine. It implements disk.FS.
type FS struct {
	disk *platter
	// hook is called before every call, without a lock; its error is the call's.
	hook  atomic.Pointer[func(Call) error]
	dead  atomic.Bool
	tries atomic.Int64
}

var _ disk.FS = (*FS)(nil)

// platter is the cache and what is under it.
type platter struct {
	opts Options
	// mu guards everything reachable from root, and used.
	mu   sync.Mutex
	root *dir
	used int64
}

// node is what a name means: *dir, *inode, or nil for nothing.
type node any

type dir struct{ names map[string]*name }

// name is a directory entry: what it meant when last synced and each time since.
type name struct {
	durable node
	pending []node
}

func (n *name) current() node {
	if k := len(n.pending); k > 0 {
		return n.pending[k-1]
	}
	return n.durable
}

// New returns a machine with an empty disk.
func New(opts Options) *FS {
	if opts.Unit == 0 {
		opts.Unit = 512
	}
	return &FS{disk: &platter{opts: opts, root: newDir()}}
}

func newDir() *dir { return &dir{names: make(map[string]*name)} }

// OnCall installs a hook; nil removes it. The hook may call Crash.
func (f *FS) OnCall(hook func(Call) error) {
	if hook == nil {
		f.hook.Store(nil)
		return
	}
	f.hook.Store(&hook)
}

func (f *FS) before(c Call) error {
	if f.dead.Load() {
		return ErrDead
	}
	if hook := f.hook.Load(); hook != nil {
		if err := (*hook)(c); err != nil {
			return err
		}
	}
	if f.dead.Load() {
		return ErrDead
	}
	return nil
}

func split(p string) []string {
	return strings.FieldsFunc(path.Clean(p), func(r rune) bool { return r == '/' })
}

func (d *dir) set(n string, to node) {
	e := d.names[n]
	if e == nil {
		e = &name{}
		d.names[n] = e
	}
	e.pending = append(e.pending, to)
}

// find returns what a path means now. Caller holds disk.mu.
func (d *platter) find(p string) (node, error) {
	var at node = d.root
	for _, part := range split(p) {
		in, ok := at.(*dir)
		if !ok {
			return nil, unix.ENOTDIR
		}
		e := in.names[part]
		if e == nil || e.current() == nil {
			return nil, unix.ENOENT
		}
		at = e.current()
	}
	return at, nil
}

func (d *platter) findDir(p string) (*dir, error) {
	n, err := d.find(p)
	if err != nil {
		return nil, err
	}
	in, ok := n.(*dir)
	if !ok {
		return nil, unix.ENOTDIR
	}
	return in, nil
}

func pathError(op, p string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: p, Err: err}
}

// MkdirAll implements disk.FS.
func (f *FS) MkdirAll(p string) error {
	if err := f.before(Call{Op: OpMkdir, Path: p}); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	at := f.disk.root
	for _, part := range split(p) {
		e := at.names[part]
		if e == nil || e.current() == nil {
			at.set(part, newDir())
			e = at.names[part]
		}
		next, ok := e.current().(*dir)
		if !ok {
			return pathError("mkdir", p, unix.ENOTDIR)
		}
		at = next
	}
	return nil
}

// ReadDir implements disk.FS.
func (f *FS) ReadDir(p string) ([]string, error) {
	if err := f.before(Call{Op: OpRead, Path: p}); err != nil {
		return nil, err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	in, err := f.disk.findDir(p)
	if err != nil {
		return nil, pathError("readdir", p, err)
	}
	var names []string
	for n, e := range in.names {
		if e.current() != nil {
			names = append(names, n)
		}
	}
	return names, nil
}

// Open implements disk.FS.
func (f *FS) Open(p string) (disk.File, error) {
	if err := f.before(Call{Op: OpOpen, Path: p}); err != nil {
		return nil, err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n, err := f.disk.find(p)
	if err != nil {
		return nil, pathError("open", p, err)
	}
	ino, ok := n.(*inode)
	if !ok {
		return nil, pathError("open", p, unix.EISDIR)
	}
	return &file{fs: f, ino: ino, path: p}, nil
}

// Create implements disk.FS.
func (f *FS) Create(p string) (disk.File, error) {
	if err := f.before(Call{Op: OpCreate, Path: p}); err != nil {
		return nil, err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	in, err := f.disk.findDir(path.Dir(p))
	if err != nil {
		return nil, pathError("create", p, err)
	}
	if e := in.names[path.Base(p)]; e != nil && e.current() != nil {
		return nil, pathError("create", p, unix.EEXIST)
	}
	ino := newInode()
	in.set(path.Base(p), ino)
	return &file{fs: f, ino: ino, path: p}, nil
}

// Remove implements disk.FS.
func (f *FS) Remove(p string) error {
	if err := f.before(Call{Op: OpRemove, Path: p}); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n, err := f.disk.find(p)
	if err != nil {
		return pathError("remove", p, err)
	}
	ino, ok := n.(*inode)
	if !ok {
		return pathError("remove", p, unix.EISDIR)
	}
	in, err := f.disk.findDir(path.Dir(p))
	if err != nil {
		return pathError("remove", p, err)
	}
	in.set(path.Base(p), nil)
	f.disk.used -= f.disk.allocated(ino)
	return nil
}

// SyncDir implements disk.FS.
func (f *FS) SyncDir(p string) error {
	if err := f.before(Call{Op: OpSyncDir, Path: p}); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	in, err := f.disk.findDir(p)
	if err != nil {
		return pathError("syncdir", p, err)
	}
	in.sync()
	return nil
}

func (d *dir) sync() {
	for n, e := range d.names {
		e.durable, e.pending = e.current(), nil
		if e.durable == nil {
			delete(d.names, n)
		}
	}
}

// SyncAll implements disk.FS.
func (f *FS) SyncAll(p string) error {
	if err := f.before(Call{Op: OpSyncAll, Path: p}); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if _, err := f.disk.find(p); err != nil {
		return pathError("syncfs", p, err)
	}
	f.disk.root.syncTree()
	return nil
}

func (d *dir) syncTree() {
	d.sync()
	for _, e := range d.names {
		switch n := e.durable.(type) {
		case *dir:
			n.syncTree()
		case *inode:
			n.sync()
		}
	}
}

// Allocated implements disk.FS.
func (f *FS) Allocated(p string) (int64, error) {
	if err := f.before(Call{Op: OpRead, Path: p}); err != nil {
		return 0, err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n, err := f.disk.find(p)
	if err != nil {
		return 0, pathError("stat", p, err)
	}
	ino, ok := n.(*inode)
	if !ok {
		return 0, pathError("stat", p, unix.EISDIR)
	}
	return f.disk.allocated(ino), nil
}
