package registry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

const (
	vm1   = "iqn.2026-11.io.curve:vm1"
	host1 = "iqn.1993-08.org.debian:host1"
	host2 = "iqn.1993-08.org.debian:host2"
	// secretText is looked for in all that is said.
	secretText = "open-sesame-1234"
)

func openMeta(t *testing.T) backend.Meta {
	t.Helper()
	b, err := embedded.OpenMemory(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, block := range map[string]int64{"pg": 512, "logs": 4096, "7": 4096} {
		spec := backend.VolumeSpec{Name: name, Size: 1 << 30, Geometry: backend.Geometry{BlockSize: block}}
		if _, err := b.Meta().CreateVolume(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	return b.Meta()
}

// open returns a Registry that has seen what is stored. Its own polls are far
// apart unless asked for.
func open(t *testing.T, meta registry.Meta, o registry.Options) *registry.Registry {
	t.Helper()
	if o.Poll == 0 {
		o.Poll = time.Hour
	}
	r := registry.New(meta, o)
	t.Cleanup(func() { r.Close() })
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func mustCreate(t *testing.T, r *registry.Registry, name string) {
	t.Helper()
	if _, err := r.Create(t.Context(), name, ""); err != nil {
		t.Fatal(err)
	}
}

func mustAdd(t *testing.T, r *registry.Registry, volume string, number int) registry.Unit {
	t.Helper()
	u, err := r.AddUnit(t.Context(), vm1, registry.Unit{Volume: volume, Number: number})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// known is the target as r knows it without IO.
func known(t *testing.T, r *registry.Registry) *registry.Target {
	t.Helper()
	target, ok := r.Target(vm1)
	if !ok {
		t.Fatalf("no target %s among %v", vm1, r.Targets())
	}
	return target
}

func secret(text string) iscsi.Secret { return iscsi.NewSecret(text) }

func wantErr(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	if strings.Contains(err.Error(), secretText) {
		t.Errorf("error tells the secret: %v", err)
	}
}

func TestLifeOfATarget(t *testing.T) {
	meta := openMeta(t)
	r := open(t, meta, registry.Options{})
	made, err := r.Create(t.Context(), strings.ToUpper(vm1), "the database")
	if err != nil || made.Name != vm1 {
		t.Fatalf("made %+v, %v", made, err)
	}
	if got := known(t, r); got.Alias != "the database" || !got.CreatedAt.Equal(made.CreatedAt) || time.Since(got.CreatedAt) > time.Hour {
		t.Errorf("known as %+v", got)
	}
	if units, allowed := known(t, r).Sees(host1); allowed || units != nil {
		t.Errorf("a new target lets in, to %v", units)
	}
	mustAdd(t, r, "pg", 3)
	if u := mustAdd(t, r, "/logs", registry.AnyNumber); u.Number != 0 || u.Volume != "logs" {
		t.Errorf("lowest free unit: %+v", u)
	}
	if _, err := r.Allow(t.Context(), vm1, strings.ToUpper(host1), []int{3}); err != nil {
		t.Fatal(err)
	}
	if units, allowed := known(t, r).Sees(host1); !allowed || len(units) != 1 || units[0].Volume != "pg" || units[0].ID == 0 {
		t.Errorf("%s sees %+v, %v", host1, units, allowed)
	}
	if _, allowed := known(t, r).Sees(host2); allowed {
		t.Error("another initiator is let in too")
	}
	gone, err := r.RemoveUnit(t.Context(), vm1, "pg", false)
	if err != nil || gone.Number != 3 {
		t.Errorf("removed %+v, %v", gone, err)
	}
	mustAdd(t, r, "7", 3)
	if units, allowed := known(t, r).Sees(host1); !allowed || len(units) != 0 {
		t.Errorf("an initiator sees another volume under the number it was allowed: %+v, %v", units, allowed)
	}
	if _, err := r.Allow(t.Context(), vm1, "ANY", nil); err != nil {
		t.Fatal(err)
	}
	if units, allowed := known(t, r).Sees(host2); !allowed || len(units) != 2 {
		t.Errorf("any sees %+v, %v", units, allowed)
	}
	if _, err := r.Disallow(t.Context(), vm1, registry.AnyInitiator); err != nil {
		t.Fatal(err)
	}
	if _, allowed := known(t, r).Sees(host2); allowed {
		t.Error("let in after all that")
	}
	if err := r.Remove(t.Context(), vm1, false); err != nil {
		t.Fatal(err)
	}
	if left := r.Targets(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if records, err := meta.Records(t.Context(), ""); err != nil || len(records) != 0 {
		t.Errorf("records left: %v, %v", records, err)
	}
}

func TestWrongChangesAreRefusedAndSayWhy(t *testing.T) {
	r := open(t, openMeta(t), registry.Options{})
	mustCreate(t, r, vm1)
	mustAdd(t, r, "pg", 0)
	user := registry.Credential{Name: "u", Secret: secret(secretText)}
	if _, err := r.SetUser(t.Context(), vm1, user); err != nil {
		t.Fatal(err)
	}
	before := known(t, r)
	none := "iqn.2026-11.io.curve:none"
	add := func(target, volume string, n int) error {
		_, err := r.AddUnit(t.Context(), target, registry.Unit{Volume: volume, Number: n})
		return err
	}
	allow := func(initiator string, units ...int) error {
		_, err := r.Allow(t.Context(), vm1, initiator, units)
		return err
	}
	create := func(name, alias string) error { _, err := r.Create(t.Context(), name, alias); return err }
	setUser := func(of, name, text string) error {
		_, err := r.SetUser(t.Context(), of, registry.Credential{Name: name, Secret: secret(text)})
		return err
	}
	mutual := func(text string) error {
		_, err := r.SetMutual(t.Context(), vm1, registry.Credential{Name: "t", Secret: secret(text)})
		return err
	}
	login := func(_ registry.Login, err error) error { return err }
	unit := func(_ registry.Unit, err error) error { return err }
	target := func(_ *registry.Target, err error) error { return err }
	for name, c := range map[string]struct {
		err, want error
		says      string
	}{
		"name that is none":            {create("vm1", ""), backend.ErrInvalid, "iqn."},
		"name of the discovery":        {create(registry.Discovery, ""), backend.ErrInvalid, "iqn."},
		"name that exists":             {create(vm1, ""), backend.ErrExists, vm1},
		"alias too long":               {create(none, strings.Repeat("a", 256)), backend.ErrInvalid, "255"},
		"alias with a control byte":    {create(none, "a\x1b[2J"), backend.ErrInvalid, "printable"},
		"remove nothing":               {r.Remove(t.Context(), none, true), backend.ErrNotFound, none},
		"unit of nothing":              {add(none, "pg", 0), backend.ErrNotFound, none},
		"unit of no volume":            {add(vm1, "nothing", 1), backend.ErrNotFound, "nothing"},
		"number taken":                 {add(vm1, "logs", 0), backend.ErrExists, "pg"},
		"volume twice":                 {add(vm1, "pg", 1), backend.ErrExists, "unit 0"},
		"number too high":              {add(vm1, "logs", 16384), backend.ErrInvalid, "16383"},
		"number below zero":            {add(vm1, "logs", -2), backend.ErrInvalid, "16383"},
		"remove no unit":               {unit(r.RemoveUnit(t.Context(), vm1, "1", true)), backend.ErrNotFound, `"1"`},
		"initiator that is none":       {allow("host1"), backend.ErrInvalid, "any"},
		"unit that is not there":       {allow(host1, 0, 5), backend.ErrNotFound, "unit 5"},
		"take back what was not given": {target(r.Disallow(t.Context(), vm1, host1)), backend.ErrNotFound, host1},
		"secret too short":             {setUser(vm1, "v", "12345678901"), backend.ErrInvalid, "11 bytes"},
		"secret too long":              {setUser(vm1, "v", strings.Repeat("s", 256)), backend.ErrInvalid, "256 bytes"},
		"user without a name":          {setUser(vm1, "", secretText), backend.ErrInvalid, "empty"},
		"user's name too long":         {setUser(vm1, strings.Repeat("u", 256), secretText), backend.ErrInvalid, "255"},
		"user of nothing":              {setUser(none, "u", secretText), backend.ErrNotFound, none},
		"one secret both ways":         {mutual(secretText), backend.ErrInvalid, "both directions"},
		"remove no user":               {login(r.RemoveUser(t.Context(), vm1, "v")), backend.ErrNotFound, `"v"`},
		"no mutual to clear":           {login(r.ClearMutual(t.Context(), vm1)), backend.ErrNotFound, "other direction"},
		"no discovery user":            {login(r.RemoveUser(t.Context(), registry.Discovery, "v")), backend.ErrNotFound, `"v"`},
	} {
		t.Run(name, func(t *testing.T) { wantErr(t, c.err, c.want, c.says) })
	}
	if err := mutual(secretText); !errors.Is(err, iscsi.ErrCHAPSame) {
		t.Errorf("one secret both ways: %v, want iscsi.ErrCHAPSame", err)
	}
	if known(t, r) != before || len(r.Targets()) != 1 {
		t.Errorf("a refused change changed %+v", known(t, r))
	}
}

func TestWhoMustProveThemselves(t *testing.T) {
	meta := openMeta(t)
	r := open(t, meta, registry.Options{})
	mustCreate(t, r, vm1)
	login := func(of string) registry.Login {
		if of == registry.Discovery {
			return r.DiscoveryLogin()
		}
		return registry.Login{Users: known(t, r).Users, Mutual: known(t, r).Mutual}
	}
	names := func(of string) (names []string) {
		for _, u := range login(of).Users {
			names = append(names, u.Name)
		}
		return names
	}
	for _, of := range []string{vm1, registry.Discovery} {
		t.Run(of, func(t *testing.T) {
			for _, user := range []string{"u", "a", "z"} {
				if _, err := r.SetUser(t.Context(), of, registry.Credential{Name: user, Secret: secret(secretText)}); err != nil {
					t.Fatal(err)
				}
			}
			changed := secret("\x00\xff\x01 any twelve bytes")
			if _, err := r.SetUser(t.Context(), of, registry.Credential{Name: "u", Secret: changed}); err != nil {
				t.Fatal(err)
			}
			if got := names(of); !slices.Equal(got, []string{"a", "u", "z"}) || !login(of).Users[1].Secret.Equal(changed) {
				t.Errorf("users %v", got)
			}
			mutual := registry.Credential{Name: "target", Secret: secret("the target's own")}
			if _, err := r.SetMutual(t.Context(), of, mutual); err != nil {
				t.Fatal(err)
			}
			_, err := r.SetUser(t.Context(), of, registry.Credential{Name: "b", Secret: mutual.Secret})
			wantErr(t, err, iscsi.ErrCHAPSame, `"b"`)
			if _, err := r.RemoveUser(t.Context(), of, "a"); err != nil {
				t.Fatal(err)
			}
			// Another gateway reads what was stored.
			other := open(t, meta, registry.Options{})
			got := other.DiscoveryLogin()
			if of == vm1 {
				got = registry.Login{Users: known(t, other).Users, Mutual: known(t, other).Mutual}
			}
			if len(got.Users) != 2 || got.Users[0].Name != "u" || !got.Users[0].Secret.Equal(changed) ||
				got.Mutual == nil || got.Mutual.Name != "target" || !got.Mutual.Secret.Equal(mutual.Secret) {
				t.Errorf("another gateway has %+v", got)
			}
			if _, err := r.ClearMutual(t.Context(), of); err != nil || login(of).Mutual != nil {
				t.Errorf("cleared: %+v, %v", login(of).Mutual, err)
			}
		})
	}
}

func TestGatewaysSeeEachOthersChanges(t *testing.T) {
	already := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, already) })
	meta := openMeta(t)
	a := open(t, meta, registry.Options{})
	b := open(t, meta, registry.Options{Poll: 5 * time.Millisecond})
	told := make(chan []string, 16)
	cancel := b.OnChange(func(names []string) { told <- names })
	// next waits for b to notice something, and looks at what it knows then.
	next := func() *registry.Target {
		t.Helper()
		select {
		case names := <-told:
			if !slices.Equal(names, []string{vm1}) {
				t.Errorf("told of %v", names)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("nothing was told")
		}
		target, _ := b.Target(vm1)
		return target
	}
	mustCreate(t, a, vm1)
	if got := next(); got == nil || len(got.Units) != 0 {
		t.Errorf("made: %+v", got)
	}
	mustAdd(t, a, "pg", 1)
	if got := next(); len(got.Units) != 1 || got.Units[0].Number != 1 {
		t.Errorf("with a unit: %+v", got)
	}
	if err := a.Remove(t.Context(), vm1, false); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != nil {
		t.Errorf("removed: %+v", got)
	}
	cancel()
	mustCreate(t, a, vm1)
	if err := b.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case names := <-told:
		t.Errorf("told of %v after cancel", names)
	default:
	}
}

func TestChangesAtOnceAreAllThere(t *testing.T) {
	meta := openMeta(t)
	gateways := []*registry.Registry{open(t, meta, registry.Options{}), open(t, meta, registry.Options{})}
	mustCreate(t, gateways[0], vm1)
	const n = 12
	var all sync.WaitGroup
	for i := range n {
		r := gateways[i%2]
		all.Go(func() {
			if _, err := r.Allow(context.Background(), vm1, fmt.Sprint(host1, "-", i), nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, r := range gateways {
		if err := r.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(known(t, r).Access); got != n {
			t.Errorf("%d initiators, want %d", got, n)
		}
	}
}

func TestRecordsThatCannotBeReadAreNotServed(t *testing.T) {
	for name, c := range map[string]struct {
		data string
		want error
	}{
		"damaged": {`{"format":1,"name":"` + vm1 + `","users":[{"name":"u","secret":"` + secretText + `"}],"more":1}`, backend.ErrIO},
		"newer":   {`{"format":2,"only_on_mondays":true}`, backend.ErrNotSupported},
	} {
		t.Run(name, func(t *testing.T) {
			meta := openMeta(t)
			r := open(t, meta, registry.Options{})
			mustCreate(t, r, vm1)
			mustCreate(t, r, vm1+"-other")
			record, err := meta.Record(t.Context(), "iscsi/target/"+vm1)
			if err != nil {
				t.Fatal(err)
			}
			for key, version := range map[string]uint64{record.Key: record.Version, "iscsi/discovery": 0} {
				if _, err := meta.PutRecord(t.Context(), key, []byte(c.data), version); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := r.Targets(); len(left) != 1 || left[0].Name != vm1+"-other" {
				t.Errorf("serves %v", left)
			}
			if l := r.DiscoveryLogin(); len(l.Users) == 0 || slices.ContainsFunc(l.Users, func(u registry.Credential) bool { return !u.Secret.IsZero() }) {
				t.Errorf("discovery is open: %+v", l)
			}
			_, err = r.AddUnit(t.Context(), vm1, registry.Unit{Volume: "pg"})
			wantErr(t, err, c.want)
			_, err = r.SetUser(t.Context(), registry.Discovery, registry.Credential{Name: "u", Secret: secret(secretText)})
			wantErr(t, err, c.want)
			if err := r.Remove(t.Context(), vm1, false); err != nil {
				t.Errorf("it cannot be removed: %v", err)
			}
		})
	}
}

// loggedIn is who is logged in to every target.
type loggedIn []registry.SessionInfo

func (l loggedIn) Sessions(string) []registry.SessionInfo { return l }

func TestWhatIsInUseIsTakenAwayByForceOnly(t *testing.T) {
	r := open(t, openMeta(t), registry.Options{})
	mustCreate(t, r, vm1)
	mustAdd(t, r, "pg", 0)
	mustAdd(t, r, "logs", 1)
	if _, err := r.Allow(t.Context(), vm1, host1, []int{0}); err != nil {
		t.Fatal(err)
	}
	r.SetSessions(loggedIn{{Initiator: host1, Address: "10.0.0.9:1"}, {Initiator: host1, Address: "10.0.0.9:2"}})
	wantErr(t, r.Remove(t.Context(), vm1, false), backend.ErrBusy, host1, "10.0.0.9:1", "10.0.0.9:2")
	_, err := r.RemoveUnit(t.Context(), vm1, "0", false)
	wantErr(t, err, backend.ErrBusy, host1)
	if _, err := r.RemoveUnit(t.Context(), vm1, "logs", false); err != nil {
		t.Errorf("a unit that nobody sees who is logged in: %v", err)
	}
	if _, err := r.RemoveUnit(t.Context(), vm1, "pg", true); err != nil {
		t.Errorf("by force: %v", err)
	}
	if err := r.Remove(t.Context(), vm1, true); err != nil {
		t.Errorf("by force: %v", err)
	}
}

func TestNumberWinsOverAVolumeNamedLikeIt(t *testing.T) {
	r := open(t, openMeta(t), registry.Options{})
	mustCreate(t, r, vm1)
	mustAdd(t, r, "7", 1)
	if u, ok := known(t, r).FindUnit("7"); !ok || u.Number != 1 {
		t.Errorf("volume 7 is %+v, %v", u, ok)
	}
	mustAdd(t, r, "pg", 7)
	for ref, want := range map[string]string{"7": "pg", "1": "7", "/pg": "pg"} {
		if u, ok := known(t, r).FindUnit(ref); !ok || u.Volume != want {
			t.Errorf("unit %q is %+v, %v, want volume %q", ref, u, ok, want)
		}
	}
}
