package constraint

import (
	"syscall"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/tokenizer"
)

// What a mask costs at places of all kinds: seen before; new, where the upper part of the stacks was seen; all new, as in the first request of a
// constraint.
func BenchmarkMask(b *testing.B) {
	for _, name := range []string{"llama3_1", "qwen3"} {
		v := referenceVocabulary(b, name)
		for _, place := range []struct {
			name, text string
			program    *Program
		}{
			{"JSON string", `{"a": {"b": "it`, ebnfProgram(b, jsonEBNF)},
			{"JSON number", `{"a": {"b": 12`, ebnfProgram(b, jsonEBNF)},
			{"JSON value", `{"a": {"b": `, ebnfProgram(b, jsonEBNF)},
			{"JSON key", `{"a": {`, ebnfProgram(b, jsonEBNF)},
			{"regex .{0,1000}", `it`, regexProgram(b, `.{0,1000}`)},
			{"regex [a-z ]{0,99}", `it`, regexProgram(b, `[a-z ]{0,99}`)},
			{"regex [\\pL ]{0,500}", `it is`, regexProgram(b, `[\pL ]{0,500}`)},
			{"regex (\\w+\\s?){1,50}", `it is`, regexProgram(b, `(\w+\s?){1,50}`)},
		} {
			bound := place.program.Bind(v)
			m := bound.NewMatcher(nil)
			m.state = run(bound.machine, m.state, place.text)
			measure := func(kind string, before func()) {
				b.Run(name+"/"+place.name+"/"+kind, func(b *testing.B) {
					m.Mask()
					var used time.Duration
					n := 0
					for b.Loop() {
						before()
						m.mask = nil
						began := cpuTime(b)
						if len(m.Mask()) == 0 || m.Err() != nil {
							b.Fatal(m.Err())
						}
						used += cpuTime(b) - began
						n++
					}
					b.ReportMetric(float64(used.Microseconds())/float64(n), "CPU-µs/op")
				})
			}
			measure("seen", func() {})
			measure("new", func() { m.state.mask = nil })
			measure("first", func() {
				bound.machine.forget()
				m.state, m.age = bound.machine.adopt(m.state), bound.machine.age
			})
		}
	}
}

// What a token of a whole output costs, all masks and accepts of the first request of a constraint, and of the next.
func BenchmarkOutput(b *testing.B) {
	const document = `{"name": "Ada Lovelace", "born": 1815, "tags": ["mathematics", "poetry", "analytical engine"], "note": "She wrote the first ` +
		`programme for a machine that was never built; \"the engine\", she said, \"weaves algebraic patterns\".", "größe": -1.5e3, "sure": true}`
	for _, name := range []string{"llama3_1", "qwen3"} {
		v, tok := referenceVocabulary(b, name), reference(b, name)
		ids, err := tok.Encode(document, tokenizer.EncodeOptions{})
		if err != nil {
			b.Fatal(err)
		}
		for form, p := range map[string]*Program{
			"JSON":              ebnfProgram(b, jsonEBNF),
			"regex .{0,1000}":   regexProgram(b, `.{0,1000}`),
			"regex ([^,]+,?)+":  regexProgram(b, `([^,]+,?)+`),
			"regex [^z]{0,500}": regexProgram(b, `[^z]{0,500}`),
		} {
			follow := func(bound *Bound) {
				m := bound.NewMatcher(nil)
				for _, id := range ids {
					if mask := m.Mask(); mask[id/32]>>(id%32)&1 == 0 {
						b.Fatalf("token %d is not allowed: %v", id, m.Err())
					}
					m.Accept(id)
				}
			}
			bound := p.Bind(v)
			for kind, one := range map[string]func() *Bound{"first": func() *Bound { return p.Bind(v) }, "next": func() *Bound { return bound }} {
				b.Run(name+"/"+form+"/"+kind, func(b *testing.B) {
					follow(one())
					used, n := cpuTime(b), 0
					for b.Loop() {
						follow(one())
						n++
					}
					b.ReportMetric(float64((cpuTime(b)-used).Nanoseconds())/1e3/float64(n*len(ids)), "CPU-µs/token")
				})
			}
		}
	}
}

func BenchmarkNewVocabulary(b *testing.B) {
	for _, name := range []string{"llama3_1", "qwen3"} {
		tok := reference(b, name)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				NewVocabulary(tok, tok.NumTokens())
			}
		})
	}
}

// cpuTime is what this process has used of all cores: on a machine with busy neighbours it says more than the clock.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
