package jinja

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// jsonWriter writes values as Python's json.dumps does.
type jsonWriter struct {
	*renderer
	out           *builder
	ascii, sorted bool
	indent        *string // of one level; nil: everything on one line
	comma, colon  string
	level         int
}

// toJSON is the filter of that name, as Hugging Face overrides it: no HTML escapes, characters beyond ASCII as they are.
func toJSON(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("tojson", "ensure_ascii", "indent", "separators", "sort_keys")
	if err != nil {
		return nil, err
	}
	w := &jsonWriter{renderer: r, out: r.newBuilder(), comma: ", ", colon: ": "}
	if w.ascii, err = optionalTruth(bound[0]); err != nil {
		return nil, err
	}
	if w.sorted, err = optionalTruth(bound[3]); err != nil {
		return nil, err
	}
	if err := w.setIndent(bound[1]); err != nil {
		return nil, err
	}
	if err := w.setSeparators(bound[2]); err != nil {
		return nil, err
	}
	if err := w.value(v); err != nil {
		return nil, err
	}
	return w.out.text(), nil
}

func optionalTruth(v Value) (bool, error) {
	if v == nil {
		return false, nil
	}
	return truth(v)
}

func (w *jsonWriter) setIndent(v Value) error {
	var one string
	switch v := v.(type) {
	case nil, None:
		return nil
	case Int, Bool:
		n, _ := asIndex(v)
		if n > 64 {
			return fmt.Errorf("indent is %d, want at most 64", n)
		}
		one = strings.Repeat(" ", max(n, 0))
	case Text:
		one = v.S
	default:
		return fmt.Errorf("indent must be an integer or a string, not %s", v.typeName())
	}
	w.indent, w.comma = &one, ","
	return nil
}

func (w *jsonWriter) setSeparators(v Value) error {
	switch v := v.(type) {
	case nil, None:
		return nil
	case *List:
		if len(v.Items) == 2 {
			comma, ok := v.Items[0].(Text)
			colon, ok2 := v.Items[1].(Text)
			if ok && ok2 {
				w.comma, w.colon = comma.S, colon.S
				return nil
			}
		}
	}
	return errors.New("separators must be two strings")
}

func (w *jsonWriter) value(v Value) error {
	if err := w.work(1); err != nil {
		return err
	}
	switch v := v.(type) {
	case None:
		return w.out.trusted("null")
	case Bool:
		return w.out.trusted(strconv.FormatBool(bool(v)))
	case Int:
		return w.out.trusted(strconv.FormatInt(int64(v), 10))
	case Float:
		return w.out.trusted(jsonFloat(float64(v)))
	case Text:
		return w.text(v)
	case *List:
		return w.items("[", "]", len(v.Items), func(i int) error { return w.value(v.Items[i]) })
	case *Dict:
		order, err := w.order(v)
		if err != nil {
			return err
		}
		return w.items("{", "}", v.Len(), func(i int) error {
			if err := w.key(v.keys[order[i]]); err != nil {
				return err
			}
			if err := w.out.trusted(w.colon); err != nil {
				return err
			}
			return w.value(v.values[order[i]])
		})
	}
	return fmt.Errorf("Object of type %s is not JSON serializable", v.typeName())
}

func (w *jsonWriter) text(t Text) error {
	return w.quoted(w.out, t, `"`, func(c rune, _ string) string { return jsonEscape(c, w.ascii) })
}

// items writes n elements between brackets.
func (w *jsonWriter) items(opening, closing string, n int, one func(i int) error) error {
	if n == 0 {
		return w.out.trusted(opening + closing)
	}
	if err := w.deeper(); err != nil {
		return err
	}
	defer func() { w.depth-- }()
	w.level++
	for i := range n {
		before := opening
		if i > 0 {
			before = w.comma
		}
		if err := w.out.trusted(before + w.lineBreak()); err != nil {
			return err
		}
		if err := one(i); err != nil {
			return err
		}
	}
	w.level--
	return w.out.trusted(w.lineBreak() + closing)
}

func (w *jsonWriter) lineBreak() string {
	if w.indent == nil {
		return ""
	}
	return "\n" + strings.Repeat(*w.indent, w.level)
}

// order is the order in which a dictionary is written.
func (w *jsonWriter) order(d *Dict) ([]int, error) {
	order := make([]int, d.Len())
	for i := range order {
		order[i] = i
	}
	if !w.sorted {
		return order, w.make(8 * len(order))
	}
	var failed error
	slices.SortStableFunc(order, func(i, j int) int {
		c, comparable, err := w.renderer.order(d.keys[i], d.keys[j])
		if err == nil && !comparable {
			err = fmt.Errorf("'<' not supported between instances of '%s' and '%s'", d.keys[i].typeName(), d.keys[j].typeName())
		}
		failed = errors.Join(failed, err)
		return c
	})
	return order, failed
}

func (w *jsonWriter) key(v Value) error {
	switch v := v.(type) {
	case Text:
		return w.text(v)
	case None, Bool, Int, Float:
		if err := w.out.trusted(`"`); err != nil {
			return err
		}
		if err := w.value(v); err != nil {
			return err
		}
		return w.out.trusted(`"`)
	}
	return fmt.Errorf("keys must be str, int, float, bool or None, not %s", v.typeName())
}

func jsonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return pythonFloat(f)
}

func jsonEscape(c rune, ascii bool) string {
	switch c {
	case '"':
		return `\"`
	case '\\':
		return `\\`
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	case '\f':
		return `\f`
	case '\b':
		return `\b`
	}
	switch {
	case c < 0x20:
		return fmt.Sprintf(`\u%04x`, c)
	case !ascii || c < 0x7f:
		return ""
	case c < 0x10000:
		return fmt.Sprintf(`\u%04x`, c)
	}
	high, low := utf16.EncodeRune(c)
	return fmt.Sprintf(`\u%04x\u%04x`, high, low)
}
