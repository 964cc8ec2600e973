package backend

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Record is a small document that a front end keeps beside the volumes, so that
// every gateway of the cluster finds it. The metadata never look inside.
type Record struct {
	// Key is 1 to MaxRecordKey bytes of printable UTF-8 without spaces, by custom
	// a path whose first element names the front end: iscsi/target/NAME.
	Key string
	// Data has at most MaxRecordData bytes.
	Data []byte
	// Version is larger after every change, and never comes back for this key,
	// not even where the record was deleted and made again. Never 0.
	Version uint64
}

// Bounds of records. Those on all of a cluster's together keep a listing small
// enough to be held in memory.
const (
	MaxRecordKey  = 255
	MaxRecordData = 256 << 10
	MaxRecords    = 16 << 10
	// MaxRecordBytes bounds keys and data of all records.
	MaxRecordBytes = 64 << 20
)

// CheckRecordKey reports, as ErrInvalid, what is wrong with the key of a record.
func CheckRecordKey(key string) error {
	if key == "" {
		return fmt.Errorf("%w: the key of a record is empty", ErrInvalid)
	}
	return CheckRecordPrefix(key)
}

// CheckRecordPrefix is CheckRecordKey for the beginning of keys, which may be
// empty.
func CheckRecordPrefix(prefix string) error {
	switch {
	case len(prefix) > MaxRecordKey:
		return fmt.Errorf("%w: key of a record of %d bytes: at most %d", ErrInvalid, len(prefix), MaxRecordKey)
	case !utf8.ValidString(prefix) || strings.ContainsFunc(prefix, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }):
		return fmt.Errorf("%w: key of a record %q: use printable UTF-8 without spaces", ErrInvalid, prefix)
	}
	return nil
}

// MaxClusterID is the longest id of a cluster, in bytes.
const MaxClusterID = 64

// ValidClusterID says whether id may be a cluster's: 1 to MaxClusterID printable
// ASCII characters without spaces.
func ValidClusterID(id string) bool {
	return id != "" && len(id) <= MaxClusterID && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
}
