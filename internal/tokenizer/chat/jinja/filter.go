package jinja

import (
	"errors"
)

// filter makes a value of a value and arguments.
type filter func(r *renderer, v Value, a arguments) (Value, error)

// filterNamed returns nil where there is none of the name.
func filterNamed(name string) filter {
	switch name { // those that apply filters
	case "map":
		return mapItems
	case "select", "selectattr":
		return selector(true, name == "selectattr")
	case "reject", "rejectattr":
		return selector(false, name == "rejectattr")
	}
	return filters[name]
}

var filters = map[string]filter{
	"abs":        absolute,
	"attr":       func(r *renderer, v Value, a arguments) (Value, error) { return attributeFilter(v, a) },
	"batch":      batch,
	"capitalize": onText(func(r *renderer, t Text) (Value, error) { return r.capitalize(t) }),
	"center":     centerFilter,
	"count":      length,
	"d":          defaultFilter,
	"default":    defaultFilter,
	"dictsort":   dictSort,
	"e":          onText(escapeHTML),
	"escape":     onText(escapeHTML),
	"first":      func(r *renderer, v Value, _ arguments) (Value, error) { return r.end(v, false) },
	"float":      floatFilter,
	"format": func(r *renderer, v Value, a arguments) (Value, error) {
		t, err := r.str(v)
		if err != nil {
			return nil, err
		}
		if a.keywords != nil {
			return r.percentFormat(t, a.keywords)
		}
		return r.percentFormat(t, &List{Items: a.positional, tuple: true})
	},
	"groupby": groupBy,
	"indent":  indentFilter,
	"int":     intFilter,
	"items":   itemsFilter,
	"join":    joinFilter,
	"last":    func(r *renderer, v Value, _ arguments) (Value, error) { return r.end(v, true) },
	"length":  length,
	"list":    func(r *renderer, v Value, _ arguments) (Value, error) { return r.list(v) },
	"lower":   onText(func(r *renderer, t Text) (Value, error) { return r.mapRunes(t, lowerRune) }),
	"max":     extreme("max", 1),
	"min":     extreme("min", -1),
	"replace": replaceFilter,
	"reverse": reverse,
	"round":   round,
	"safe":    func(r *renderer, v Value, _ arguments) (Value, error) { return r.str(v) },
	"slice":   sliceFilter,
	"sort":    sortFilter,
	"string":  func(r *renderer, v Value, _ arguments) (Value, error) { return r.str(v) },
	"sum":     sum,
	"title": onText(func(r *renderer, t Text) (Value, error) {
		return r.title(t, func(c rune) bool { return !startsWord(c) })
	}),
	"tojson":    toJSON,
	"trim":      trim,
	"truncate":  truncate,
	"unique":    unique,
	"upper":     onText(func(r *renderer, t Text) (Value, error) { return r.mapRunes(t, upperRune) }),
	"urlencode": onText(urlEncode),
	"wordcount": onText(wordCount),
}

// onText makes a filter without arguments of what it does to the text of a value.
func onText(f func(r *renderer, t Text) (Value, error)) filter {
	return func(r *renderer, v Value, a arguments) (Value, error) {
		if len(a.positional) > 0 || a.keywords != nil {
			return nil, errors.New("the filter takes no arguments")
		}
		t, err := r.str(v)
		if err != nil {
			return nil, err
		}
		return f(r, t)
	}
}

func attributeFilter(v Value, a arguments) (Value, error) {
	bound, err := a.bind("attr", "name")
	if err != nil {
		return nil, err
	}
	name, err := textArgument("attr", bound[0])
	if err != nil {
		return nil, err
	}
	if m := methodOf(v, name.S); m != nil {
		return m, nil
	}
	if _, isDict := v.(*Dict); !isDict {
		if found, ok := ownAttribute(v, name.S); ok {
			return found, nil
		}
	}
	return missing(v, name), nil
}

func defaultFilter(_ *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("default", "default_value", "boolean")
	if err != nil {
		return nil, err
	}
	otherwise := bound[0]
	if otherwise == nil {
		otherwise = Text{}
	}
	if isUndefined(v) {
		return otherwise, nil
	}
	falseToo, err := optionalTruth(bound[1])
	if err != nil || !falseToo {
		return v, err
	}
	yes, err := truth(v)
	if err != nil || yes {
		return v, err
	}
	return otherwise, nil
}
