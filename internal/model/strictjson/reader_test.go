package strictjson

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestValues(t *testing.T) {
	v, err := Parse([]byte(` {"a": [1, -0.5e+3, true, false, null], "b\u00e9\ud83d\ude00\n": "\"\\\/\b\f\r\t", "": {}} `))
	if err != nil {
		t.Fatal(err)
	}
	a := v.Members[0].Value
	if v.Members[0].Key != "a" || len(a.Items) != 5 || a.Items[1].Text != "-0.5e+3" || a.Items[2].Kind != Bool || a.Items[4].Kind != Null {
		t.Errorf("a is %+v", a)
	}
	if m := v.Members[1]; m.Key != "bé😀\n" || m.Value.Text != "\"\\/\b\f\r\t" {
		t.Errorf("b is %+v", m)
	}
	if got, want := v.String(), `{"a": [1, -0.5e+3, true, false, …], "bé😀\n": "\"\\/\b\f\r\t", "": {}}`; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
}

func TestRefuses(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1)
	many := "{"
	for i := range 100 {
		many += `"` + strings.Repeat("k", i+1) + `":0,`
	}
	for _, c := range []struct{ text, want string }{
		{``, "ends where a value should be"},
		{`{"a":1,"a":2}`, `duplicate key "a"`},
		{many + `"kkkk":1}`, `duplicate key "kkkk"`},
		{`{"a":1} x`, "text after the value"},
		{`{"a":1,}`, "after a comma"},
		{`[1,]`, "after a comma"},
		{`[1 2]`, "no ','"},
		{`[,1]`, "where a value should be"},
		{`{"a" 1}`, "no colon"},
		{`{a:1}`, "key"},
		{`{1:1}`, "a number, want a string"},
		{`{"a":{"b":NaN}}`, "a: b: offset"},
		{`[Infinity]`, "where a value should be"},
		{`01`, "malformed number"},
		{`-`, "malformed number"},
		{`1.`, "digits after its point"},
		{`1e`, "digits in its exponent"},
		{`tru`, "want true"},
		{`nul`, "want null"},
		{`"abc`, "without end"},
		{`"ab\`, "without end"},
		{`"\x"`, "unknown escape"},
		{`"\u12g4"`, `malformed \u`},
		{`"\ud800"`, "surrogate"},
		{`"\udc00\ud800"`, "surrogate"},
		{"\"a\nb\"", "control character"},
		{"\"\\n\nb\"", "control character"},
		{"\"\xff\"", "offset 1: invalid UTF-8"},
		{deep, "nested deeper than 64"},
		{"\ufeff{}", "where a value should be"},
	} {
		if v, err := Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%q) = %v, %v; want an error that says %q", c.text, v, err, c.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"9223372036854775807", ""},
		{"9223372036854775808", "64 bits"},
		{"1.0", "not an integer"},
		{"1e3", "not an integer"},
	} {
		r, err := NewReader([]byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Int(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("Int of %s: %v, want %q", c.text, err, c.want)
		}
	}
	r, err := NewReader([]byte("1e999"))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := r.Float(); err == nil {
		t.Errorf("Float of 1e999 = %v", f)
	}
}

func TestErrorsOfCallbacksAreNamed(t *testing.T) {
	r, err := NewReader([]byte(`{"a\n": [0, 1]}`))
	if err != nil {
		t.Fatal(err)
	}
	bad := errors.New("bad")
	err = r.Object(func(string) error {
		return r.Array(func(i int) error {
			if i == 1 {
				return bad
			}
			return r.Skip()
		})
	})
	if !errors.Is(err, bad) || err.Error() != `"a\n": [1]: bad` {
		t.Errorf("error is %v", err)
	}
}

// Whatever is accepted here, the standard library accepts too, and reads as the same value.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,null,true],"b":"\ud83d\ude00"}`, `[]`, `"\u0000"`, `{"a":{"a":{}}}`, `-0`, `{"a":1,"a":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Parse(data)
		if err != nil {
			return
		}
		var want any
		if err := json.Unmarshal(data, &want); err != nil && json.Valid(data) == false {
			t.Fatalf("accepted %q as %v, the standard library says %v", data, v, err)
		}
		if s, ok := want.(string); ok && s != v.Text {
			t.Fatalf("%q is %q, the standard library says %q", data, v.Text, s)
		}
	})
}
