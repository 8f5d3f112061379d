package constraint

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// maxBoundDigits bounds the digits of a number in a schema, and how far from the point they are written out.
const maxBoundDigits = 40

// decimal is an exact number, ±0.digits · 10^exp. Its digits have no zero at either end; none: zero.
type decimal struct {
	negative bool
	digits   string
	exp      int
}

// parseDecimal reads a number that is valid JSON.
func parseDecimal(text string) (decimal, error) {
	mantissa, exponent, _ := strings.Cut(strings.ReplaceAll(text, "E", "e"), "e")
	mantissa, negative := strings.CutPrefix(mantissa, "-")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return decimal{}, nil
	}
	d := decimal{negative: negative, exp: len(whole) - (len(whole) + len(fraction) - len(digits)), digits: strings.TrimRight(digits, "0")}
	if len(d.digits) > maxBoundDigits {
		return decimal{}, fmt.Errorf("want at most %d digits", maxBoundDigits)
	}
	const maxExponent = 400
	if exponent != "" {
		e, err := strconv.Atoi(exponent)
		if err != nil || e < -maxExponent || e > maxExponent {
			return decimal{}, fmt.Errorf("want an exponent from −%d to %d", maxExponent, maxExponent)
		}
		d.exp += e
	}
	return d, nil
}

func (d decimal) zero() bool { return d.digits == "" }

// integral is whether d has no fraction.
func (d decimal) integral() bool { return len(d.digits) <= d.exp || d.zero() }

// shift is d · 10^n.
func (d decimal) shift(n int) decimal {
	if !d.zero() {
		d.exp += n
	}
	return d
}

func (d decimal) negated() decimal {
	d.negative = !d.negative && !d.zero()
	return d
}

// compare is −1, 0 or 1.
func (d decimal) compare(e decimal) int {
	switch {
	case d.negative != e.negative:
		if d.negative {
			return -1
		}
		return 1
	case d.negative:
		return e.negated().compare(d.negated())
	case d.zero() || e.zero():
		return len(d.digits) - len(e.digits) // both not negative: one of them is 0
	case d.exp != e.exp:
		return d.exp - e.exp
	}
	return strings.Compare(d.digits, e.digits)
}

// parts are the digits before the point, without leading zeros, and those after it, without trailing ones. d is not negative.
func (d decimal) parts() (whole *big.Int, fraction string) {
	switch {
	case d.exp <= 0:
		return new(big.Int), strings.Repeat("0", -d.exp) + d.digits
	case d.exp >= len(d.digits):
		whole, _ = new(big.Int).SetString(d.digits+strings.Repeat("0", d.exp-len(d.digits)), 10)
		return whole, ""
	}
	whole, _ = new(big.Int).SetString(d.digits[:d.exp], 10)
	return whole, d.digits[d.exp:]
}
