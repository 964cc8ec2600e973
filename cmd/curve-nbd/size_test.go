package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
	}{
		{"1", 1},
		{"4096", 4096},
		{"512M", 512 << 20},
		{"10G", 10 << 30},
		{"10g", 10 << 30},
		{"10GB", 10 << 30},
		{"10GiB", 10 << 30},
		{" 10 GiB ", 10 << 30},
		{"1.5T", 3 << 39},
		{"1P", 1 << 50},
		{"512b", 512},
		{"64k", 64 << 10},
		{"1152921504606846976", backend.MaxVolumeSize},
		{"1152921504606846975", backend.MaxVolumeSize - 1}, // not rounded through a float
		{"9007199254740993", 1<<53 + 1},
	} {
		t.Run(c.text, func(t *testing.T) {
			if got, err := parseSize("--size", c.text); err != nil || got != c.want {
				t.Errorf("got %d, %v; want %d", got, err, c.want)
			}
		})
	}
}

func TestBadSizesSayWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{"", "not a size"},
		{"G", "not a size"},
		{"ten", "not a size"},
		{"10X", "not a size"},
		{"10Gi", "not a size"},
		{"10GG", "not a size"},
		{"1e3", "not a size"},
		{"0x10", "not a size"},
		{"1_000", "not a size"},
		{"+5", "not a size"},
		{"NaN", "not a size"},
		{"1G;rm", "not a size"},
		{"0", "zero"},
		{"0G", "zero"},
		{"0.1", "zero"},
		{"-1", "negative"},
		{"-10G", "negative"},
		{"1152921504606846977", "above the limit"},
		{"9223372036854775808", "above the limit"},
		{"2000P", "above the limit"},
		{"99999999999999999999999999P", "above the limit"},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := parseSize("--size", c.text)
			if !errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "--size") {
				t.Errorf("got %d, %v; want an error that says %q", got, err, c.says)
			}
		})
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"1", "10G", "1.5TiB", "-1", "1e300", "9223372036854775808", " 5 kb "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseSize("size", text)
		if err == nil && (n <= 0 || n > backend.MaxVolumeSize) {
			t.Fatalf("%q became %d", text, n)
		}
		if err != nil && !errors.Is(err, backend.ErrInvalid) {
			t.Fatalf("%q: %v is not ErrInvalid", text, err)
		}
	})
}
