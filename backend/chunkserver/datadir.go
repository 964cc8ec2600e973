package chunkserver

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// What is in a data directory.
const (
	identityName = "identity" // a record
	bookName     = "servers"  // a record: the address book
	lockName     = "lock"
	probeName    = "probe"
	logName      = "log"
	chunksName   = "chunks"
	copysetsName = "copysets"
	// lostAndFound is what an otherwise empty file system holds.
	lostAndFound = "lost+found"

	// formatVersion of the data directory as a whole; its parts have their own.
	formatVersion = 1
	maxUUID       = 64
)

// identity says that a directory is a chunkserver's, and whose.
type identity struct {
	Format  int       `json:"format"`
	UUID    string    `json:"uuid"`
	Created time.Time `json:"created"`
	// Server is 0 until the MDS has given the chunkserver its id.
	Server backend.ServerID `json:"server"`
	// Cluster it belongs to, "" where clusters have no names.
	Cluster string `json:"cluster,omitempty"`
}

func newIdentity(cluster string) identity {
	var u [16]byte
	rand.Read(u[:])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80 // RFC 9562: version 4, random
	return identity{
		Format:  formatVersion,
		UUID:    fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]),
		Created: time.Now().UTC().Truncate(time.Second),
		Cluster: cluster,
	}
}

func (id identity) check(cluster string) error {
	switch {
	case id.Format > formatVersion:
		return fmt.Errorf("%w: format %d, this program knows up to %d: use the newer program", backend.ErrNotSupported, id.Format, formatVersion)
	case id.Format < 1, id.UUID == "", len(id.UUID) > maxUUID:
		return fmt.Errorf("%w: identity without format or uuid", backend.ErrInvalid)
	case cluster != "" && id.Cluster != "" && cluster != id.Cluster:
		return fmt.Errorf("%w: it belongs to cluster %q, not %q", backend.ErrInvalid, id.Cluster, cluster)
	}
	return nil
}

// dataDir is a data directory in use.
type dataDir struct {
	fs       disk.FS
	path     string
	identity identity
}

func (d *dataDir) logDir() string      { return d.path + "/" + logName }
func (d *dataDir) chunksDir() string   { return d.path + "/" + chunksName }
func (d *dataDir) copysetsDir() string { return d.path + "/" + copysetsName }
func (d *dataDir) probeFile() string   { return d.path + "/" + probeName }
func (d *dataDir) copysetDir(id backend.CopysetID) string {
	return d.copysetsDir() + "/" + strconv.FormatUint(uint64(id), 10)
}

// openDataDir reads the identity of the directory at path, or makes an empty one a
// data directory. The caller has locked it.
func openDataDir(fsys disk.FS, path, cluster string) (*dataDir, error) {
	d := &dataDir{fs: fsys, path: path}
	if err := d.open(cluster); err != nil {
		return nil, fmt.Errorf("data directory %s: %w", path, err)
	}
	return d, nil
}

func (d *dataDir) open(cluster string) error {
	if err := d.fs.MkdirAll(d.path); err != nil {
		return disk.Error("make it", err)
	}
	names, err := d.fs.ReadDir(d.path)
	if err != nil {
		return disk.Error("list it", err)
	}
	found, err := getRecord(d.fs, d.path, identityName, &d.identity)
	if err != nil {
		return fmt.Errorf("%w: restore the identity from a backup, or start with a new directory and let the others copy", err)
	}
	if !found {
		return d.initialise(names, cluster)
	}
	if err := d.identity.check(cluster); err != nil {
		return err
	}
	// Without its log a chunkserver would forget votes that others rely on.
	for _, part := range []string{logName, chunksName, copysetsName} {
		if !slices.Contains(names, part) {
			return fmt.Errorf("%w: %s is missing: put it back, or start with a new directory and let the others copy", backend.ErrInvalid, part)
		}
	}
	return nil
}

// initialise makes an empty directory a data directory. The identity comes last:
// until it is there, a crash leaves something that this starts anew.
func (d *dataDir) initialise(names []string, cluster string) error {
	ours := []string{lockName, logName, chunksName, copysetsName, lostAndFound}
	for _, n := range names {
		if !slices.Contains(ours, n) && !strings.HasPrefix(n, identityName+".") {
			return fmt.Errorf("%w: not a chunkserver's data directory: it holds %s; give an empty or new one", backend.ErrInvalid, n)
		}
	}
	for _, part := range []string{logName, chunksName, copysetsName} {
		if err := d.fs.MkdirAll(d.path + "/" + part); err != nil {
			return disk.Error("make "+part, err)
		}
		inside, err := d.fs.ReadDir(d.path + "/" + part)
		if err != nil {
			return disk.Error("list "+part, err)
		}
		if len(inside) > 0 {
			return fmt.Errorf("%w: the identity is missing, and there is %s/%s: restore it from a backup", backend.ErrInvalid, part, inside[0])
		}
	}
	// The directory's own name, and its parents', may be new too.
	if err := d.fs.SyncAll(d.path); err != nil {
		return disk.Error("sync it", err)
	}
	return d.setIdentity(newIdentity(cluster))
}

func (d *dataDir) setIdentity(id identity) error {
	if err := putRecord(d.fs, d.path, identityName, id); err != nil {
		return err
	}
	d.identity = id
	return nil
}
