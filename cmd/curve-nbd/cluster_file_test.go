package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func sampleCluster() clusterFile {
	return clusterFile{
		Format: clusterFormat, Copysets: 6, Replicas: 3, ChunkserverFlags: []string{"--log-level=debug"},
		Members: []member{
			{ID: "mds1", Role: roleMDS, Address: "127.0.0.1:6700", HTTPAddress: "127.0.0.1:6701",
				Process: processID{PID: 100, StartTicks: 1, BootID: "b"}},
			newChunkserver(1, []int{6710, 6711, 6712}),
			newChunkserver(2, []int{6720, 6721, 6722}),
		},
	}
}

func TestClusterFileSurvivesSaveAndRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "cluster")
	c, err := createCluster(testContext(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	c.file = sampleCluster()
	if err := c.save(); err != nil {
		t.Fatal(err)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	again, err := readCluster(dir)
	if err != nil || !reflect.DeepEqual(again.file, c.file) || again.path != dir {
		t.Errorf("read %+v, %v; want %+v", again, err, c.file)
	}
	if _, err := createCluster(testContext(t), dir); !errors.Is(err, backend.ErrExists) {
		t.Errorf("made twice: %v", err)
	}
}

func TestClusterFilesThatAreWrongAreRefused(t *testing.T) {
	change := func(from, to string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, from) {
				panic("the sample has no " + from)
			}
			return strings.Replace(s, from, to, 1)
		}
	}
	for _, c := range []struct {
		name   string
		change func(string) string
		want   error
		says   string
	}{
		{"newer format", change(`"format":1`, `"format":2,"future":true`), backend.ErrNotSupported, "format 2"},
		{"no format", change(`"format":1,`, ``), backend.ErrInvalid, "format 0"},
		{"unknown key", change(`"format":1`, `"format":1,"extra":1`), backend.ErrInvalid, "extra"},
		{"no JSON", func(string) string { return "holiday" }, backend.ErrInvalid, "JSON"},
		{"two documents", func(s string) string { return s + s }, backend.ErrInvalid, "JSON"},
		{"too large", func(s string) string { return s + strings.Repeat(" ", maxClusterFile) }, backend.ErrInvalid, "bytes"},
		{"id that leaves the directory", change(`"id":"cs1"`, `"id":"../cs1"`), backend.ErrInvalid, "../cs1"},
		{"id of another role", change(`"id":"cs1"`, `"id":"mds2"`), backend.ErrInvalid, "mds2"},
		{"same id twice", change(`"id":"cs1"`, `"id":"cs2"`), backend.ErrInvalid, "twice"},
		{"unknown role", change(`"role":"mds"`, `"role":"boss"`), backend.ErrInvalid, "boss"},
		{"two MDS", change(`"id":"cs1","role":"chunkserver"`, `"id":"mds2","role":"mds"`), backend.ErrInvalid, "2 MDS"},
		{"address without port", change(`127.0.0.1:6710`, `127.0.0.1`), backend.ErrInvalid, "127.0.0.1"},
		{"negative pid", change(`"pid":100`, `"pid":-1`), backend.ErrInvalid, "-1"},
		{"no copysets", change(`"copysets":6`, `"copysets":0`), backend.ErrInvalid, "0 copysets"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := json.Marshal(sampleCluster())
			if err != nil {
				t.Fatal(err)
			}
			_, err = decodeClusterFile([]byte(c.change(string(b))))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.says)
			}
		})
	}
}

func FuzzClusterFile(f *testing.F) {
	b, err := json.Marshal(sampleCluster())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := decodeClusterFile(b)
		if err != nil {
			if !errors.Is(err, backend.ErrInvalid) && !errors.Is(err, backend.ErrNotSupported) {
				t.Fatalf("%v is of no kind", err)
			}
			return
		}
		for _, m := range file.Members {
			if strings.ContainsAny(m.ID, "/.") {
				t.Fatalf("id %q is no file name", m.ID)
			}
		}
		encoded, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeClusterFile(encoded)
		if err != nil || !reflect.DeepEqual(file.Members, again.Members) {
			t.Fatalf("%s became %s (%v)", b, encoded, err)
		}
	})
}

func TestForeignDirectoriesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "holiday.jpg")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, file} {
		if _, err := createCluster(testContext(t), path); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := openCluster(testContext(t), path); err == nil {
			t.Errorf("%s was opened", path)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the directory was touched: %v, %v", entries, err)
	}
}

func TestCommandsChangeAClusterOneAtATime(t *testing.T) {
	dir := t.TempDir()
	c, err := createCluster(testContext(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	c.file = sampleCluster()
	c.file.Copysets = 1
	if err := c.save(); err != nil {
		t.Fatal(err)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	const commands = 8
	var all sync.WaitGroup
	for range commands {
		all.Go(func() {
			c, err := openCluster(testContext(t), dir)
			if err != nil {
				t.Error(err)
				return
			}
			c.file.Copysets++
			if err := errors.Join(c.save(), c.close()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if c, err := readCluster(dir); err != nil || c.file.Copysets != 1+commands {
		t.Errorf("%+v, %v: want %d, one of each command", c, err, 1+commands)
	}
}

func TestPurgeLeavesWhatIsNotTheClusters(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "cluster")
		c, err := createCluster(testContext(t), dir)
		if err != nil {
			t.Fatal(err)
		}
		c.file = sampleCluster()
		for i := range c.file.Members {
			if err := os.MkdirAll(filepath.Join(c.dataDir(&c.file.Members[i]), "chunks"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if foreign {
			if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(c.save(), c.purge(), c.close()); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if foreign && (err != nil || len(entries) != 1) || !foreign && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("foreign file %t: left %v, %v", foreign, entries, err)
		}
	}
}
