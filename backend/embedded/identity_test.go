package embedded

import (
	"testing"
)

func FuzzIdentity(f *testing.F) {
	good, err := newIdentity().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := decodeIdentity(b)
		if err != nil {
			return
		}
		again, err := id.encode()
		if err != nil {
			t.Fatalf("decoded identity %+v cannot be encoded: %v", id, err)
		}
		if back, err := decodeIdentity(again); err != nil || !back.Created.Equal(id.Created) || back.UUID != id.UUID || back.Format != id.Format {
			t.Fatalf("%+v became %+v, %v", id, back, err)
		}
	})
}

func TestNewIdentitiesAreDistinctAndReadBack(t *testing.T) {
	a, b := newIdentity(), newIdentity()
	if a.UUID == b.UUID || len(a.UUID) != 36 {
		t.Errorf("uuids %q and %q", a.UUID, b.UUID)
	}
	content, err := a.encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := decodeIdentity(content); err != nil || back != a {
		t.Errorf("%+v became %+v, %v", a, back, err)
	}
}
