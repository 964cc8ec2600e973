package iscsi

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

var small = TextLimits{MaxBytes: 64, MaxPairs: 4}

func TestDecodeText(t *testing.T) {
	key63 := "K" + strings.Repeat("k", 62)
	for _, c := range []struct {
		name string
		text string
		want []Pair
		err  error
	}{
		{"nothing", "", nil, nil},
		{"two pairs in order", "B=1\x00A=2\x00", []Pair{{"B", "1"}, {"A", "2"}}, nil},
		{"value with the separator and empty value", "A=b=c\x00B=\x00", []Pair{{"A", "b=c"}, {"B", ""}}, nil},
		{"zero bytes between pairs", "\x00A=1\x00\x00B=2\x00\x00", []Pair{{"A", "1"}, {"B", "2"}}, nil},
		{"vendor keys", "X-com.example.k=1\x00X#k=2\x00", []Pair{{"X-com.example.k", "1"}, {"X#k", "2"}}, nil},
		{"small first letter, as the RFC itself has", "iSCSIProtocolLevel=1\x00", []Pair{{"iSCSIProtocolLevel", "1"}}, nil},
		{"longest key", key63 + "=\x00", []Pair{{key63, ""}}, nil},
		{"key too long", key63 + "k=\x00", nil, ErrTextMalformed},
		{"key with a blank", "A B=1\x00", nil, ErrTextMalformed},
		{"key starts with a digit", "1A=1\x00", nil, ErrTextMalformed},
		{"no key", "=1\x00", nil, ErrTextMalformed},
		{"no separator", "ABC\x00", nil, ErrTextMalformed},
		{"last pair is not ended", "A=1\x00B=2", nil, ErrTextMalformed},
		{"repeated key", "A=1\x00B=2\x00A=1\x00", nil, ErrDuplicateKey},
		{"too many pairs", "A=\x00B=\x00C=\x00D=\x00E=\x00", nil, ErrTextTooLong},
		{"too long", "A=" + strings.Repeat("x", 62) + "\x00", nil, ErrTextTooLong},
	} {
		t.Run(c.name, func(t *testing.T) {
			limits := small
			if c.name == "longest key" || c.name == "key too long" {
				limits.MaxBytes = 100
			}
			got, err := DecodeText([]byte(c.text), limits)
			if !errors.Is(err, c.err) || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, %v, want %v, %v", got, err, c.want, c.err)
			}
		})
	}
}

// A text is cut anywhere, in the middle of a key too.
func TestTextGoesOnOverPDUs(t *testing.T) {
	pairs := []Pair{{"InitiatorName", "iqn.2001-04.com.example"}, {"AuthMethod", "None"}}
	text := AppendText(nil, pairs...)
	for most := 1; most <= len(text)+1; most++ {
		buffer := NewTextBuffer(DefaultTextLimits)
		for rest := text; len(rest) > 0; {
			var segment []byte
			segment, rest = CutText(rest, most)
			if len(segment) > most {
				t.Fatalf("segment of %d bytes, most %d", len(segment), most)
			}
			if err := buffer.Add(segment); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := buffer.Pairs(); err != nil || !reflect.DeepEqual(got, pairs) {
			t.Fatalf("in pieces of %d: %v, %v", most, got, err)
		}
		if got, err := buffer.Pairs(); err != nil || got != nil {
			t.Fatalf("the buffer kept %v, %v", got, err)
		}
	}
}

func TestTextBufferIsBounded(t *testing.T) {
	buffer := NewTextBuffer(small)
	var err error
	for range 3 {
		if err == nil {
			err = buffer.Add(make([]byte, 32))
		}
	}
	if !errors.Is(err, ErrTextTooLong) {
		t.Errorf("96 bytes went into 64: %v", err)
	}
	if DefaultTextLimits.MaxBytes < MinText {
		t.Error("takes less than RFC 7143 6.1 wants")
	}
}

func TestParseNumber(t *testing.T) {
	for _, c := range []struct {
		in   string
		want uint64
		ok   bool
	}{
		{"0", 0, true}, {"262144", 262144, true}, {"0x40000", 262144, true}, {"0X0fF", 255, true},
		{"18446744073709551615", 1<<64 - 1, true}, {"18446744073709551616", 0, false}, {"0x10000000000000000", 0, false},
		{"", 0, false}, {"0x", 0, false}, {"01", 0, false}, {"-1", 0, false}, {"+1", 0, false}, {"1_0", 0, false}, {"1 ", 0, false}, {"0xg", 0, false}, {"Yes", 0, false},
	} {
		got, err := ParseNumber(c.in)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %d, %v", c.in, got, err)
		}
	}
}

func TestParseRange(t *testing.T) {
	if low, high, err := ParseRange("512~0x1000"); low != 512 || high != 4096 || err != nil {
		t.Errorf("%d to %d, %v", low, high, err)
	}
	for _, bad := range []string{"", "1", "1~", "~1", "2~1", "1~2~3", "a~b"} {
		if _, _, err := ParseRange(bad); !errors.Is(err, ErrValue) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParseBool(t *testing.T) {
	for _, c := range []struct {
		in       string
		want, ok bool
	}{{"Yes", true, true}, {"No", false, true}, {"yes", false, false}, {"", false, false}, {"1", false, false}} {
		if got, err := ParseBool(c.in); got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %v, %v", c.in, got, err)
		}
	}
}

func TestParseList(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"CRC32C,None", []string{"CRC32C", "None"}},
		{"None", []string{"None"}},
		{"", nil}, {"a,", nil}, {",a", nil}, {"a,,b", nil},
		{strings.Repeat("a,", maxList) + "a", nil},
	} {
		if got, err := ParseList(c.in); !reflect.DeepEqual(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%q: %v, %v", clip(c.in), got, err)
		}
	}
}

func TestParseBinary(t *testing.T) {
	for _, c := range []struct {
		name string
		in   string
		want []byte
	}{
		{"hexadecimal", "0x00ff", []byte{0, 255}},
		{"capitals", "0X00FF", []byte{0, 255}},
		{"odd number of digits", "0xfff", []byte{15, 255}},
		{"base64", "0bAP8=", []byte{0, 255}},
		{"capital B", "0BAP8=", []byte{0, 255}},
		{"as long as allowed", "0x" + strings.Repeat("ab", 4), bytes.Repeat([]byte{0xab}, 4)},
		{"a byte more", "0x" + strings.Repeat("ab", 5), nil},
		{"a byte more in base64", "0bAAAAAAA=", nil},
		{"far more", "0x" + strings.Repeat("ab", 500), nil},
		{"nothing", "0x", nil},
		{"nothing in base64", "0b", nil},
		{"no prefix", "00ff", nil},
		{"bad digit", "0x0g", nil},
		{"base64 with line break", "0bAP\n8=", nil},
		{"base64 without padding", "0bAP8", nil},
	} {
		got, err := ParseBinary(c.in, 4)
		if !bytes.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%s: %x, %v", c.name, got, err)
		}
		if c.want != nil {
			if back, err := ParseBinary(FormatBinary(c.want), 4); err != nil || !bytes.Equal(back, c.want) {
				t.Errorf("%s: not read back: %x, %v", c.name, back, err)
			}
		}
	}
}

func TestAppendTargets(t *testing.T) {
	got := AppendTargets(nil, []DiscoveredTarget{
		{Name: "iqn.2001-04.com.example:a", Portals: []Portal{{Host: "10.0.0.1", Group: 1}, {Host: "fe80::1", Port: 3261, Group: 2}}},
		{Name: "iqn.2001-04.com.example:b", Portals: []Portal{{Host: "[::1]", Group: 1}}},
	})
	want := "TargetName=iqn.2001-04.com.example:a\x00TargetAddress=10.0.0.1:3260,1\x00TargetAddress=[fe80::1]:3261,2\x00" +
		"TargetName=iqn.2001-04.com.example:b\x00TargetAddress=[::1]:3260,1\x00"
	if string(got) != want {
		t.Errorf("got %q", got)
	}
	if pairs, err := splitText(got, DefaultTextLimits); err != nil || len(pairs) != 5 {
		t.Errorf("not read back: %v, %v", pairs, err)
	}
	if len(AppendTargets(nil, nil)) != 0 {
		t.Error("no target is not an empty text")
	}
}
