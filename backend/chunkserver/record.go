package chunkserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// A record is a small thing that is replaced as a whole: JSON and its checksum in a
// file of its own. A new version is a new file, NAME.NUMBER, made durable before the
// older ones go; what is read is the newest that is whole. That needs no renaming,
// and whatever a crash leaves, the last version that was put is there, or the one
// that was being put.
const (
	// maxRecord bounds a record's file, in bytes.
	maxRecord = 1 << 20
	// sumPrefix begins the file's last line.
	sumPrefix = "crc32c "
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeRecord(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	b = fmt.Appendf(b, "%s%08x\n", sumPrefix, crc32.Checksum(b, castagnoli))
	if len(b) > maxRecord {
		return nil, fmt.Errorf("%w: record of %d bytes, at most %d", backend.ErrInvalid, len(b), maxRecord)
	}
	return b, nil
}

// decodeRecord reads what encodeRecord wrote into v. ErrChecksum.
func decodeRecord(b []byte, v any) error {
	if len(b) > maxRecord {
		return fmt.Errorf("%w: record of %d bytes, at most %d", backend.ErrInvalid, len(b), maxRecord)
	}
	end := bytes.LastIndex(b, []byte("\n"+sumPrefix)) + 1
	if end == 0 {
		return fmt.Errorf("%w: no checksum at its end", backend.ErrChecksum)
	}
	body := b[:end]
	if want := fmt.Sprintf("%s%08x\n", sumPrefix, crc32.Checksum(body, castagnoli)); want != string(b[end:]) {
		return fmt.Errorf("%w: found %q, expected %q", backend.ErrChecksum, b[end:min(len(b), end+64)], want)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", backend.ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one value", backend.ErrInvalid)
	}
	return nil
}

// recordVersions lists the numbers of a record's files in dir, newest first.
func recordVersions(names []string, name string) []uint64 {
	var numbers []uint64
	for _, n := range names {
		digits, ok := strings.CutPrefix(n, name+".")
		if !ok {
			continue
		}
		if number, err := strconv.ParseUint(digits, 10, 64); err == nil && strconv.FormatUint(number, 10) == digits {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return numbers
}

func recordPath(dir, name string, number uint64) string {
	return dir + "/" + name + "." + strconv.FormatUint(number, 10)
}

// getRecord reads the record name in dir into v; found is false when there is none.
func getRecord(fsys disk.FS, dir, name string, v any) (found bool, err error) {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return false, disk.Error("list "+dir, err)
	}
	var last error
	for _, number := range recordVersions(names, name) {
		path := recordPath(dir, name, number)
		b, err := readSmall(fsys, path)
		if err != nil {
			return false, err
		}
		err = decodeRecord(b, v)
		if err == nil {
			return true, nil
		}
		last = fmt.Errorf("%s: %w", path, err)
	}
	return false, last
}

func readSmall(fsys disk.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, disk.Error("open "+path, err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	n := 0
	for {
		m, err := f.ReadAt(b[n:], int64(n))
		n += m
		if errors.Is(err, io.EOF) {
			return b[:n], nil
		}
		if err != nil {
			return nil, disk.Error("read "+path, err)
		}
		if n > maxRecord {
			return nil, fmt.Errorf("%w: %s is larger than %d bytes", backend.ErrInvalid, path, maxRecord)
		}
		b = append(b, make([]byte, len(b))...)
	}
}

// putRecord replaces the record name in dir, durably.
func putRecord(fsys disk.FS, dir, name string, v any) error {
	b, err := encodeRecord(v)
	if err != nil {
		return err
	}
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return disk.Error("list "+dir, err)
	}
	old := recordVersions(names, name)
	number := uint64(1)
	if len(old) > 0 {
		number = old[0] + 1
	}
	path := recordPath(dir, name, number)
	f, err := fsys.Create(path)
	if err != nil {
		return disk.Error("make "+path, err)
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.SyncData()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		_ = fsys.Remove(path) // a half-written one is passed over anyway
		return disk.Error("write "+path, err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return disk.Error("sync "+dir, err)
	}
	return removeAll(fsys, dir, name, old)
}

// dropRecord removes the record, durably.
func dropRecord(fsys disk.FS, dir, name string) error {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return disk.Error("list "+dir, err)
	}
	versions := recordVersions(names, name)
	// The oldest first: an older one must not come back to life.
	slices.Reverse(versions)
	if err := removeAll(fsys, dir, name, versions); err != nil {
		return err
	}
	return disk.Error("sync "+dir, fsys.SyncDir(dir))
}

func removeAll(fsys disk.FS, dir, name string, numbers []uint64) error {
	for _, number := range numbers {
		path := recordPath(dir, name, number)
		if err := fsys.Remove(path); err != nil && !disk.NotExist(err) {
			return disk.Error("remove "+path, err)
		}
	}
	return nil
}
