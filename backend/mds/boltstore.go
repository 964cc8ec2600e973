package mds

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// boltOpenTimeout bounds the wait for another process to let go of the
	// file: long enough for one that is just closing.
	boltOpenTimeout = time.Second
	// boltMapSize is address space, not memory: growing the mapping later waits
	// for every View to end.
	boltMapSize = 64 << 20
)

var (
	bucketName = []byte("mds")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// boltStore is a Store in one bbolt file and one bucket of it. bbolt checksums
// only its two head pages, so each value is stored behind a CRC-32C of its key
// and itself: bit rot is found when the value is read, and never believed.
//
// Updates that arrive while one commits share the next commit (see Update): a
// commit costs two disk flushes, however much is in it.
type boltStore struct {
	db   *bolt.DB
	file *os.File // db's
	path string

	turn chan struct{} // holds a token while some Update commits

	mu      sync.Mutex
	waiting []*update // bounded by the callers that wait in Update
	failed  error     // set by the first commit whose outcome is unknown
	broken  bool      // a fault has left bbolt's own locks held: do not enter it
}

// OpenBolt opens the bbolt file at path, making it if it does not exist, and
// checks all of it. backend.ErrBusy when another process has it open,
// backend.ErrChecksum when it is damaged, backend.ErrReadOnly, backend.ErrNoSpace.
func OpenBolt(path string) (Store, error) {
	_, statErr := os.Stat(path)
	db, file, err := openChecked(path)
	if err != nil {
		return nil, openError(path, err)
	}
	if errors.Is(statErr, fs.ErrNotExist) {
		// The file's content is durable; its name becomes so here.
		if err := syncDir(filepath.Dir(path)); err != nil {
			db.Close()
			return nil, openError(path, err)
		}
	}
	return &boltStore{db: db, file: file, path: path, turn: make(chan struct{}, 1)}, nil
}

// openChecked opens the file and walks all its pages. bbolt panics on some
// damage, and a file that was cut short faults; both become errors here.
func openChecked(path string) (db *bolt.DB, file *os.File, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", berrors.ErrInvalid, p)
			if file != nil {
				err = errors.Join(err, abandon(file))
			}
		}
	}()
	db, err = bolt.Open(path, 0o600, &bolt.Options{
		Timeout:         boltOpenTimeout,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: boltMapSize,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	})
	if err != nil {
		return nil, nil, err
	}
	if err := checkPages(db); err != nil {
		db.Close()
		return nil, nil, err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketName) != nil {
			return errHasBucket
		}
		_, err := tx.CreateBucket(bucketName)
		return err
	})
	if err != nil && !errors.Is(err, errHasBucket) {
		db.Close()
		return nil, nil, err
	}
	return db, file, nil
}

// errHasBucket keeps opening an existing file from writing to it.
var errHasBucket = errors.New("bucket exists")

// checkPages verifies that the tree hangs together and every value its checksum.
// The walk is on this goroutine, so that damage panics into openChecked;
// bbolt's own Check, on another, could not be recovered from.
func checkPages(db *bolt.DB) error {
	return db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketName)
		if b == nil {
			if k, _ := tx.Cursor().First(); k != nil {
				return fmt.Errorf("%w: it holds bucket %q, not %q", errForeign, k, bucketName)
			}
			return nil
		}
		var last []byte
		return b.ForEach(func(k, v []byte) error {
			if bytes.Compare(k, last) <= 0 {
				return fmt.Errorf("%w: key % x out of order", berrors.ErrInvalid, k)
			}
			last = k
			_, err := openValue(k, v)
			return err
		})
	})
}

var errForeign = errors.New("not a curve-nbd metadata file")

// openError says what is wrong with the file and what to do.
func openError(path string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: metadata file %s is open in another process: stop it first", backend.ErrBusy, path)
	case errors.Is(err, errForeign):
		return fmt.Errorf("%w: %s: %w", backend.ErrInvalid, path, err)
	case errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("%w: metadata file %s has another bbolt version: use the program that wrote it", backend.ErrNotSupported, path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, backend.ErrChecksum),
		errors.Is(err, berrors.ErrInvalidMapping):
		return fmt.Errorf("%w: metadata file %s is damaged (%v): restore it from a backup", backend.ErrChecksum, path, err)
	}
	return fmt.Errorf("open metadata file %s: %w", path, diskError(err))
}

// diskError puts the contract's word on an error of the operating system.
func diskError(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", backend.ErrNoSpace, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", backend.ErrReadOnly, err)
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return fmt.Errorf("metadata store: %w", backend.ErrClosed)
	}
	return fmt.Errorf("%w: %w", backend.ErrIO, err)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (s *boltStore) View(ctx context.Context, fn func(Txn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.run(false, func(tx *bolt.Tx) error {
		return fn(&boltTxn{bucket: tx.Bucket(bucketName)})
	})
}

// Changes implements Counting: bbolt numbers its transactions.
func (s *boltStore) Changes() (n uint64, err error) {
	err = s.run(false, func(tx *bolt.Tx) error {
		n = uint64(tx.ID())
		return nil
	})
	return n, err
}

// run is db.View and db.Update, apart from telling errors of the file from
// errors of fn, and making an error of a page that the disk cannot read.
func (s *boltStore) run(writable bool, fn func(*bolt.Tx) error) (err error) {
	if err := s.usable(writable); err != nil {
		return err
	}
	var tx *bolt.Tx
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		fault, ok := p.(interface{ Addr() uintptr })
		switch {
		case ok:
			err = fmt.Errorf("%w: metadata file %s: page at %#x cannot be read", backend.ErrIO, s.path, fault.Addr())
			s.fail(writable, tx == nil || writable, err)
		case p != nil:
			panic(p)
		}
	}()
	if tx, err = s.db.Begin(writable); err != nil {
		return diskError(err)
	}
	defer tx.Rollback() // no effect after a Commit
	if err := fn(tx); err != nil || !writable {
		return err
	}
	if err := tx.Commit(); err != nil {
		err = fmt.Errorf("metadata file %s: commit: %w", s.path, diskError(err))
		s.fail(!wroteNothing(err), false, err)
		return err
	}
	return nil
}

// usable says whether the store may be entered after what happened to it.
func (s *boltStore) usable(writable bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken || writable {
		return s.failed
	}
	return nil
}

// wroteNothing says whether a commit failed for lack of space before it touched
// a page that counts. After any other failure, a failed flush above all, nobody
// knows what the disk holds.
func wroteNothing(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}

// fail notes, for good, that an Update has an unknown outcome, and that bbolt can
// no longer be used at all.
func (s *boltStore) fail(unknown, broken bool, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (unknown || broken) && s.failed == nil {
		s.failed = fmt.Errorf("%w: metadata cannot change since an update failed; restart to find out what the disk holds: %w", backend.ErrIO, cause)
	}
	s.broken = s.broken || broken
}

func (s *boltStore) Close() error {
	s.mu.Lock()
	broken := s.broken
	s.mu.Unlock()
	if broken {
		return abandon(s.file)
	}
	// Closing frees the mapping: it waits for Views and the running commit.
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close metadata file %s: %w", s.path, diskError(err))
	}
	return nil
}

// abandon gives up a file that bbolt cannot close any more. Its mapping stays
// for the life of the process and would keep the lock.
func abandon(file *os.File) error {
	return errors.Join(syscall.Flock(int(file.Fd()), syscall.LOCK_UN), file.Close())
}

// boltTxn is a Txn on a bolt transaction that it may share with others; undo
// takes back what it did.
type boltTxn struct {
	bucket   *bolt.Bucket
	writable bool
	old      []keyValue // what each change replaced; value nil for nothing
}

type keyValue struct{ key, value []byte }

func (tx *boltTxn) Get(key []byte) ([]byte, error) {
	stored := tx.bucket.Get(key)
	if stored == nil {
		return nil, nil
	}
	return openValue(key, stored)
}

func (tx *boltTxn) Put(key, value []byte) error {
	if err := checkPut(tx.writable, key, value); err != nil {
		return err
	}
	tx.remember(key)
	return tx.bucket.Put(key, sealValue(key, value))
}

func (tx *boltTxn) Delete(key []byte) error {
	if !tx.writable {
		return errViewChanges
	}
	tx.remember(key)
	return tx.bucket.Delete(key)
}

func (tx *boltTxn) remember(key []byte) {
	tx.old = append(tx.old, keyValue{bytes.Clone(key), bytes.Clone(tx.bucket.Get(key))})
}

func (tx *boltTxn) undo() error {
	for i := len(tx.old) - 1; i >= 0; i-- {
		var err error
		if kv := tx.old[i]; kv.value == nil {
			err = tx.bucket.Delete(kv.key)
		} else {
			err = tx.bucket.Put(kv.key, kv.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (tx *boltTxn) Scan(prefix, from []byte, fn func(key, value []byte) (bool, error)) error {
	start := prefix
	if bytes.Compare(from, prefix) > 0 {
		start = from
	}
	c := tx.bucket.Cursor()
	for k, stored := c.Seek(start); k != nil && bytes.HasPrefix(k, prefix); k, stored = c.Next() {
		value, err := openValue(k, stored)
		if err != nil {
			return err
		}
		if more, err := fn(k, value); err != nil || !more {
			return err
		}
	}
	return nil
}

const valueHeaderSize = 4 // CRC-32C of key and value

func sealValue(key, value []byte) []byte {
	stored := make([]byte, valueHeaderSize, valueHeaderSize+len(value))
	stored = append(stored, value...)
	binary.BigEndian.PutUint32(stored, valueSum(key, value))
	return stored
}

func openValue(key, stored []byte) ([]byte, error) {
	if len(stored) < valueHeaderSize {
		return nil, fmt.Errorf("%w: metadata key % x: %d bytes, want at least %d", backend.ErrChecksum, key, len(stored), valueHeaderSize)
	}
	value := stored[valueHeaderSize:]
	if found, want := valueSum(key, value), binary.BigEndian.Uint32(stored); found != want {
		return nil, fmt.Errorf("%w: metadata key % x: found %#08x, expected %#08x", backend.ErrChecksum, key, found, want)
	}
	return value, nil
}

func valueSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}
