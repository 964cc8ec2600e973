package mds_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

// eachStore runs a test on every implementation of mds.Store.
func eachStore(t *testing.T, test func(t *testing.T, open func() mds.Store)) {
	t.Run("memory", func(t *testing.T) {
		test(t, func() mds.Store {
			s := mds.NewMemStore()
			t.Cleanup(func() { s.Close() })
			return s
		})
	})
	t.Run("bolt", func(t *testing.T) {
		dir := t.TempDir()
		n := 0
		test(t, func() mds.Store {
			n++
			s := openBolt(t, filepath.Join(dir, fmt.Sprintf("%d.db", n)))
			t.Cleanup(func() { s.Close() })
			return s
		})
	})
}

func update(t *testing.T, s mds.Store, pairs ...string) {
	t.Helper()
	err := s.Update(context.Background(), func(tx mds.Txn) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := tx.Put([]byte(pairs[i]), []byte(pairs[i+1])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// scan lists "key=value " of what a Scan shows.
func scan(t *testing.T, tx mds.Txn, prefix, from string, limit int) string {
	t.Helper()
	var list []byte
	var start []byte
	if from != "" {
		start = []byte(from)
	}
	err := tx.Scan([]byte(prefix), start, func(k, v []byte) (bool, error) {
		list = fmt.Appendf(list, "%s=%s ", k, v)
		limit--
		return limit != 0, nil
	})
	if err != nil {
		t.Fatalf("scan %q from %q: %v", prefix, from, err)
	}
	return string(list)
}

func scanStore(t *testing.T, s mds.Store, prefix, from string, limit int) (list string) {
	t.Helper()
	err := s.View(context.Background(), func(tx mds.Txn) error {
		list = scan(t, tx, prefix, from, limit)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestScanIsOrderedAndKeepsToItsPrefix(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() mds.Store) {
		s := open()
		update(t, s, "b", "0", "ab2", "2", "a", "3", "ab", "4", "ab1", "5", "ac", "6", "ab\xff\xff", "7", "zz", "8")
		for name, c := range map[string]struct {
			prefix, from string
			limit        int
			want         string
		}{
			"all":                {"", "", -1, "a=3 ab=4 ab1=5 ab2=2 ab\xff\xff=7 ac=6 b=0 zz=8 "},
			"prefix":             {"ab", "", -1, "ab=4 ab1=5 ab2=2 ab\xff\xff=7 "},
			"from inside":        {"ab", "ab1", -1, "ab1=5 ab2=2 ab\xff\xff=7 "},
			"from between":       {"ab", "ab11", -1, "ab2=2 ab\xff\xff=7 "},
			"from below prefix":  {"ab", "a", -1, "ab=4 ab1=5 ab2=2 ab\xff\xff=7 "},
			"from past prefix":   {"ab", "ac", -1, ""},
			"from past the end":  {"", "zzz", -1, ""},
			"stopped":            {"ab", "", 2, "ab=4 ab1=5 "},
			"nothing there":      {"x", "", -1, ""},
			"prefix is the last": {"zz", "", -1, "zz=8 "},
		} {
			if got := scanStore(t, s, c.prefix, c.from, c.limit); got != c.want {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
		}
		oops := errors.New("oops")
		err := s.View(t.Context(), func(tx mds.Txn) error {
			return tx.Scan(nil, nil, func(_, _ []byte) (bool, error) { return true, oops })
		})
		if err != oops {
			t.Errorf("error of the scanner became %v", err)
		}
	})
}

func TestTransactionSeesItsOwnChanges(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() mds.Store) {
		s := open()
		update(t, s, "a", "1", "b", "2")
		err := s.Update(t.Context(), func(tx mds.Txn) error {
			for _, err := range []error{tx.Put([]byte("c"), []byte("3")), tx.Delete([]byte("a")), tx.Put([]byte("b"), nil), tx.Delete([]byte("nothing"))} {
				if err != nil {
					return err
				}
			}
			if got := scan(t, tx, "", "", -1); got != "b= c=3 " {
				t.Errorf("inside: %q", got)
			}
			if v, err := tx.Get([]byte("b")); v == nil || len(v) != 0 || err != nil {
				t.Errorf("empty value is %#v, %v", v, err)
			}
			if v, err := tx.Get([]byte("a")); v != nil || err != nil {
				t.Errorf("deleted value is %#v, %v", v, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := scanStore(t, s, "", "", -1); got != "b= c=3 " {
			t.Errorf("after: %q", got)
		}
	})
}

func TestFailedUpdateChangesNothing(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() mds.Store) {
		s := open()
		update(t, s, "a", "1", "b", "2", "c", "3")
		oops := errors.New("oops")
		err := s.Update(t.Context(), func(tx mds.Txn) error {
			tx.Put([]byte("a"), []byte("changed"))
			tx.Put([]byte("a"), []byte("twice"))
			tx.Delete([]byte("b"))
			tx.Put([]byte("b"), []byte("again"))
			tx.Put([]byte("new"), []byte("x"))
			tx.Delete([]byte("new"))
			tx.Delete([]byte("c"))
			return oops
		})
		if err != oops {
			t.Errorf("error is %v, want the function's own", err)
		}
		if got := scanStore(t, s, "", "", -1); got != "a=1 b=2 c=3 " {
			t.Errorf("after a failed update: %q", got)
		}
	})
}

func TestViewChangesNothingAndLimitsHold(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() mds.Store) {
		s := open()
		err := s.View(t.Context(), func(tx mds.Txn) error { return tx.Put([]byte("k"), []byte("v")) })
		if !errors.Is(err, backend.ErrReadOnly) {
			t.Errorf("put in a View: %v, want ErrReadOnly", err)
		}
		err = s.View(t.Context(), func(tx mds.Txn) error { return tx.Delete([]byte("k")) })
		if !errors.Is(err, backend.ErrReadOnly) {
			t.Errorf("delete in a View: %v, want ErrReadOnly", err)
		}
		for name, c := range map[string]struct {
			key, value int
			ok         bool
		}{
			"empty key":     {0, 1, false},
			"largest key":   {mds.MaxKeySize, 1, true},
			"key too large": {mds.MaxKeySize + 1, 1, false},
			"largest value": {1, mds.MaxValueSize, true},
			"value too big": {1, mds.MaxValueSize + 1, false},
		} {
			err := s.Update(t.Context(), func(tx mds.Txn) error {
				return tx.Put(bytes.Repeat([]byte{'k'}, c.key), bytes.Repeat([]byte{'v'}, c.value))
			})
			if (err == nil) != c.ok || (err != nil && !errors.Is(err, backend.ErrInvalid)) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestViewIsASnapshotAndWaitsForNoUpdate(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() mds.Store) {
		s := open()
		update(t, s, "a", "1")
		err := s.View(t.Context(), func(tx mds.Txn) error {
			done := make(chan struct{})
			go func() {
				defer close(done)
				update(t, s, "a", "2", "b", "2")
			}()
			<-done // an Update finishes while this View is open
			if got := scan(t, tx, "", "", -1); got != "a=1 " {
				t.Errorf("snapshot changed to %q", got)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Update(t.Context(), func(tx mds.Txn) error {
			if err := tx.Put([]byte("a"), []byte("3")); err != nil {
				return err
			}
			if got := scanStore(t, s, "", "", -1); got != "a=2 b=2 " {
				t.Errorf("a View beside an Update sees %q", got)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestUpdatesAreSerial(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() mds.Store) {
		s := open()
		const goroutines, each = 8, 40
		oops := errors.New("oops")
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for i := range each {
					fail := (g+i)%3 == 0 // half-way through a shared commit
					err := s.Update(t.Context(), func(tx mds.Txn) error {
						b, err := tx.Get([]byte("n"))
						if err != nil {
							return err
						}
						var n uint64
						if b != nil {
							n = binary.BigEndian.Uint64(b)
						}
						if err := tx.Put([]byte("n"), binary.BigEndian.AppendUint64(nil, n+1)); err != nil || !fail {
							return err
						}
						return oops
					})
					if (err == oops) != fail || (err != nil && !fail) {
						t.Errorf("update: %v, meant to fail: %v", err, fail)
					}
				}
			})
		}
		wg.Wait()
		want := uint64(0)
		for g := range goroutines {
			for i := range each {
				if (g+i)%3 != 0 {
					want++
				}
			}
		}
		s.View(t.Context(), func(tx mds.Txn) error {
			b, err := tx.Get([]byte("n"))
			if err != nil || binary.BigEndian.Uint64(b) != want {
				t.Errorf("counted %x, %v, want %d", b, err, want)
			}
			return nil
		})
	})
}

func TestClosedStoreAnswersErrClosed(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() mds.Store) {
		s := open()
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		nothing := func(mds.Txn) error { return nil }
		if err := s.View(t.Context(), nothing); !errors.Is(err, backend.ErrClosed) {
			t.Errorf("View: %v", err)
		}
		if err := s.Update(t.Context(), nothing); !errors.Is(err, backend.ErrClosed) {
			t.Errorf("Update: %v", err)
		}
	})
}

func TestCancelledUpdateDoesNotHappen(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() mds.Store) {
		s := open()
		ctx, cancel := context.WithCancel(t.Context())
		inside, waiting := make(chan struct{}), make(chan error, 1)
		err := s.Update(t.Context(), func(mds.Txn) error {
			go func() {
				close(inside)
				waiting <- s.Update(ctx, func(tx mds.Txn) error { return tx.Put([]byte("late"), nil) })
			}()
			<-inside
			cancel()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-waiting; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled update: %v", err)
		}
		if got := scanStore(t, s, "", "", -1); got != "" {
			t.Errorf("it happened: %q", got)
		}
	})
}

// TestStoresBehaveLikeASortedMap compares with a map over random histories.
func TestStoresBehaveLikeASortedMap(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() mds.Store) {
		rapid.Check(t, func(r *rapid.T) {
			s := open()
			defer s.Close()
			model := map[string]string{}
			key := rapid.StringOfN(rapid.RuneFrom([]rune("ab\x00\x7f")), 1, 4, -1)
			for range rapid.IntRange(1, 8).Draw(r, "updates") {
				next := maps.Clone(model)
				fail := rapid.Bool().Draw(r, "fail")
				err := s.Update(context.Background(), func(tx mds.Txn) error {
					for range rapid.IntRange(0, 6).Draw(r, "changes") {
						k := key.Draw(r, "key")
						if rapid.Bool().Draw(r, "put") {
							v := rapid.StringN(0, 3, -1).Draw(r, "value")
							next[k] = v
							if err := tx.Put([]byte(k), []byte(v)); err != nil {
								return err
							}
						} else {
							delete(next, k)
							if err := tx.Delete([]byte(k)); err != nil {
								return err
							}
						}
					}
					if fail {
						return errors.New("fail")
					}
					return nil
				})
				if err == nil {
					model = next
				} else if !fail {
					r.Fatal(err)
				}
				want := ""
				for _, k := range slices.Sorted(maps.Keys(model)) {
					want += fmt.Sprintf("%s=%s ", k, model[k])
				}
				if got := scanStore(t, s, "", "", -1); got != want {
					r.Fatalf("store holds %q, want %q", got, want)
				}
			}
		})
	})
}
