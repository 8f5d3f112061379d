package engine

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// machine is a device whose steps take a time for what they decode, and one for each token of a prompt.
type machine struct {
	decode, token time.Duration
	noise         float64 // share of it
	random        *rand.Rand
}

func (m *machine) step(decodes, prompts int) time.Duration {
	took := time.Duration(prompts) * m.token
	if decodes > 0 {
		took += m.decode
	}
	return time.Duration(float64(took) * (1 + m.noise*(2*m.random.Float64()-1)))
}

// Whatever decoding and prompts cost, steps soon take up the target and not more; and still do when the costs change.
func TestPaceKeepsToItsTarget(t *testing.T) {
	const target = 50 * time.Millisecond
	for name, costs := range map[string][]machine{
		"a card":                      {{decode: 8 * time.Millisecond, token: 25 * time.Microsecond}},
		"a CPU":                       {{decode: 12 * time.Millisecond, token: 900 * time.Microsecond}},
		"longer contexts":             {{decode: 8 * time.Millisecond, token: 25 * time.Microsecond}, {decode: 20 * time.Millisecond, token: 80 * time.Microsecond}},
		"a neighbour leaves":          {{decode: 30 * time.Millisecond, token: time.Millisecond}, {decode: 10 * time.Millisecond, token: 200 * time.Microsecond}},
		"noise":                       {{decode: 8 * time.Millisecond, token: 50 * time.Microsecond, noise: 0.2}},
		"more decoding, then no more": {{decode: 10 * time.Millisecond, token: 40 * time.Microsecond}, {decode: 45 * time.Millisecond, token: 40 * time.Microsecond}, {decode: 10 * time.Millisecond, token: 40 * time.Microsecond}},
	} {
		for _, pure := range []int{0, 1, 5} { // steps without prompts between two with
			p := pace{target: target, least: 16, limit: math.MaxInt}
			for i, m := range costs {
				m.random = rand.New(rand.NewPCG(1, uint64(i)))
				if i == 0 {
					p.observe(0, 256, m.step(0, 256))
				}
				most := max(target, m.decode+m.decode/2)
				least := most
				if pure == 0 { // it cannot know what decoding alone takes
					least = target
				}
				for k := range 300 {
					for range pure {
						p.observe(40, 0, m.step(40, 0))
					}
					took := m.step(40, p.limit)
					// It may take a while to follow, and there is noise and the token that rounding left out.
					if settled := k >= 60; settled && (float64(took) > (1.05+3*m.noise)*float64(most) || float64(took) < (0.9-3*m.noise)*float64(least)) {
						t.Fatalf("%s, cost %d, %d steps without prompts: step %d of %d tokens takes %v, want %v to %v", name, i, pure, k, p.limit, took, least, most)
					}
					p.observe(40, p.limit, took)
				}
			}
		}
	}
}

func TestPaceIsNotMisled(t *testing.T) {
	settle := func() pace {
		p := pace{target: 50 * time.Millisecond, least: 16, limit: math.MaxInt}
		for range 50 {
			p.observe(8, 0, 10*time.Millisecond)
			p.observe(8, 1000, 50*time.Millisecond)
		}
		return p
	}
	near := func(what string, p pace, want int) {
		t.Helper()
		if p.limit < want*9/10 || p.limit > want*11/10 {
			t.Errorf("%s: %d tokens, want about %d", what, p.limit, want)
		}
	}
	near("settled", settle(), 1000)
	p := settle()
	for range 100 {
		p.observe(8, 1, 14*time.Millisecond) // the rest of a cached prompt, in a step that was slow
	}
	near("one token says nothing", p, 1000)
	p = settle()
	p.observe(8, 1000, 10*time.Second) // something else took the machine
	for range 40 {
		p.observe(8, max(p.limit, 16), 10*time.Millisecond+time.Duration(p.limit)*40*time.Microsecond)
	}
	near("one step that took too long is forgotten", p, 1000)
	p = settle()
	p.observe(8, 1000, time.Microsecond)
	if p.limit > 2000 {
		t.Errorf("one odd step raises the limit from 1000 to %d", p.limit)
	}
	p = pace{target: 0, least: 16, limit: math.MaxInt}
	p.observe(8, 1000, time.Hour)
	if p.limit != math.MaxInt {
		t.Errorf("without a target there is a limit of %d", p.limit)
	}
	p = pace{target: 50 * time.Millisecond, least: 16, limit: math.MaxInt}
	for range 10 {
		p.observe(8, 100, time.Hour)
	}
	if p.limit != 16 {
		t.Errorf("prompts get %d tokens of a step, want at least, and then just, 16", p.limit)
	}
}

// TestPaceForeseesTheLongestStep: a trial of a few tokens tells what a step of very many takes.
func TestPaceForeseesTheLongestStep(t *testing.T) {
	const token = 5 * time.Millisecond
	p := pace{least: 16}
	if got := p.longest(1024); got != 0 {
		t.Errorf("longest step %v before any was seen", got)
	}
	p.observe(0, 16, 16*token)
	if got := p.longest(1024); got != 1024*token {
		t.Errorf("longest step of 1,024 tokens %v, want %v", got, 1024*token)
	}
	p.target = 40 * token
	p.observe(8, 0, 10*token)
	if got := p.longest(1024); got > p.target {
		t.Errorf("longest step %v with a target of %v", got, p.target)
	}
}
