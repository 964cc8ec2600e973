package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
)

// maxUsers bounds what Users lists: a few tell what to do.
const maxUsers = 16

// Users says, in words, who uses a device: mounts of it and of its partitions in
// any mount namespace, swap, device mapper, md and loop devices on top, and processes
// that have it open. Empty when nobody does, as far as this process may look.
func (s System) Users(index int) ([]string, error) {
	nodes, err := s.nodes(index)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, find := range []func([]node) ([]string, error){s.mounts, s.swaps, s.holders, s.loops, s.openers} {
		found, err := find(nodes)
		if err != nil {
			return nil, err
		}
		users = append(users, found...)
	}
	return users[:min(len(users), maxUsers)], nil
}

// node is a device or one of its partitions.
type node struct {
	name   string // nbd0p1
	number string // 43:1
	dir    string // in sysfs
}

func (s System) nodes(index int) ([]node, error) {
	name := filepath.Base(DevicePath(index))
	dirs, err := filepath.Glob(s.block(index, name+"p*"))
	if err != nil {
		return nil, err
	}
	var nodes []node
	for _, dir := range append([]string{s.block(index)}, dirs...) {
		number, err := read(filepath.Join(dir, "dev"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, node{name: filepath.Base(dir), number: number, dir: dir})
	}
	return nodes, nil
}

// mounts looks into every process's mounts: a container's are its own.
func (s System) mounts(nodes []node) ([]string, error) {
	proc, err := procfs.NewFS(s.path("proc"))
	if err != nil {
		return nil, err
	}
	all, err := proc.AllProcs()
	if err != nil {
		return nil, err
	}
	namespaces := make(map[string]bool)
	var users []string
	for _, p := range all {
		ns, err := os.Readlink(s.path("proc", strconv.Itoa(p.PID), "ns/mnt"))
		if err != nil || namespaces[ns] {
			continue // gone, a kernel thread, or not ours to look at
		}
		infos, err := p.MountInfo()
		if err != nil {
			continue
		}
		namespaces[ns] = true
		for _, m := range infos {
			for _, n := range nodes {
				user := fmt.Sprintf("%s is mounted on %s", n.name, m.MountPoint)
				if mountOf(m, n) && !slices.Contains(users, user) {
					users = append(users, user)
				}
			}
		}
	}
	return users, nil
}

func (s System) swaps(nodes []node) ([]string, error) {
	proc, err := procfs.NewFS(s.path("proc"))
	if err != nil {
		return nil, err
	}
	swaps, err := proc.Swaps()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without swap
	}
	if err != nil {
		return nil, err
	}
	var users []string
	for _, swap := range swaps {
		for _, n := range nodes {
			if filepath.Base(swap.Filename) == n.name {
				users = append(users, n.name+" is used as swap")
			}
		}
	}
	return users, nil
}

// loops are the loop devices on top, which neither hold it nor are processes.
func (s System) loops(nodes []node) ([]string, error) {
	files, err := filepath.Glob(s.path("sys/block/loop*/loop/backing_file"))
	if err != nil {
		return nil, err
	}
	var users []string
	for _, file := range files {
		backing, err := read(file)
		if err != nil || !strings.HasPrefix(backing, "/dev/") {
			continue // gone, or not a device
		}
		for _, n := range nodes {
			if filepath.Base(backing) == n.name {
				loop := filepath.Base(filepath.Dir(filepath.Dir(file)))
				users = append(users, fmt.Sprintf("%s is under %s", n.name, loop))
			}
		}
	}
	return users, nil
}

// holders are the devices that are made of this one.
func (s System) holders(nodes []node) ([]string, error) {
	var users []string
	for _, n := range nodes {
		entries, err := os.ReadDir(filepath.Join(n.dir, "holders"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			users = append(users, fmt.Sprintf("%s is part of %s", n.name, e.Name()))
		}
	}
	return users, nil
}

// openers are the processes that have it open, but for this one: it keeps what is
// attached by ioctl open.
func (s System) openers(nodes []node) ([]string, error) {
	links, err := filepath.Glob(s.path("proc/[0-9]*/fd/*"))
	if err != nil {
		return nil, err
	}
	self, _ := os.Readlink(s.path("proc/self"))
	var users []string
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(target, "/dev/") {
			continue // gone, or not a device
		}
		if !slices.ContainsFunc(nodes, func(n node) bool { return filepath.Base(target) == n.name }) {
			continue
		}
		pid := filepath.Base(filepath.Dir(filepath.Dir(link)))
		if pid == self {
			continue
		}
		command, _ := read(s.path("proc", pid, "comm")) // optional
		user := fmt.Sprintf("%s is open in process %s (%s)", filepath.Base(target), pid, command)
		if !slices.Contains(users, user) {
			users = append(users, user)
		}
	}
	return users, nil
}
