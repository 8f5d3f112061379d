package constraint

import (
	"math/big"
	"strings"
)

var digit = Chars{{'0', '9'}}

// nines is 10^n − 1.
func nines(n int) *big.Int {
	b := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
	return b.Sub(b, big.NewInt(1))
}

// wholeNumbers are those from low, which is not negative, to high, both in it, without leading zeros.
func wholeNumbers(low, high *big.Int) Expr {
	if low.Cmp(high) > 0 {
		return never
	}
	var forms Choice
	full := Repeat{Of: digit, Min: -1} // the lengths of which every number is in it, less the first digit
	for length := len(low.String()); length <= len(high.String()); length++ {
		shortest := "1" + strings.Repeat("0", length-1)
		longest := strings.Repeat("9", length)
		from, to := shortest, longest
		if length == len(low.String()) {
			from = low.String()
		}
		if length == len(high.String()) {
			to = high.String()
		}
		if from != shortest || to != longest {
			forms = append(forms, digitsBetween(from, to))
			continue
		}
		if full.Min < 0 {
			full.Min = length - 1
		}
		full.Max = length - 1
	}
	if full.Min >= 0 {
		forms = append(forms, Sequence{Chars{{'1', '9'}}, full})
	}
	return forms
}

// digitsBetween are the strings of digits from low to high, which are of one length.
func digitsBetween(low, high string) Expr {
	if low == "" {
		return Sequence{}
	}
	rest := len(low) - 1
	if low[0] == high[0] {
		return Sequence{Text(low[:1]), digitsBetween(low[1:], high[1:])}
	}
	first, last := low[0], high[0]
	var forms Choice
	if strings.Trim(low[1:], "0") != "" {
		forms = append(forms, Sequence{Text(low[:1]), digitsBetween(low[1:], strings.Repeat("9", rest))})
		first++
	}
	if strings.Trim(high[1:], "9") != "" {
		forms = append(forms, Sequence{Text(high[:1]), digitsBetween(strings.Repeat("0", rest), high[1:])})
		last--
	}
	if first <= last {
		forms = append(forms, Sequence{Chars{{rune(first), rune(last)}}, Repeat{digit, rest, rest}})
	}
	return forms
}

// fractionBound is a bound of the digits after a point, which are read as if zeros followed without end.
type fractionBound struct {
	digits string
	open   bool // the bound itself is outside
	active bool // false: no bound
}

// after is the bound that is left when the digit c has been written; it is inactive where c has decided.
func (b fractionBound) after(c byte) (left fractionBound, compared int) {
	if !b.active {
		return b, 0
	}
	at, rest := byte('0'), ""
	if b.digits != "" {
		at, rest = b.digits[0], b.digits[1:]
	}
	if c != at {
		return fractionBound{}, int(c) - int(at)
	}
	return fractionBound{rest, b.open, true}, 0
}

// fractions are a point and up to places digits between the bounds, or nothing where 0 is between them.
func fractions(low, high fractionBound, places int) Expr {
	form := Choice{Sequence{Text("."), fractionDigits(low, high, places)}}
	if endsBetween(low, high) {
		form = append(form, Sequence{})
	}
	return form
}

// endsBetween is whether nothing but zeros from here is between the bounds.
func endsBetween(low, high fractionBound) bool {
	return (!low.active || low.digits == "" && !low.open) && (!high.active || high.digits != "" || !high.open)
}

// fractionDigits are 1 to places digits between the bounds.
func fractionDigits(low, high fractionBound, places int) Expr {
	if !low.active && !high.active {
		return Repeat{digit, 1, places}
	}
	var free Chars // the digits after which any may follow
	var forms Choice
	for c := byte('0'); c <= '9'; c++ {
		lowLeft, lowCompared := low.after(c)
		highLeft, highCompared := high.after(c)
		if lowCompared < 0 || highCompared > 0 {
			continue
		}
		if !lowLeft.active && !highLeft.active {
			if len(free) == 0 {
				free = Chars{{rune(c), rune(c)}}
			}
			free[0].Last = rune(c)
			continue
		}
		var more Choice
		if places > 1 {
			more = append(more, fractionDigits(lowLeft, highLeft, places-1))
		}
		if endsBetween(lowLeft, highLeft) {
			more = append(more, Sequence{})
		}
		forms = append(forms, Sequence{Text(string(rune(c))), more})
	}
	if len(free) > 0 {
		forms = append(forms, Sequence{free, Repeat{digit, 0, places - 1}})
	}
	return forms
}
