package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
	"github.com/opencurve/curve-nbd/backend/mds"
)

const (
	identityName = "curve-nbd.json"
	lockName     = "lock"
	metaName     = "meta"
	chunksName   = "chunks"
	metaFileName = "meta.db"
	tmpSuffix    = ".tmp"
	// lostAndFound is what an otherwise empty file system holds.
	lostAndFound = "lost+found"
)

// dataDir is a locked data directory.
type dataDir struct {
	path     string
	identity identity
	lock     *os.File
}

func (d *dataDir) metaFile() string  { return filepath.Join(d.path, metaName, metaFileName) }
func (d *dataDir) chunksDir() string { return filepath.Join(d.path, chunksName) }

// close lets others open the directory.
func (d *dataDir) close() error {
	return disk.ReleaseLock(d.lock)
}

// openDataDir locks the directory at path and makes it a data directory if it
// is empty.
func openDataDir(path, owner string) (*dataDir, error) {
	d, err := lockDataDir(path, owner)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", path, err)
	}
	if err := d.identify(); err != nil {
		return nil, fmt.Errorf("data directory %s: %w", path, errors.Join(err, d.close()))
	}
	return d, nil
}

func lockDataDir(path, owner string) (*dataDir, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: the path is empty", backend.ErrInvalid)
	}
	if err := makeDir(path); err != nil {
		return nil, err
	}
	// Looked at before the lock file is made in it: a directory that is not
	// ours is left as it is.
	if _, err := hasIdentity(path); err != nil {
		return nil, err
	}
	lock, err := disk.TakeLock(filepath.Join(path, lockName), owner)
	if err != nil {
		return nil, advise(err)
	}
	return &dataDir{path: path, lock: lock}, nil
}

// makeDir makes a missing directory and its parents, durably.
func makeDir(path string) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%w: it is a file: give a directory", backend.ErrInvalid)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return osError(err)
	}
	parent := filepath.Dir(filepath.Clean(path))
	if parent != path {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return osError(err)
	}
	return syncDir(parent)
}

// hasIdentity says whether the directory is a data directory. backend.ErrInvalid
// when it is not and holds what is not ours either.
func hasIdentity(path string) (bool, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return false, osError(err)
	}
	var foreign []string
	for _, e := range entries {
		switch e.Name() {
		case identityName:
			return true, nil
		case lockName, metaName, chunksName, identityName + tmpSuffix, lostAndFound:
		default:
			foreign = append(foreign, e.Name())
		}
	}
	if len(foreign) > 0 {
		return false, notOurs(foreign)
	}
	// What is left may be a data directory whose making was cut short, but then
	// it holds no chunk.
	chunk, err := firstFile(filepath.Join(path, chunksName))
	if err != nil || chunk == "" {
		return false, err
	}
	return false, fmt.Errorf("%w: %s is missing, and there are chunks (%s/%s): restore it from a backup", backend.ErrInvalid, identityName, chunksName, chunk)
}

func notOurs(names []string) error {
	const shown = 5
	list := strings.Join(names[:min(len(names), shown)], ", ")
	if len(names) > shown {
		list += fmt.Sprintf(" and %d more", len(names)-shown)
	}
	return fmt.Errorf("%w: not a curve-nbd data directory: it holds %s; give an empty or new directory", backend.ErrInvalid, list)
}

// firstFile returns the path, below dir, of some file in its tree, "" if none.
func firstFile(dir string) (string, error) {
	found := ""
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return osError(err)
		case !e.IsDir():
			found, _ = filepath.Rel(dir, path)
			return fs.SkipAll
		}
		return nil
	})
	return found, err
}

// identify reads the directory's identity, or gives it one.
func (d *dataDir) identify() error {
	ours, err := hasIdentity(d.path) // again: it may have been made since
	if err != nil {
		return err
	}
	if !ours {
		return d.initialise()
	}
	if d.identity, err = readIdentity(filepath.Join(d.path, identityName)); err != nil {
		return err
	}
	for _, part := range []string{d.metaFile(), d.chunksDir()} {
		if _, err := os.Stat(part); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s is missing: restore it from a backup; without it every volume is lost", backend.ErrInvalid, part)
		} else if err != nil {
			return osError(err)
		}
	}
	return nil
}

// initialise makes an empty data directory. The identity comes last: until it is
// there, a crash leaves something that this function starts anew.
func (d *dataDir) initialise() error {
	if err := d.discardRemains(); err != nil {
		return err
	}
	for _, dir := range []string{metaName, chunksName} {
		if err := makeDir(filepath.Join(d.path, dir)); err != nil {
			return err
		}
	}
	d.identity = newIdentity()
	// Under another name until it is whole, so that a meta.db is never half made.
	store, err := mds.OpenBolt(d.metaFile() + tmpSuffix)
	if err != nil {
		return err
	}
	_, err = mds.New(store, mds.Options{StoreID: d.identity.UUID})
	if err := errors.Join(err, store.Close()); err != nil {
		return err
	}
	if err := renameDurably(d.metaFile()+tmpSuffix, d.metaFile()); err != nil {
		return err
	}
	content, err := d.identity.encode()
	if err != nil {
		return err
	}
	path := filepath.Join(d.path, identityName)
	if err := writeDurably(path+tmpSuffix, content); err != nil {
		return err
	}
	return renameDurably(path+tmpSuffix, path)
}

// discardRemains removes what an interrupted initialise left, after a look that
// it is no more than that.
func (d *dataDir) discardRemains() error {
	if _, err := os.Stat(d.metaFile()); err == nil {
		if err := refuseVolumes(d.metaFile()); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(filepath.Join(d.path, metaName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return osError(err)
	}
	ours := []string{metaFileName, metaFileName + tmpSuffix}
	for _, e := range entries {
		if !slices.Contains(ours, e.Name()) {
			return notOurs([]string{metaName + "/" + e.Name()})
		}
	}
	for _, name := range ours {
		if err := os.Remove(filepath.Join(d.path, metaName, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return osError(err)
		}
	}
	return nil
}

// refuseVolumes fails if the metadata knows a volume.
func refuseVolumes(metaFile string) error {
	store, err := mds.OpenBolt(metaFile)
	if err != nil {
		return err
	}
	defer store.Close()
	m, err := mds.New(store, mds.Options{})
	if err != nil {
		return err
	}
	active, errActive := m.Volumes(context.Background(), "")
	recycled, errRecycled := m.Recycled(context.Background())
	if err := errors.Join(errActive, errRecycled); err != nil {
		return err
	}
	if n := len(active) + len(recycled); n > 0 {
		return fmt.Errorf("%w: %s is missing, and %s knows %d volumes: restore it from a backup", backend.ErrInvalid, identityName, metaFile, n)
	}
	return nil
}

func writeDurably(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return osError(err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return osError(errors.Join(err, f.Close()))
}

func renameDurably(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return osError(err)
	}
	return syncDir(filepath.Dir(to))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return osError(err)
	}
	return osError(errors.Join(d.Sync(), d.Close()))
}

// advise adds what to do to an error that has the contract's word already.
func advise(err error) error {
	switch {
	case errors.Is(err, backend.ErrNoSpace):
		return fmt.Errorf("%w: free some or give another directory", err)
	case errors.Is(err, backend.ErrReadOnly):
		return fmt.Errorf("%w: remount it for writing or give another directory", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w for this user: change its owner or mode, or run as another user (%w)", backend.ErrReadOnly, err)
	}
	return err
}

// osError puts the contract's word and a cause on an error of the operating
// system; nil stays nil.
func osError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w file system: remount it for writing or give another directory (%w)", backend.ErrReadOnly, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: free some or give another directory (%w)", backend.ErrNoSpace, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w for this user: change its owner or mode, or run as another user (%w)", backend.ErrReadOnly, err)
	}
	return fmt.Errorf("%w: %w", backend.ErrIO, err)
}
