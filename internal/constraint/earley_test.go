package constraint

import "slices"

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

// chart is the items at each byte of a text.
type chart [][]earleyItem

// begin is the chart of the empty text.
func (e *earley) begin() chart {
	var first []earleyItem
	for p := range e.productions[0] {
		first = append(first, earleyItem{production: p})
	}
	return e.complete(nil, first)
}

// extend goes on with some bytes; nil: they cannot follow.
func (e *earley) extend(c chart, text string) chart {
	c = slices.Clip(c) // others go on from here too
	for i := 0; i < len(text) && c != nil; i++ {
		var next []earleyItem
		for _, item := range c[len(c)-1] {
			p := e.productions[item.symbol][item.production]
			if item.found < len(p) && p[item.found] == int(text[i]) {
				item.found++
				next = append(next, item)
			}
		}
		c = e.complete(c, next)
	}
	return c
}

// whole says whether the text is of the grammar.
func (e *earley) whole(c chart) bool {
	return slices.ContainsFunc(c[len(c)-1], func(i earleyItem) bool {
		return i.symbol == 0 && i.from == 0 && i.found == len(e.productions[0][i.production])
	})
}

// complete appends some items and what follows from them.
func (e *earley) complete(c chart, items []earleyItem) chart {
	at := len(c)
	seen := map[earleyItem]bool{}
	var list []earleyItem
	add := func(i earleyItem) {
		canEnd := !slices.ContainsFunc(e.productions[i.symbol][i.production], func(item int) bool {
			return item >= firstSymbol && !e.ends[item-firstSymbol]
		})
		if canEnd && !seen[i] {
			seen[i] = true
			list = append(list, i)
		}
	}
	for _, i := range items {
		add(i)
	}
	for k := 0; k < len(list); k++ {
		i := list[k]
		p := e.productions[i.symbol][i.production]
		switch {
		case i.found == len(p) && i.from < at: // what is found from here to here is known to be empty
			for _, waiting := range c[i.from] {
				w := e.productions[waiting.symbol][waiting.production]
				if waiting.found < len(w) && w[waiting.found] == firstSymbol+i.symbol {
					waiting.found++
					add(waiting)
				}
			}
		case i.found < len(p) && p[i.found] >= firstSymbol:
			symbol := p[i.found] - firstSymbol
			for production := range e.productions[symbol] {
				add(earleyItem{symbol: symbol, production: production, from: at})
			}
			if e.empty[symbol] {
				i.found++
				add(i)
			}
		}
	}
	if len(list) == 0 {
		return nil
	}
	return append(c, list)
}
