"""Writes cases.jsonl: templates, what they are given, and what Jinja's own implementation makes of them, set up as Hugging Face does.

    pip install jinja2==3.1.6 && python3 make_cases.py > cases.jsonl

A line has `template`, `variables` where there are any, and `output`, or `error`: true where Jinja refuses. What an error says is not compared.
"""
import json
import sys
from datetime import datetime

import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime(2026, 3, 7, 15, 4, 5)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = NOW.strftime

CHAT = {
    "messages": [
        {"role": "system", "content": " Be terse. "},
        {"role": "user", "content": "Hi <b>&'\" there"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello", "tool_calls": [
            {"type": "function", "id": "call00001", "function": {"name": "f", "arguments": {"z": 1, "a": [True, None, 2.5, "é\n"]}}}]},
        {"role": "tool", "name": "f", "content": "42"},
        {"role": "user", "content": "日本語 👋\n"},
    ],
    "tools": [{"type": "function", "function": {"name": "get", "description": "Gets \"it\"", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "enum": ["a", "b"]}, "n": {"type": ["integer", "null"]}},
        "required": ["city"]}}}],
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
}
DATA = {"d": {"b": 1, "a": 2, "items": "own", "nested": {"x": [1, 2, {"y": "deep"}]}}, "l": [3, 1, 2], "s": "Hello World",
        "u": "naïve Straße 日本 👍🏽", "n": 7, "f": 2.5, "t": True, "none": None, "empty": [], "words": ["b", "A", "c", "a"],
        "people": [{"name": "Bo", "age": 9, "at": {"city": "X"}}, {"name": "al", "age": 7, "at": {"city": "Y"}}, {"name": "Cy", "age": 9, "at": {}}]}

# Expressions over DATA: each becomes a template {{ … }}.
EXPRESSIONS = r"""
1 + 2 * 3 - 4
7 // 2 ~ ' ' ~ -7 // 2 ~ ' ' ~ 7 % 3 ~ ' ' ~ -7 % 3 ~ ' ' ~ 7 / 2
2 ** 10
2 ** 3 ** 2
-2 ** 2
2 ** -1
1.5 + 1
7.5 // 2
-7.5 % 2
1e3
1_000 + 0x1f + 0b101 + 0o17
1.0
100000000000000000000.0
1e16
123456789012345.0
0.0001
0.00001
1/3
10/2
3 * 'ab'
'ab' * 3
[1, 2] * 2
[1] + [2, 3]
(1, 2) + (3,)
[1] + (2,)
'a' + 1
1 + 'a'
'a' ~ 1 ~ none ~ true ~ 2.0
'a' 'b' "c"
'a\n\t\\\'\"\x41\u00e9\U0001F44B\101\q'
true and false or true
1 and 2
0 or 'x'
not 1
not not 1
not true or true
1 < 2 < 3
1 < 3 < 2
1 == 1.0
true == 1
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
1 in [1, 2]
'x' in 'xyz'
'a' in d
'q' not in d
3 in s
2 is in [1, 2]
none in [none]
missing
missing.attribute
missing['x']
missing + 1
missing == missing
missing is defined
missing or 'else'
missing | default('x')
missing | length
missing ~ 'x'
'' | default('x', true)
none | default('x')
d.missing is defined
d.missing
d.missing.more
d.b
d['b']
d['items']
d.keys() | list
d.values() | list
d.nested.x[2].y
d.nested['x'][-1]['y']
d.get('b')
d.get('zz')
d.get('zz', 5)
d | length
d
d | items | list
d | dictsort
d.nested
l[0]
l[-1]
l[5]
l[5] is defined
l[1:]
l[:-1]
l[::-1]
l[::2]
l[-2:]
l[10:]
l[:]
l[none:2]
l['a']
l.0
(1, 2, 3)[1:]
s[0]
s[-1]
s[1:4]
s[::-1]
s[::-2]
s[4:1:-1]
u[1:9]
u[-3:]
u[::-1]
u | length
s.upper() ~ s.lower() ~ s.title() ~ s.capitalize() ~ s.swapcase()
u.upper()
u.lower()
"they're bill's".title()
"they're bill's-x (y)" | title
'  x '.strip() ~ '|' ~ '  x '.lstrip() ~ '|' ~ '  x '.rstrip() ~ '|'
'xxaxx'.strip('x')
'xyaxy'.strip('yx')
'abc'.lstrip('ab') ~ 'abc'.rstrip('bc')
'\u00a0\u2003x\u3000'.strip()
'a,b,,c'.split(',')
'a,b,,c'.split(',', 1)
' a  b '.split()
' a  b c '.split(none, 1)
''.split()
''.split(',')
'a,b,c'.rsplit(',', 1)
' a  b c '.rsplit(none, 1)
'abc'.split('')
'a\nb\r\nc\n'.splitlines()
'a\nb\n'.splitlines(true)
'k=v=w'.partition('=')
'k=v=w'.rpartition('=')
'kv'.partition('=')
'kv'.rpartition('=')
'aXbXc'.replace('X', '-')
'aXbXc'.replace('X', '-', 1)
'abc'.replace('', '.')
'héé'.replace('', '.')
'aaa'.replace('a', '')
'abc'.find('c') ~ 'abc'.find('z') ~ 'héllo'.find('l')
'abcabc'.rfind('b')
'abc'.index('c')
'abc'.index('z')
'banana'.count('an')
s.startswith('He')
s.startswith(('x', 'He'))
s.endswith('d')
'unhappy'.removeprefix('un') ~ 'x.py'.removesuffix('.py')
', '.join(['a', 'b'])
', '.join([1])
'x'.center(5, '*') ~ 'ab'.center(5, '*') ~ 'abc'.center(6)
'x'.ljust(3, '.') ~ 'x'.rjust(3, '.') ~ '-7'.zfill(4)
'abc'.isalpha() ~ '12'.isdigit() ~ ''.isdigit() ~ 'a1'.isalnum() ~ ' '.isspace() ~ 'AB'.isupper() ~ 'ab1'.islower()
'{} and {}'.format(1, 'b')
'{1} {0} {x}'.format(1, 'b', x=none)
'{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:,}'.format('a', 'b', 'c', 42, 3.14159, 1234567)
'{{}}'.format()
'{'.format()
'%s is %d and %.2f %5s|%-5s|%05d %x %%' % ('a', 5, 1.005, 'r', 'l', 42, 255)
'%s' % 'one'
'%s %s' % ('one',)
'%s' % [1, 'a']
'%r' % 'it'
'%(a)s' % {'a': 1}
s | upper | lower | title | capitalize
'x' | center(5)
'<a href="x">\'&' | escape
'<a>' | e | length
l | first
l | last
empty | first
empty | first is defined
l | sort
l | sort(reverse=true)
words | sort
[none, none] | sort
{missing: 1}[missing]
d[[1]] is defined
missing is callable
words | sort(case_sensitive=true)
people | sort(attribute='age') | map(attribute='name') | join(',')
people | sort(attribute='age,name') | map(attribute='name') | list
l | max ~ l | min
words | max
people | max(attribute='age')
empty | max
l | sum
people | sum(attribute='age')
l | sum(start=10)
l | reverse | list
s | reverse
l | join
l | join(', ')
people | join(', ', attribute='name')
l | list
s | list
d | list
l | map('string') | join('-')
words | map('upper') | list
people | map(attribute='name') | list
people | map(attribute='at.city') | list
people | map(attribute='at.city', default='?') | list
l | map('nofilter') | list
l | select('odd') | list
l | reject('odd') | list
[0, 1, '', 'a', none] | select | list
people | selectattr('age', 'equalto', 9) | map(attribute='name') | list
people | selectattr('age', '>', 8) | list | length
people | rejectattr('age', 'eq', 9) | list
people | selectattr('at.city') | map(attribute='name') | list
people | selectattr('zz', 'defined') | list
words | unique | list
[1, 2, 1, 1.0] | unique | list
people | groupby('age')
people | groupby('age') | map(attribute='list') | list
(people | groupby('age') | first).grouper
[1, 2, 3, 4, 5] | batch(2) | list
[1, 2, 3] | batch(2, 'x') | list
[1, 2, 3, 4, 5] | slice(2) | list
[1, 2, 3, 4, 5] | slice(3, 'x') | list
2.5 | round ~ 3.5 | round ~ 2.675 | round(2)
2.1 | round(method='ceil') ~ 2.9 | round(0, 'floor')
42 | round
1234.5 | round(-2)
'42' | int + 1
'4.7' | int
'x' | int
'x' | int(-1)
'0x1f' | int(0, 16)
'ff' | int(base=16)
none | int
'1.5' | float + 1
'x' | float
3 | abs ~ -3 | abs ~ -2.5 | abs
'a\nb\n\nc' | indent
'a\nb' | indent(2, true)
'a\n\nb\n' | indent(2, blank=true)
'a\nb' | indent('> ')
'aXb' | replace('X', 'Y')
'aaa' | replace('a', 'b', 2)
'  x  ' | trim
'xxaxx' | trim('x')
'one two three four' | truncate(9)
'one two three four' | truncate(9, true)
'one two three four' | truncate(9, true, '', 0)
'a b c' | wordcount
'a b/ü&' | urlencode
'%s-%s' | format(1, 'b')
'%(x)s' | format(x=1)
5 | string ~ 'x'
d | attr('b')
'x' | safe
l | count
(1,)
()
[]
{}
(1, 'a', none, 2.0, true)
{'a': 1, 'b': [1, 'x'], 3: none}
{'a': 1}.a
{'a': {'b': {'c': 1}}}.a.b.c
{1: 'int'}[1.0]
{'a': 1}['b'] is defined
['it\'s', "say \"x\"", 'both \' "', '\n\\', 'é', '\x00\x7f\u200b']
'yes' if n > 5 else 'no'
'yes' if n > 50
('yes' if n > 50) is defined
'a' if false else 'b' if false else 'c'
n is number ~ f is number ~ s is number ~ t is number
n is integer ~ t is integer ~ f is integer ~ f is float
s is string ~ n is string ~ none is none ~ missing is none
d is mapping ~ l is mapping ~ l is sequence ~ s is sequence ~ d is sequence ~ n is sequence
l is iterable ~ s is iterable ~ n is iterable ~ missing is iterable
t is boolean ~ 1 is boolean ~ t is true ~ 1 is true ~ false is false
4 is even ~ 4 is odd ~ 9 is divisibleby 3 ~ 9 is divisibleby(2)
n is eq 7 ~ n is gt 6 ~ n is lt(6) ~ n is ne(7) ~ n is ge 7 ~ n is le 7
n is sameas n ~ none is sameas none ~ t is sameas true ~ 1 is sameas true
'a' is lower ~ 'A' is upper ~ 'Aa' is lower
n is not none
n is not string and true
not n is string
'upper' is filter ~ 'nofilter' is filter
range is callable ~ s is callable ~ s.upper is callable
range(3) | list
range(1, 10, 3) | list
range(5, 0, -2) | list
range(0) | list
range(3) | length ~ range(10)[3] ~ range(10)[-1]
range(100001)
range(1, 2, 0)
dict(a=1, b='x')
dict([('k', 1)], z=2)
namespace(a=1).a
namespace(a=1).zz is defined
namespace({'a': 1}, b=2).b
s.__class__
s.__class__.__mro__
s['__class__']
''.__class__.__base__.__subclasses__()
d.__init__
l.append(4)
l.extend([1])
d.update({'x': 1})
d.pop('a')
l.pop()
l.index(1) ~ l.count(1)
l.index(9)
l.sort()
range.__call__
(l | map('upper')).__class__
x.y.z
strftime_now('%Y-%m-%d %H:%M:%S %d %b %B %a %A %j %p %I %y %-d %-m %%')
strftime_now('%e|%D|%F|%T|%u|%w|%U|%W|%V')
raise_exception('no')
1(2)
s()
l.missing()
[1, 2, 3].0
'abc'[1]
'abc'['x'] is defined
none.x
none['x'] is defined
none | length
5 | length
-s
+n
- -n
{'b': 1, 'a': 2} | tojson
{'b': 1, 'a': {'y': 2, 'x': [1, 2]}} | tojson(indent=2)
{'b': 1, 'a': [[], {}]} | tojson(indent=4, sort_keys=true)
{'a': 1, 'b': [1, 2]} | tojson(separators=(',', ':'))
{'a': 1} | tojson(separators=(', ', ' : '), indent=1)
'é👋<>&\'"/\\\b\f\n\r\t\x00\x1f\x7f' | tojson
'é👋' | tojson(ensure_ascii=true)
[1, 2.0, 1e22, true, none, 'x', (1, 2)] | tojson
{1: 'a', true: 'b', none: 'c', 2.5: 'd'} | tojson
missing | tojson
range(3) | list | tojson
namespace(a=1) | tojson
s | tojson | length
'"' | tojson | tojson
"'" ~ '"'
d.nested.x[2]['y'].upper()[1:3] | lower
(n + 3) * 2
n|string|length
[[1, 2], [3]] | map('first') | list
[[1, 2], [3]] | sum(start=[])
'a' if s is string and (l is iterable or none) else 'b'
[1,2,3][1] + {'x': [4]}['x'][0]
(l | length) > 2 and l[0] == 3
loop is defined
'a'.__len__ is defined
d.b.c is defined
'x' == "x" != 'y'
1 if 1
[x for x in l]
'a' . upper()
{'a':1}|length>0
{**d}
f(*l)
'%c' % 65
'%5.1f|%+d|% d|%e' % (2.25, 3, 4, 12345.678)
""".strip("\n").split("\n")

# Templates over CHAT and DATA.
TEMPLATES = [
    # whitespace control, trim_blocks, lstrip_blocks
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}  \n  b\n  {% endif %}\nc",
    "a {%- if true -%} b {%- endif -%} c",
    "a\n  {%+ if true %}x{% endif %}\n",
    "a\n{% if true +%}\nb{% endif %}",
    "{{ 1 }}\n{{ 2 }}\n\n",
    "  {{- 1 -}}  \n x",
    "x  {{ 1 }}  {{- 2 }}\n",
    "  {# c #}  \nx",
    "a\n  {# c #}\n  b",
    "a {#- c -#} b",
    "a{# {{ x }} {% y %} #}b",
    "x {% if true %} y {% endif %} z",
    "\n\n{% if true %}\n\na{% endif %}\n\n",
    "{% for i in [1,2] %}\n  {{ i }}\n{% endfor %}\nend",
    "{% for i in [1,2] -%}\n  {{ i }}\n{%- endfor %}\nend",
    "a\r\nb\r\n{% if true %}\r\nc{% endif %}\rd",
    "text\t  {% if true %}x{% endif %}",
    "{%if true%}a{%endif%}{{1}}{{- 2}}",
    "{% raw %}{{ x }}{% y %}{# z #}{% endraw %}!",
    "a\n  {% raw %}\n  b {{ c }}\n  {% endraw %}\nd",
    "a {%- raw -%} b {%- endraw -%} c",
    "{{ '{{' }}{{ '%}' }}{{ '}}' }}",
    "{{ {'a': {'b': 1}} }}",
    "{{ {'a': {'b': 1}}['a']}}",
    "{ { } } {x} %} }} #}",
    "{{ 'a' -}}   {#- c #} \n  b",
    "a\u00a0\n {%- if true %}b{% endif %}",
    "{{\n  1\n}}\n",
    "{% set x = 1 %}\n{% set y = 2 %}\n{{ x }}{{ y }}\n",
    # if
    "{% if n > 5 and s %}a{% elif n %}b{% else %}c{% endif %}",
    "{% if missing %}a{% elif none %}b{% elif l %}c{% else %}d{% endif %}",
    "{% if 1, 2 %}tuple{% endif %}",
    "{% if not missing is defined %}u{% endif %}",
    "{% if true %}a",
    "{% if %}a{% endif %}",
    "{% endif %}",
    "{% if true %}{% endfor %}",
    "{% nothing %}",
    # for
    "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for i in l %}{{ loop.previtem | default('-') }}{{ i }}{{ loop.nextitem | default('-') }},{% endfor %}",
    "{% for i in l %}{{ loop.previtem is defined }}{{ loop.nextitem is undefined }}{% endfor %}",
    "{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}",
    "{% for i in l if i > 1 %}{{ i }}{{ loop.length }}{% else %}none{% endfor %}",
    "{% for i in l if i > 10 %}{{ i }}{% else %}none{% endfor %}",
    "{% for i in missing %}x{% else %}empty{% endfor %}",
    "{% for i in none %}x{% endfor %}",
    "{% for i in 5 %}x{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}",
    "{% for c in 'aé👋' %}[{{ c }}]{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for a, b in [(1,)] %}{{ a }}{% endfor %}",
    "{% for i in 1, 2, 3 %}{{ i }}{% endfor %}",
    "{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in l %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}!",
    "{% for i in l %}{% for j in l %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}",
    "{% break %}",
    "{% for i in [1,2] %}{% set x = i %}{% endfor %}{{ x is defined }}",
    "{% set x = 0 %}{% for i in [1,2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=0) %}{% for i in [1,2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace() %}{{ ns.y is defined }}{% set ns.y = 'z' %}{{ ns.y }}{{ ns['y'] }}",
    "{% set ns = {} %}{% set ns.x = 1 %}",
    "{% set ns = namespace(x=1) %}{{ ns }}",
    "{% set ns.x = 1 %}",
    "{% for i in l %}{{ i }}{% endfor %}{{ i is defined }}{{ loop is defined }}",
    "{% for i in l %}{% set outer = loop %}{% for j in [1] %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}",
    "{% for n in [{'v': 1, 'c': [{'v': 2, 'c': []}]}] recursive %}{{ n.v }}({{ loop(n.c) }}){{ loop.depth }}{% endfor %}",
    "{% for i in l %}{{ loop(i) }}{% endfor %}",
    "{% for m in messages[1:] %}{{ loop.index0 }}{{ m.role }}{% endfor %}",
    "{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ m.content }}|{% endfor %}",
    "{% for m in messages | reverse %}{{ m.role }},{% endfor %}",
    "{% for m in messages[::-1] %}{{ m.role }},{% endfor %}",
    "{% for i in range(3, 0, -1) %}{{ i }}{% endfor %}",
    # set, with, blocks
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a, b = [3, 4] %}{{ a }}{{ b }}",
    "{% set (a, b) = 'xy' %}{{ a }}{{ b }}",
    "{% set a = 1, %}{{ a }}",
    "{% set x %}a{{ n }}\nb{% endset %}[{{ x }}]",
    "{% set x | upper | trim %}  a{{ n }} {% endset %}[{{ x }}]",
    "{% set true = 1 %}",
    "{% set 1 = 1 %}",
    "{% set if = 'a' %}{% set in = 'abc' %}{% if if in in %}b{% endif %}",
    "{% set loop = 1 %}{{ loop }}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}",
    "{% filter upper %}a{{ s }}{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}aa{% endfilter %}",
    "{% generation %}a{{ n }}{% endgeneration %}b",
    "{% if true %}{% set z = 1 %}{% endif %}{{ z }}",
    "{% if false %}{% set z = 1 %}{% endif %}{{ z is defined }}",
    # macros
    "{% macro m(a, b=2) %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=4, a=5) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m(x, y=x) %}{{ x }}{{ y }}{% endmacro %}{{ m(1) }}",
    "{% macro m() %}{{ n }}{% set n = 1 %}{{ n }}{% endmacro %}{{ m() }}",
    "{% set g = 1 %}{% macro m() %}{{ g }}{% endmacro %}{% set g = 2 %}{{ m() }}",
    "{% macro m(k) %}{% if k > 0 %}{{ k }}{{ m(k - 1) }}{% endif %}{% endmacro %}{{ m(5) }}",
    "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}",
    "{% macro m() %}<{{ caller(1, 2) }}>{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{{ n }}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro m(a, b) %}{{ b is defined }}{% endmacro %}{{ m(1) }}",
    "{% macro m(t) -%}\n  {{ t | upper -}}\n{% endmacro %}{{ m('x') ~ m('y') | lower }}",
    "{% macro m() %}  x  {% endmacro %}[{{ m() | trim }}]{{ m() is string }}{{ m() | length }}",
    "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{{ m() }}{% macro m() %}x{% endmacro %}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{% macro m(x) %}{% for i in x %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}{% endmacro %}{{ m([1, 2, 3]) }}",
    "{{ dict(**{'a': 1}) }}{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}",
    # globals
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}",
    "{% set j = joiner('|') %}{{ j() }}a{{ j() }}b{{ j() }}c",
    "{{ raise_exception('Conversation roles must alternate') }}",
    "{% if false %}{{ x | nofilter }}{% endif %}ok",
    "{% if false %}{{ x is notest }}{% endif %}ok",
    "{{ x | nofilter if false else 'ok' }}",
    "{{ x | nofilter }}",
    "{{ x is notest }}",
    "{{ 1",
    "{% if",
    "{# open",
    "{{ 'open }}",
    "{{ (1 }}",
    "{{ 1 ) }}",
    "{{ 1 ! 2 }}",
    "{{ }}",
    "{{ a b }}",
    "{{ 1 2 }}",
    "{{ a. }}",
    "{{ a.[1] }}",
    "{{ a|}}",
    "{% set x = {% %}",
    "{{ 'é' ~ \"\\u00e9\" }}",
    "{{ x.y.z if x is defined else 'no' }}",
    "{% include 'x' %}",
    "",
    "plain",
    # what the templates of chat models do
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] | trim + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = messages[0]['content'] | trim %}{% else %}{% set rest = messages %}"
    "{% endif %}{{ sys }}|{{ rest | length }}",
    "{%- for m in messages %}\n    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}\n        {{- raise_exception('roles must alternate') }}\n"
    "    {%- endif %}\n{%- endfor %}",
    "{%- set ns = namespace(last=messages|length - 1, multi=true) %}\n{%- for message in messages[::-1] %}\n"
    "    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if ns.multi and message.role == 'user' and message.content is string "
    "and not(message.content.startswith('<r>') and message.content.endswith('</r>')) %}\n        {%- set ns.multi = false %}\n"
    "        {%- set ns.last = index %}\n    {%- endif %}\n{%- endfor %}\n{{ ns.last }}{{ ns.multi }}",
    "{%- set content = messages[2].content %}{%- if '</think>' in content %}{%- set thought = content.split('</think>')[0].rstrip('\\n')"
    ".split('<think>')[-1].lstrip('\\n') %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}[{{ thought }}][{{ content }}]",
    "{%- if tools %}\n    {{- '<|s|>system\\n' }}\n    {%- for tool in tools %}\n        {{- \"\\n\" }}\n        {{- tool | tojson }}\n    {%- endfor %}\n"
    "    {{- \"\\n</tools>\" }}\n{%- endif %}",
    "{{ tools[0] | tojson(indent=4) }}",
    "{% for m in messages if m.tool_calls is defined and m.tool_calls %}{% for c in m.tool_calls %}{%- if c.function is defined %}{% set c = c.function %}"
    "{% endif %}{{ '{\"name\": \"' }}{{ c.name }}{{ '\", \"arguments\": ' }}{% if c.arguments is string %}{{ c.arguments }}{% else %}{{ c.arguments | tojson }}"
    "{% endif %}{{ '}' }}{% endfor %}{% endfor %}",
    "{% for m in messages if m.tool_calls %}{{ m.tool_calls[0]['function'] | tojson }}{{ m['tool_calls'][0]['id'] | length != 9 }}{% endfor %}",
    "{%- macro param(p) %}{%- if p.type is string %}{{- p.type }}{%- elif p.type is iterable %}{%- for t in p.type %}{{- t }}{{- ' | ' if not loop.last }}"
    "{%- endfor %}{%- endif %}{%- if p.enum %}{{ ' one of ' ~ p.enum | join(', ') }}{%- endif %}{%- endmacro %}"
    "{%- for t in tools %}{%- for k, v in t.function.parameters.properties.items() %}{{ k }}: {{ param(v) }}\n{% endfor %}{%- endfor %}",
    "{%- for t in tools %}{%- for k, v in t.function.parameters.properties | dictsort %}{{ k }}{%- if k in t.function.parameters.required %}*{% endif %},"
    "{% endfor %}{%- endfor %}",
    "{{ messages | map(attribute='role') | list | tojson }}{{ messages | selectattr('role', 'in', ['user', 'tool']) | list | length }}",
    "{%- set user = messages | selectattr('role', 'equalto', 'user') | list %}{%- for m in messages %}{%- if m == user[-1] %}last@{{ loop.index0 }}{% endif %}"
    "{%- endfor %}",
    "{%- if messages[0].content is string %}{{ messages[0].content }}{%- else %}{%- for c in messages[0].content if c.type == 'text' %}{{ c.text }}"
    "{%- endfor %}{%- endif %}",
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}{{ 'Today Date: ' + date_string }}",
    "{{ '<|start|>' ~ (messages[-1].role | upper) ~ '<|end|>' ~ (messages[-1]['content'] | trim | length) }}",
    "{% for m in messages %}{% generation %}{{ m.content if m.role == 'assistant' }}{% endgeneration %}{% endfor %}",
    "{%- set loop_messages = messages -%}{%- for message in loop_messages -%}{%- set role = {'user': 'U', 'assistant': 'M'}.get(message.role, message.role) -%}"
    "{{ role }},{%- endfor -%}",
    "{{ messages[0].content.strip() ~ '\n' if messages[0].role in ('system', 'developer') else '' }}",
    "{% set content = messages[4].content if messages[4].content is not none else '' %}{{ content }}{{ '' if content.endswith('\n') else '\n' }}|",
    "{%- for message in messages|selectattr('role','ne','system') -%}{{ loop.index }}{{ message.role[0] | upper }}{% if not loop.last %},{% endif %}{%- endfor -%}",
    "{% set ns = namespace(out='', n=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.out = ns.out ~ m.content ~ eos_token %}{% set ns.n = ns.n + 1 %}"
    "{% endif %}{% endfor %}{{ ns.out }}{{ ns.n }}",
    "{{ messages[2].tool_calls[0].function.arguments.items() | list }}",
    "{% for k, v in messages[2].tool_calls[0].function.arguments | items %}{{ k }}={{ v if v is string else v | tojson }};{% endfor %}",
    "{{ messages[2] | tojson }}",
    "{{ messages[2] }}",
    "{{ (messages | first).role }}{{ (messages | last)['role'] }}",
    "{% set sep = joiner(', ') %}{% for t in tools %}{{ sep() }}{{ t.function.name }}{% endfor %}",
    "{{ documents is defined and documents }}{{ xml_tools is defined }}{{ enable_thinking | default(true) }}",
]


def main():
    cases = [("{{ " + e + " }}", DATA) for e in EXPRESSIONS]
    for t in TEMPLATES:
        variables = CHAT if any(w in t for w in ("messages", "tools", "bos_token")) else DATA
        cases.append((t, variables))
    seen = set()
    for template, variables in cases:
        if template in seen:
            sys.exit("twice: " + template)
        seen.add(template)
        line = {"template": template, "variables": "chat" if variables is CHAT else "data"}
        try:
            line["output"] = env.from_string(template).render(**variables)
        except Exception:
            line["error"] = True
        print(json.dumps(line, ensure_ascii=False))


print(json.dumps({"name": "chat", "values": CHAT}, ensure_ascii=False))
print(json.dumps({"name": "data", "values": DATA}, ensure_ascii=False))
main()
