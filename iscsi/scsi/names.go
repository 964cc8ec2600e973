package scsi

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// What INQUIRY says of the maker.
const (
	vendor   = "CURVE"
	product  = "CURVE VOLUME"
	revision = "1.0"
)

// names are what initiators tell units apart by. They derive from the identity
// alone, so that two paths to one volume agree and no two volumes do: multipath
// software merges what has the same name.
type names struct {
	serial string
	naa    uint64
}

func namesOf(identity string) names {
	h := sha256.Sum256([]byte("curve-nbd scsi unit\x00" + identity))
	// NAA 3h, locally assigned: we have no IEEE company id to put in front. 60
	// bits of a hash are enough for any number of volumes that one host sees.
	return names{
		serial: hex.EncodeToString(h[8:24]),
		naa:    3<<60 | binary.BigEndian.Uint64(h[:])>>4,
	}
}

// Designator types, code sets and associations (SPC-4, 7.8.6).
const (
	designatorT10      = 0x1
	designatorNAA      = 0x3
	designatorPort     = 0x4
	designatorGroup    = 0x5
	designatorName     = 0x8
	codeBinary         = 0x1
	codeASCII          = 0x2
	codeUTF8           = 0x3
	ofUnit             = 0x00
	ofPort             = 0x10
	ofDevice           = 0x20
	designatorISCSI    = 0x50 // protocol identifier 5
	designatorProtocol = 0x80 // PIV
)

// designator appends one designation descriptor.
func designator(b []byte, codeSet, kind byte, value []byte) []byte {
	if kind&0x30 != ofUnit {
		codeSet, kind = codeSet|designatorISCSI, kind|designatorProtocol
	}
	b = append(b, codeSet, kind, 0, byte(len(value)))
	return append(b, value...)
}

// nameString is a SCSI name: NUL-terminated and padded to a multiple of 4.
func nameString(s string) []byte {
	s = s[:min(len(s), 247)]
	return append([]byte(s), make([]byte, 4-len(s)%4)...)
}

// identification is the device identification page.
func (u *Unit) identification(n *Nexus) []byte {
	var naa [8]byte
	binary.BigEndian.PutUint64(naa[:], u.names.naa)
	b := designator(nil, codeBinary, ofUnit|designatorNAA, naa[:])
	b = designator(b, codeASCII, ofUnit|designatorT10, append(fixed(vendor, 8), u.names.serial...))
	b = designator(b, codeUTF8, ofUnit|designatorName, nameString("naa."+hex.EncodeToString(naa[:])))
	b = designator(b, codeBinary, ofPort|designatorPort, []byte{0, 0, byte(n.port.ID >> 8), byte(n.port.ID)})
	if group, ok := u.groupOf(n.port.ID); ok {
		b = designator(b, codeBinary, ofPort|designatorGroup, []byte{0, 0, byte(group >> 8), byte(group)})
	}
	if n.port.Name != "" {
		b = designator(b, codeUTF8, ofPort|designatorName, nameString(n.port.Name))
	}
	if n.port.Device != "" {
		b = designator(b, codeUTF8, ofDevice|designatorName, nameString(n.port.Device))
	}
	return b
}
