package constraint

import (
	"math/big"
	"strings"
)

// How long numbers get where the schema sets no bound, so that no model can go on in digits for ever: integers fit an int64, everything a
// float64.
const (
	maxWholeDigits    = 18
	maxFractionDigits = 17
	maxExponentDigits = 2
)

// numbers are those between two bounds, or the integers or the multiples of a power of ten among them.
type numbers struct {
	low, high         *decimal // nil: none
	lowOpen, highOpen bool     // the bound itself is outside
	integer           bool
	step              *int // multiples of 10^step; nil: any
}

// above narrows n to what is at least d, or greater.
func (n *numbers) above(d decimal, open bool) {
	if n.low == nil || d.compare(*n.low) > 0 || d.compare(*n.low) == 0 && open {
		n.low, n.lowOpen = &d, open
	}
}

// below narrows n to what is at most d, or less.
func (n *numbers) below(d decimal, open bool) {
	if n.high == nil || d.compare(*n.high) < 0 || d.compare(*n.high) == 0 && open {
		n.high, n.highOpen = &d, open
	}
}

// holds is whether d is one of n.
func (n *numbers) holds(d decimal) bool {
	if n.low != nil && (d.compare(*n.low) < 0 || n.lowOpen && d.compare(*n.low) == 0) {
		return false
	}
	if n.high != nil && (d.compare(*n.high) > 0 || n.highOpen && d.compare(*n.high) == 0) {
		return false
	}
	return (!n.integer || d.integral()) && (n.step == nil || d.shift(-*n.step).integral())
}

// apart is whether no number is in both ranges.
func (n *numbers) apart(m *numbers) bool {
	beyond := func(low *decimal, lowOpen bool, high *decimal, highOpen bool) bool {
		if low == nil || high == nil {
			return false
		}
		c := low.compare(*high)
		return c > 0 || c == 0 && (lowOpen || highOpen)
	}
	return beyond(n.low, n.lowOpen, m.high, m.highOpen) || beyond(m.low, m.lowOpen, n.high, n.highOpen)
}

// expr is the numbers as JSON: without an exponent, except where there is no bound, and without −0.
func (n *numbers) expr() Expr {
	if n.low == nil && n.high == nil && n.step == nil && !n.integer {
		return Sequence{
			optional(Text("-")), wholeNumbers(new(big.Int), nines(maxWholeDigits)),
			optional(Sequence{Text("."), Repeat{digit, 1, maxFractionDigits}}),
			optional(Sequence{Chars{{'E', 'E'}, {'e', 'e'}}, optional(Chars{{'+', '+'}, {'-', '-'}}), Repeat{digit, 1, maxExponentDigits}}),
		}
	}
	var forms Choice
	negative := magnitudes{open: true, integer: n.integer, step: n.step}
	if n.low == nil || n.low.negative {
		if n.low != nil {
			d := n.low.negated()
			negative.high, negative.highOpen = &d, n.lowOpen
		}
		if n.high != nil && n.high.negative {
			negative.low, negative.open = n.high.negated(), n.highOpen
		}
		forms = append(forms, Sequence{Text("-"), negative.expr()})
	}
	if n.high == nil || !n.high.negative {
		positive := magnitudes{high: n.high, highOpen: n.highOpen, integer: n.integer, step: n.step}
		if n.low != nil && !n.low.negative {
			positive.low, positive.open = *n.low, n.lowOpen
		}
		forms = append(forms, positive.expr())
	}
	return forms
}

// magnitudes are numbers that are not negative.
type magnitudes struct {
	low      decimal
	open     bool
	high     *decimal
	highOpen bool
	integer  bool
	step     *int
}

func (m magnitudes) expr() Expr {
	if m.high != nil && m.high.exp > maxBoundDigits {
		m.high = nil // no number that is written without an exponent gets there
	}
	// What is nearer to 0 than any number with so few places: 0 itself.
	if m.low.exp < -maxBoundDigits {
		m.low, m.open = decimal{}, true
	}
	if m.high != nil && m.high.exp < -maxBoundDigits {
		m.high, m.highOpen = &decimal{}, false
	}
	switch {
	case m.step != nil && *m.step > 0:
		return m.multiples(*m.step)
	case m.integer || m.step != nil && *m.step == 0:
		return m.integers()
	case m.step != nil:
		return m.decimals(-*m.step)
	}
	return m.decimals(0)
}

// multiples are those of 10^step: an integer and so many zeros, or 0.
func (m magnitudes) multiples(step int) Expr {
	zero := m.low.zero() && !m.open
	m.low = m.low.shift(-step)
	if m.high != nil {
		d := m.high.shift(-step)
		m.high = &d
	}
	if m.low.zero() {
		m.open = true
	}
	forms := Choice{Sequence{m.integers(), Text(strings.Repeat("0", step))}}
	if zero && (m.high == nil || !m.high.zero() || !m.highOpen) {
		forms = append(forms, Text("0"))
	}
	return forms
}

func (m magnitudes) integers() Expr {
	low, fraction := m.low.parts()
	if fraction != "" || m.open {
		low.Add(low, big.NewInt(1))
	}
	high := nines(max(maxWholeDigits, len(low.String())))
	if m.high != nil {
		if high, fraction = m.high.parts(); fraction == "" && m.highOpen {
			high.Sub(high, big.NewInt(1))
		}
	}
	return wholeNumbers(low, high)
}

// decimals have as many places after the point as the bounds ask for, or just up to places of them where that is positive.
func (m magnitudes) decimals(places int) Expr {
	one := big.NewInt(1)
	low, lowFraction := m.low.parts()
	high, highFraction := nines(max(maxWholeDigits, len(low.String()))), ""
	if m.high != nil {
		high, highFraction = m.high.parts()
	}
	if places == 0 {
		places = max(maxFractionDigits, len(lowFraction)+1, len(highFraction)+1)
	}
	from := fractionBound{lowFraction, m.open, lowFraction != "" || m.open}
	to := fractionBound{highFraction, m.highOpen, m.high != nil}
	nothing := fractionBound{}
	switch low.Cmp(high) {
	case 1:
		return never
	case 0:
		return Sequence{Text(low.String()), fractions(from, to, places)}
	}
	var forms Choice
	first, last := new(big.Int).Set(low), new(big.Int).Set(high)
	if from.active {
		forms = append(forms, Sequence{Text(low.String()), fractions(from, nothing, places)})
		first.Add(first, one)
	}
	if to.active {
		forms = append(forms, Sequence{Text(high.String()), fractions(nothing, to, places)})
		last.Sub(last, one)
	}
	return append(forms, Sequence{wholeNumbers(first, last), fractions(nothing, nothing, places)})
}
