package registry

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi"
)

// Keys of the records.
const (
	targetPrefix = "iscsi/target/"
	discoveryKey = "iscsi/discovery"
	keyPrefix    = "iscsi/"
)

// storedFormat is the version of what is stored. A program refuses records of
// later ones: what it does not know of a target may be a restriction.
const storedFormat = 1

// storedTarget is a Target as its record has it.
type storedTarget struct {
	Format    int                `json:"format"`
	Name      string             `json:"name"`
	Alias     string             `json:"alias,omitempty"`
	Units     []storedUnit       `json:"units"`
	Access    []storedAccess     `json:"access"`
	Users     []storedCredential `json:"users"`
	Mutual    *storedCredential  `json:"mutual,omitempty"`
	CreatedAt int64              `json:"created_at"` // unix time in nanoseconds
}

type storedUnit struct {
	Number   int              `json:"number"`
	Volume   string           `json:"volume"`
	ID       backend.VolumeID `json:"volume_id"`
	ReadOnly bool             `json:"read_only,omitempty"`
	// Removable and PhysicalBlock are not in older records; the default of the
	// latter is left out.
	Removable     bool  `json:"removable,omitempty"`
	PhysicalBlock int64 `json:"physical_block,omitempty"`
}

// storedAccess tells null, all units, from [], none.
type storedAccess struct {
	Initiator string `json:"initiator"`
	Units     []int  `json:"units"`
}

// storedCredential has the secret in base64: any bytes may be in it.
type storedCredential struct {
	Name   string `json:"name"`
	Secret []byte `json:"secret"`
}

// storedDiscovery is a Login as its record has it.
type storedDiscovery struct {
	Format int                `json:"format"`
	Users  []storedCredential `json:"users"`
	Mutual *storedCredential  `json:"mutual,omitempty"`
}

// encode checks the target, so that nothing is stored that could not be read.
func (t *Target) encode() ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	s := storedTarget{
		Format: storedFormat, Name: t.Name, Alias: t.Alias, CreatedAt: t.CreatedAt.UnixNano(),
		Units: make([]storedUnit, len(t.Units)), Access: make([]storedAccess, len(t.Access)),
		Users: storeUsers(t.Users), Mutual: storeMutual(t.Mutual),
	}
	for i, u := range t.Units {
		if u.PhysicalBlock == DefaultPhysicalBlock {
			u.PhysicalBlock = 0
		}
		s.Units[i] = storedUnit(u)
	}
	for i, a := range t.Access {
		s.Access[i] = storedAccess(a)
	}
	return encodeStored("target "+t.Name, s)
}

func decodeTarget(key string, data []byte) (*Target, error) {
	var s storedTarget
	if err := decodeStored(key, data, &s); err != nil {
		return nil, err
	}
	t := &Target{
		Name: s.Name, Alias: s.Alias, CreatedAt: time.Unix(0, s.CreatedAt).UTC(),
		Units: make([]Unit, len(s.Units)), Access: make([]Access, len(s.Access)),
		Users: loadUsers(s.Users), Mutual: loadMutual(s.Mutual),
	}
	for i, u := range s.Units {
		u.PhysicalBlock = cmp.Or(u.PhysicalBlock, DefaultPhysicalBlock)
		t.Units[i] = Unit(u)
	}
	for i, a := range s.Access {
		t.Access[i] = Access(a)
	}
	err := t.check()
	if err == nil && targetKey(t.Name) != key {
		err = fmt.Errorf("it is of target %s", t.Name)
	}
	if err != nil {
		return nil, damaged(key, err)
	}
	return t, nil
}

func (l Login) encode() ([]byte, error) {
	if err := checkLogin(l.Users, l.Mutual); err != nil {
		return nil, err
	}
	return encodeStored("discovery", storedDiscovery{Format: storedFormat, Users: storeUsers(l.Users), Mutual: storeMutual(l.Mutual)})
}

func decodeDiscovery(data []byte) (Login, error) {
	var s storedDiscovery
	if err := decodeStored(discoveryKey, data, &s); err != nil {
		return Login{}, err
	}
	l := Login{Users: loadUsers(s.Users), Mutual: loadMutual(s.Mutual)}
	if err := checkLogin(l.Users, l.Mutual); err != nil {
		return Login{}, damaged(discoveryKey, err)
	}
	return l, nil
}

func storeUsers(users []Credential) []storedCredential {
	stored := make([]storedCredential, len(users))
	for i := range users {
		stored[i] = *storeMutual(&users[i])
	}
	return stored
}

func storeMutual(c *Credential) *storedCredential {
	if c == nil {
		return nil
	}
	return &storedCredential{Name: c.Name, Secret: c.Secret.RevealForStorage()}
}

func loadUsers(stored []storedCredential) []Credential {
	users := make([]Credential, len(stored))
	for i := range stored {
		users[i] = *loadMutual(&stored[i])
	}
	return users
}

func loadMutual(s *storedCredential) *Credential {
	if s == nil {
		return nil
	}
	return &Credential{Name: s.Name, Secret: iscsi.NewSecret(string(s.Secret))}
}

func encodeStored(what string, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		// Not the error's words: they could hold what was encoded.
		return nil, fmt.Errorf("%w: %s cannot be encoded", backend.ErrInvalid, what)
	}
	if len(data) > backend.MaxRecordData {
		return nil, fmt.Errorf("%w: %s takes %d bytes: at most %d: have fewer units, initiators or users, or spread them over several targets",
			backend.ErrInvalid, what, len(data), backend.MaxRecordData)
	}
	return data, nil
}

// decodeStored is strict about what this program writes, after it has looked
// whether a newer one wrote it.
func decodeStored(key string, data []byte, into any) error {
	var newer struct {
		Format int `json:"format"`
	}
	if len(data) > backend.MaxRecordData || json.Unmarshal(data, &newer) != nil {
		return damaged(key, errNotJSON)
	}
	switch {
	case newer.Format > storedFormat:
		return fmt.Errorf("%w: record %q has format %d, this program knows up to %d: use the newer program", backend.ErrNotSupported, key, newer.Format, storedFormat)
	case newer.Format < 1:
		return damaged(key, fmt.Errorf("format %d", newer.Format))
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return damaged(key, errNotJSON) // its words could hold a secret
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return damaged(key, errors.New("bytes after its end"))
	}
	return nil
}

var errNotJSON = errors.New("not the JSON it should be")

// damaged says that a record is not what this program writes. Not
// backend.ErrInvalid: nobody who asks now has done anything wrong.
func damaged(key string, err error) error {
	return fmt.Errorf("%w: record %q: %v", backend.ErrIO, key, err)
}

func targetKey(name string) string { return targetPrefix + name }
