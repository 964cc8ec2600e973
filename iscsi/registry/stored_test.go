package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi"
)

const goodKey = targetPrefix + "iqn.2026-11.io.curve:vm1"

func goodTarget() *Target {
	return &Target{
		Name: "iqn.2026-11.io.curve:vm1", Alias: "db", CreatedAt: time.Unix(5, 6).UTC(),
		Units: []Unit{
			{Number: 0, Volume: "team/pg", ID: 7, PhysicalBlock: DefaultPhysicalBlock},
			{Number: 300, Volume: "logs", ID: 8, ReadOnly: true, PhysicalBlock: DefaultPhysicalBlock},
		},
		Access: []Access{{Initiator: "iqn.1993-08.org.debian:host1", Units: []int{0, 9}}, {Initiator: AnyInitiator}, {Initiator: "eui.0123456789abcdef", Units: []int{}}},
		Users:  []Credential{{"a", iscsi.NewSecret("secret of a\xff")}, {"b", iscsi.NewSecret("secret of b.")}},
		Mutual: &Credential{"t", iscsi.NewSecret("secret of the target")},
	}
}

// TestStoredBytesStayTheSame freezes the format: a change here needs a new one, and
// code that reads the old one.
func TestStoredBytesStayTheSame(t *testing.T) {
	got, err := goodTarget().encode()
	want := `{"format":1,"name":"iqn.2026-11.io.curve:vm1","alias":"db",` +
		`"units":[{"number":0,"volume":"team/pg","volume_id":7},{"number":300,"volume":"logs","volume_id":8,"read_only":true}],` +
		`"access":[{"initiator":"iqn.1993-08.org.debian:host1","units":[0,9]},{"initiator":"any","units":null},{"initiator":"eui.0123456789abcdef","units":[]}],` +
		`"users":[{"name":"a","secret":"c2VjcmV0IG9mIGH/"},{"name":"b","secret":"c2VjcmV0IG9mIGIu"}],` +
		`"mutual":{"name":"t","secret":"c2VjcmV0IG9mIHRoZSB0YXJnZXQ="},"created_at":5000000006}`
	if err != nil || string(got) != want {
		t.Errorf("target is\n%s, %v, was\n%s", got, err, want)
	}
	if back, err := decodeTarget(goodKey, []byte(want)); err != nil || !reflect.DeepEqual(back, goodTarget()) {
		t.Errorf("target became %+v, %v", back, err)
	}
	removable := `{"number":1,"volume":"cd","volume_id":9,"removable":true,"physical_block":512}`
	want = strings.Replace(want, `{"number":300`, removable+`,{"number":300`, 1)
	target := goodTarget()
	target.Units = slices.Insert(target.Units, 1, Unit{Number: 1, Volume: "cd", ID: 9, Removable: true, PhysicalBlock: 512})
	if got, err = target.encode(); err != nil || string(got) != want {
		t.Errorf("target is\n%s, %v, was\n%s", got, err, want)
	}
	if back, err := decodeTarget(goodKey, []byte(want)); err != nil || !reflect.DeepEqual(back, target) {
		t.Errorf("target became %+v, %v", back, err)
	}
	login := Login{Users: goodTarget().Users, Mutual: goodTarget().Mutual}
	got, err = login.encode()
	want = `{"format":1,"users":[{"name":"a","secret":"c2VjcmV0IG9mIGH/"},{"name":"b","secret":"c2VjcmV0IG9mIGIu"}],"mutual":{"name":"t","secret":"c2VjcmV0IG9mIHRoZSB0YXJnZXQ="}}`
	if err != nil || string(got) != want {
		t.Errorf("login is\n%s, %v, was\n%s", got, err, want)
	}
	if back, err := decodeDiscovery([]byte(want)); err != nil || !reflect.DeepEqual(back, login) {
		t.Errorf("login became %+v, %v", back, err)
	}
}

func TestTargetsThatCannotBeAreNeitherStoredNorRead(t *testing.T) {
	many := func(n int, fn func(i int)) {
		for i := range n {
			fn(i)
		}
	}
	for name, spoil := range map[string]func(*Target){
		"no name":             func(t *Target) { t.Name = "" },
		"name in capitals":    func(t *Target) { t.Name = "iqn.2026-11.io.curve:VM1" },
		"alias":               func(t *Target) { t.Alias = "\n" },
		"unit order":          func(t *Target) { t.Units[0].Number = 301 },
		"unit twice":          func(t *Target) { t.Units[0].Number = 300 },
		"unit below zero":     func(t *Target) { t.Units[0].Number = -1 },
		"unit too high":       func(t *Target) { t.Units[1].Number = iscsi.MaxLUN + 1 },
		"volume twice":        func(t *Target) { t.Units[0].ID = 8 },
		"physical block":      func(t *Target) { t.Units[0].PhysicalBlock = 1024 },
		"volume 0":            func(t *Target) { t.Units[0].ID = 0 },
		"volume without name": func(t *Target) { t.Units[0].Volume = "" },
		"initiator":           func(t *Target) { t.Access[0].Initiator = "me" },
		"initiator capitals":  func(t *Target) { t.Access[1].Initiator = "ANY" },
		"initiator twice":     func(t *Target) { t.Access[0].Initiator = AnyInitiator },
		"access order":        func(t *Target) { t.Access[0].Units = []int{9, 0} },
		"access below zero":   func(t *Target) { t.Access[0].Units = []int{-1} },
		"access too high":     func(t *Target) { t.Access[0].Units = []int{iscsi.MaxLUN + 1} },
		"user order":          func(t *Target) { t.Users[0].Name = "c" },
		"user twice":          func(t *Target) { t.Users[0].Name = "b" },
		"user without name":   func(t *Target) { t.Users[0].Name = "" },
		"short secret":        func(t *Target) { t.Users[0].Secret = iscsi.NewSecret("short") },
		"no mutual secret":    func(t *Target) { t.Mutual.Secret = iscsi.Secret{} },
		"one secret for all":  func(t *Target) { t.Mutual.Secret = t.Users[1].Secret },
		"too many units": func(t *Target) {
			t.Units = nil
			many(MaxUnits+1, func(i int) { t.Units = append(t.Units, Unit{Number: i, Volume: "v", ID: backend.VolumeID(i + 1)}) })
		},
		"too many initiators": func(t *Target) {
			many(MaxAccess, func(i int) { t.Access = append(t.Access, Access{Initiator: fmt.Sprint("iqn.2026-11.a:", i)}) })
		},
		"too many users": func(t *Target) {
			many(MaxUsers, func(i int) {
				t.Users = append(t.Users, Credential{fmt.Sprintf("c%04d", i), iscsi.NewSecret("one more secret")})
			})
		},
		"too large together": func(t *Target) {
			t.Units = nil
			many(MaxUnits, func(i int) {
				t.Units = append(t.Units, Unit{Number: i, Volume: strings.Repeat("v", 255), ID: backend.VolumeID(i + 1), PhysicalBlock: 512})
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := goodTarget()
			spoil(target)
			if _, err := target.encode(); !errors.Is(err, backend.ErrInvalid) {
				t.Errorf("stored: %v, want ErrInvalid", err)
			}
			_, err := decodeTarget(targetKey(target.Name), unchecked(t, target))
			if !errors.Is(err, backend.ErrIO) || errors.Is(err, backend.ErrInvalid) {
				t.Errorf("read: %v, want ErrIO alone", err)
			}
		})
	}
	good := unchecked(t, goodTarget())
	for name, data := range map[string]string{
		"empty": "", "cut": string(good[:len(good)-1]), "twice": string(good) + string(good), "a list": "[]",
		"unknown field": `{"colour":1,` + string(good[1:]), "no format": `{}`,
	} {
		if _, err := decodeTarget(goodKey, []byte(data)); !errors.Is(err, backend.ErrIO) {
			t.Errorf("%s: %v, want ErrIO", name, err)
		}
	}
	if _, err := decodeTarget(goodKey+"2", good); !errors.Is(err, backend.ErrIO) {
		t.Errorf("a record under another's key: %v, want ErrIO", err)
	}
}

// unchecked is the stored form of any target.
func unchecked(t *testing.T, target *Target) []byte {
	t.Helper()
	s := storedTarget{Format: storedFormat, Name: target.Name, Alias: target.Alias, Users: storeUsers(target.Users), Mutual: storeMutual(target.Mutual)}
	for _, u := range target.Units {
		s.Units = append(s.Units, storedUnit(u))
	}
	for _, a := range target.Access {
		s.Access = append(s.Access, storedAccess(a))
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Neither fmt nor encoders show what a target's secrets are.
func TestPrintedTargetsKeepTheirSecrets(t *testing.T) {
	target := goodTarget()
	encoded, err := json.Marshal(target)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", target, *target, target.Users), fmt.Sprintf("%s %x", target.Mutual, *target.Mutual), string(encoded)} {
		for _, secret := range []string{"secret of", "c2VjcmV0", "736563726574"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q in %s", secret, text)
			}
		}
	}
}

func FuzzStoredTarget(f *testing.F) {
	good, err := goodTarget().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("iqn.2026-11.io.curve:vm1", good)
	f.Add("", []byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		target, err := decodeTarget(targetKey(name), data)
		if err != nil {
			return
		}
		again, err := target.encode()
		if err != nil {
			t.Fatalf("%+v cannot be stored: %v", target, err)
		}
		if back, err := decodeTarget(targetKey(name), again); err != nil || !reflect.DeepEqual(back, target) {
			t.Fatalf("%+v became %+v, %v", target, back, err)
		}
	})
}

func FuzzStoredDiscovery(f *testing.F) {
	good, err := Login{Users: goodTarget().Users, Mutual: goodTarget().Mutual}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		login, err := decodeDiscovery(data)
		if err != nil {
			return
		}
		again, err := login.encode()
		if err != nil {
			t.Fatalf("%+v cannot be stored: %v", login, err)
		}
		if back, err := decodeDiscovery(again); err != nil || !reflect.DeepEqual(back, login) {
			t.Fatalf("%+v became %+v, %v", login, back, err)
		}
	})
}
