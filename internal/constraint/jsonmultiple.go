package constraint

import (
	"fmt"
	"math/big"
	"strings"
)

// maxListedMultiples is how many multiples of a number are written out.
const maxListedMultiples = 1_000

// multiple is a multipleOf that is no power of ten: multiples of such a number are not seen by their digits, so that they are listed.
type multiple struct {
	of              decimal
	pointer, source string // where it stands, and how
}

// listed is each of the numbers by itself.
func (n *numbers) listed(work func(steps int) error) (Expr, error) {
	m := n.multiples[0]
	fault := func(what string) error {
		return &SchemaError{m.pointer, m.source, fmt.Sprintf(
			"is held if it is a power of ten, or if minimum and maximum are at most %d multiples apart: %s", maxListedMultiples, what)}
	}
	if n.low == nil || n.high == nil {
		return nil, fault("one of them is missing")
	}
	step := m.of.rational()
	first, last := new(big.Rat).Quo(n.low.rational(), step), new(big.Rat).Quo(n.high.rational(), step)
	k, end := quotient(first), quotient(last)
	count := new(big.Int).Sub(end, k)
	if count.Cmp(big.NewInt(maxListedMultiples)) > 0 {
		return nil, fault("they are further apart")
	}
	const perNumber = 8
	if err := work(perNumber * max(1, int(count.Int64()))); err != nil {
		return nil, err
	}
	var forms Choice
	for ; k.Cmp(end) <= 0; k.Add(k, big.NewInt(1)) {
		text := new(big.Rat).Mul(new(big.Rat).SetInt(k), step).FloatString(m.of.places())
		if strings.Contains(text, ".") {
			text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
		}
		if d, err := parseDecimal(text); err == nil && n.holds(d) {
			forms = append(forms, Text(text))
		}
	}
	return forms, nil
}

// quotient is r without its fraction, or the integer below.
func quotient(r *big.Rat) *big.Int { return new(big.Int).Div(r.Num(), r.Denom()) }
