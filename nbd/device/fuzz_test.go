package device

import (
	"path/filepath"
	"testing"
)

// FuzzState: whatever a state file holds is refused, or can be written and read again.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version": 1, "devices": [{"index": 0, "volume": "a", "backend": "x", "connections": 1, "timeout_ns": 1, "reattach_timeout_ns": 1}]}`))
	f.Add([]byte(`{"version": 1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := decodeState("f", b)
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "state")
		if err := saveState(path, records); err != nil {
			t.Skip(err) // times that JSON cannot have
		}
		again, err := loadState(path)
		if err != nil || len(again) != len(records) {
			t.Fatalf("%d records become %d, %v", len(records), len(again), err)
		}
	})
}
