package iscsi

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxName is the longest iSCSI name in bytes, RFC 7143 4.2.7.1.
const MaxName = 223

// ErrName is wrapped by what ParseName says of a name it refuses.
var ErrName = errors.New("not an iSCSI name")

// ParseName checks an iSCSI name (RFC 7143 4.2.7) and returns it in the form
// that is compared: lower case. The name is iqn.YYYY-MM.reversed.domain with an
// optional :rest, eui. with 16 hexadecimal digits, or naa. with 16 or 32.
func ParseName(s string) (string, error) {
	bad := func(why string) (string, error) { return "", fmt.Errorf("%w: %q: %s", ErrName, clip(s), why) }
	if len(s) > MaxName {
		return bad(fmt.Sprintf("%d bytes, at most %d", len(s), MaxName))
	}
	if !utf8.ValidString(s) {
		return bad("not UTF-8")
	}
	name := strings.ToLower(s)
	if len(name) > MaxName { // some letters are longer in lower case
		return bad(fmt.Sprintf("%d bytes in lower case, at most %d", len(name), MaxName))
	}
	kind, rest, ok := strings.Cut(name, ".")
	if !ok {
		return bad("must start with iqn., eui. or naa.")
	}
	switch kind {
	case "iqn":
		if why := checkIQN(rest); why != "" {
			return bad(why)
		}
	case "eui":
		if len(rest) != 16 || !isHex(rest) {
			return bad("eui. takes 16 hexadecimal digits")
		}
	case "naa":
		if len(rest) != 16 && len(rest) != 32 || !isHex(rest) {
			return bad("naa. takes 16 or 32 hexadecimal digits")
		}
	default:
		return bad("must start with iqn., eui. or naa.")
	}
	return name, nil
}

// checkIQN says what is wrong with a name behind "iqn.", or "".
func checkIQN(rest string) string {
	date, authority, ok := strings.Cut(rest, ".")
	if !ok || !isDate(date) {
		return "iqn. takes the year and month the domain was owned, as in iqn.2001-04.com.example"
	}
	domain, _, _ := strings.Cut(authority, ":")
	if domain == "" || strings.HasPrefix(domain, ".") || strings.HasSuffix(domain, ".") || strings.Contains(domain, "..") {
		return "iqn. takes a reversed domain name behind the date"
	}
	for _, r := range authority {
		if !nameRune(r) {
			return fmt.Sprintf("character %q is not allowed", r)
		}
	}
	return ""
}

// nameRune allows what the stringprep profile of RFC 3722 does, seen after
// lower-casing: letters and digits of any script, dash, dot and colon. The
// underscore it forbids is let through: initiators that name themselves after
// their host have it, and it means nothing else to anyone.
func nameRune(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == ':' || r == '_'
	}
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r)
}

func isDate(s string) bool {
	if len(s) != 7 || s[4] != '-' {
		return false
	}
	month := s[5:]
	return isDigits(s[:4]) && isDigits(month) && month >= "01" && month <= "12"
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// clip keeps what a peer sent from filling a log line.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// ISID is the initiator's part of a session's identity, RFC 7143 11.12.5. A
// target compares it and never looks inside; the formats are for people.
type ISID [6]byte

// ISIDFormat is how an ISID was made unique.
type ISIDFormat uint8

// The formats, in the two high bits of an ISID.
const (
	ISIDOUI      ISIDFormat = 0
	ISIDEN       ISIDFormat = 1
	ISIDRandom   ISIDFormat = 2
	ISIDReserved ISIDFormat = 3
)

// Format is the naming authority's kind.
func (i ISID) Format() ISIDFormat { return ISIDFormat(i[0] >> 6) }

// Qualifier is the part the initiator chose for the session.
func (i ISID) Qualifier() uint16 { return uint16(i[4])<<8 | uint16(i[5]) }

// String is the ISID as open-iscsi prints it: 12 hexadecimal digits.
func (i ISID) String() string { return fmt.Sprintf("%x", i[:]) }
