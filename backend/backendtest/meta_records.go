package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func mustPut(t *testing.T, m backend.Meta, key, data string, version uint64) uint64 {
	t.Helper()
	v, err := m.PutRecord(t.Context(), key, []byte(data), version)
	if err != nil || v == 0 {
		t.Fatalf("PutRecord(%q, version %d): version %d, %v", key, version, v, err)
	}
	return v
}

func wantRecord(t *testing.T, m backend.Meta, key, data string, version uint64) {
	t.Helper()
	r, err := m.Record(t.Context(), key)
	if err != nil || r.Key != key || string(r.Data) != data || r.Version != version {
		t.Errorf("record %q is %q %q in version %d, %v; want %q in version %d", key, r.Key, r.Data, r.Version, err, data, version)
	}
}

func recordKeys(t *testing.T, m backend.Meta, prefix string) string {
	t.Helper()
	records, err := m.Records(t.Context(), prefix)
	if err != nil {
		t.Fatalf("Records(%q): %v", prefix, err)
	}
	keys := make([]string, len(records))
	for i, r := range records {
		keys[i] = r.Key
	}
	return strings.Join(keys, " ")
}

var metaRecordCases = []metaCase{
	{"RecordIsMadeReplacedAndDeleted", func(t *testing.T, m backend.Meta) {
		_, err := m.Record(t.Context(), "fe/a")
		wantErr(t, err, backend.ErrNotFound, "fe/a")
		first := mustPut(t, m, "fe/a", "one", 0)
		wantRecord(t, m, "fe/a", "one", first)
		second := mustPut(t, m, "fe/a", "", first)
		wantRecord(t, m, "fe/a", "", second)
		if err := m.DeleteRecord(t.Context(), "fe/a", second); err != nil {
			t.Fatal(err)
		}
		_, err = m.Record(t.Context(), "fe/a")
		wantErr(t, err, backend.ErrNotFound)
		third := mustPut(t, m, "fe/a", "again", 0)
		if first >= second || second >= third {
			t.Errorf("versions %d, %d and, after a delete, %d do not grow", first, second, third)
		}
	}},
	{"RecordThatIsNotAsReadStaysAsItIs", func(t *testing.T, m backend.Meta) {
		old := mustPut(t, m, "fe/a", "one", 0)
		now := mustPut(t, m, "fe/a", "two", old)
		for name, c := range map[string]struct {
			key     string
			version uint64
		}{
			"it exists": {"fe/a", 0}, "an old version": {"fe/a", old}, "a version to come": {"fe/a", now + 1},
			"it does not exist": {"fe/b", now},
		} {
			_, err := m.PutRecord(t.Context(), c.key, []byte("three"), c.version)
			if !errors.Is(err, backend.ErrConflict) {
				t.Errorf("put where %s: %v, want ErrConflict", name, err)
			}
			if c.version == 0 {
				continue
			}
			if err := m.DeleteRecord(t.Context(), c.key, c.version); !errors.Is(err, backend.ErrConflict) {
				t.Errorf("delete where %s: %v, want ErrConflict", name, err)
			}
		}
		wantErr(t, m.DeleteRecord(t.Context(), "fe/a", 0), backend.ErrInvalid)
		wantRecord(t, m, "fe/a", "two", now)
		if keys := recordKeys(t, m, ""); keys != "fe/a" {
			t.Errorf("records are %q", keys)
		}
	}},
	{"RecordsAreListedByPrefixInOrder", func(t *testing.T, m backend.Meta) {
		for _, key := range []string{"b/2", "a", "b/10", "b", "bb", "b/ü:%_-.~"} {
			mustPut(t, m, key, "data of "+key, 0)
		}
		for prefix, want := range map[string]string{
			"": "a b b/10 b/2 b/ü:%_-.~ bb", "b": "b b/10 b/2 b/ü:%_-.~ bb", "b/": "b/10 b/2 b/ü:%_-.~", "b/1": "b/10", "c": "",
		} {
			if got := recordKeys(t, m, prefix); got != want {
				t.Errorf("Records(%q) are %q, want %q", prefix, got, want)
			}
		}
		records, err := m.Records(t.Context(), "b/10")
		if err != nil || len(records) != 1 || string(records[0].Data) != "data of b/10" {
			t.Fatalf("records %+v, %v", records, err)
		}
		wantRecord(t, m, "b/10", "data of b/10", records[0].Version)
	}},
	{"RecordsTooManyForOnePageAreWhole", func(t *testing.T, m backend.Meta) {
		data := bytes.Repeat([]byte{1}, backend.MaxRecordData)
		const n = 5 << 20 / backend.MaxRecordData
		for i := range n {
			data[0] = byte(i)
			if _, err := m.PutRecord(t.Context(), fmt.Sprintf("large/%03d", i), data, 0); err != nil {
				t.Fatal(err)
			}
		}
		records, err := m.Records(t.Context(), "large/")
		if err != nil || len(records) != n {
			t.Fatalf("%d records, %v, want %d", len(records), err, n)
		}
		for i, r := range records {
			if r.Key != fmt.Sprintf("large/%03d", i) || len(r.Data) != backend.MaxRecordData || r.Data[0] != byte(i) {
				t.Errorf("record %d is %q with %d bytes that begin with %d", i, r.Key, len(r.Data), r.Data[0])
			}
		}
	}},
	{"RecordsThatWerePutSinceAMark", func(t *testing.T, m backend.Meta) {
		var mark uint64
		// changes are the keys of what has changed, and whether anything has.
		changes := func(prefix string) (keys string, any bool) {
			t.Helper()
			records, next, err := m.RecordChanges(t.Context(), prefix, mark)
			if err != nil || next == 0 {
				t.Fatalf("RecordChanges(%q, %d): mark %d, %v", prefix, mark, next, err)
			}
			any, mark = next != mark, next
			for _, r := range records {
				keys += r.Key + "=" + string(r.Data) + " "
			}
			return keys, any
		}
		want := func(what, prefix, keys string, any bool) {
			t.Helper()
			if got, changed := changes(prefix); got != keys || changed != any {
				t.Errorf("%s: records %q of %q, a change %v; want %q, %v", what, got, prefix, changed, keys, any)
			}
		}
		want("at first", "fe/", "", true)
		want("nothing was done", "fe/", "", false)
		a := mustPut(t, m, "fe/a", "1", 0)
		b := mustPut(t, m, "fe/b", "1", 0)
		mustPut(t, m, "other", "1", 0)
		want("three are new", "fe/", "fe/a=1 fe/b=1 ", true)
		a = mustPut(t, m, "fe/a", "2", a)
		a = mustPut(t, m, "fe/a", "3", a)
		want("one is changed twice", "fe/", "fe/a=3 ", true)
		mustPut(t, m, "other2", "1", 0)
		want("one of another prefix is new", "fe/", "", true)
		if err := m.DeleteRecord(t.Context(), "fe/b", b); err != nil {
			t.Fatal(err)
		}
		want("one is deleted", "fe/", "", true)
		want("nothing was done", "", "", false)
		if _, err := m.PutRecord(t.Context(), "fe/a", nil, a+1); !errors.Is(err, backend.ErrConflict) {
			t.Fatal(err)
		}
		want("one was not changed", "", "", false)
		mark += 1000
		want("the mark is of other metadata", "fe/", "fe/a=3 ", true)
		mark = 0
		want("all", "", "fe/a=3 other=1 other2=1 ", true)
	}},
	{"RecordsOutOfBoundsAreRefused", func(t *testing.T, m backend.Meta) {
		for name, key := range map[string]string{
			"empty": "", "too long": strings.Repeat("k", backend.MaxRecordKey+1), "with a space": "a b",
			"with a newline": "a\n", "with a NUL": "a\x00", "no UTF-8": "a\xff",
		} {
			_, putErr := m.PutRecord(t.Context(), key, nil, 0)
			_, getErr := m.Record(t.Context(), key)
			for _, err := range []error{putErr, getErr, m.DeleteRecord(t.Context(), key, 1)} {
				if !errors.Is(err, backend.ErrInvalid) {
					t.Errorf("key %s: %v, want ErrInvalid", name, err)
				}
			}
			if key == "" {
				continue
			}
			_, err := m.Records(t.Context(), key)
			_, _, changesErr := m.RecordChanges(t.Context(), key, 1)
			if !errors.Is(err, backend.ErrInvalid) || !errors.Is(changesErr, backend.ErrInvalid) {
				t.Errorf("prefix %s: %v, %v, want ErrInvalid", name, err, changesErr)
			}
		}
		_, err := m.PutRecord(t.Context(), "k", make([]byte, backend.MaxRecordData+1), 0)
		wantErr(t, err, backend.ErrInvalid, strconv.Itoa(backend.MaxRecordData))
		mustPut(t, m, strings.Repeat("k", backend.MaxRecordKey), strings.Repeat("d", backend.MaxRecordData), 0)
	}},
	{"OneOfManyChangersOfARecordWins", func(t *testing.T, m backend.Meta) {
		mustPut(t, m, "fe/count", "0", 0)
		const n = 64
		inParallel(t, 8, n, func(int) error {
			for {
				r, err := m.Record(t.Context(), "fe/count")
				if err != nil {
					return err
				}
				count, err := strconv.Atoi(string(r.Data))
				if err != nil {
					return err
				}
				_, err = m.PutRecord(t.Context(), r.Key, []byte(strconv.Itoa(count+1)), r.Version)
				if !errors.Is(err, backend.ErrConflict) {
					return err
				}
			}
		})
		if r, err := m.Record(t.Context(), "fe/count"); err != nil || string(r.Data) != strconv.Itoa(n) {
			t.Errorf("counted to %s, %v, want %d", r.Data, err, n)
		}
	}},
	{"CallersMayChangeRecordsThatTheyGotAndGave", func(t *testing.T, m backend.Meta) {
		data := []byte("data")
		version, err := m.PutRecord(t.Context(), "k", data, 0)
		if err != nil {
			t.Fatal(err)
		}
		copy(data, "XXXX")
		r, err := m.Record(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		copy(r.Data, "YYYY")
		list, err := m.Records(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		copy(list[0].Data, "ZZZZ")
		wantRecord(t, m, "k", "data", version)
	}},
	{"ClusterHasAnIDOfItsOwn", func(t *testing.T, m backend.Meta) {
		id, err := m.ClusterID(t.Context())
		if err != nil || !backend.ValidClusterID(id) {
			t.Fatalf("id %q, %v", id, err)
		}
		if again, err := m.ClusterID(t.Context()); err != nil || again != id {
			t.Errorf("id %q, %v, was %q", again, err, id)
		}
	}},
}

// metaRecordReopenCase is for TestMetaReopened.
func metaRecordReopenCase(t *testing.T, open func(*testing.T) backend.Meta, reopen func(*testing.T, backend.Meta) backend.Meta) {
	m := open(t)
	other, err := open(t).ClusterID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id, err := m.ClusterID(t.Context())
	if err != nil || id == other {
		t.Fatalf("id %q, %v; another cluster has %q", id, err, other)
	}
	kept := mustPut(t, m, "fe/kept", "kept", 0)
	gone := mustPut(t, m, "fe/gone", "gone", 0)
	if err := m.DeleteRecord(t.Context(), "fe/gone", gone); err != nil {
		t.Fatal(err)
	}

	_, mark, err := m.RecordChanges(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}

	m = reopen(t, m)
	wantRecord(t, m, "fe/kept", "kept", kept)
	if records, now, err := m.RecordChanges(t.Context(), "", mark); err != nil || now != mark || len(records) != 0 {
		t.Errorf("since mark %d there are %d changes up to %d, %v", mark, len(records), now, err)
	}
	if keys := recordKeys(t, m, ""); keys != "fe/kept" {
		t.Errorf("records are %q", keys)
	}
	if again := mustPut(t, m, "fe/gone", "again", 0); again <= gone {
		t.Errorf("version %d after %d", again, gone)
	}
	if again, err := m.ClusterID(t.Context()); err != nil || again != id {
		t.Errorf("id %q, %v, was %q", again, err, id)
	}
}
