package chunkstore

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// TestFormatIsUnchanged: files written by earlier builds must stay readable. A
// new format needs a new version, and these bytes kept as its predecessor's.
func TestFormatIsUnchanged(t *testing.T) {
	for _, tc := range []struct {
		name, magic string
		h           header
		want        string
	}{
		{"clean header", headerMagic, header{mark: markClean, chunk: 0x0102030405060708, volume: 0x1112131415161718, size: backend.DefaultChunkSize, tableSum: 0x21222324}, "437572766543686b01000000020000000807060504030201181716151413121100000001000000002423222100000000 2b6f4fb5"},
		{"dirty header", headerMagic, header{mark: markDirty, chunk: 1, volume: 2, size: backend.MinChunkSize}, "437572766543686b01000000010000000100000000000000020000000000000000000100000000000000000000000000 52d1eeb1"},
		{"seal", sealMagic, header{chunk: 1, volume: 2, size: backend.MinChunkSize}, "437572766553656101000000000000000100000000000000020000000000000000000100000000000000000000000000 dd237522"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var sector [sectorSize]byte
			tc.h.encode(&sector, tc.magic)
			got := hex.EncodeToString(sector[:48]) + " " + hex.EncodeToString(sector[508:])
			if got != tc.want || strings.Trim(hex.EncodeToString(sector[48:508]), "0") != "" {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			if h, err := decodeHeader(&sector, tc.magic); err != nil || h != tc.h {
				t.Errorf("decodes to %+v, %v", h, err)
			}
		})
	}
	if got := zeroBlockSum; got != 0x98f94189 {
		t.Errorf("entry of a block of zeros is %#x", got)
	}
	for _, tc := range []struct{ size, sealOff, dataOff int64 }{
		{64 << 10, 8192, 64 << 10}, {16 << 20, 20480, 64 << 10}, {64 << 20, 69632, 128 << 10},
	} {
		if l := layoutOf(tc.size); l.sealOff != tc.sealOff || l.dataOff != tc.dataOff {
			t.Errorf("layout of %d: seal at %d, data at %d; expected %d and %d", tc.size, l.sealOff, l.dataOff, tc.sealOff, tc.dataOff)
		}
	}
}
