package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/opencurve/curve-nbd/backend"
)

// parseSize reads a size in bytes: 512M, 10G, 10GiB, 1.5T, or plain bytes. All
// units are powers of 1024, as in qemu-img and lvcreate: 10G is 10 GiB.
func parseSize(what, text string) (int64, error) {
	bad := func(why string) error {
		return fmt.Errorf("%w: %s %q %s: give a size like 512M, 10G, 10GiB, 1.5T, or bytes", backend.ErrInvalid, what, text, why)
	}
	trimmed := strings.TrimSpace(text)
	// go-units answers -1 for both "cannot read" and "below zero".
	if strings.HasPrefix(trimmed, "-") {
		return 0, bad("is negative")
	}
	// It computes in float64, which cannot tell neighbouring bytes apart from
	// 8 PiB on; a plain count needs no unit.
	n, err := strconv.ParseInt(trimmed, 10, 64)
	if err != nil {
		n, err = units.RAMInBytes(trimmed)
	}
	switch {
	case err != nil || strings.ContainsAny(trimmed, "+eExX_"):
		return 0, bad("is not a size")
	case n < 0 || n > backend.MaxVolumeSize:
		// Its conversion from float64 wraps round for what is too large.
		return 0, bad(fmt.Sprintf("is above the limit of %d bytes", int64(backend.MaxVolumeSize)))
	case n == 0:
		return 0, bad("is zero")
	}
	return n, nil
}

// sizeText is a size for people: 10GiB.
func sizeText(bytes int64) string { return units.BytesSize(float64(bytes)) }
