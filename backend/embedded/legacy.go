package embedded

import (
	"context"
	"encoding/json"

	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/mds"
)

// MaxLegacy is the longest Legacy, in bytes.
const MaxLegacy = 2 * chunkstore.MaxInventory

// legacy is what one Backend leaves to the next of the same directory. It holds as long
// as nobody changes the metadata in between: without that no chunk is touched either.
type legacy struct {
	UUID      string `json:"uuid"`
	Changes   uint64 `json:"changes"` // of the metadata
	Inventory []byte `json:"inventory"`
}

// Settle makes durable what is only in memory, while the Backend serves on, so that
// little is left for Close.
func (b *Backend) Settle(ctx context.Context) error {
	if s, ok := b.chunks.(*chunkstore.Store); ok {
		return s.Settle(ctx)
	}
	return nil
}

// Legacy is, after Close, what spares the next Backend of the directory looking for
// itself: see Options. Nil if there is none.
func (b *Backend) Legacy() []byte { return b.legacy }

// bequeath makes the Legacy once the chunks are closed, and the metadata are not.
func (b *Backend) bequeath() []byte {
	chunks, onDisk := b.chunks.(*chunkstore.Store)
	store, counting := b.store.(mds.Counting)
	if !onDisk || !counting {
		return nil
	}
	inventory := chunks.Inventory()
	changes, err := store.Changes()
	if inventory == nil || err != nil {
		return nil
	}
	text, err := json.Marshal(legacy{b.dir.identity.UUID, changes, inventory.Encode(nil)})
	if err != nil || len(text) > MaxLegacy {
		return nil
	}
	return text
}

// inherit returns what a Legacy says of this directory's chunks, nil if it is another's
// or does not hold any more.
func (d *dataDir) inherit(store mds.Store, text []byte) *chunkstore.Inventory {
	var l legacy
	if len(text) == 0 || json.Unmarshal(text, &l) != nil || l.UUID != d.identity.UUID {
		return nil
	}
	counting, ok := store.(mds.Counting)
	if !ok {
		return nil
	}
	if changes, err := counting.Changes(); err != nil || changes != l.Changes {
		return nil
	}
	inventory, err := chunkstore.DecodeInventory(l.Inventory)
	if err != nil {
		return nil
	}
	return inventory
}
