package mds_test

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

// TestMetadataOfTheFirstReleaseOpens reads testdata/layout1.db.gz, which a program
// wrote that knew no sessions, requests and chunkservers.
func TestMetadataOfTheFirstReleaseOpens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	unpack(t, "testdata/layout1.db.gz", path)
	m := newMDS(t, openBolt(t, path), mds.Options{StoreID: "old"})
	v, err := m.Volume(t.Context(), "pool/pg")
	if err != nil || v.ID != 1 || v.Epoch != 1 || v.Owner != "gw-old" || v.QoS.IOPS != 7 {
		t.Fatalf("volume %+v, %v", v, err)
	}
	if id, err := m.ClusterID(t.Context()); err != nil || id != "old" {
		t.Errorf("cluster %q, %v, want the store's id", id, err)
	}
	if records, err := m.Records(t.Context(), ""); err != nil || len(records) != 0 {
		t.Errorf("records %+v, %v", records, err)
	}
	if _, err := m.PutRecord(t.Context(), "k", nil, 0); err != nil {
		t.Error(err)
	}
	segments, err := m.Segments(t.Context(), v.ID)
	if err != nil || len(segments) != 1 || segments[0].Index != 2 || len(segments[0].Chunks) != 4 || segments[0].Chunks[0].Copyset != 1 {
		t.Errorf("segments %+v, %v", segments, err)
	}
	if bin, err := m.Recycled(t.Context()); err != nil || len(bin) != 1 || bin[0].Name != "gone" {
		t.Errorf("recycle bin %+v, %v", bin, err)
	}
	lease, err := m.OpenVolume(t.Context(), "pool/pg", "gw-new", backend.OpenTakeOver)
	if err != nil || lease.Epoch != 2 || lease.Session != 1 {
		t.Errorf("take-over: %+v, %v", lease, err)
	}
	if s, err := m.AllocateSegment(t.Context(), v.ID, lease.Epoch, 0); err != nil || s.Chunks[0].ID != 5 {
		t.Errorf("allocated %+v, %v, want chunks from 5 on", s, err)
	}
}

func unpack(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	zip, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, zip); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
