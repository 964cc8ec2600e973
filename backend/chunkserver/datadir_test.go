package chunkserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

type note struct {
	Text string `json:"text"`
	N    int    `json:"n"`
}

// Whatever call the power fails at, the record is the last that was put, or the one
// that was being put.
func TestRecordSurvivesEveryPowerCut(t *testing.T) {
	m := crashfs.New(crashfs.Options{})
	if err := errors.Join(m.MkdirAll("/d"), m.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	put, cuts := 0, 0
	m.OnCall(func(c crashfs.Call) error {
		for seed := range uint64(20) {
			cuts++
			var got note
			found, err := getRecord(m.Crash(seed), "/d", "note", &got)
			if err != nil && put > 0 || found != (got.N > 0) || got.N < put || got.N > put+1 {
				t.Fatalf("cut at %v with %d put: found %v (%v), %+v", c, put, found, err, got)
			}
		}
		return nil
	})
	for n := 1; n <= 4; n++ {
		if err := putRecord(m, "/d", "note", note{Text: "some words", N: n}); err != nil {
			t.Fatal(err)
		}
		put = n
	}
	m.OnCall(nil)
	if cuts < 400 {
		t.Errorf("only %d cuts", cuts)
	}
	names, _ := m.ReadDir("/d")
	if !reflect.DeepEqual(names, []string{"note.4"}) {
		t.Errorf("left are %v", names)
	}
	if err := dropRecord(m, "/d", "note"); err != nil {
		t.Fatal(err)
	}
	if found, err := getRecord(m, "/d", "note", new(note)); found || err != nil {
		t.Errorf("after it was dropped: %v, %v", found, err)
	}
}

func TestDamagedRecordIsRefused(t *testing.T) {
	good, err := encodeRecord(note{Text: "words", N: 5})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty":               nil,
		"cut short":           good[:len(good)-1],
		"a bit of the body":   append([]byte{good[0] ^ 1}, good[1:]...),
		"a bit of the sum":    append(bytes.Clone(good[:len(good)-2]), good[len(good)-2]^1, '\n'),
		"no checksum":         []byte("{}\n"),
		"too long":            make([]byte, maxRecord+1),
		"bytes after the end": append(bytes.Clone(good), "{}"...),
	} {
		if err := decodeRecord(b, new(note)); !errors.Is(err, backend.ErrChecksum) && !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	unknown, err := encodeRecord(map[string]any{"text": "a", "colour": "red"})
	if err != nil {
		t.Fatal(err)
	}
	if err := decodeRecord(unknown, new(note)); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("an unknown field: got %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	for _, v := range []any{
		newIdentity("c"), bookRecord{Servers: map[backend.ServerID]bookEntry{1: {"a:1", "b:2"}}},
		hostedRecord{Copyset: 3, Found: []backend.ServerID{1, 2, 3}},
	} {
		b, err := encodeRecord(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-16]) // the engine may take it from here, with the sum below
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{new(identity), new(bookRecord), new(hostedRecord)} {
			if decodeRecord(b, v) != nil {
				continue
			}
			again, err := encodeRecord(v)
			if err != nil {
				t.Fatal(err)
			}
			next := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			if err := decodeRecord(again, next); err != nil {
				t.Fatalf("%s: %v", again, err)
			}
			x, _ := json.Marshal(v)
			y, _ := json.Marshal(next)
			if !bytes.Equal(x, y) {
				t.Errorf("%s becomes %s", x, y)
			}
		}
	})
}

func testOptions(t *testing.T, mds backend.Topology) Options {
	return Options{
		Topology: mds, Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", NoLock: true, Logger: testLogger(t),
		Space: func() (int64, int64, error) { return 100 << 30, 200 << 30, nil },
	}
}

func TestDirectoryThatIsNotOursIsRefused(t *testing.T) {
	file := func(path string) func(*crashfs.FS) error {
		return func(m *crashfs.FS) error { _, err := m.Create(path); return err }
	}
	for _, c := range []struct {
		name string
		make func(*crashfs.FS) error
		want error
	}{
		{"empty", func(*crashfs.FS) error { return nil }, nil},
		{"a fresh file system", func(m *crashfs.FS) error { return m.MkdirAll("/data/lost+found") }, nil},
		{"an interrupted first start", func(m *crashfs.FS) error { return m.MkdirAll("/data/log") }, nil},
		{"somebody's files", file("/data/letters.txt"), backend.ErrInvalid},
		{"chunks without an identity", func(m *crashfs.FS) error { return m.MkdirAll("/data/chunks/00") }, backend.ErrInvalid},
		{"a broken identity", file("/data/identity.1"), backend.ErrChecksum},
		{"a newer format", func(m *crashfs.FS) error {
			return putRecord(m, "/data", identityName, identity{Format: 2, UUID: "x"})
		}, backend.ErrNotSupported},
		{"another cluster's", func(m *crashfs.FS) error {
			return putRecord(m, "/data", identityName, newIdentity("theirs"))
		}, backend.ErrInvalid},
		{"without its log", func(m *crashfs.FS) error {
			return errors.Join(putRecord(m, "/data", identityName, newIdentity("ours")), m.MkdirAll("/data/chunks"), m.MkdirAll("/data/copysets"))
		}, backend.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := crashfs.New(crashfs.Options{})
			if err := errors.Join(m.MkdirAll("/data"), c.make(m)); err != nil {
				t.Fatal(err)
			}
			o := testOptions(t, newFakeMDS())
			o.Cluster = "ours"
			s, err := Open(m, "/data", o)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if s != nil {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestDirectoryInUseIsRefused(t *testing.T) {
	o := testOptions(t, newFakeMDS())
	o.NoLock = false
	dir := t.TempDir()
	s, err := Open(disk.OS(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(disk.OS(), dir, o); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("a second one: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = Open(disk.OS(), dir, o)
	if err != nil {
		t.Fatalf("after the first was closed: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	for name, edit := range map[string]func(*Options){
		"no MDS":              func(o *Options) { o.Topology = nil },
		"nowhere to listen":   func(o *Options) { o.Listen = "" },
		"no peers' listener":  func(o *Options) { o.PeerListen = "" },
		"no such address":     func(o *Options) { o.Listen = "256.0.0.1:0" },
		"all addresses":       func(o *Options) { o.Listen = "0.0.0.0:0" },
		"advertising nothing": func(o *Options) { o.Advertise = "here" },
	} {
		o := testOptions(t, newFakeMDS())
		edit(&o)
		if _, err := Open(crashfs.New(crashfs.Options{}), "/data", o); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestNewServerWaitsForTheMDSAndKeepsItsID(t *testing.T) {
	mds := newFakeMDS()
	mds.down = true
	m := crashfs.New(crashfs.Options{})
	s, err := Open(m, "/data", testOptions(t, mds))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an MDS: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	uuid := s.UUID()
	mds.edit(func(m *fakeMDS) { m.down = false })
	for range 2 {
		s, err = Open(m, "/data", testOptions(t, mds))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.ID() != 1 || s.UUID() != uuid {
			t.Errorf("id %v, uuid %s; the directory was made with %s", s.ID(), s.UUID(), uuid)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("a second Close: %v", err)
		}
	}
	if len(mds.servers) != 1 {
		t.Errorf("registered are %v", mds.servers)
	}
}
