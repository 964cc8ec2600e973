package mds

import (
	"fmt"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
)

// step is one element of a name and the directory it stands in.
type step struct {
	parent  uint64
	element string
}

// getEntry returns what stands at s; ok is false where nothing does.
func getEntry(tx Txn, s step) (e entry, ok bool, err error) {
	b, err := tx.Get(nameKey(s.parent, s.element))
	if err != nil || b == nil {
		return entry{}, false, err
	}
	e, err = decodeEntry(b)
	if err != nil {
		return entry{}, false, fmt.Errorf("name %q in directory %d: %w", s.element, s.parent, err)
	}
	return e, true, nil
}

// walk follows a clean name and returns its steps and what its last one is.
// ErrNotFound where a directory on the way, or the last element, is missing.
func walk(tx Txn, name string) ([]step, entry, error) {
	elements := strings.Split(name, "/")
	steps := make([]step, 0, len(elements))
	at := entry{kind: entryDirectory, id: rootDirectory}
	for i, element := range elements {
		if at.kind != entryDirectory {
			return nil, entry{}, fmt.Errorf("%w: %q: %q is a volume, not a directory", backend.ErrNotFound, name, strings.Join(elements[:i], "/"))
		}
		s := step{parent: at.id, element: element}
		next, ok, err := getEntry(tx, s)
		if err != nil {
			return nil, entry{}, err
		}
		if !ok {
			return nil, entry{}, fmt.Errorf("%w: no volume or directory %q", backend.ErrNotFound, strings.Join(elements[:i+1], "/"))
		}
		steps, at = append(steps, s), next
	}
	return steps, at, nil
}

// lookup returns the volume that a clean name stands for.
func lookup(tx Txn, name string) (*volumeRecord, error) {
	_, e, err := walk(tx, name)
	if err != nil {
		return nil, err
	}
	if e.kind != entryVolume {
		return nil, fmt.Errorf("%w: %q is a directory, not a volume", backend.ErrNotFound, name)
	}
	v, err := getVolume(tx, backend.VolumeID(e.id))
	if err != nil {
		return nil, fmt.Errorf("name %q: %w", name, err)
	}
	return v, nil
}

// link makes a clean name stand for a volume, with the directories it needs.
func link(tx Txn, name string, id backend.VolumeID) error {
	elements := strings.Split(name, "/")
	parent := uint64(rootDirectory)
	for i, element := range elements[:len(elements)-1] {
		s := step{parent: parent, element: element}
		e, ok, err := getEntry(tx, s)
		switch {
		case err != nil:
			return err
		case ok && e.kind != entryDirectory:
			return fmt.Errorf("%w: %q is a volume, so %q cannot be in it: choose another name", backend.ErrExists, strings.Join(elements[:i+1], "/"), name)
		case !ok:
			if e, err = makeDirectory(tx, s); err != nil {
				return err
			}
		}
		parent = e.id
	}
	last := step{parent: parent, element: elements[len(elements)-1]}
	e, ok, err := getEntry(tx, last)
	if err != nil {
		return err
	}
	if ok {
		return fmt.Errorf("%w: %q is a %s: choose another name", backend.ErrExists, name, e.kind)
	}
	return tx.Put(nameKey(last.parent, last.element), entry{kind: entryVolume, id: uint64(id)}.encode())
}

func makeDirectory(tx Txn, s step) (entry, error) {
	id, err := takeIDs(tx, counterDirectory, 1)
	if err != nil {
		return entry{}, err
	}
	e := entry{kind: entryDirectory, id: id}
	return e, tx.Put(nameKey(s.parent, s.element), e.encode())
}

// unlink frees the name of a volume and the directories it leaves empty.
func unlink(tx Txn, name string) error {
	steps, _, err := walk(tx, name)
	if err != nil {
		return err
	}
	for i := len(steps) - 1; i >= 0; i-- {
		if err := tx.Delete(nameKey(steps[i].parent, steps[i].element)); err != nil {
			return err
		}
		if empty, err := isEmpty(tx, steps[i].parent); err != nil || !empty {
			return err
		}
	}
	return nil
}

func isEmpty(tx Txn, directory uint64) (bool, error) {
	empty := true
	err := tx.Scan(nameKey(directory, ""), nil, func(_, _ []byte) (bool, error) {
		empty = false
		return false, nil
	})
	return empty, err
}

// volumesUnder calls fn for each volume in a directory and those below it.
func volumesUnder(tx Txn, directory uint64, fn func(backend.VolumeID) error) error {
	// A stack, not recursion: a Scan inside a Scan would pin pages for as long
	// as the whole tree takes.
	for stack := []uint64{directory}; len(stack) > 0; {
		top := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		err := tx.Scan(nameKey(top, ""), nil, func(key, value []byte) (bool, error) {
			e, err := decodeEntry(value)
			if err != nil {
				return false, fmt.Errorf("name key % x: %w", key, err)
			}
			if e.kind == entryDirectory {
				stack = append(stack, e.id)
				return true, nil
			}
			return true, fn(backend.VolumeID(e.id))
		})
		if err != nil {
			return err
		}
	}
	return nil
}
