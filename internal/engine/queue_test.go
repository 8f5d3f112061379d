package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// serve serves tenants for a while: each brings so many requests for each step, on average, and gets the tokens that serve returns.
func serve(t *testing.T, seed uint64, steps int, perStep []float64) []int {
	t.Helper()
	random := make([]*rand.Rand, len(perStep)) // one each, so that what one brings does not depend on the others
	for i := range random {
		random[i] = rand.New(rand.NewPCG(seed, uint64(i)))
	}
	w := newWorld(400, 4, 16, 96, 1, 128)
	served, due := make([]int, len(perStep)), make([]float64, len(perStep))
	tenants, n := map[*sequence]int{}, 0
	for range steps {
		w.s.now += 10 * time.Millisecond
		for i, rate := range perStep {
			for due[i] += rate * random[i].ExpFloat64(); due[i] >= 1; due[i]-- {
				n++
				r := &Request{ID: fmt.Sprint(n), Tenant: fmt.Sprint("tenant ", i), Prompt: make([]int32, 1+random[i].IntN(40))}
				r.Stop.MaxTokens = 1 + random[i].IntN(30)
				tenants[w.addRequest(r)] = i
			}
		}
		b := w.s.Next()
		if b == nil {
			continue
		}
		w.s.Commit(b, make([]int32, b.rows))
		for _, item := range b.items {
			served[tenants[item.seq]] += item.count
		}
	}
	return served
}

// Nine tenants that ask for less than their shares get nearly all that they get without the tenth, which asks for a hundred times as much as
// each of them; and it gets what they leave.
func TestALoudTenantTakesNothingFromTheOthers(t *testing.T) {
	const steps, quiet = 20_000, 0.03
	rates := make([]float64, 10)
	for i := range rates {
		rates[i] = quiet
	}
	rates[0] = 0
	alone := serve(t, 1, steps, rates)
	rates[0] = 100 * quiet
	together := serve(t, 1, steps, rates)
	for i := 1; i < len(rates); i++ {
		if float64(together[i]) < 0.95*float64(alone[i]) {
			t.Errorf("tenant %d gets %d tokens beside the loud one, %d without it", i, together[i], alone[i])
		}
	}
	if most := together[1] * 2; together[0] < most {
		t.Errorf("the loud tenant gets %d tokens, want all that the others leave", together[0])
	}
	t.Logf("alone %v, together %v", alone, together)
}

// Tenants that all ask for too much get the same, though one asks in larger requests and another more often.
func TestTenantsThatAskForTooMuchGetTheSame(t *testing.T) {
	got := serve(t, 2, 5000, []float64{0.3, 3, 1, 0.6})
	for i := range got {
		if float64(got[i]) < 0.9*float64(got[0]) || float64(got[i]) > 1.1*float64(got[0]) {
			t.Errorf("tenant %d gets %d tokens, tenant 0 %d", i, got[i], got[0])
		}
	}
}

// However many tenants come and go, few are remembered; those with something to do always are.
func TestTenantsWithNothingToDoAreForgotten(t *testing.T) {
	const tenants = 5 * manyTenants
	w := newWorld(64, 1024, 2, 32, 1, 2*tenants)
	stays := w.addRequest(&Request{ID: "stays", Tenant: "stays", Prompt: make([]int32, 4), Stop: Stopping{MaxTokens: tenants + 1}})
	most := 0
	for i := range tenants {
		w.addRequest(&Request{ID: "q", Tenant: fmt.Sprint(i), Prompt: make([]int32, 4), Stop: Stopping{MaxTokens: 1}})
		b := w.s.Next()
		w.s.Commit(b, make([]int32, b.rows))
		most = max(most, len(w.s.waiting.tenants))
	}
	if err := w.s.checkIntegrity(); err != nil || stays.state != running || most < 100 || most > manyTenants+1 {
		t.Errorf("up to %d tenants are remembered, want at most about %d: %v", most, manyTenants, err)
	}
}
