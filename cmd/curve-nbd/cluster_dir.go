package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
)

// A cluster directory holds all of a cluster on this machine:
//
//	cluster.json   its servers: addresses for good, processes as of their last start
//	lock           held by the command that changes cluster.json
//	logs/ID.log    what each server prints
//	ID/            each server's data directory
const (
	clusterFileName = "cluster.json"
	clusterLockName = "lock"
	clusterLogsName = "logs"

	// lockPatience is for how long a command waits for another one to be done.
	lockPatience = 30 * time.Second
	lockPoll     = 20 * time.Millisecond
)

// clusterDir is a cluster directory; with its lock, the right to change it.
type clusterDir struct {
	path string // absolute
	lock *os.File
	file clusterFile
}

// readCluster reads the cluster in dir without locking it. backend.ErrNotFound.
func readCluster(dir string) (*clusterDir, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c := &clusterDir{path: path}
	return c, c.read()
}

func (c *clusterDir) read() error {
	name := filepath.Join(c.path, clusterFileName)
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w: no cluster in %s: make one with `curve-nbd cluster up`, or name its directory with --dir", backend.ErrNotFound, c.path)
	}
	if err != nil {
		return fmt.Errorf("read the cluster: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxClusterFile+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if c.file, err = decodeClusterFile(b); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// openCluster locks and reads the cluster in dir. backend.ErrNotFound,
// backend.ErrBusy.
func openCluster(ctx context.Context, dir string) (*clusterDir, error) {
	c, err := readCluster(dir) // before a lock file is left where no cluster is
	if err != nil {
		return nil, err
	}
	if err := c.takeLock(ctx); err != nil {
		return nil, err
	}
	if err := c.read(); err != nil { // again: it may have changed meanwhile
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// createCluster makes and locks a directory for a new cluster; it has no
// cluster.json until save. backend.ErrInvalid for a directory with something else
// in it, backend.ErrExists when there is a cluster already.
func createCluster(ctx context.Context, dir string) (*clusterDir, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := refuseForeign(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(path, clusterLogsName), 0o700); err != nil {
		return nil, fmt.Errorf("make the cluster's directory: %w", err)
	}
	c := &clusterDir{path: path}
	if err := c.takeLock(ctx); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(path, clusterFileName)); err == nil {
		return nil, errors.Join(fmt.Errorf("%w: a cluster in %s", backend.ErrExists, path), c.close())
	}
	return c, nil
}

// refuseForeign fails for a path that is neither missing nor an empty directory
// nor what an interrupted createCluster left.
func refuseForeign(path string) error {
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: %s is a file: give a directory with --dir", backend.ErrInvalid, path)
	case err != nil:
		return fmt.Errorf("make the cluster's directory: %w", err)
	}
	for _, e := range entries {
		switch e.Name() {
		case clusterLockName, clusterLogsName, clusterFileName:
		default:
			return fmt.Errorf("%w: %s is no cluster directory: it holds %s; give an empty or new one with --dir", backend.ErrInvalid, path, e.Name())
		}
	}
	return nil
}

func (c *clusterDir) takeLock(ctx context.Context) error {
	lock, err := os.OpenFile(filepath.Join(c.path, clusterLockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock the cluster: %w", err)
	}
	deadline := time.Now().Add(lockPatience)
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			c.lock = lock
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return errors.Join(fmt.Errorf("lock %s: %w", lock.Name(), err), lock.Close())
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.Join(fmt.Errorf("%w: another command is at work on the cluster in %s: wait for it", backend.ErrBusy, c.path), lock.Close())
		}
		time.Sleep(lockPoll)
	}
}

// save writes cluster.json: the old one or the new one is there at any time.
func (c *clusterDir) save() error {
	b, err := json.MarshalIndent(c.file, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(c.path, clusterFileName)
	if err := os.WriteFile(name+".tmp", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the cluster's file: %w", err)
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		return fmt.Errorf("write the cluster's file: %w", err)
	}
	return nil
}

// close lets other commands change the cluster.
func (c *clusterDir) close() error { return c.lock.Close() }

// purge removes all that belongs to the cluster, and the directory if nothing
// else is in it. The servers have stopped before.
func (c *clusterDir) purge() error {
	names := []string{clusterLogsName}
	for _, m := range c.file.Members {
		names = append(names, m.ID)
	}
	// What tells a cluster from a foreign directory goes last.
	for _, name := range append(names, clusterFileName+".tmp", clusterFileName, clusterLockName) {
		if err := os.RemoveAll(filepath.Join(c.path, name)); err != nil {
			return fmt.Errorf("remove the cluster: %w", err)
		}
	}
	if err := os.Remove(c.path); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("remove the cluster: %w", err)
	}
	return nil
}

func (c *clusterDir) dataDir(m *member) string { return filepath.Join(c.path, m.ID) }
func (c *clusterDir) logFile(m *member) string {
	return filepath.Join(c.path, clusterLogsName, m.ID+".log")
}
