package scsi

import (
	"encoding/binary"

	"github.com/opencurve/curve-nbd/backend"
)

// Bounds of one GET LBA STATUS: its descriptors, and the bytes it looks at,
// since each segment may have to be asked for. Initiators go on where it ends.
const (
	maxStatuses    = 256
	maxStatusBytes = 64 << 30
	statusSize     = 16
)

// Provisioning status.
const (
	statusMapped      = 0
	statusDeallocated = 1
)

func decodeLBAStatus(_ *Unit, c *Command, blocks uint64) *Sense {
	c.lba, _ = c.span()
	if c.lba >= blocks {
		return outOfRange()
	}
	c.allocate(binary.BigEndian.Uint32(c.cdb[10:]))
	return nil
}

func executeLBAStatus(u *Unit, c *Command) verdict {
	off := int64(c.lba) * u.blockSize
	length := min(u.size.Load()-off, maxStatusBytes)
	most := min(max((c.Transfer-8)/statusSize, 1), maxStatuses)
	extents, err := c.mount.Extents(u.ctx, off, length, int(most), nil)
	if err != nil {
		return c.fail(c.failure(backend.OpRead, err))
	}
	b := make([]byte, 8, 8+statusSize*len(extents))
	lba := c.lba
	for _, e := range extents {
		blocks := uint64(e.Length / u.blockSize)
		b = binary.BigEndian.AppendUint64(b, lba)
		b = binary.BigEndian.AppendUint32(b, uint32(blocks))
		status := byte(statusMapped)
		if e.Hole {
			status = statusDeallocated
		}
		b = append(b, status, 0, 0, 0)
		lba += blocks
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return c.reply(b)
}
