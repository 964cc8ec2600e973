package iscsi

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// The examples of RFC 7143 appendix A.4.
func TestDigestVectorsOfTheRFC(t *testing.T) {
	up, down := make([]byte, 32), make([]byte, 32)
	for i := range up {
		up[i], down[31-i] = byte(i), byte(i)
	}
	read := bhs(t, "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018 28000000 00000000 02000000 00000000")
	for _, c := range []struct {
		name   string
		digest uint32
		want   string
	}{
		{"32 bytes of zeros", DataDigest(make([]byte, 32)), "aa36918a"},
		{"32 bytes of ones", DataDigest(bytes.Repeat([]byte{0xff}, 32)), "43aba862"},
		{"incrementing", DataDigest(up), "4e79dd46"},
		{"decrementing", DataDigest(down), "5cdb3f11"},
		{"SCSI Read (10) Command PDU", HeaderDigest(read, nil), "563a96d9"},
	} {
		var b [DigestSize]byte
		PutDigest(b[:], c.digest)
		if got := hex.EncodeToString(b[:]); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if GetDigest(b[:]) != c.digest {
			t.Errorf("%s: not read back", c.name)
		}
	}
}

func TestDigestCoversPaddingAndAHS(t *testing.T) {
	data := []byte("seven b")
	padded := append(bytes.Clone(data), 0)
	if DataDigest(data) != DataDigestOf(padded) {
		t.Error("digest of a segment leaves out its padding")
	}
	if DataDigestAdd(DataDigestAdd(0, data[:3], -1), data[3:], len(data)) != DataDigest(data) {
		t.Error("digest in two steps differs")
	}
	if DataDigestOf([]byte("seven b\x01")) == DataDigest(data) {
		t.Error("padding that is not zero goes unnoticed")
	}
	header := &BHS{0: 1, 4: 2}
	if HeaderDigest(header, padded) != DataDigestOf(append(header[:], padded...)) {
		t.Error("header digest leaves out additional headers")
	}
}

func TestParseCommandAHS(t *testing.T) {
	long := make([]byte, MaxCDB-baseCDB)
	for _, c := range []struct {
		name string
		ahs  string
		want *CommandAHS // nil: refused
	}{
		{"none", "", &CommandAHS{}},
		{"32-byte CDB", "0011 01 00" + strings.Repeat("ab", 16), &CommandAHS{ExtendedCDB: bytes.Repeat([]byte{0xab}, 16)}},
		{"17-byte CDB is padded", "0002 01 00 ab000000", &CommandAHS{ExtendedCDB: []byte{0xab}}},
		{"bidirectional length", "0005 02 00 00001000", &CommandAHS{HasBidi: true, BidiReadLength: 4096}},
		{"longest CDB and length", "00f5 01 00" + hex.EncodeToString(long) + "0005 02 00 00001000", &CommandAHS{long, true, 4096}},
		{"reserved bits of the type are ignored", "0005 c2 00 00001000", &CommandAHS{HasBidi: true, BidiReadLength: 4096}},
		{"CDB too long", "00f6 01 00" + hex.EncodeToString(long) + "00000000", nil},
		{"CDB of nothing", "0001 01 00", nil},
		{"length 0 would never end", "0000 01 00", nil},
		{"ends behind the header", "0012 01 00" + strings.Repeat("ab", 16), nil},
		{"cut short", "0001", nil},
		{"short bidirectional length", "0004 02 00 00001000", nil},
		{"two CDBs", "0002 01 00 ab000000 0002 01 00 ab000000", nil},
		{"two lengths", "0005 02 00 00001000 0005 02 00 00001000", nil},
		{"reserved type", "0005 00 00 00001000", nil},
		{"vendor type", "0005 3c 00 00001000", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, err := hex.DecodeString(strings.ReplaceAll(c.ahs, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseCommandAHS(raw)
			if (err == nil) != (c.want != nil) {
				t.Fatalf("got %+v, %v", got, err)
			}
			if c.want != nil && !reflect.DeepEqual(got, *c.want) {
				t.Errorf("got %+v, want %+v", got, *c.want)
			}
			if c.want != nil && !strings.HasPrefix(c.name, "reserved") && !bytes.Equal(c.want.Append(nil), raw) {
				t.Errorf("Append gives %x, want %x", c.want.Append(nil), raw)
			}
		})
	}
}

func TestLUN(t *testing.T) {
	for _, c := range []struct {
		name   string
		lun    LUN
		number int // -1: none
	}{
		{"peripheral", LUN{0, 5}, 5},
		{"flat", LUN{0x41, 0x02}, 258},
		{"flat below 256", LUN{0x40, 0x05}, 5},
		{"highest", LUN{0x7f, 0xff}, MaxLUN},
		{"as libiscsi writes a number", LUN{1, 5}, 261},
		{"logical unit addressing", LUN{0x80, 5}, -1},
		{"well known", LUN{0xc1, 1}, -1},
		{"second level", LUN{0, 5, 0, 1}, -1},
	} {
		n, ok := c.lun.Number()
		if text := c.lun.String(); (c.number < 0) != strings.HasPrefix(text, "0x") {
			t.Errorf("%s: printed as %s", c.name, text)
		}
		if ok != (c.number >= 0) || ok && n != c.number {
			t.Errorf("%s: %d, %v, want %d", c.name, n, ok, c.number)
		}
	}
	for n := range MaxLUN + 1 {
		l, ok := LUNOf(n)
		if back, ok2 := l.Number(); !ok || !ok2 || back != n {
			t.Fatalf("LUN %d comes back as %d", n, back)
		}
	}
	if _, ok := LUNOf(MaxLUN + 1); ok {
		t.Error("a LUN that flat addressing cannot say was made")
	}
	if _, ok := LUNOf(-1); ok {
		t.Error("a negative LUN was made")
	}
}

func TestParseName(t *testing.T) {
	at := func(n int) string { return "iqn.2001-04.com.example:" + strings.Repeat("a", n-24) }
	for _, c := range []struct {
		name string
		in   string
		want string // empty: refused
	}{
		{"of an initiator", "iqn.1993-08.org.debian:01:abcdef", "iqn.1993-08.org.debian:01:abcdef"},
		{"without a local part", "iqn.2001-04.com.example", "iqn.2001-04.com.example"},
		{"upper case is folded", "IQN.1991-05.com.Microsoft:Host", "iqn.1991-05.com.microsoft:host"},
		{"other letters", "iqn.2001-04.com.example:ÄÖ", "iqn.2001-04.com.example:äö"},
		{"underscore of a host name", "iqn.2001-04.com.example:a_b", "iqn.2001-04.com.example:a_b"},
		{"eui", "eui.02004567A425678D", "eui.02004567a425678d"},
		{"naa 64 bits", "naa.52004567BA64678D", "naa.52004567ba64678d"},
		{"naa 128 bits", "naa.62004567BA64678D0123456789ABCDEF", "naa.62004567ba64678d0123456789abcdef"},
		{"longest", at(MaxName), at(MaxName)},
		{"too long", at(MaxName + 1), ""},
		{"empty", "", ""},
		{"other kind", "wwn.2001", ""},
		{"no dot", "iqn", ""},
		{"month 13", "iqn.2001-13.com.example", ""},
		{"month 0", "iqn.2001-00.com.example", ""},
		{"no domain", "iqn.2001-04.:x", ""},
		{"only a date", "iqn.2001-04", ""},
		{"empty label", "iqn.2001-04.com..example", ""},
		{"blank", "iqn.2001-04.com.example:a b", ""},
		{"slash", "iqn.2001-04.com.example:a/b", ""},
		{"zero byte", "iqn.2001-04.com.example:a\x00b", ""},
		{"not UTF-8", "iqn.2001-04.com.example:\xff", ""},
		{"eui with 15 digits", "eui.02004567A425678", ""},
		{"naa with a letter", "naa.52004567BA64678G", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseName(c.in)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestISID(t *testing.T) {
	for _, c := range []struct {
		isid   ISID
		format ISIDFormat
		text   string
	}{
		{ISID{0x00, 0x02, 0x3d, 0, 0, 1}, ISIDOUI, "00023d000001"},
		{ISID{0x40, 0x00, 0x01, 0x37, 0, 0}, ISIDEN, "400001370000"},
		{ISID{0x80, 0x12, 0x34, 0x56, 0, 2}, ISIDRandom, "801234560002"},
		{ISID{0xc0}, ISIDReserved, "c00000000000"},
	} {
		if c.isid.Format() != c.format || c.isid.String() != c.text || c.isid.Qualifier() != uint16(c.isid[5]) {
			t.Errorf("%v is of format %d, qualifier %d", c.isid, c.isid.Format(), c.isid.Qualifier())
		}
	}
}
