package engine

import (
	"math"
	"time"
)

// pace bounds the tokens of prompts that a step computes beside sequences that generate, so that these get their tokens at most `target`
// apart. It takes a step to last as long as one that only decodes, and a price longer for each token of a prompt; it follows both as steps
// are measured. What it gets wrong of one ends up in the other, so that steps of the size at hand are foreseen right all the same.
//
// Where decoding alone takes most of the target, or more, prompts get half of what it takes: they go on, at a third of the device's time. What
// it takes is known from steps without prompts, of which there are some whenever all places are taken.
type pace struct {
	target time.Duration // 0: nothing is bounded
	least  int           // tokens that there always are for prompts

	decode float64 // ns of a step that only decodes; 0: none seen
	price  float64 // ns that a token of a prompt adds; 0: none seen
	limit  int     // tokens of prompts
}

// Weights of a new measurement.
const (
	decodeShare = 0.125
	priceShare  = 0.25
)

// observe takes in a step of so many decode rows and tokens of prompts.
func (p *pace) observe(decodes, prompts int, took time.Duration) {
	ns := float64(took)
	switch {
	case prompts == 0 && decodes > 0:
		p.decode = smooth(p.decode, ns, decodeShare)
	case prompts >= min(PromptTokens, p.limit): // a few tokens say little of what a token costs
		base := 0.0
		if decodes > 0 {
			base = p.decode
		}
		p.price = smooth(p.price, max(ns-base, ns/16)/float64(prompts), priceShare)
	}
	p.adapt()
}

func (p *pace) adapt() {
	if p.target == 0 || p.price == 0 {
		p.limit = math.MaxInt
		return
	}
	room := max(float64(p.target)-p.decode, p.decode/2)
	n := int(min(room/p.price, math.MaxInt32))
	if p.limit < math.MaxInt/2 {
		n = min(n, 2*p.limit) // one odd measurement makes no giant step
	}
	p.limit = max(n, p.least)
}

// longest is how long a step takes, as far as is known, that computes as much of prompts as it may, up to so many tokens.
func (p *pace) longest(tokens int) time.Duration {
	return time.Duration(p.decode + p.price*float64(min(tokens, p.limit)))
}

// smooth moves an average towards a new value; the first one is taken as it is.
func smooth(average, value, share float64) float64 {
	if average == 0 {
		return value
	}
	return average + share*(value-average)
}
