package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

// stateVersion is that of the state file. It is written before a device is
// connected, so that a gateway that dies in between finds the device again by its
// Backend.
const stateVersion = 1

// maxStateBytes is far more than a thousand devices take.
const maxStateBytes = 4 << 20

type stateFile struct {
	Version int      `json:"version"`
	Devices []record `json:"devices"`
}

// record is a mapping as it is written down.
type record struct {
	// Index is kernel.AnyDevice until it is known.
	Index  int    `json:"index"`
	Volume string `json:"volume"`
	// Backend is what the kernel knows the mapping by; no other has it.
	Backend     string        `json:"backend"`
	ReadOnly    bool          `json:"read_only,omitempty"`
	Connections int           `json:"connections"`
	Timeout     time.Duration `json:"timeout_ns"`
	Reattach    time.Duration `json:"reattach_timeout_ns"`
	Since       time.Time     `json:"since"`
	// Ioctl: it is gone with the gateway that wrote this.
	Ioctl bool `json:"ioctl,omitempty"`
}

func (r record) valid() bool {
	return r.Index >= kernel.AnyDevice && r.Volume != "" && r.Backend != "" && len(r.Backend) <= kernel.MaxBackend &&
		r.Connections > 0 && r.Connections <= MaxConnections && r.Timeout > 0 && r.Reattach > 0
}

// loadState reads the state file; one that is missing is empty. backend.ErrInvalid.
func loadState(path string) ([]record, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxStateBytes {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d", backend.ErrInvalid, path, info.Size(), maxStateBytes)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return decodeState(path, b)
}

func decodeState(path string, b []byte) ([]record, error) {
	var s stateFile
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%w: %s: %w: remove it if no device of it is in use", backend.ErrInvalid, path, err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%w: %s has version %d, this program writes %d", backend.ErrInvalid, path, s.Version, stateVersion)
	}
	for _, r := range s.Devices {
		if !r.valid() {
			return nil, fmt.Errorf("%w: %s: no mapping can be %+v", backend.ErrInvalid, path, r)
		}
	}
	return s.Devices, nil
}

// saveState replaces the state file whole.
func saveState(path string, records []record) error {
	if records == nil {
		records = []record{}
	}
	b, err := json.MarshalIndent(stateFile{Version: stateVersion, Devices: records}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write down what is mapped: %w", err)
	}
	return nil
}
