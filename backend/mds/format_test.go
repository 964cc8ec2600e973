package mds

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func goodVolume() *volumeRecord {
	return &volumeRecord{
		ID: 7, Name: "pool/pg-data", Size: 10 << 30, Geometry: backend.DefaultGeometry(),
		QoS: backend.QoS{IOPS: 100}, State: backend.VolumeActive, Epoch: 3,
		Lease:     &leaseRecord{Mode: leaseShared, Owners: []string{"a", "b"}, Opens: 1},
		CreatedAt: 1_700_000_000_000_000_000,
	}
}

func goodChunks() []backend.ChunkRef {
	return []backend.ChunkRef{{ID: 0x0102030405060708, Copyset: 9, Size: 16 << 20}, {ID: 1, Copyset: math.MaxUint32, Size: 16 << 20}}
}

// TestStoredBytesStayTheSame freezes the format: a change here needs a new
// version, and code that reads the old one.
func TestStoredBytesStayTheSame(t *testing.T) {
	volume, err := goodVolume().encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"name key":          {nameKey(5, "pg"), "6e" + "0000000000000005" + "7067"},
		"volume key":        {volumeKey(7), "76" + "0000000000000007"},
		"segment key":       {segmentKey(7, 258), "73" + "0000000000000007" + "00000102"},
		"recycle key":       {recycleKey(1, 7), "72" + "0000000000000001" + "0000000000000007"},
		"directory":         {entry{entryDirectory, 5}.encode(), "01" + "01" + "0000000000000005"},
		"volume's name":     {entry{entryVolume, 7}.encode(), "01" + "02" + "0000000000000007"},
		"segment":           {encodeSegment(goodChunks()), "01" + "18" + "0002" + "0102030405060708" + "00000009" + "0000000000000001" + "ffffffff"},
		"volume":            {volume, hex.EncodeToString([]byte("\x01" + `{"id":7,"name":"pool/pg-data","size":10737418240,"geometry":{"block_size":4096,"chunk_size":16777216,"segment_size":1073741824},"qos":{"iops":100},"state":"active","epoch":3,"lease":{"mode":"shared","owners":["a","b"],"opens":1},"created_at":1700000000000000000}`))},
		"record key":        {recordKey("a/b"), "66" + "612f62"},
		"record":            {encodeDocument(backend.Record{Key: "a/b", Data: []byte("xyz"), Version: 258}), "01" + "0000000000000102" + "78797a"},
		"records' use":      {recordUse{1, 2}.encode(), "0000000000000001" + "0000000000000002"},
		"records' keys":     {[]byte(counterRecord + " " + keyRecordUse + " " + keyClusterID), hex.EncodeToString([]byte("crecord mrecords mcluster"))},
		"counters' keys":    {[]byte(counterVolume + " " + counterDirectory + " " + counterChunk + " " + counterSkipped), hex.EncodeToString([]byte("cvolume cdirectory cchunk cskipped"))},
		"layout's own keys": {[]byte(keyFormat + " " + keyStoreID), hex.EncodeToString([]byte("mformat mstore"))},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s is\n%s, was\n%s", name, got, c.want)
		}
	}
}

func TestRecordsReadBack(t *testing.T) {
	b, err := goodVolume().encode()
	if err != nil {
		t.Fatal(err)
	}
	if v, err := decodeVolume(b); err != nil || !reflect.DeepEqual(v, goodVolume()) {
		t.Errorf("volume became %+v, %v", v, err)
	}
	if c, err := decodeSegment(encodeSegment(goodChunks())); err != nil || !reflect.DeepEqual(c, goodChunks()) {
		t.Errorf("segment became %+v, %v", c, err)
	}
	if v, i, err := parseSegmentKey(segmentKey(7, 258)); err != nil || v != 7 || i != 258 {
		t.Errorf("segment key became %d, %d, %v", v, i, err)
	}
	if v, err := parseRecycleKey(recycleKey(1, 7)); err != nil || v != 7 {
		t.Errorf("recycle key became %d, %v", v, err)
	}
}

func TestDamagedRecordsAreRefused(t *testing.T) {
	segment := encodeSegment(goodChunks())
	cut := func(b []byte, n int) []byte { return append([]byte(nil), b[:n]...) }
	set := func(b []byte, i int, v byte) []byte { b = cut(b, len(b)); b[i] = v; return b }
	volume := func(change func(*volumeRecord)) []byte {
		v := goodVolume()
		change(v)
		b, err := v.encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := volume(func(*volumeRecord) {})
	for name, err := range map[string]error{
		"entry too short":        second(decodeEntry(make([]byte, 9))),
		"entry too long":         second(decodeEntry(make([]byte, 11))),
		"entry of version 2":     second(decodeEntry(set(entry{entryVolume, 7}.encode(), 0, 2))),
		"entry of kind 3":        second(decodeEntry(set(entry{entryVolume, 7}.encode(), 1, 3))),
		"entry of id 0":          second(decodeEntry(entry{entryVolume, 0}.encode())),
		"segment empty":          second(decodeSegment(nil)),
		"segment cut":            second(decodeSegment(cut(segment, len(segment)-1))),
		"segment with more":      second(decodeSegment(append(cut(segment, len(segment)), 0))),
		"segment of version 2":   second(decodeSegment(set(segment, 0, 2))),
		"segment of tiny chunks": second(decodeSegment(set(segment, 1, 12))),
		"segment of 2^88 chunks": second(decodeSegment(set(segment, 1, 88))),
		"segment of 0 chunks":    second(decodeSegment([]byte{1, 24, 0, 0})),
		"segment of many chunks": second(decodeSegment(append([]byte{1, 24, 0xff, 0xff}, make([]byte, 65535*12)...))),
		"segment with chunk 0":   second(decodeSegment(encodeSegment([]backend.ChunkRef{{ID: 0, Size: 1 << 20}}))),
		"volume empty":           second(decodeVolume(nil)),
		"volume cut":             second(decodeVolume(cut(good, len(good)-1))),
		"volume twice":           second(decodeVolume(append(cut(good, len(good)), good[1:]...))),
		"volume of version 2":    second(decodeVolume(set(good, 0, 2))),
		"volume too long":        second(decodeVolume(append(cut(good, len(good)), bytes.Repeat([]byte{' '}, maxVolumeRecord)...))),
		"volume unknown field":   second(decodeVolume([]byte("\x01{\"colour\":1}"))),
		"volume id 0":            second(decodeVolume(volume(func(v *volumeRecord) { v.ID = 0 }))),
		"volume bad name":        second(decodeVolume(volume(func(v *volumeRecord) { v.Name = "a/../b" }))),
		"volume slash name":      second(decodeVolume(volume(func(v *volumeRecord) { v.Name = "/a" }))),
		"volume bad state":       second(decodeVolume(volume(func(v *volumeRecord) { v.State = "asleep" }))),
		"volume size":            second(decodeVolume(volume(func(v *volumeRecord) { v.Size = 1 }))),
		"volume geometry":        second(decodeVolume(volume(func(v *volumeRecord) { v.Geometry.BlockSize = 0 }))),
		"volume QoS":             second(decodeVolume(volume(func(v *volumeRecord) { v.QoS.BPS = -1 }))),
		"volume open in the bin": second(decodeVolume(volume(func(v *volumeRecord) { v.State = backend.VolumeRecycled }))),
		"lease without owner":    second(decodeVolume(volume(func(v *volumeRecord) { v.Lease.Owners = nil }))),
		"lease without opens":    second(decodeVolume(volume(func(v *volumeRecord) { v.Lease.Opens = 0 }))),
		"lease of two exclusive": second(decodeVolume(volume(func(v *volumeRecord) { v.Lease.Mode = leaseExclusive }))),
		"record cut":             second(decodeDocument(recordKey("k"), []byte{1, 0, 0, 0, 0, 0, 0, 1})),
		"record of version 2":    second(decodeDocument(recordKey("k"), []byte{2, 0, 0, 0, 0, 0, 0, 0, 1})),
		"record never written":   second(decodeDocument(recordKey("k"), make([]byte, 9))),
		"record too long":        second(decodeDocument(recordKey("k"), append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 1}, make([]byte, backend.MaxRecordData+1)...))),
		"record without a key":   second(decodeDocument(recordKey(""), []byte{1, 0, 0, 0, 0, 0, 0, 0, 1})),
		"lease of unknown mode":  second(decodeVolume(volume(func(v *volumeRecord) { v.Lease.Mode = "x" }))),
	} {
		if !errors.Is(err, errDamaged) || !errors.Is(err, backend.ErrIO) {
			t.Errorf("%s: %v, want errDamaged", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func FuzzVolumeRecord(f *testing.F) {
	good, err := goodVolume().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("\x01{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeVolume(b)
		if err != nil {
			return
		}
		again, err := v.encode()
		if err != nil {
			t.Fatalf("%+v cannot be encoded: %v", v, err)
		}
		if back, err := decodeVolume(again); err != nil || back.info() != v.info() {
			t.Fatalf("%+v became %+v, %v", v, back, err)
		}
	})
}

func FuzzSegment(f *testing.F) {
	f.Add(encodeSegment(goodChunks()))
	f.Add([]byte{1, 24, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		chunks, err := decodeSegment(b)
		if err == nil && !bytes.Equal(encodeSegment(chunks), b) {
			t.Fatalf("% x became % x", b, encodeSegment(chunks))
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte("k"), encodeDocument(backend.Record{Data: []byte("xyz"), Version: 258}))
	f.Add([]byte(" "), []byte{1})
	f.Fuzz(func(t *testing.T, key, b []byte) {
		r, err := decodeDocument(recordKey(string(key)), b)
		if err == nil && (!bytes.Equal(encodeDocument(r), b) || r.Key != string(key)) {
			t.Fatalf("% x became %+v", b, r)
		}
	})
}

func FuzzEntry(f *testing.F) {
	f.Add(entry{entryDirectory, 5}.encode())
	f.Add([]byte{1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err == nil && !bytes.Equal(e.encode(), b) {
			t.Fatalf("% x became % x", b, e.encode())
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add(segmentKey(7, 258))
	f.Add(recycleKey(1, 7))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, i, err := parseSegmentKey(b); err == nil && !bytes.Equal(segmentKey(v, i), b) {
			t.Fatalf("segment key % x became % x", b, segmentKey(v, i))
		}
		if v, err := parseRecycleKey(b); err == nil && !bytes.HasSuffix(b, volumeKey(v)[1:]) {
			t.Fatalf("recycle key % x is of %s", b, v)
		}
	})
}

func FuzzName(f *testing.F) {
	for _, name := range []string{"", "/", "a/b", "../a", "a//b", "a\x00", strings.Repeat("n", 256)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean, err := cleanName(name)
		if err != nil {
			if !errors.Is(err, backend.ErrInvalid) || len(err.Error()) > 2048 {
				t.Fatalf("%q: %v", name, err)
			}
			return
		}
		if again, err := cleanName(clean); err != nil || again != clean {
			t.Fatalf("%q is clean, and became %q, %v", clean, again, err)
		}
		if len(clean) > MaxNameSize || strings.HasPrefix(clean, "/") || strings.Contains("/"+clean+"/", "/../") {
			t.Fatalf("%q passed as %q", name, clean)
		}
	})
}
