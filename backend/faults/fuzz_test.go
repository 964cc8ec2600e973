package faults

import (
	"bytes"
	"testing"
)

// What readMessage returns is what it read, byte for byte, whatever follows.
func FuzzReadMessage(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 3, 'a', 'b', 'c', 9})
	f.Add([]byte{1, 0, 0, 0, 0})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := bytes.NewReader(wire)
		message, err := readMessage(r)
		if err != nil {
			return
		}
		if read := len(wire) - r.Len(); len(message) != read || !bytes.Equal(message, wire[:read]) || read < messagePrefix {
			t.Fatalf("%d bytes of %d read, as %x", read, len(wire), message)
		}
	})
}
