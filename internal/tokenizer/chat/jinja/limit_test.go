package jinja

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// long is what templates may have two texts of.
const long = "{% set s = 'X' * 4000000 %}{% set t = s ~ 'X' %}"

// Templates that use up a host, as in CVE-2026-115911: each meets a limit.
func TestTemplatesCannotUseUpTheHost(t *testing.T) {
	for name, c := range map[string]struct{ source, says string }{
		"nested loops":          {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "operations"},
		"loops that say little": {"{% set ns = namespace(n=0) %}{% for i in range(99999) %}{% for j in range(99999) %}{% set ns.n = ns.n + 1 %}{% endfor %}{% endfor %}", "operations"},
		"huge range":            {"{% for i in range(1000000000) %}x{% endfor %}", "Range too big"},
		"range beyond 64 bits":  {"{{ range(-9223372036854775807, 9223372036854775807) | length }}", "Range too big"},
		"product of a string":   {"{{ 'x' * 1073741824 }}", "text of more than"},
		"product, turned":       {"{{ 1073741824 * 'xx' }}", "text of more than"},
		"product of a list":     {"{{ ([0] * 1073741824) | length }}", "makes values"},
		"doubling":              {"{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | length }}", "text of more than"},
		"doubling of a list":    {"{% set ns = namespace(l=[0]) %}{% for i in range(64) %}{% set ns.l = ns.l + ns.l %}{% endfor %}", "makes values"},
		"many long strings":     {"{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = ns.l + ['xxxxxxxx' * 100000] %}{% endfor %}", ""},
		"long output":           {"{% for i in range(100000) %}{{ 'x' * 10000 }}{% endfor %}", ""},
		"macro of itself":       {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "levels deep"},
		"macros of each other":  {"{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}", "levels deep"},
		"recursive loop":        {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "levels deep"},
		"namespace of itself":   {"{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}", "levels deep"},
		"JSON of itself":        {"{% set ns = namespace() %}{% set ns.a = [1] %}{% for i in range(200) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a | tojson }}", "levels deep"},
		"comparing deep values": {"{% set n = namespace(a=[1], b=[1]) %}{% for i in range(200) %}{% set n.a = [n.a] %}{% set n.b = [n.b] %}{% endfor %}{{ n.a == n.b }}", "levels deep"},
		"power":                 {"{{ 9 ** 9 ** 9 ** 9 }}", "64 bits"},
		"exponential list":      {"{% set n = namespace(a=[1]) %}{% for i in range(40) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a }}", ""},
		"width of a format":     {"{{ '%999999999d' % 1 }}", "want at most"},
		"width of str.format":   {"{{ '{:>999999999}'.format(1) }}", "want at most"},
		"center":                {"{{ 'x' | center(1000000000) }}", "text of more than"},
		"indent":                {"{{ 'x\ny' | indent(1000000000) }}", "text of more than"},
		"replace by much":       {"{{ ('x' * 100000).replace('', 'y' * 100000) | length }}", "of more than"},
		"join by much":          {"{{ (range(100000) | list) | join('y' * 100000) | length }}", "of more than"},
		"batch fill":            {"{{ [1] | batch(1000000000, 0) | list }}", "makes values"},
		"slices":                {"{{ [1] | slice(1000000000) | list }}", "operations"},
		"strip of much by much": {"{{ ('y' * 8000000).strip('x' * 8000000) | length }}", "operations"},
		"looking at much":       {long + "{% for i in range(99999) %}{% if s | length and s | trim and s.strip() and s is upper %}{% endif %}{% endfor %}", "operations"},
		"searching in much":     {long + "{% for i in range(99999) %}{% if 'y' in s or s.find('y') > 0 or s.count('y') or s == t or s < t %}{% endif %}{% endfor %}", "operations"},
		"counting much":         {long + "{% for i in range(99999) %}{% if s | wordcount and s | truncate(5) and s | int and s | float %}{% endif %}{% endfor %}", ""},
		"keys of much":          {long + "{% set d = {s: 1} %}{% for i in range(99999) %}{% if s in d and d[s] and d.get(s) and d[t] is undefined %}{% endif %}{% endfor %}", "operations"},
		"names of much":         {long + "{% set d = {'a': 1} %}{% for i in range(99999) %}{{ [d, d] | map(attribute=s) | list | length }}{% endfor %}", "operations"},
		"cutting much":          {long + "{% for i in range(99999) %}{% if s[1:] and s[:-1] and s[5] %}{% endif %}{% endfor %}", "makes values"},
		"changing much":         {long + "{% for i in range(99999) %}{% if s | lower %}{% endif %}{% endfor %}", "makes values"},
		"formats of much":       {long + "{% for i in range(99999) %}{% if s % () %}{% endif %}{% endfor %}", "makes values"},
		"map of map":            {"{{ [[[1]]] | map('map', 'map', 'map') | list | string }}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			parsed, err := Parse(c.source)
			if err == nil {
				_, err = parsed.Render(context.Background(), nil, Options{Limits: Limits{Time: time.Hour}})
			}
			runtime.ReadMemStats(&after)
			var limit *LimitError
			if err == nil || !strings.Contains(err.Error(), c.says) || errors.As(err, &limit) && limit.Slow {
				t.Errorf("got %.200v, want %q", err, c.says)
			}
			if made := after.TotalAlloc - before.TotalAlloc; made > 8*uint64(DefaultLimits.Memory) {
				t.Errorf("%d MiB were allocated on the way", made>>20)
			}
		})
	}
}

// Templates that reach for what is behind a value, as in CVE-2024-34359 and its like: there is nothing behind it.
func TestTemplatesReachNothingBehindTheirValues(t *testing.T) {
	for _, source := range []string{
		"{{ ''.__class__.__mro__[1].__subclasses__() }}",
		"{{ ''['__class__']['__base__'] }}",
		"{{ [].__class__.__base__.__subclasses__()[0] }}",
		"{{ cycler.__init__.__globals__.os.popen('id').read() }}",
		"{{ joiner.__init__.__globals__ }}x{{ namespace.__init__.__globals__.os }}",
		"{{ lipsum.__globals__['os'].system('id') }}",
		"{{ self.__init__.__globals__ }}{{ self._TemplateReference__context.cycler.x }}",
		"{{ range.__self__.__import__('os') }}",
		"{{ '{0.__class__.__mro__}'.format('') }}",
		"{{ '{0[__class__]}'.format('') }}",
		"{{ ('%s' | attr('format'))('x').__class__.__name__ }}",
		"{{ [''] | map(attribute='__class__.__mro__') | list | first | first }}",
		"{{ messages.append(1) }}", "{{ messages.clear() }}", "{{ d.update({}) }}", "{{ d.pop('a') }}", "{{ d.setdefault('b', 1) }}",
		"{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "{{ namespace(_x=1) }}", "{{ dict(a=1).__init__.__globals__ }}",
		"{% set m.role = 'system' %}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% from 'os' import system %}", "{% extends 'x' %}",
		"{{ raise_exception.__globals__.os }}", "{{ strftime_now('%Q' * 600) }}", "{{ loop.__init__ }}{{ loop.x }}",
	} {
		messages, d := NewList(Content("x")), NewDict()
		d.Set("a", Int(1))
		got, err := render(source, map[string]Value{"messages": messages, "d": d, "m": d})
		if err == nil {
			t.Errorf("%s: %q, want an error", source, got.S)
		}
		if len(messages.Items) != 1 || d.Len() != 1 {
			t.Fatalf("%s changed its variables", source)
		}
	}
}

func TestTooDeepTemplatesAreRefused(t *testing.T) {
	for name, source := range map[string]string{
		"parentheses": "{{ " + strings.Repeat("(", 1e5) + "1" + strings.Repeat(")", 1e5) + " }}",
		"lists":       "{{ " + strings.Repeat("[", 1e5) + strings.Repeat("]", 1e5) + " }}",
		"not":         "{{ " + strings.Repeat("not ", 1e5) + "1 }}",
		"signs":       "{{ " + strings.Repeat("-", 1e5) + "1 }}",
		"conditions":  "{{ " + strings.Repeat("1 if 0 else ", 5e4) + "1 }}",
		"blocks":      strings.Repeat("{% if 1 %}", 5e4) + strings.Repeat("{% endif %}", 5e4),
		"targets":     "{% set " + strings.Repeat("(", 1e5) + "a" + strings.Repeat(")", 1e5) + " = 1 %}",
		"subscripts":  "{{ " + strings.Repeat("a[", 1e5) + "1" + strings.Repeat("]", 1e5) + " }}",
		"tests":       "{{ " + strings.Repeat("a is in(", 1e5) + "1" + strings.Repeat(")", 1e5) + " }}",
		"calls":       strings.Repeat("{% call a() %}", 5e4),
		"too long":    strings.Repeat("x", maxSource+1),
	} {
		if _, err := Parse(source); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// Chains are no depth.
	for name, source := range map[string]string{
		"sums":       "{{ 0" + strings.Repeat(" + 1", 1e4) + " }}",
		"texts":      "{{ ''" + strings.Repeat(" ~ 'x'", 1e4) + " | length }}",
		"filters":    "{{ 'x'" + strings.Repeat(" | upper", 1e4) + " }}",
		"attributes": "{{ x is defined" + strings.Repeat(" or x.y is defined", 1e3) + " }}",
		"elifs":      "{% if 0 %}" + strings.Repeat("{% elif 0 %}", 1e4) + "{% else %}x{% endif %}",
	} {
		parsed, err := Parse(source)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := parsed.Render(context.Background(), map[string]Value{"x": Int(1)}, Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTimeAndContextEndARendering(t *testing.T) {
	parsed, err := Parse("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	endless := Limits{Operations: 1 << 60, Memory: 1 << 60}
	endless.Time = time.Nanosecond
	var limit *LimitError
	if _, err := parsed.Render(context.Background(), nil, Options{Limits: endless}); !errors.As(err, &limit) || !limit.Slow {
		t.Errorf("time: %v", err)
	}
	endless.Time = time.Hour
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("gone")
	cancel(gone)
	if _, err := parsed.Render(ctx, nil, Options{Limits: endless}); !errors.Is(err, gone) {
		t.Errorf("context: %v", err)
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	for source, want := range map[string]string{
		"a\n{{ 1 +* 2 }}":                         "template line 2: unexpected '*'",
		"a\nb\n{{ x.y.z }}":                       "template line 3: 'x' is undefined",
		"{% if 1 %}\n{{ 1 + 'a' }}{% endif %}":    "template line 2: unsupported operand type(s) for +: 'int' and 'str'",
		"{{ m.content.foo() }}":                   "template line 1: 'str object' has no attribute 'foo'",
		"\n{% for %}":                             "template line 2: can't assign to end of statement block",
		"{{ raise_exception('Only ' ~ 'user') }}": "Only user",
	} {
		m := NewDict()
		m.Set("content", Content("x"))
		if _, err := render(source, map[string]Value{"m": m}); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %q", source, err, want)
		}
	}
}

// FuzzRender parses and renders arbitrary templates: no panic, no result beyond the limits, spans that hold.
func FuzzRender(f *testing.F) {
	file, err := os.Open(filepath.Join("testdata", "cases.jsonl"))
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	var chat json.RawMessage
	for lines.Scan() {
		var c struct {
			Name, Template string
			Values         json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			f.Fatal(err)
		}
		if c.Name == "chat" {
			chat = append(chat, c.Values...)
		}
		f.Add(c.Template)
	}
	variables := variablesOf(f, chat, true)
	limits := Limits{Operations: 20_000, Output: 64 << 10, Memory: 1 << 20, Time: time.Minute}
	f.Fuzz(func(t *testing.T, source string) {
		parsed, err := Parse(source)
		if err != nil {
			return
		}
		text, err := parsed.Render(context.Background(), variables, Options{Now: clock, Limits: limits})
		if err != nil {
			return
		}
		checkSpans(t, text)
		if len(text.S) > limits.Output || !utf8.ValidString(text.S) {
			t.Fatalf("%d bytes of output, valid UTF-8: %v", len(text.S), utf8.ValidString(text.S))
		}
	})
}
