package mds

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	serverVersion  = 1
	copysetVersion = 1

	maxTopologyRecord = 4 << 10 // bytes
	// maxReplicas bounds the replicas of a copyset: what raft is used with.
	maxReplicas = 7
	maxUUIDSize = 64
	maxZoneSize = 255
	maxHostSize = 255
)

// serverRecord is what is stored of a chunkserver.
type serverRecord struct {
	ID          backend.ServerID `json:"id"`
	UUID        string           `json:"uuid"`
	Address     string           `json:"address"`
	PeerAddress string           `json:"peer_address"`
	Zone        string           `json:"zone,omitempty"`
	PID         int              `json:"pid,omitempty"`
	Retiring    bool             `json:"retiring,omitempty"`
}

// check reports, as ErrInvalid, what a server must not be.
func (s *serverRecord) check() error {
	for _, text := range []struct {
		what, value string
		max         int
	}{{"uuid", s.UUID, maxUUIDSize}, {"zone", s.Zone, maxZoneSize}} {
		switch {
		case len(text.value) > text.max:
			return fmt.Errorf("%w: %s of %d bytes: at most %d", backend.ErrInvalid, text.what, len(text.value), text.max)
		case !utf8.ValidString(text.value) || !printable(text.value):
			return fmt.Errorf("%w: %s %q: use printable UTF-8", backend.ErrInvalid, text.what, text.value)
		}
	}
	switch {
	case s.UUID == "":
		return fmt.Errorf("%w: uuid is empty: send the identity of the data directory", backend.ErrInvalid)
	case s.PID < 0:
		return fmt.Errorf("%w: pid %d", backend.ErrInvalid, s.PID)
	}
	if err := checkAddress("address", s.Address); err != nil {
		return err
	}
	return checkAddress("peer address", s.PeerAddress)
}

func checkAddress(what, address string) error {
	host, port, err := net.SplitHostPort(address)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || n == 0 || host == "" || len(host) > maxHostSize || !utf8.ValidString(host) || !printable(host) {
		return fmt.Errorf("%w: %s %.80q: use HOST:PORT as others reach it", backend.ErrInvalid, what, address)
	}
	return nil
}

func printable(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// copysetRecord is what is stored of a copyset.
type copysetRecord struct {
	ID backend.CopysetID `json:"id"`
	// Peers that shall hold it; they change one at a time.
	Peers []backend.ServerID `json:"peers"`
	// Generation counts the changes of Peers, from 1.
	Generation uint64 `json:"generation"`
	// Started: a majority has made its replicas and elected a leader. From then
	// on a replica that begins does so empty, and is brought up to date.
	Started bool `json:"started,omitempty"`
}

func (c *copysetRecord) check() error {
	switch {
	case c.ID == 0 || c.Generation == 0:
		return fmt.Errorf("copyset %d of generation %d", c.ID, c.Generation)
	case len(c.Peers) == 0 || len(c.Peers) > maxReplicas:
		return fmt.Errorf("%d peers: want 1 to %d", len(c.Peers), maxReplicas)
	}
	for i, p := range c.Peers {
		if p == 0 || slices.Contains(c.Peers[:i], p) {
			return fmt.Errorf("peers %v", c.Peers)
		}
	}
	return nil
}

// replace returns the record with one peer in the place of another.
func (c copysetRecord) replace(out, in backend.ServerID) copysetRecord {
	c.Peers = slices.Clone(c.Peers)
	c.Peers[slices.Index(c.Peers, out)] = in
	c.Generation++
	return c
}

func serverKey(id backend.ServerID) []byte {
	return binary.BigEndian.AppendUint32([]byte{keyServer}, uint32(id))
}

func copysetKey(id backend.CopysetID) []byte {
	return binary.BigEndian.AppendUint32([]byte{keyCopyset}, uint32(id))
}

func useKey(id backend.CopysetID) []byte {
	return binary.BigEndian.AppendUint32([]byte{keyUse}, uint32(id))
}

// encodeRecord is a version byte and JSON.
func encodeRecord(version byte, record any) ([]byte, error) {
	body, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("encode metadata record: %w", err)
	}
	if len(body) >= maxTopologyRecord {
		return nil, fmt.Errorf("%w: metadata record of %d bytes: at most %d", backend.ErrInvalid, len(body), maxTopologyRecord)
	}
	return append([]byte{version}, body...), nil
}

func decodeServer(b []byte) (serverRecord, error) {
	var s serverRecord
	if err := decodeRecord(b, serverVersion, "chunkserver", &s); err != nil {
		return serverRecord{}, err
	}
	if err := s.check(); err != nil || s.ID == 0 {
		return serverRecord{}, fmt.Errorf("%w: record of %s: %v", errDamaged, s.ID, err)
	}
	return s, nil
}

func decodeCopyset(b []byte) (copysetRecord, error) {
	var c copysetRecord
	if err := decodeRecord(b, copysetVersion, "copyset", &c); err != nil {
		return copysetRecord{}, err
	}
	if err := c.check(); err != nil {
		return copysetRecord{}, fmt.Errorf("%w: record of %s: %v", errDamaged, c.ID, err)
	}
	return c, nil
}

func decodeRecord(b []byte, version byte, what string, record any) error {
	switch {
	case len(b) < 2 || len(b) > maxTopologyRecord:
		return fmt.Errorf("%w: %s record of %d bytes: want 2 to %d", errDamaged, what, len(b), maxTopologyRecord)
	case b[0] != version:
		return fmt.Errorf("%w: %s record of version %d: this program knows %d", errDamaged, what, b[0], version)
	}
	if err := decodeStrictly(b[1:], record); err != nil {
		return fmt.Errorf("%w: %s record: %w", errDamaged, what, err)
	}
	return nil
}

// decodeStrictly takes one JSON value, no fields it does not know, and nothing
// after it.
func decodeStrictly(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after its end")
	}
	return nil
}

// getUse returns how many chunks are on a copyset.
func getUse(tx Txn, id backend.CopysetID) (int64, error) {
	n, err := getCounter(tx, string(useKey(id)))
	if err == nil && n > math.MaxInt64 {
		err = fmt.Errorf("%w: %s with %d chunks", errDamaged, id, n)
	}
	return int64(n), err
}

func putUse(tx Txn, id backend.CopysetID, chunks int64) error {
	return putCounter(tx, string(useKey(id)), uint64(chunks))
}
