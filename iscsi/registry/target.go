package registry

import (
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi"
)

// Target is one iSCSI target as it is configured: a value, never changed once it
// was handed out.
type Target struct {
	// Name is in the form of iscsi.ParseName.
	Name  string
	Alias string
	// Units by number, ascending.
	Units []Unit
	// Access says who may log in and what they see there; nobody while it is
	// empty.
	Access []Access
	// Users may log in by CHAP; without any, no proof is asked for.
	Users []Credential
	// Mutual is what the target proves itself with; nil if it cannot.
	Mutual    *Credential
	CreatedAt time.Time
}

// Unit is a volume as a logical unit of a target.
type Unit struct {
	Number int // 0 to iscsi.MaxLUN
	Volume string
	// ID keeps a volume that was made later under the same name from being
	// taken for this one.
	ID       backend.VolumeID
	ReadOnly bool
	// Removable makes the volume a medium that initiators eject and load.
	Removable bool
	// PhysicalBlock is the physical block that initiators are told of, in bytes:
	// DefaultPhysicalBlock, or the volume's own block.
	PhysicalBlock int64
}

// DefaultPhysicalBlock is what volumes are best written in.
const DefaultPhysicalBlock = backend.ChecksumBlock

// Alike says whether two units of one volume can both be served: what is behind them
// is the same logical unit.
func (u Unit) Alike(v Unit) bool {
	return u.Removable == v.Removable && u.PhysicalBlock == v.PhysicalBlock
}

// nature is what has to be alike.
func (u Unit) nature() string {
	kind := "fixed"
	if u.Removable {
		kind = "removable"
	}
	return fmt.Sprintf("%s, with physical blocks of %d", kind, u.PhysicalBlock)
}

// AnyInitiator in Access is every initiator.
const AnyInitiator = "any"

// Access lets an initiator in.
type Access struct {
	// Initiator is a name in the form of iscsi.ParseName, or AnyInitiator.
	Initiator string
	// Units are the numbers that it sees; nil for all.
	Units []int
}

// Credential is a name and what proves it.
type Credential struct {
	Name   string
	Secret iscsi.Secret
}

// Sees returns the units that an initiator sees, and false if it may not log
// in.
func (t *Target) Sees(initiator string) (units []Unit, allowed bool) {
	seen := make(map[int]bool)
	for _, a := range t.Access {
		if a.Initiator != initiator && a.Initiator != AnyInitiator {
			continue
		}
		allowed = true
		if a.Units == nil {
			return t.Units, true
		}
		for _, n := range a.Units {
			seen[n] = true
		}
	}
	for _, u := range t.Units {
		if seen[u.Number] {
			units = append(units, u)
		}
	}
	return units, allowed
}
