package iscsi

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Secret is a CHAP secret. Printing, logging or encoding it in any way shows
// only that it is one.
type Secret struct{ bytes []byte }

const redacted = "[secret]"

// MinSecret is the shortest secret in bytes that RFC 7143 12.1.3 recommends
// without IPsec: 96 bits. Longer ones resist guessing from a captured login.
const MinSecret = 12

// NewSecret keeps a copy of s.
func NewSecret(s string) Secret { return Secret{[]byte(s)} }

// IsZero says that there is no secret.
func (s Secret) IsZero() bool { return len(s.bytes) == 0 }

// Len is the length in bytes, for rules about it: see MinSecret.
func (s Secret) Len() int { return len(s.bytes) }

// Equal compares in a time that depends on the lengths only.
func (s Secret) Equal(o Secret) bool { return subtle.ConstantTimeCompare(s.bytes, o.bytes) == 1 }

// String does not show the secret.
func (s Secret) String() string { return redacted }

// Format keeps every verb of fmt from the bytes.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText keeps encoders from the bytes.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue keeps loggers from the bytes.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// RevealForStorage returns the bytes, for whoever keeps the secret where only the
// target can read it. CHAP needs the secret itself on both sides: there is no hash
// to keep in its place.
func (s Secret) RevealForStorage() []byte { return bytes.Clone(s.bytes) }
