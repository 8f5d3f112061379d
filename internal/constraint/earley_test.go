package constraint

// earley is an independent judge of grammars: Earley's parser over bytes, of productions that are spelled out, every character a text.
type earley struct {
	productions [][]production // of each symbol; symbol 0 is the start
	empty       []bool         // [symbol] it has the empty text
	ends        []bool         // [symbol] it has a text
	rules       map[string]int // symbols of rules
}

// production is symbols, which are 256 and more, and bytes.
type production []int

const firstSymbol = 256

func newEarley(g *Grammar) *earley {
	e := &earley{rules: map[string]int{}}
	e.rule(g, g.Start)
	e.empty, e.ends = make([]bool, len(e.productions)), make([]bool, len(e.productions))
	for changed := true; changed; {
		changed = false
		for symbol, all := range e.productions {
			for _, p := range all {
				empty, ends := true, true
				for _, item := range p {
					empty = empty && item >= firstSymbol && e.empty[item-firstSymbol]
					ends = ends && (item < firstSymbol || e.ends[item-firstSymbol])
				}
				changed = changed || empty && !e.empty[symbol] || ends && !e.ends[symbol]
				e.empty[symbol], e.ends[symbol] = e.empty[symbol] || empty, e.ends[symbol] || ends
			}
		}
	}
	return e
}

func (e *earley) symbol() int {
	e.productions = append(e.productions, nil)
	return firstSymbol + len(e.productions) - 1
}

func (e *earley) put(symbol int, p ...int) {
	e.productions[symbol-firstSymbol] = append(e.productions[symbol-firstSymbol], p)
}

func (e *earley) rule(g *Grammar, name string) int {
	if symbol, ok := e.rules[name]; ok {
		return symbol
	}
	symbol := e.symbol()
	e.rules[name] = symbol
	e.put(symbol, e.expression(g, g.Rules[name])...)
	return symbol
}

func (e *earley) expression(g *Grammar, x Expr) (p production) {
	switch x := x.(type) {
	case Text:
		for _, b := range []byte(x) {
			p = append(p, int(b))
		}
		return p
	case Rule:
		return production{e.rule(g, string(x))}
	case Sequence:
		for _, part := range x {
			p = append(p, e.expression(g, part)...)
		}
		return p
	case Chars:
		symbol := e.symbol()
		for _, r := range x {
			for c := r.First; c <= r.Last; c++ {
				e.put(symbol, e.expression(g, Text(string(c)))...)
			}
		}
		return production{symbol}
	case Choice:
		symbol := e.symbol()
		for _, part := range x {
			e.put(symbol, e.expression(g, part)...)
		}
		return production{symbol}
	case Repeat:
		for range x.Min {
			p = append(p, e.expression(g, x.Of)...)
		}
		if x.Max < 0 {
			symbol := e.symbol()
			e.put(symbol)
			e.put(symbol, append(e.expression(g, x.Of), symbol)...)
			return append(p, symbol)
		}
		for range x.Max - x.Min {
			symbol := e.symbol()
			e.put(symbol)
			e.put(symbol, e.expression(g, x.Of)...)
			p = append(p, symbol)
		}
		return p
	}
	panic(x)
}

// earleyItem is a production of which a part is found, which began at some byte.
type earleyItem struct{ symbol, production, found, from int }

// parse says whether a text is of the grammar, and whether it is the start of one that is.
func (e *earley) parse(text string) (whole, start bool) {
	if !e.ends[0] {
		return false, false
	}
	var chart []map[earleyItem]bool
	var lists [][]earleyItem
	add := func(at int, i earleyItem) {
		for _, item := range e.productions[i.symbol][i.production] {
			if item >= firstSymbol && !e.ends[item-firstSymbol] {
				return
			}
		}
		if !chart[at][i] {
			chart[at][i] = true
			lists[at] = append(lists[at], i)
		}
	}
	for at := 0; at <= len(text)+1; at++ {
		chart, lists = append(chart, map[earleyItem]bool{}), append(lists, nil)
	}
	for p := range e.productions[0] {
		add(0, earleyItem{production: p})
	}
	for at := 0; at <= len(text); at++ {
		if len(lists[at]) == 0 {
			return false, false
		}
		for k := 0; k < len(lists[at]); k++ {
			i := lists[at][k]
			p := e.productions[i.symbol][i.production]
			next := i
			next.found++
			switch {
			case i.found == len(p):
				for _, waiting := range lists[i.from] {
					w := e.productions[waiting.symbol][waiting.production]
					if waiting.found < len(w) && w[waiting.found] == firstSymbol+i.symbol {
						waiting.found++
						add(at, waiting)
					}
				}
			case p[i.found] >= firstSymbol:
				symbol := p[i.found] - firstSymbol
				for production := range e.productions[symbol] {
					add(at, earleyItem{symbol: symbol, production: production, from: at})
				}
				if e.empty[symbol] {
					add(at, next)
				}
			case at < len(text) && int(text[at]) == p[i.found]:
				add(at+1, next)
			}
		}
	}
	for _, i := range lists[len(text)] {
		whole = whole || i.symbol == 0 && i.from == 0 && i.found == len(e.productions[0][i.production])
	}
	return whole, true
}
