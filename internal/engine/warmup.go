package engine

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// warmupShare of StepTarget is what the last, longest trial may take: Warmup as a whole stays under about half of StepTarget.
const warmupShare = 8

// firstTrial is the smallest prompt that Warmup times, in tokens.
const firstTrial = 16

// Warmup computes a few prompts of growing length, so that nothing is done for the first time when a request waits, sets the token budget
// where Options left it open, and captures the steps in which sequences only decode. Before Run, by the goroutine that drives the device. The
// error is the device's, or ctx's. Silence tells whoever watches for how long a trial, or all captures, have been under way.
func (e *Engine) Warmup(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	e.counters.beat(time.Since(e.born), 0)
	limit := e.maxTokens
	most := min(limit, e.context-1)
	n := min(firstTrial, most)
	if _, err := e.trial(ctx, n); err != nil { // the very first pays for pages and caches
		return err
	}
	var took time.Duration
	for {
		var err error
		if took, err = e.trial(ctx, n); err != nil {
			return err
		}
		if took > e.stepTarget/warmupShare || n == most {
			break
		}
		n = min(2*n, most)
	}
	if e.measure {
		e.scheduler.setMaxTokens(e.budget(n, took))
	}
	e.scheduler.prompts.observe(0, n, took)
	e.counters.longest.Store(int64(e.scheduler.prompts.longest(e.scheduler.maxTokens)))
	e.counters.maxTokens.Store(int64(e.scheduler.maxTokens))
	if e.runner.info.Capture {
		if err := e.runner.capture(ctx); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
	}
	e.log.Info("engine warm", "graphs", len(e.runner.graphs), "trial_tokens", n, "trial", took, "max_batch_tokens", e.scheduler.maxTokens,
		"limit", limit, "max_sequences", e.scheduler.maxSeqs)
	return nil
}

// budget is how many tokens fit into the target, when n took that long: cautious, as the fixed part of a step counts as if each token
// had its share of it. It never leaves a sequence that may run without its row, nor prompts without theirs.
func (e *Engine) budget(n int, took time.Duration) int {
	tokens := int(min(float64(n)*float64(e.stepTarget)/float64(max(took, 1)), float64(e.maxTokens)))
	if tokens < e.maxTokens {
		tokens = max(tokens/firstTrial*firstTrial, minBatchTokens, e.maxBatch+e.scheduler.promptTokens())
	}
	return min(tokens, e.maxTokens)
}

// trial computes a prompt of n tokens and samples one.
func (e *Engine) trial(ctx context.Context, n int) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("warm up: %w", err)
	}
	seq := newSequence(&Request{ID: "warmup", Prompt: make([]int32, n), Stop: Stopping{MaxTokens: 1}}, e.context)
	seq.probe = true
	e.scheduler.Add(seq)
	b := e.scheduler.Next()
	began := time.Now()
	e.runner.Launch(b)
	ids, err := e.runner.Collect(b)
	if err != nil {
		return 0, fmt.Errorf("warm up: step of %d tokens: %w", n, err)
	}
	took := time.Since(began)
	e.counters.beat(time.Since(e.born), 0)
	e.scheduler.Commit(b, ids)
	return took, nil
}

// tuneShare is the weight of a new step in what a token costs.
const tuneShare = 0.25

// tune follows the device as it is: a neighbour on the machine, long contexts or a warm chip change what a token costs, and Warmup may
// have seen a bad moment. Steps of less than half the budget say nothing of full ones.
func (e *Engine) tune(tokens int, took time.Duration) {
	s := e.scheduler
	if tokens < max(firstTrial, s.maxTokens/2) {
		return
	}
	cost := float64(took) / float64(tokens)
	if e.turn.tokenCost == 0 {
		e.turn.tokenCost = cost
	}
	e.turn.tokenCost += tuneShare * (cost - e.turn.tokenCost)
	n := min(e.budget(1, time.Duration(e.turn.tokenCost)), 2*s.maxTokens)
	if 8*max(n-s.maxTokens, s.maxTokens-n) <= s.maxTokens {
		return // no news
	}
	s.setMaxTokens(n)
	e.counters.maxTokens.Store(int64(n))
}
