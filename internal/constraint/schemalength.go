package constraint

import "regexp/syntax"

// unbounded stands for a length without limit. Lengths are in characters.
const unbounded = 1 << 40

// lengths are the least and greatest length of a match of re, which has no anchors.
func lengths(re *syntax.Regexp) (least, most int) {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune), len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, 1
	case syntax.OpCapture:
		return lengths(re.Sub[0])
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		least, most = lengths(re.Sub[0])
		from, to := repeatBounds(re)
		return min(least*from, unbounded), product(most, to)
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			l, m := lengths(sub)
			least, most = min(least+l, unbounded), min(most+m, unbounded)
		}
		return least, most
	case syntax.OpAlternate:
		least = unbounded
		for _, sub := range re.Sub {
			l, m := lengths(sub)
			least, most = min(least, l), max(most, m)
		}
		return least, most
	}
	return 0, 0
}

func product(a, b int) int {
	if a != 0 && b > unbounded/a {
		return unbounded
	}
	return a * b
}

// repeatBounds are how often re, which repeats, does so.
func repeatBounds(re *syntax.Regexp) (from, to int) {
	switch re.Op {
	case syntax.OpStar:
		return 0, unbounded
	case syntax.OpPlus:
		return 1, unbounded
	case syntax.OpQuest:
		return 0, 1
	}
	if re.Max < 0 {
		return re.Min, unbounded
	}
	return re.Min, re.Max
}

// repetition is re, of sub, from to to times.
func repetition(sub *syntax.Regexp, from, to int) *syntax.Regexp {
	if to >= unbounded {
		to = -1
	}
	return &syntax.Regexp{Op: syntax.OpRepeat, Sub: []*syntax.Regexp{sub}, Min: from, Max: to}
}

// longer is matches of re of at least so many characters: all of them where one part alone may grow, some of them otherwise; nil where it
// finds none. A grammar cannot count what several parts add up to, so one of them does it.
func longer(re *syntax.Regexp, least int) *syntax.Regexp {
	have, most := lengths(re)
	switch {
	case have >= least:
		return re
	case most < least:
		return nil
	}
	switch re.Op {
	case syntax.OpCapture:
		return longer(re.Sub[0], least)
	case syntax.OpAlternate:
		return eachAlternative(re, func(sub *syntax.Regexp) *syntax.Regexp { return longer(sub, least) })
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		from, to := repeatBounds(re)
		sub := re.Sub[0]
		if each, _ := lengths(sub); each > 0 && (least+each-1)/each <= to {
			return repetition(sub, max(from, (least+each-1)/each), to)
		}
		if sub = longer(sub, least); sub == nil {
			return nil
		}
		return repetition(sub, max(from, 1), to)
	case syntax.OpConcat:
		widest, room := -1, 0
		for i, sub := range re.Sub {
			if l, m := lengths(sub); m-l > room {
				widest, room = i, m-l
			}
		}
		l, m := lengths(re.Sub[widest])
		target := min(l+least-have, m)
		concat := &syntax.Regexp{Op: syntax.OpConcat, Sub: append([]*syntax.Regexp{}, re.Sub...)}
		if concat.Sub[widest] = longer(re.Sub[widest], target); concat.Sub[widest] == nil {
			return nil
		}
		if grown, _ := lengths(concat); grown <= have {
			return nil
		}
		return longer(concat, least)
	}
	return nil
}

// shorter is matches of re of at most so many characters, as longer is of at least.
func shorter(re *syntax.Regexp, most int) *syntax.Regexp {
	least, have := lengths(re)
	switch {
	case have <= most:
		return re
	case least > most:
		return nil
	}
	switch re.Op {
	case syntax.OpCapture:
		return shorter(re.Sub[0], most)
	case syntax.OpAlternate:
		return eachAlternative(re, func(sub *syntax.Regexp) *syntax.Regexp { return shorter(sub, most) })
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		from, _ := repeatBounds(re)
		sub := re.Sub[0]
		_, each := lengths(sub)
		if share := max(from, 1); each > most/share { // one alone may be too long
			if sub = shorter(sub, most/share); sub == nil {
				if from == 0 {
					return &syntax.Regexp{Op: syntax.OpEmptyMatch}
				}
				return nil
			}
			_, each = lengths(sub)
		}
		if each == 0 {
			return repetition(sub, from, max(from, 1))
		}
		return repetition(sub, from, most/each)
	case syntax.OpConcat:
		return shorterParts(re, most-least)
	}
	return nil
}

// shorterParts shares out the characters that the parts may have beyond their least: to bounded parts what they can take, if all of them
// can have it, and the rest to the others alike.
func shorterParts(re *syntax.Regexp, spare int) *syntax.Regexp {
	bounded, endless := 0, 0
	for _, sub := range re.Sub {
		if l, m := lengths(sub); m >= unbounded {
			endless++
		} else {
			bounded += m - l
		}
	}
	for endless > 0 && bounded > spare/2 {
		bounded /= 2
	}
	concat := &syntax.Regexp{Op: syntax.OpConcat}
	left := spare
	if endless > 0 {
		left = bounded
	}
	total := 0
	for _, sub := range re.Sub {
		if l, m := lengths(sub); m < unbounded {
			total += m - l
		}
	}
	for _, sub := range re.Sub {
		l, m := lengths(sub)
		share := 0
		switch {
		case m >= unbounded:
			share = (spare - bounded) / endless
		case total > 0:
			share = min(m-l, left*(m-l)/total)
		}
		part := shorter(sub, l+share)
		if part == nil {
			return nil
		}
		concat.Sub = append(concat.Sub, part)
	}
	return concat
}

func eachAlternative(re *syntax.Regexp, change func(*syntax.Regexp) *syntax.Regexp) *syntax.Regexp {
	alternate := &syntax.Regexp{Op: syntax.OpAlternate}
	for _, sub := range re.Sub {
		if form := change(sub); form != nil {
			alternate.Sub = append(alternate.Sub, form)
		}
	}
	if len(alternate.Sub) == 0 {
		return nil
	}
	return alternate
}
