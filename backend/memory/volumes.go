package memory

import (
	"fmt"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
)

var errClosed = fmt.Errorf("memory chunks: %w", backend.ErrClosed)

// volume is the newest epoch seen of a volume.
type volume struct {
	id    backend.VolumeID
	fence backend.Fence
}

func (v *volume) admit(epoch backend.Epoch) error { return v.fence.Admit(v.id, epoch) }

type volumes struct {
	// mu guards byID.
	mu   sync.RWMutex
	byID map[backend.VolumeID]*volume
}

func (vs *volumes) get(id backend.VolumeID) *volume {
	vs.mu.RLock()
	v := vs.byID[id]
	vs.mu.RUnlock()
	if v != nil {
		return v
	}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if v = vs.byID[id]; v == nil {
		v = &volume{id: id}
		vs.byID[id] = v
	}
	return v
}
