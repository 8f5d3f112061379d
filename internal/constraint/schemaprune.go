package constraint

// prune takes out what derives no text: alternatives that a schema rules out, and values that would have to hold others like themselves
// without end. Nil if nothing is left.
func prune(g *Grammar) *Grammar {
	users := map[string][]string{} // rules by the rule that they use
	for name, e := range g.Rules {
		for _, used := range usedRules(e, nil) {
			users[used] = append(users[used], name)
		}
	}
	// A rule is looked at again whenever one that it uses turns out to derive a text.
	derives := map[string]bool{}
	todo := make([]string, 0, len(g.Rules))
	for name := range g.Rules {
		todo = append(todo, name)
	}
	for len(todo) > 0 {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !derives[name] && derivesText(g.Rules[name], derives) {
			derives[name] = true
			todo = append(todo, users[name]...)
		}
	}
	if !derives[g.Start] {
		return nil
	}
	kept := &Grammar{Rules: map[string]Expr{}, Start: g.Start}
	reached := []string{g.Start}
	for len(reached) > 0 {
		name := reached[len(reached)-1]
		reached = reached[:len(reached)-1]
		if _, ok := kept.Rules[name]; !ok {
			kept.Rules[name] = pruned(g.Rules[name], derives)
			reached = usedRules(kept.Rules[name], reached)
		}
	}
	return kept
}

// usedRules appends the rules that e names.
func usedRules(e Expr, to []string) []string {
	switch e := e.(type) {
	case Rule:
		to = append(to, string(e))
	case Sequence:
		for _, part := range e {
			to = usedRules(part, to)
		}
	case Choice:
		for _, part := range e {
			to = usedRules(part, to)
		}
	case Repeat:
		to = usedRules(e.Of, to)
	}
	return to
}

func derivesText(e Expr, derives map[string]bool) bool {
	switch e := e.(type) {
	case Rule:
		return derives[string(e)]
	case Sequence:
		for _, part := range e {
			if !derivesText(part, derives) {
				return false
			}
		}
	case Choice:
		for _, part := range e {
			if derivesText(part, derives) {
				return true
			}
		}
		return false
	case Repeat:
		return e.Min == 0 || derivesText(e.Of, derives)
	}
	return true
}

// pruned is e, which derives a text, without what does not, and without nesting that means nothing.
func pruned(e Expr, derives map[string]bool) Expr {
	switch e := e.(type) {
	case Sequence:
		kept := Sequence{}
		for _, part := range e {
			switch part := pruned(part, derives).(type) {
			case Sequence:
				kept = append(kept, part...)
			default:
				kept = append(kept, part)
			}
		}
		if len(kept) == 1 {
			return kept[0]
		}
		return kept
	case Choice:
		kept := Choice{}
		for _, part := range e {
			if !derivesText(part, derives) {
				continue
			}
			switch part := pruned(part, derives).(type) {
			case Choice:
				kept = append(kept, part...)
			default:
				kept = append(kept, part)
			}
		}
		if len(kept) == 1 {
			return kept[0]
		}
		return kept
	case Repeat:
		if !derivesText(e.Of, derives) || e.Max == 0 {
			return Sequence{}
		}
		e.Of = pruned(e.Of, derives)
		return e
	}
	return e
}
