package iscsi

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Text is key=value pairs, each ended by a zero byte (RFC 7143 6.1). A text
// that does not fit one PDU goes on in the next, cut anywhere.

// Pair is one key=value of a text.
type Pair struct{ Key, Value string }

// Bounds of RFC 7143 6.1.
const (
	MaxKey  = 63
	MinText = 8192 // the least text that every side must take
)

// The values that answer an offer without being a choice, RFC 7143 6.2.
const (
	ValueNone          = "None"
	ValueReject        = "Reject"
	ValueIrrelevant    = "Irrelevant"
	ValueNotUnderstood = "NotUnderstood"
)

// TextLimits bound what a peer may make us keep.
type TextLimits struct {
	MaxBytes int // of one text, over all its PDUs
	MaxPairs int // of one text
}

// DefaultTextLimits take several times what any known initiator sends.
var DefaultTextLimits = TextLimits{MaxBytes: 2 * MinText, MaxPairs: 256}

// What is wrong with a text. Each is wrapped with the place.
var (
	ErrTextTooLong   = errors.New("text is too long")
	ErrTextMalformed = errors.New("malformed text")
	ErrDuplicateKey  = errors.New("key is repeated")
)

// TextBuffer collects a text over the PDUs that carry it.
type TextBuffer struct {
	limits TextLimits
	text   []byte
}

// NewTextBuffer returns an empty buffer.
func NewTextBuffer(l TextLimits) *TextBuffer { return &TextBuffer{limits: l} }

// Add takes the data segment of one PDU; it keeps a copy.
func (t *TextBuffer) Add(data []byte) error {
	if n := len(t.text) + len(data); n > t.limits.MaxBytes {
		t.text = nil
		return fmt.Errorf("iscsi: %w: %d bytes, at most %d", ErrTextTooLong, n, t.limits.MaxBytes)
	}
	t.text = append(t.text, data...)
	return nil
}

// Pairs decodes what was added, and empties the buffer.
func (t *TextBuffer) Pairs() ([]Pair, error) {
	text := t.text
	t.text = nil
	return DecodeText(text, t.limits)
}

// DecodeText splits a whole text into its pairs, in order. A key that comes
// twice is an error: no text that a target receives may repeat one (RFC 7143
// 6.2). Zero bytes without a pair between them are skipped.
func DecodeText(text []byte, l TextLimits) ([]Pair, error) {
	pairs, err := splitText(text, l)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool, len(pairs))
	for _, p := range pairs {
		if seen[p.Key] {
			return nil, fmt.Errorf("iscsi: %w: %s", ErrDuplicateKey, p.Key)
		}
		seen[p.Key] = true
	}
	return pairs, nil
}

// splitText is DecodeText for texts that may repeat keys: the answer to
// SendTargets does.
func splitText(text []byte, l TextLimits) ([]Pair, error) {
	if len(text) > l.MaxBytes {
		return nil, fmt.Errorf("iscsi: %w: %d bytes, at most %d", ErrTextTooLong, len(text), l.MaxBytes)
	}
	var pairs []Pair
	for len(text) > 0 {
		end := bytes.IndexByte(text, 0)
		if end < 0 {
			return nil, fmt.Errorf("iscsi: %w: %q has no zero byte behind it", ErrTextMalformed, clip(string(text)))
		}
		if end > 0 {
			if len(pairs) == l.MaxPairs {
				return nil, fmt.Errorf("iscsi: %w: more than %d pairs", ErrTextTooLong, l.MaxPairs)
			}
			key, value, ok := strings.Cut(string(text[:end]), "=")
			if !ok || !isKey(key) {
				return nil, fmt.Errorf("iscsi: %w: no key in %q", ErrTextMalformed, clip(key))
			}
			pairs = append(pairs, Pair{key, value})
		}
		text = text[end+1:]
	}
	return pairs, nil
}

// isKey says that s is a key name: standard-label of RFC 7143 6.1, which starts
// with a capital letter, but iSCSIProtocolLevel does not.
func isKey(s string) bool {
	if s == "" || len(s) > MaxKey || !isLetter(s[0]) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		ok := isLetter(c) || c >= '0' && c <= '9' || strings.IndexByte(".-+@_#", c) >= 0
		if !ok {
			return false
		}
	}
	return true
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// AppendText adds pairs to dst in the form of the wire. Keys and values must
// hold no zero byte; keys that come from a peer have gone through DecodeText.
func AppendText(dst []byte, pairs ...Pair) []byte {
	for _, p := range pairs {
		dst = append(dst, p.Key...)
		dst = append(dst, '=')
		dst = append(dst, p.Value...)
		dst = append(dst, 0)
	}
	return dst
}

// CutText takes from text what fits one data segment of most bytes. If rest is
// not empty, the PDU of segment has its C bit set and the next carries rest.
func CutText(text []byte, most int) (segment, rest []byte) {
	n := min(len(text), most)
	return text[:n:n], text[n:]
}

// lookup finds the value of key.
func lookup(pairs []Pair, key string) (string, bool) {
	for _, p := range pairs {
		if p.Key == key {
			return p.Value, true
		}
	}
	return "", false
}
