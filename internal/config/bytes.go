package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size in memory: "64MiB", "1GiB", "500MB", "4096".
type Bytes int64

// AutoBytes is a size that may be left to the server: "auto" is 0.
type AutoBytes int64

const auto = "auto"

// UnmarshalText reads auto, or what Bytes reads but 0.
func (a *AutoBytes) UnmarshalText(text []byte) error {
	if strings.TrimSpace(string(text)) == auto {
		*a = 0
		return nil
	}
	var b Bytes
	if err := b.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w, or auto", err)
	}
	if b == 0 {
		return fmt.Errorf("%q: want more than 0, or auto", text)
	}
	*a = AutoBytes(b)
	return nil
}

// String is auto, or the size as Bytes writes it.
func (a AutoBytes) String() string {
	if a == 0 {
		return auto
	}
	return Bytes(a).String()
}

var units = []struct {
	suffix string
	bytes  int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}, {"", 1},
}

// UnmarshalText reads a number, which may have a fraction, and a unit.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || math.IsNaN(n) || n < 0 || n*float64(u.bytes) >= math.MaxInt64 {
			break
		}
		*b = Bytes(n * float64(u.bytes))
		return nil
	}
	return fmt.Errorf("%q: want a size such as 64MiB, 1.5GiB or 4096", s)
}

// Short is the size for a person: three digits or so, in the unit that suits it.
func (b Bytes) Short() string {
	for _, u := range units[:4] {
		if int64(b) >= u.bytes {
			return fmt.Sprintf("%.4g%s", float64(b)/float64(u.bytes), u.suffix)
		}
	}
	return fmt.Sprintf("%dB", int64(b))
}

// String is the size in the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range units[:4] {
		if b != 0 && int64(b)%u.bytes == 0 {
			return fmt.Sprintf("%d%s", int64(b)/u.bytes, u.suffix)
		}
	}
	return fmt.Sprintf("%dB", int64(b))
}
