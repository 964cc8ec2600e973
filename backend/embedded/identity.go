package embedded

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// formatVersion of the data directory as a whole; its parts have their own.
	formatVersion = 1
	// maxIdentity bounds the identity file, in bytes.
	maxIdentity = 4096
)

// identity says that a directory is ours, and which one it is.
type identity struct {
	Format  int       `json:"format"`
	UUID    string    `json:"uuid"`
	Created time.Time `json:"created"`
}

func newIdentity() identity {
	var u [16]byte
	rand.Read(u[:])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80 // RFC 9562: version 4, random
	return identity{
		Format:  formatVersion,
		UUID:    fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]),
		Created: time.Now().UTC().Truncate(time.Second),
	}
}

func (id identity) encode() ([]byte, error) {
	b, err := json.MarshalIndent(id, "", "  ")
	return append(b, '\n'), err
}

// decodeIdentity is strict about what this program writes, after it has looked
// whether a newer one wrote it.
func decodeIdentity(b []byte) (identity, error) {
	if len(b) > maxIdentity {
		return identity{}, fmt.Errorf("%w: more than %d bytes", backend.ErrInvalid, maxIdentity)
	}
	var newer struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &newer); err != nil {
		return identity{}, fmt.Errorf("%w: not the JSON it should be (%w)", backend.ErrInvalid, err)
	}
	if newer.Format > formatVersion {
		return identity{}, fmt.Errorf("%w: format %d, this program knows up to %d: use the newer program", backend.ErrNotSupported, newer.Format, formatVersion)
	}
	var id identity
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&id); err != nil {
		return identity{}, fmt.Errorf("%w: %w", backend.ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return identity{}, fmt.Errorf("%w: bytes after its end", backend.ErrInvalid)
	}
	if id.Format < 1 || id.UUID == "" || len(id.UUID) > 64 || id.Created.IsZero() {
		return identity{}, fmt.Errorf("%w: format, uuid or created is missing", backend.ErrInvalid)
	}
	return id, nil
}

func readIdentity(path string) (identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return identity{}, osError(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIdentity+1))
	if err != nil {
		return identity{}, osError(err)
	}
	id, err := decodeIdentity(b)
	if err != nil {
		return identity{}, fmt.Errorf("identity file %s: %w", path, err)
	}
	return id, nil
}
