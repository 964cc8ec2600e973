package mds

import (
	"fmt"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
)

// MaxNameSize bounds a volume's name, directories included, in bytes.
const MaxNameSize = 255

// cleanName drops one leading '/' and reports, as ErrInvalid, the first rule of
// backend.Meta that the rest breaks.
func cleanName(name string) (string, error) {
	clean := strings.TrimPrefix(name, "/")
	if clean == "" {
		return "", fmt.Errorf("%w: volume name %q is empty: give at least one letter or digit", backend.ErrInvalid, name)
	}
	if err := checkPath(clean); err != nil {
		return "", fmt.Errorf("%w: volume name %s", backend.ErrInvalid, err)
	}
	return clean, nil
}

// cleanDir is cleanName for a directory: "" and "/" are the root, and one
// trailing '/' is dropped.
func cleanDir(dir string) (string, error) {
	clean := strings.TrimPrefix(dir, "/")
	if clean == "" {
		return "", nil
	}
	clean = strings.TrimSuffix(clean, "/")
	if err := checkPath(clean); err != nil {
		return "", fmt.Errorf("%w: directory %s", backend.ErrInvalid, err)
	}
	return clean, nil
}

func checkPath(path string) error {
	// The length first, so that no message repeats a name without bound.
	if len(path) > MaxNameSize {
		return fmt.Errorf("of %d bytes is too long: at most %d", len(path), MaxNameSize)
	}
	for i := 0; i < len(path); i++ {
		if !nameByte(path[i]) {
			return fmt.Errorf("%q: byte %q at position %d: use letters, digits, '_', '-', '.', and '/' between directories", path, path[i:i+1], i)
		}
	}
	for i, element := range strings.Split(path, "/") {
		switch element {
		case "":
			return fmt.Errorf("%q: element %d is empty: use single '/' between elements and none at the end", path, i+1)
		case ".", "..":
			return fmt.Errorf("%q: element %d is %q: names are not relative, spell the whole path", path, i+1, element)
		}
	}
	return nil
}

func nameByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '_' || c == '-' || c == '.' || c == '/'
}
