package main_test

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A reader of the part of PromQL that deploy/ uses; what it does not know is an error. Prometheus's own parser would bring all of
// Prometheus's modules with it, and would not say which labels a metric has.

// promType is what an expression yields.
type promType string

const (
	scalar promType = "a scalar"
	vector promType = "a vector"
	matrix promType = "a range of a vector"
)

// promSelector is a metric that an expression reads.
type promSelector struct {
	name   string
	labels []string // of its matchers
	inRate bool     // rate, increase: only of counters
}

// promReader reads one expression.
type promReader struct {
	tokens    []string
	at        int
	selectors []promSelector
}

var (
	promToken = regexp.MustCompile(`^(?:[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d)?|"(?:[^"\\]|\\.)*"` +
		`|=~|!~|!=|==|>=|<=|[-+*/%^<>=(){}\[\],])`)
	promName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	promTime = regexp.MustCompile(`^[0-9]+(ms|s|m|h|d)$`)

	promAggregations = []string{"sum", "max", "min", "avg", "count"}
	promFunctions    = map[string][]promType{
		"rate": {matrix}, "increase": {matrix}, "changes": {matrix}, "histogram_quantile": {scalar, vector}, "absent": {vector},
		"time": {},
	}
	// From loose to tight; those of a row read from the left.
	promOperators = [][]string{{"or"}, {"and", "unless"}, {"==", "!=", ">", "<", ">=", "<="}, {"+", "-"}, {"*", "/", "%"}}
)

func readPromQL(text string) (selectors []promSelector, kind promType, err error) {
	r := &promReader{}
	for rest := strings.TrimSpace(text); rest != ""; {
		token := promToken.FindString(rest)
		if token == "" {
			return nil, "", fmt.Errorf("%.30q cannot be read", rest)
		}
		r.tokens = append(r.tokens, token)
		rest = strings.TrimSpace(rest[len(token):])
	}
	kind, err = r.binary(0)
	if err == nil && r.at < len(r.tokens) {
		err = fmt.Errorf("%q behind the end", r.tokens[r.at])
	}
	return r.selectors, kind, err
}

func (r *promReader) peek() string {
	if r.at < len(r.tokens) {
		return r.tokens[r.at]
	}
	return ""
}

func (r *promReader) take(want ...string) (string, error) {
	got := r.peek()
	if len(want) > 0 && !slices.Contains(want, got) {
		return "", fmt.Errorf("%q, want one of %q", got, want)
	}
	r.at++
	return got, nil
}

func (r *promReader) binary(level int) (promType, error) {
	if level == len(promOperators) {
		return r.operand()
	}
	left, err := r.binary(level + 1)
	for err == nil && slices.Contains(promOperators[level], r.peek()) {
		operator, _ := r.take()
		if r.peek() == "on" || r.peek() == "ignoring" {
			_, _ = r.take()
			if _, err = r.names(); err != nil {
				break
			}
		}
		var right promType
		if right, err = r.binary(level + 1); err != nil {
			break
		}
		switch {
		case left == matrix || right == matrix:
			err = fmt.Errorf("%s of %s and %s", operator, left, right)
		case level < 2 && (left == scalar || right == scalar):
			err = fmt.Errorf("%s of %s and %s, want two vectors", operator, left, right)
		case right == vector:
			left = vector
		}
	}
	return left, err
}

func (r *promReader) operand() (promType, error) {
	token := r.peek()
	switch {
	case token == "(":
		_, _ = r.take()
		kind, err := r.binary(0)
		if err == nil {
			_, err = r.take(")")
		}
		return kind, err
	case slices.Contains(promAggregations, token):
		return r.aggregation()
	case promFunctions[token] != nil:
		return r.function()
	case promName.MatchString(token):
		return r.selector()
	}
	if _, err := strconv.ParseFloat(token, 64); err != nil {
		return "", fmt.Errorf("%q, want a value", token)
	}
	_, _ = r.take()
	return scalar, nil
}

func (r *promReader) aggregation() (promType, error) {
	what, _ := r.take()
	var by []string
	if r.peek() == "by" {
		_, _ = r.take()
		var err error
		if by, err = r.names(); err != nil {
			return "", err
		}
	}
	first := len(r.selectors)
	kind, err := r.arguments(what, []promType{vector})
	for i := range r.selectors[first:] { // what it is summed by must be there
		s := &r.selectors[first+i]
		s.labels = append(s.labels, by...)
	}
	return kind, err
}

func (r *promReader) function() (promType, error) {
	what, _ := r.take()
	first := len(r.selectors)
	kind, err := r.arguments(what, promFunctions[what])
	if what == "time" {
		kind = scalar
	}
	for i := range r.selectors[first:] {
		s := &r.selectors[first+i]
		s.inRate = s.inRate || what == "rate" || what == "increase"
		if what == "histogram_quantile" && !slices.Contains(s.labels, "le") {
			err = fmt.Errorf("histogram_quantile of %s, which is not kept by le", s.name)
		}
	}
	return kind, err
}

func (r *promReader) arguments(what string, kinds []promType) (promType, error) {
	if _, err := r.take("("); err != nil {
		return "", err
	}
	for i, want := range kinds {
		if i > 0 {
			if _, err := r.take(","); err != nil {
				return "", err
			}
		}
		if got, err := r.binary(0); err != nil || got != want {
			return "", fmt.Errorf("%s of %s, want %s: %w", what, got, want, err)
		}
	}
	_, err := r.take(")")
	return vector, err
}

// names reads (a, b).
func (r *promReader) names() (names []string, err error) {
	if _, err := r.take("("); err != nil {
		return nil, err
	}
	for r.peek() != ")" {
		name, _ := r.take()
		if !promName.MatchString(name) {
			return nil, fmt.Errorf("%q, want a label", name)
		}
		names = append(names, name)
		if separator := r.peek(); separator != ")" {
			if _, err := r.take(","); err != nil {
				return nil, err
			}
		}
	}
	_, err = r.take(")")
	return names, err
}

func (r *promReader) selector() (promType, error) {
	name, _ := r.take()
	s := promSelector{name: name}
	if r.peek() == "{" {
		for _, _ = r.take(); r.peek() != "}"; {
			label, _ := r.take()
			operator, err := r.take("=", "!=", "=~", "!~")
			if err != nil {
				return "", err
			}
			value, err := strconv.Unquote(r.peek())
			if err != nil {
				return "", fmt.Errorf("%s%s%s, want a string", label, operator, r.peek())
			}
			if _, err := regexp.Compile(value); operator[len(operator)-1] == '~' && err != nil {
				return "", err
			}
			r.at++
			s.labels = append(s.labels, label)
			if r.peek() != "}" {
				if _, err := r.take(","); err != nil {
					return "", err
				}
			}
		}
		r.at++
	}
	r.selectors = append(r.selectors, s)
	if r.peek() != "[" {
		return vector, nil
	}
	_, _ = r.take()
	if d, _ := r.take(); !promTime.MatchString(d) {
		return "", fmt.Errorf("%q, want a time such as 5m", d)
	}
	_, err := r.take("]")
	return matrix, err
}

func TestPromQLReader(t *testing.T) {
	for text, want := range map[string]string{
		`a`: "",
		`sum by (x, y) (rate(a{b="c",d=~"e.*"}[5m])) / 2 > 0.5`: "",
		`a - time() < 3600`:              "",
		`time() and a`:                   "want two vectors",
		`a == 0 and on (instance) b > 1`: "",
		`histogram_quantile(0.99, sum by (le) (rate(a_bucket[10m])))`: "",
		``:           `"", want a value`,
		`a b`:        `"b" behind the end`,
		`rate(a)`:    "rate of a vector, want a range of a vector",
		`rate(a[5m]`: `"", want one of [")"]`,
		`a[5m] > 1`:  "> of a range of a vector and a scalar",
		`a and 1`:    "want two vectors",
		`histogram_quantile(0.9, rate(a_bucket[5m]))`: "not kept by le",
		`a{b="c}`:       "cannot be read",
		`a{b=~"("}`:     "missing closing )",
		`rate(a[five])`: `"five", want a time`,
		`sum(a,b)`:      `",", want one of [")"]`,
		`stddev(a)`:     `"(" behind the end`,
		`a $ b`:         "cannot be read",
	} {
		_, _, err := readPromQL(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	got, kind, err := readPromQL(`sum by (x) (rate(a{b="c"}[5m])) - d`)
	if err != nil || kind != vector || len(got) != 2 ||
		got[0].name != "a" || !slices.Equal(got[0].labels, []string{"b", "x"}) || !got[0].inRate ||
		got[1].name != "d" || got[1].inRate || got[1].labels != nil {
		t.Errorf("%+v %v %v", got, kind, err)
	}
}
