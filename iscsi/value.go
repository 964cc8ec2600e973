package iscsi

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrValue is wrapped by what the parsers of values return. The value itself is
// not repeated in it: it may be a secret's answer.
var ErrValue = errors.New("bad value")

// maxList bounds the values of one list.
const maxList = 64

func badValue(why string) error { return fmt.Errorf("iscsi: %w: %s", ErrValue, why) }

// ParseBool reads boolean-value: Yes or No, in this spelling.
func ParseBool(s string) (bool, error) {
	switch s {
	case "Yes":
		return true, nil
	case "No":
		return false, nil
	}
	return false, badValue("neither Yes nor No")
}

func formatBool(v bool) string {
	if v {
		return "Yes"
	}
	return "No"
}

// ParseNumber reads numerical-value: decimal without leading zeros, or
// hexadecimal with 0x, up to 64 bits (RFC 7143 6.1).
func ParseNumber(s string) (uint64, error) {
	digits, base := s, 10
	if hexDigits, ok := cutPrefixFold(s, "0x"); ok {
		digits, base = hexDigits, 16
		if !isHex(digits) {
			return 0, badValue("not a hexadecimal number")
		}
	} else if !isDigits(s) || len(s) > 1 && s[0] == '0' {
		return 0, badValue("not a decimal number")
	}
	n, err := strconv.ParseUint(digits, base, 64)
	if err != nil {
		return 0, badValue("number is too large")
	}
	return n, nil
}

// ParseRange reads numeric-range: two numbers with ~ between, in order.
func ParseRange(s string) (low, high uint64, err error) {
	a, b, ok := strings.Cut(s, "~")
	if !ok {
		return 0, 0, badValue("not a range")
	}
	if low, err = ParseNumber(a); err != nil {
		return 0, 0, err
	}
	if high, err = ParseNumber(b); err != nil {
		return 0, 0, err
	}
	if low > high {
		return 0, 0, badValue("range ends before it starts")
	}
	return low, high, nil
}

// ParseList reads list-of-values, in order of preference.
func ParseList(s string) ([]string, error) {
	if strings.Count(s, ",") >= maxList {
		return nil, badValue("list is too long")
	}
	list := strings.Split(s, ",")
	if slices.Contains(list, "") {
		return nil, badValue("list has an empty value")
	}
	return list, nil
}

// ParseBinary reads large-binary-value of at most most bytes: hexadecimal with
// 0x or base64 with 0b (RFC 7143 6.1). A hexadecimal value with an odd number
// of digits has a zero in front.
func ParseBinary(s string, most int) ([]byte, error) {
	if len(s) > 2+2*most+4 {
		return nil, badValue("binary value is too long")
	}
	var b []byte
	var err error
	if digits, ok := cutPrefixFold(s, "0x"); ok {
		if len(digits)%2 != 0 {
			digits = "0" + digits
		}
		b, err = hex.DecodeString(digits)
	} else if digits, ok := cutPrefixFold(s, "0b"); ok {
		if strings.ContainsAny(digits, "\r\n") { // which the decoder would skip
			return nil, badValue("not a binary value")
		}
		b, err = base64.StdEncoding.DecodeString(digits)
	} else {
		return nil, badValue("binary value starts with neither 0x nor 0b")
	}
	switch {
	case err != nil:
		return nil, badValue("not a binary value")
	case len(b) == 0:
		return nil, badValue("binary value is empty")
	case len(b) > most:
		return nil, badValue("binary value is too long")
	}
	return b, nil
}

// FormatBinary writes b in hexadecimal, which every initiator reads.
func FormatBinary(b []byte) string { return "0x" + hex.EncodeToString(b) }

// cutPrefixFold is strings.CutPrefix for a prefix of two ASCII characters,
// whose letter may be of either case.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
