package jinja

import (
	"strings"
	"testing"
)

// The content of these tests is of runes (U+16A0 to U+16EA), which no template prints: so each character of an output tells by itself where it came from.
const (
	secretText = "ᚠᚡᚢ"
	padded     = "  ᚠᚡ\t"
)

func isSecret(c rune) bool { return c >= 0x16a0 && c <= 0x16ea }

func TestContentIsKnownWhateverATemplateDoesWithIt(t *testing.T) {
	variables := map[string]Value{
		"c": Content(secretText), "cc": Content(secretText + "," + secretText), "p": Content(padded),
		"m": func() Value {
			d := NewDict()
			d.Set("content", Content(secretText))
			return d
		}(),
		"l": NewList(Content("ᚰ"), Content("ᚱ")),
	}
	for _, source := range []string{
		"{{ c }}", "a{{ c }}b", "{{ c + 'x' }}", "{{ 'x' + c }}", "{{ 'x' ~ c ~ 'y' ~ c }}", "{{ c * 3 }}", "{{ ('a' ~ c) * 2 }}",
		"{{ c[0] }}", "{{ c[1:] }}", "{{ c[::-1] }}", "{{ ('a' ~ c ~ 'b')[1:3] }}", "{{ ('a' ~ c ~ 'b')[::-1] }}", "{{ ('ab' ~ c)[-2:] ~ 'x' }}",
		"{{ c | upper }}", "{{ c | title }}", "{{ ('a' ~ c) | capitalize }}", "{{ ('a' ~ c) | title }}", "{{ c.lower() ~ '!' }}",
		"{{ c.replace('ᚡ', 'x') }}", "{{ 'axb'.replace('x', c) }}", "{{ (c ~ 'x').replace('x', 'y') }}", "{{ 'aa'.replace('', c) }}",
		"{{ cc.split(',')[1] ~ 'a' }}", "{{ cc.rsplit(',', 1)[0] ~ 'a' }}", "{{ cc.partition(',')[2] }}", "{{ ('a\n' ~ c).splitlines() | join('-') }}",
		"{{ 'x'.join([c, 'a', c]) }}", "{{ [c, 'a'] | join(',') }}", "{{ l | join('a') }}", "{{ c.join(['a', 'b']) }}",
		"{{ ('a' ~ p ~ 'b') | trim }}", "{{ p.strip() }}", "{{ p.lstrip().rstrip() ~ 'x' }}", "{{ c.strip('ᚠ') ~ 'z' }}",
		"{{ '%s and %s' % (c, 'x') }}", "{{ '{} {}'.format('x', c) }}", "{{ '%5s|' % c }}", "{{ c | center(9) }}", "{{ 'a%sb' | format(c) }}",
		"{{ c | tojson }}", "{{ {'k': c} | tojson }}", "{{ m | tojson(indent=2) }}", "{{ [c, 1] }}", "{{ m }}", "{{ {'a': [c]} | string }}",
		"{% set x = c %}{{ x }}a", "{% set x %}a{{ c }}b{% endset %}{{ x }}{{ x | upper }}", "{% set ns = namespace(t='') %}{% set ns.t = ns.t ~ 'a' ~ c %}{{ ns.t }}",
		"{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(c) }}", "{% macro m() %}({{ caller() }}){% endmacro %}{% call m() %}a{{ c }}{% endcall %}",
		"{% filter upper %}a{{ c }}b{% endfilter %}", "{% for x in c %}{{ x }},{% endfor %}", "{% for x in l %}{{ x }}{{ loop.index }}{% endfor %}",
		"{{ c if true else 'x' }}", "{{ missing | default(c) }}", "{{ c | default('x') }}", "{{ c or 'x' }}", "{{ 'x' and c }}", "{{ (c, 'a') | last }}{{ [c] | first }}",
		"{{ ('a\n' ~ c) | indent(2) }}", "{{ 'a' | indent(width=c, first=true) }}", "{{ (c ~ ' ' ~ 'word') | truncate(4, true, '') }}", "{{ c | reverse }}x",
		"{{ [c, 'a'] | map('upper') | join }}", "{{ [m] | map(attribute='content') | list }}", "{{ [c, 'a'] | sort | join }}", "{{ [c, c, 'a'] | unique | join }}",
		"{{ c | list }}", "{{ c.removeprefix('ᚠ') }}a", "{{ ('a' ~ c) | replace('a', 'bb') }}", "{{ c | e }}<", "{{ cc | wordcount }}", "{{ c.zfill(6) }}", "{{ c.ljust(5, '.') }}",
		"{{ {c: 1} }}", "{{ {c: 1}.keys() | join }}", "{% for k, v in {c: 'v'}.items() %}{{ k }}{{ v }}{% endfor %}", "{{ m.content }}{{ m['content'][0] }}",
	} {
		got, err := render(source, variables)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		checkSpans(t, got)
		seen := false
		for i, c := range got.S {
			seen = seen || isSecret(c)
			// Blanks and commas of the content are content too, but look like the template's.
			if want := isSecret(c); want != got.isContent(i) && (want || !strings.ContainsRune(" ,\t", c)) {
				t.Errorf("%s: %q: character %d, %q, is content: %v", source, got.S, i, c, !want)
			}
		}
		if !seen && !strings.Contains(source, "wordcount") {
			t.Errorf("%s: %q has no content: this tests nothing", source, got.S)
		}
	}
}

// checkSpans checks the invariant of a text's spans.
func checkSpans(tb testing.TB, t Text) {
	tb.Helper()
	last := -1
	for _, s := range t.Content {
		if s.Start <= last || s.End <= s.Start || s.End > len(t.S) {
			tb.Fatalf("%q: spans %v", t.S, t.Content)
		}
		last = s.End
	}
}

// What a template makes of content by rules of its own is the template's: it decides by the content, it does not copy it.
func TestTextOfTheTemplateIsNoContent(t *testing.T) {
	for _, source := range []string{"{{ c | length }}", "{{ c == 'x' }}", "{{ 'a' if c else 'b' }}", "{% if c %}<|im_end|>{% endif %}", "{{ c is string }}"} {
		got, err := render(source, map[string]Value{"c": Content(secretText)})
		if err != nil || len(got.Content) > 0 || got.S == "" {
			t.Errorf("%s: %q, content at %v, %v", source, got.S, got.Content, err)
		}
	}
}
