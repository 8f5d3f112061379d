package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/event"
	"github.com/inferno-serve/inferno/internal/model"
)

const stepTime = 10 * time.Millisecond // of a slow rig, in fake time

// mixed is 32 requests of mixed lengths, every other one sampled at temperature 1.
func mixed() (requests []*Request) {
	for i := range 32 {
		q := &Request{ID: fmt.Sprint("r", i), Prompt: prompt(1+(i*7)%40, i+1), Stop: Stopping{MaxTokens: 5 + (i*11)%50}}
		if i%2 == 1 {
			q.Sampling = Sampling{Temperature: 1, TopP: 1, Seed: uint64(i) << 40}
		}
		requests = append(requests, q)
	}
	return requests
}

func blocksFor(requests []*Request, blockSize int) (blocks int) {
	for _, q := range requests {
		blocks += (len(q.Prompt) + q.Stop.MaxTokens + blockSize - 1) / blockSize
	}
	return blocks
}

func TestRequestsGetTheSameTokensAloneAndAmongOthers(t *testing.T) {
	inEveryMode(t, requestsGetTheSameTokensAloneAndAmongOthers)
}

func requestsGetTheSameTokensAloneAndAmongOthers(t *testing.T, newRig rigMaker) {
	requests := mixed()
	need := blocksFor(requests, 4)
	for name, c := range map[string]struct {
		blocks  int
		preempt bool
	}{
		"blocks for all":       {need, false},
		"blocks for a quarter": {need / 4, false}, // so few that most wait; enough for those that run
		"blocks for one":       {24, true},        // of the longest
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{NumBlocks: c.blocks})
			streams := make([]*Stream, len(requests))
			for i, q := range requests {
				streams[i] = r.submit(t.Context(), t, q)
			}
			r.run(t)
			for i, q := range requests {
				wantReference(t, r, q, streams[i])
			}
			s := r.Stats()
			if s.Finished != 32 || s.BlocksUsed != 0 || s.Running+s.Queued+s.Suspended != 0 || (s.Preemptions > 0) != c.preempt {
				t.Errorf("in the end: %+v", s)
			}
			for _, q := range requests[:4] { // alone, on the same engine
				wantReference(t, r, q, r.submit(t.Context(), t, q))
			}
		})
	}
}

func TestStopping(t *testing.T) { inEveryMode(t, stopping) }

func stopping(t *testing.T, newRig rigMaker) {
	base := Request{Prompt: prompt(5, 3)}
	base.Stop.MaxTokens = 8
	plain, _ := reference(&base, 256)
	third := plain[2]
	first := slices.Index(plain, third) + 1 // tokens up to its first appearance
	for _, c := range []struct {
		name   string
		stop   Stopping
		tokens int // 0: as the reference says
		reason FinishReason
	}{
		{"max tokens", Stopping{MaxTokens: 8}, 8, MaxTokens},
		{"end token", Stopping{MaxTokens: 8, EndTokens: []int32{third}}, first, EndToken},
		{"stop token", Stopping{MaxTokens: 8, StopTokens: []int32{third}}, first, StopToken},
		{"end token ignored", Stopping{MaxTokens: 8, EndTokens: []int32{third}, IgnoreEOS: true}, 8, MaxTokens},
		{"end token not yet", Stopping{MaxTokens: 4, MinTokens: 4, EndTokens: []int32{third}}, 4, MaxTokens},
		{"stop token not yet", Stopping{MaxTokens: 4, MinTokens: 4, StopTokens: []int32{third}, IgnoreEOS: true}, 4, MaxTokens},
		{"context", Stopping{}, 251, ContextFull},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := base
			q.ID, q.Stop = c.name, c.stop
			want, reason := reference(&q, 256)
			if len(want) != c.tokens || reason != c.reason {
				t.Fatalf("the reference makes %d tokens (%v), want %d (%v)", len(want), reason, c.tokens, c.reason)
			}
			r := newRig(t, Options{}).run(t)
			wantReference(t, r, &q, r.submit(t.Context(), t, &q))
		})
	}
}

func TestMinTokensKeepsEndTokensFromBeingGenerated(t *testing.T) {
	inEveryMode(t, minTokensKeepsEndTokensFromBeingGenerated)
}

func minTokensKeepsEndTokensFromBeingGenerated(t *testing.T, newRig rigMaker) {
	q := &Request{ID: "min", Prompt: prompt(5, 3), Stop: Stopping{MaxTokens: 6, MinTokens: 5}}
	for id := range int32(30) { // so many that some would come early
		q.Stop.EndTokens = append(q.Stop.EndTokens, id)
		q.Stop.StopTokens = append(q.Stop.StopTokens, 40+id)
	}
	r := newRig(t, Options{}).run(t)
	got, _, err := readAll(r.submit(t.Context(), t, q))
	if err != nil || len(got) < 5 {
		t.Fatalf("got %v, %v", got, err)
	}
	for _, id := range got[:5] {
		if slices.Contains(q.Stop.EndTokens, id) || slices.Contains(q.Stop.StopTokens, id) {
			t.Errorf("token %d ends the output and is among the first five: %v", id, got)
		}
	}
}

// TestLeavingFreesBlocksInEveryPhase cancels a request beside two others, in every way, while it waits, prefills and decodes.
func TestLeavingFreesBlocksInEveryPhase(t *testing.T) { inEveryMode(t, leavingFreesBlocksInEveryPhase) }

func leavingFreesBlocksInEveryPhase(t *testing.T, newRig rigMaker) {
	ways := map[string]struct {
		leave func(r *rig, cancel func(), s *Stream)
		err   error
	}{
		"context":  {func(_ *rig, cancel func(), _ *Stream) { cancel() }, context.Canceled},
		"deadline": {nil, context.DeadlineExceeded},
		"abort":    {func(r *rig, _ func(), _ *Stream) { r.Abort("leaver", "unknown") }, ErrAborted},
		"stream":   {func(_ *rig, _ func(), s *Stream) { s.Cancel(); s.Cancel() }, context.Canceled},
	}
	for phase := range Phase(NumPhases) {
		for name, way := range ways {
			t.Run(fmt.Sprint(phase, " ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { leaveIn(t, newRig, phase, way.leave, way.err) })
			})
		}
	}
}

func leaveIn(t *testing.T, newRig rigMaker, phase Phase, leave func(*rig, func(), *Stream), want error) {
	o := Options{MaxBatch: 3, MaxBatchTokens: 8}
	if phase == Queued {
		o.MaxBatch = 2
	}
	r := newRig(t, o).slow(stepTime).run(t)
	others := []*Request{
		{ID: "first", Prompt: prompt(3, 1), Stop: Stopping{MaxTokens: 30}},
		{ID: "second", Prompt: prompt(4, 2), Stop: Stopping{MaxTokens: 30}},
	}
	var streams []*Stream
	for _, q := range others {
		streams = append(streams, r.submit(t.Context(), t, q))
	}
	leaver := &Request{ID: "leaver", Prompt: prompt(60, 3), Stop: Stopping{MaxTokens: 100}}
	if phase == Decoding {
		leaver.Prompt = leaver.Prompt[:5]
	}
	const moment = 8*stepTime + stepTime/2 // in the middle of a step
	ctx, cancel := context.WithCancel(t.Context())
	if leave == nil {
		ctx, cancel = context.WithTimeout(t.Context(), moment)
		leave = func(*rig, func(), *Stream) {}
	}
	defer cancel()
	s := r.submit(ctx, t, leaver)
	time.Sleep(moment)
	synctest.Wait()
	before := r.Stats()
	leave(r, cancel, s)
	time.Sleep(stepTime)
	synctest.Wait()
	after := r.Stats()
	_, fin, err := readAll(s)
	if !errors.Is(err, want) || fin != nil {
		t.Errorf("the stream ended with %v, %v, want %v", fin, err, want)
	}
	var cancelled [NumPhases]uint64
	cancelled[phase] = 1
	if after.Cancelled != cancelled {
		t.Errorf("cancelled by phase: %v, want %v", after.Cancelled, cancelled)
	}
	if r.device.info.Overlap { // the step under way may name its blocks
		time.Sleep(stepTime)
		synctest.Wait()
		after.BlocksUsed = r.Stats().BlocksUsed
	}
	if after.Running != 2 || after.Queued != 0 || after.Steps > before.Steps+1 {
		t.Errorf("before: %+v\nafter: %+v", before, after)
	}
	if most := 2 * (4 + 30) / 4; after.BlocksUsed > most {
		t.Errorf("a step later %d blocks are used, two sequences need at most %d", after.BlocksUsed, most)
	}
	// It left in the middle of a step, which named its blocks, as another one may that was launched behind it.
	freed, held := r.Stats().Freed, uint64(0)
	for _, n := range freed.Counts {
		held += n
	}
	if inSteps := phase != Queued; (held == 1) != inSteps || inSteps && (freed.Sum < stepTime/2 || freed.Sum > 2*stepTime) {
		t.Errorf("blocks of %d requests that left were held for %v in all", held, freed.Sum)
	}
	for i, q := range others {
		wantReference(t, r, q, streams[i])
	}
	if _, err := r.Submit(t.Context(), &Request{ID: "leaver", Prompt: []int32{1}, Stop: Stopping{MaxTokens: 1}}); err != nil {
		t.Errorf("the id is still taken: %v", err)
	}
}

func TestNoDeviceWorkAfterTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{MaxBatch: 1}).slow(stepTime)
		ctx, cancel := context.WithTimeout(t.Context(), stepTime)
		defer cancel()
		s := r.submit(ctx, t, &Request{ID: "late", Prompt: prompt(4, 1)})
		time.Sleep(2 * stepTime)
		r.run(t)
		if _, _, err := readAll(s); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
		if _, err := r.Submit(ctx, &Request{ID: "later", Prompt: prompt(4, 1)}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("submitted with %v", err)
		}
		if r.device.steps != 0 {
			t.Errorf("the device made %d steps", r.device.steps)
		}
	})
}

func TestTheLoopItselfSeesADeadline(t *testing.T) {
	r := newRig(t, Options{})
	s := r.submit(t.Context(), t, &Request{ID: "late", Prompt: prompt(4, 1)})
	s.seq.deadline = time.Now().Add(-time.Second) // of a context whose timer is behind
	r.run(t)
	if _, _, err := readAll(s); !errors.Is(err, context.DeadlineExceeded) || r.device.steps != 0 {
		t.Errorf("ended with %v after %d steps", err, r.device.steps)
	}
}

func TestSlowReaderStallsNobodyAndLosesNothing(t *testing.T) {
	inEveryMode(t, slowReaderStallsNobodyAndLosesNothing)
}

func slowReaderStallsNobodyAndLosesNothing(t *testing.T, newRig rigMaker) {
	r := newRig(t, Options{}).run(t)
	slow := &Request{ID: "slow", Prompt: prompt(3, 5), Stop: Stopping{MaxTokens: 100}}
	fast := &Request{ID: "fast", Prompt: prompt(3, 6), Stop: Stopping{MaxTokens: 200}}
	s := r.submit(t.Context(), t, slow)
	wantReference(t, r, fast, r.submit(t.Context(), t, fast))
	got, fin, err := s.Next(t.Context())
	want, _ := reference(slow, r.Context())
	if err != nil || fin == nil || !slices.Equal(got, want) {
		t.Errorf("one read after the end got %d tokens, %v, %v; want all %d", len(got), fin, err, len(want))
	}
}

func TestTokensOfASharedStepArriveTogetherWithTheirTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watch := &recorder{}
		r := newRig(t, Options{MaxBatchTokens: 8, Observer: watch}).slow(stepTime).run(t)
		s := r.submit(t.Context(), t, &Request{ID: "a", Prompt: prompt(20, 1), Stop: Stopping{MaxTokens: 3},
			Arrived: time.Now().Add(-5 * time.Millisecond)})
		tokens, fin, err := s.Next(t.Context())
		if len(tokens) != 1 || fin != nil || err != nil {
			t.Fatalf("first: %v %v %v", tokens, fin, err)
		}
		if got, want := s.Started(), (Start{PromptTokens: 20, Queued: 5 * time.Millisecond}); got != want {
			t.Errorf("started %+v, want %+v", got, want)
		}
		_, fin, err = readAll(s)
		want := Timings{Queued: 5 * time.Millisecond, Prefill: 3 * stepTime, Decode: 2 * stepTime, Total: 5*stepTime + 5*time.Millisecond}
		if err != nil || fin.Timings != want {
			t.Errorf("%v, timings %+v, want %+v", err, fin, want)
		}
		synctest.Wait()
		if got, want := strings.Join(watch.lines, "\n"), `step 10ms b=1 prefill=8 decode=0 first=[] gaps=[]
step 10ms b=1 prefill=8 decode=0 first=[] gaps=[]
step 10ms b=1 prefill=4 decode=0 first=[35ms] gaps=[]
step 10ms b=1 prefill=0 decode=1 first=[] gaps=[{10ms 1}]
step 10ms b=1 prefill=0 decode=1 first=[] gaps=[{10ms 1}]
request a max_tokens 20+3`; got != want {
			t.Errorf("observed:\n%s\nwant:\n%s", got, want)
		}
		if s := r.Stats(); s.Steps != 5 || s.PromptTokens != 20 || s.OutputTokens != 3 || s.LastStep != stepTime || s.InStep != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// recorder writes down what it observes.
type recorder struct{ lines []string }

func (w *recorder) ObserveStep(s *StepInfo) {
	w.lines = append(w.lines, fmt.Sprintf("step %v b=%d prefill=%d decode=%d first=%v gaps=%v",
		s.Duration, s.Sequences, s.PrefillTokens, s.DecodeTokens, s.FirstTokens, s.Gaps))
}

func (w *recorder) ObserveRequest(r *RequestInfo) {
	w.lines = append(w.lines, fmt.Sprintf("request %s %v %d+%d", r.ID, r.Reason, r.Usage.PromptTokens, r.Usage.CompletionTokens))
}

func TestStatsDuringAStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{MaxBatch: 1}).slow(time.Minute).run(t)
		r.submit(t.Context(), t, &Request{ID: "a", Prompt: prompt(9, 1), Stop: Stopping{MaxTokens: 2}})
		r.submit(t.Context(), t, &Request{ID: "b", Prompt: prompt(9, 1), Stop: Stopping{MaxTokens: 2}})
		time.Sleep(10 * time.Second)
		if s := r.Stats(); s.InStep != 10*time.Second || s.Running != 1 || s.Queued != 1 || time.Since(s.Heartbeat) < 10*time.Second {
			t.Errorf("in a step: %+v", s)
		}
		time.Sleep(time.Minute)
		if s := r.Stats(); s.Running != 1 || s.BlocksUsed != 3 || s.TokensPerSecond <= 0 || s.LastStep != time.Minute {
			t.Errorf("in the second step: %+v", s)
		}
	})
}

func TestSubmitRefusesAtOnce(t *testing.T) {
	r := newRig(t, Options{MaxQueue: 2, NumBlocks: 10}) // context 40; the loop does not run yet
	good := Request{Prompt: []int32{1, 2}, Stop: Stopping{MaxTokens: 1}}
	for _, c := range []struct {
		name   string
		change func(q *Request)
		kind   error
		says   string
	}{
		{"id", func(q *Request) { q.ID = "" }, ErrInvalid, `request_id is "", want an id`},
		{"empty", func(q *Request) { q.Prompt = nil }, ErrInvalid, "prompt is empty, want at least 1 token"},
		{"long", func(q *Request) { q.Prompt = make([]int32, 40) }, ErrTooLong,
			"prompt is 40 tokens, want at most 39 tokens (the context of 40, less one to generate)"},
		{"token", func(q *Request) { q.Prompt = []int32{1, 97} }, ErrInvalid, "prompt[1] is 97, want 0 to 96"},
		{"negative", func(q *Request) { q.Prompt = []int32{-1} }, ErrInvalid, "prompt[0] is -1, want 0 to 96"},
		{"max", func(q *Request) { q.Stop.MaxTokens = 39 }, ErrTooLong,
			"max_tokens is 39, want at most 38 (the context of 40, less 2 of the prompt)"},
		{"min", func(q *Request) { q.Stop.MinTokens = 2 }, ErrInvalid, "min_tokens is 2, want 0 to 1"},
		{"stop", func(q *Request) { q.Stop.EndTokens, q.Stop.StopTokens = make([]int32, 4), make([]int32, 61) }, ErrInvalid,
			"stop_token_ids is 61 ids, want at most 60"},
		{"stop id", func(q *Request) { q.Stop.StopTokens = []int32{97} }, ErrInvalid, "stop_token_ids[0] is 97, want 0 to 96"},
		{"temperature", func(q *Request) { q.Sampling.Temperature = float32(math.NaN()) }, ErrInvalid, "temperature is NaN"},
		{"top_k", func(q *Request) { q.Sampling.TopK = -1 }, ErrInvalid, "top_k is -1"},
		{"top_p", func(q *Request) { q.Sampling.TopP = 1.5 }, ErrInvalid, "top_p is 1.5, want 0 to 1"},
		{"min_p", func(q *Request) { q.Sampling.MinP = -1 }, ErrInvalid, "min_p is -1, want 0 to 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := good
			q.ID = c.name
			c.change(&q)
			_, err := r.Submit(t.Context(), &q)
			var limit *LimitError
			if !errors.Is(err, c.kind) || !errors.As(err, &limit) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
	for _, id := range []string{"a", "b"} {
		q := good
		q.ID = id
		r.submit(t.Context(), t, &q)
		if _, err := r.Submit(t.Context(), &q); !errors.Is(err, ErrDuplicateID) {
			t.Errorf("%s twice: %v", id, err)
		}
	}
	q := good
	q.ID = "c"
	_, err := r.Submit(t.Context(), &q)
	var full *QueueFullError
	if !errors.Is(err, ErrQueueFull) || !errors.As(err, &full) || full.What != "3 requests" || full.Limit != "2" || full.RetryAfter <= 0 {
		t.Errorf("third in a queue of two: %v", err)
	}
	if s := r.Stats(); s.Queued != 2 || s.Rejected != 1 {
		t.Errorf("stats: %+v", s)
	}
	r.run(t)
	r.Drain()
	if _, err := r.Submit(t.Context(), &q); !errors.Is(err, ErrDraining) {
		t.Errorf("while draining: %v", err)
	}
	if err := <-r.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if s := r.Stats(); s.Finished != 2 {
		t.Errorf("after draining: %+v", s)
	}
}

func TestNotFiniteEndsItsOwnRequestAlone(t *testing.T) {
	inEveryMode(t, notFiniteEndsItsOwnRequestAlone)
}

func notFiniteEndsItsOwnRequestAlone(t *testing.T, newRig rigMaker) {
	r := newRig(t, Options{}).run(t)
	good := &Request{ID: "good", Prompt: prompt(9, 1), Stop: Stopping{MaxTokens: 20}}
	s := r.submit(t.Context(), t, good)
	bad := r.submit(t.Context(), t, &Request{ID: "bad", Prompt: []int32{1, poison, 2}})
	if tokens, fin, err := readAll(bad); !errors.Is(err, ErrNotFinite) || fin != nil || len(tokens) != 0 {
		t.Errorf("got %v, %v, %v", tokens, fin, err)
	}
	wantReference(t, r, good, s)
	if s := r.Stats(); s.NotFinite != 1 || s.Finished != 1 || s.Cancelled != [NumPhases]uint64{} {
		t.Errorf("stats: %+v", s)
	}
}

func TestLostDeviceEndsEverything(t *testing.T) {
	lost := fmt.Errorf("fell off the bus: %w", device.ErrLost)
	for name, breakIt := range map[string]func(r *rig){
		"error": func(r *rig) { r.device.sync = func() error { return lost } },
		"panic": func(r *rig) { r.model.forward = func(*model.Batch) { panic(lost) } },
		"token": func(r *rig) { r.device.marked = func(ids []int32) { ids[0] = fakeVocabulary } },
	} {
		t.Run(name, func(t *testing.T) {
			bus := event.New()
			failed := event.Subscribe[Failed](bus, 1)
			defer failed.Close()
			r := newRig(t, Options{MaxBatch: 2, Bus: bus})
			breakIt(r)
			var streams []*Stream
			for i := range 4 {
				streams = append(streams, r.submit(t.Context(), t, &Request{ID: fmt.Sprint(i), Prompt: prompt(4, i)}))
			}
			probe := make(chan error, 1)
			r.run(t)
			go func() { probe <- r.Probe(context.Background()) }()
			err := <-r.done
			if !errors.Is(err, ErrDeviceLost) {
				t.Errorf("Run returned %v", err)
			}
			if name == "error" && !errors.Is(err, device.ErrLost) {
				t.Errorf("Run's error %v hides its cause", err)
			}
			for _, s := range streams {
				if _, fin, err := readAll(s); !errors.Is(err, ErrDeviceLost) || fin != nil {
					t.Errorf("a stream ended with %v, %v", fin, err)
				}
			}
			if err := <-probe; !errors.Is(err, ErrDeviceLost) {
				t.Errorf("the probe got %v", err)
			}
			if f := <-failed.C(); !errors.Is(f.Err, ErrDeviceLost) {
				t.Errorf("the bus says %v", f.Err)
			}
			if _, err := r.Submit(t.Context(), &Request{ID: "x", Prompt: []int32{1}}); !errors.Is(err, ErrDeviceLost) {
				t.Errorf("Submit says %v", err)
			}
			if s := r.Stats(); s.Running != 0 || s.Queued != 0 {
				t.Errorf("stats: %+v", s)
			}
		})
	}
}

func TestProbeMakesARealToken(t *testing.T) {
	r := newRig(t, Options{}).run(t)
	for i := range 2 {
		if err := r.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r.device.steps != i+1 {
			t.Errorf("%d probes made the device sync %d times", i+1, r.device.steps)
		}
	}
	if s := r.Stats(); s.OutputTokens != 0 || s.Finished != 0 || s.BlocksUsed != 0 || s.Running != 0 {
		t.Errorf("a probe was counted: %+v", s)
	}
	r.Close()
	if err := r.Probe(t.Context()); !errors.Is(err, ErrDraining) {
		t.Errorf("after Close: %v", err)
	}
}

func TestProbeOfABusyEngineTakesTheNextToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{MaxBatch: 1}).slow(stepTime).run(t)
		q := &Request{ID: "a", Prompt: prompt(4, 1), Stop: Stopping{MaxTokens: 20}}
		s := r.submit(t.Context(), t, q)
		time.Sleep(3*stepTime + stepTime/2)
		began := time.Now()
		if err := r.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*stepTime {
			t.Errorf("took %v", took)
		}
		wantReference(t, r, q, s)
		if s := r.Stats(); s.Steps != 20 {
			t.Errorf("20 tokens and a probe took %d steps", s.Steps)
		}
	})
}

// TestSilenceIsThatOfTheLoop: asked each second, an idle loop answers and one that works ends steps; one that hangs does neither.
func TestSilenceIsThatOfTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{}).slow(stepTime)
		hang := make(chan struct{})
		r.run(t)
		for range 60 {
			r.Silence()
			synctest.Wait()
			if s := r.Silence(); s > 0 {
				t.Fatalf("an idle loop was silent for %v right after it was woken", s)
			}
			time.Sleep(time.Second)
		}
		s := r.submit(t.Context(), t, &Request{ID: "a", Prompt: prompt(4, 1), Stop: Stopping{MaxTokens: 20}})
		longest := time.Duration(0)
		for range 15 {
			time.Sleep(stepTime)
			longest = max(longest, r.Silence())
		}
		if longest > 2*stepTime {
			t.Errorf("a loop that makes a token each %v was silent for %v", stepTime, longest)
		}
		if _, _, err := readAll(s); err != nil {
			t.Error(err)
		}
		r.device.sync = func() error { <-hang; return nil }
		last := r.submit(t.Context(), t, &Request{ID: "b", Prompt: prompt(4, 1), Stop: Stopping{MaxTokens: 1}})
		for range 30 {
			time.Sleep(time.Second)
			r.Silence()
		}
		if s := r.Silence(); s < 29*time.Second {
			t.Errorf("a loop that has hung for 30 s was silent for %v", s)
		}
		close(hang)
		if _, _, err := readAll(last); err != nil {
			t.Error(err)
		}
	})
}

func TestProbeIsAboutTheModelNotAboutOneRequest(t *testing.T) {
	for _, broken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Options{}).slow(stepTime)
			r.model.broken = broken
			answer := make(chan error, 1)
			go func() { answer <- r.Probe(t.Context()) }()
			bad := r.submit(t.Context(), t, &Request{ID: "bad", Prompt: []int32{poison}})
			synctest.Wait() // so that the request's step comes after the question
			r.run(t)
			if _, _, err := readAll(bad); !errors.Is(err, ErrNotFinite) {
				t.Errorf("the request ended with %v", err)
			}
			if err := <-answer; broken != errors.Is(err, ErrNotFinite) || !broken && err != nil {
				t.Errorf("broken model: %v; the probe got %v", broken, err)
			}
			if s := r.Stats(); s.NotFinite != 1 {
				t.Errorf("stats: %+v", s)
			}
		})
	}
}

func TestProbeGivesUpWithItsContext(t *testing.T) {
	r := newRig(t, Options{}) // not running
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Probe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	r.Close()
}

func TestDrainFinishesAndCloseAborts(t *testing.T) { inEveryMode(t, drainFinishesAndCloseAborts) }

func drainFinishesAndCloseAborts(t *testing.T, newRig rigMaker) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{MaxBatch: 2}).slow(stepTime).run(t)
		var requests []*Request
		var streams []*Stream
		for i := range 4 {
			requests = append(requests, &Request{ID: fmt.Sprint(i), Prompt: prompt(4, i+1), Stop: Stopping{MaxTokens: 10 * (i/2 + 1)}})
			streams = append(streams, r.submit(t.Context(), t, requests[i]))
		}
		time.Sleep(3 * stepTime)
		r.Drain()
		for i := range 2 {
			wantReference(t, r, requests[i], streams[i])
		}
		time.Sleep(3 * stepTime)
		r.Close()
		r.Close()
		for _, s := range streams[2:] {
			if tokens, _, err := readAll(s); !errors.Is(err, ErrAborted) || len(tokens) == 0 {
				t.Errorf("got %v, %v", tokens, err)
			}
		}
		if err := <-r.done; err != nil {
			t.Errorf("Run returned %v", err)
		}
		if s := r.Stats(); s.Cancelled != [NumPhases]uint64{Decoding: 2} || s.Finished != 2 || s.BlocksUsed != 0 {
			t.Errorf("stats: %+v", s)
		}
		if err := r.Run(t.Context()); err != nil {
			t.Errorf("a second Run returned %v", err)
		}
	})
}

func TestCloseBeforeRunEndsWhatWaits(t *testing.T) {
	r := newRig(t, Options{})
	s := r.submit(t.Context(), t, &Request{ID: "a", Prompt: prompt(4, 1)})
	r.Close()
	if _, _, err := readAll(s); !errors.Is(err, ErrAborted) {
		t.Errorf("got %v", err)
	}
	if err := r.Run(t.Context()); err != nil || r.device.steps != 0 {
		t.Errorf("Run returned %v after %d steps", err, r.device.steps)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{}).slow(stepTime)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { r.done <- r.Run(ctx) }()
		s := r.submit(t.Context(), t, &Request{ID: "a", Prompt: prompt(4, 1)})
		if _, _, err := s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-r.done; err != nil {
			t.Errorf("Run returned %v", err)
		}
		if _, _, err := readAll(s); !errors.Is(err, ErrAborted) {
			t.Errorf("the stream ended with %v", err)
		}
	})
}

// watched is a context that counts who waits for its end.
type watched struct {
	context.Context
	waits atomic.Int64
}

// Value hides what it is made from, so that package context asks AfterFunc.
func (w *watched) Value(any) any { return nil }

func (w *watched) AfterFunc(f func()) func() bool {
	w.waits.Add(1)
	stop := context.AfterFunc(w.Context, f)
	return func() bool { w.waits.Add(-1); return stop() }
}

func TestAnEndedRequestLetsGoOfItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &watched{Context: ctx}
	r := newRig(t, Options{})
	s := r.submit(w, t, &Request{ID: "a", Prompt: prompt(4, 1), Stop: Stopping{MaxTokens: 2}})
	if n := w.waits.Load(); n != 1 {
		t.Errorf("%d wait while the request lives, want 1", n)
	}
	r.run(t)
	if _, _, err := readAll(s); err != nil {
		t.Error(err)
	}
	if n := w.waits.Load(); n != 0 {
		t.Errorf("%d wait after its end", n)
	}
}

// TestClientsComeAndGo has many clients submit, read, leave and probe at once, with blocks for a few: whoever stays gets his tokens.
func TestClientsComeAndGo(t *testing.T) { inEveryMode(t, clientsComeAndGo) }

func clientsComeAndGo(t *testing.T, newRig rigMaker) {
	r := newRig(t, Options{NumBlocks: 40, MaxBatch: 8, MaxBatchTokens: 16, MaxQueue: 1000}).run(t)
	var clients sync.WaitGroup
	for c := range 16 {
		clients.Go(func() {
			for i := range 12 {
				ctx, cancel := context.WithCancel(t.Context())
				q := &Request{ID: fmt.Sprint(c, ".", i), Prompt: prompt(1+(c*i)%50, c+i), Stop: Stopping{MaxTokens: 1 + (c*7+i)%40}}
				s := r.submit(ctx, t, q)
				switch (c + i) % 6 {
				case 0:
					cancel()
				case 1:
					_, _, _ = s.Next(ctx)
					s.Cancel()
				case 2:
					_, _, _ = s.Next(ctx)
					r.Abort(q.ID)
				case 3:
					if err := r.Probe(ctx); err != nil {
						t.Errorf("probe: %v", err)
					}
					wantReference(t, r, q, s)
				default:
					wantReference(t, r, q, s)
				}
				cancel()
				_, _, _ = readAll(s)
			}
		})
	}
	clients.Wait()
	if err := r.Probe(t.Context()); err != nil { // the step under way may name blocks of those that have ended
		t.Fatal(err)
	}
	s := r.Stats()
	if left := s.Finished + s.Cancelled[Queued] + s.Cancelled[Prefilling] + s.Cancelled[Decoding]; left != 16*12 {
		t.Errorf("%d of %d requests ended: %+v", left, 16*12, s)
	}
	if s.BlocksUsed != 0 || s.Running+s.Queued+s.Suspended != 0 {
		t.Errorf("in the end: %+v", s)
	}
}

func TestAbortAll(t *testing.T) {
	r := newRig(t, Options{})
	var streams []*Stream
	for i := range 3 {
		streams = append(streams, r.submit(t.Context(), t, &Request{ID: fmt.Sprint(i), Prompt: prompt(4, i)}))
	}
	if got := r.Abort("1", "7"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("Abort(1, 7) = %v", got)
	}
	if got := r.AbortAll(); len(got) != 3 {
		t.Errorf("AbortAll() = %v", got)
	}
	r.run(t)
	for _, s := range streams {
		if _, _, err := readAll(s); !errors.Is(err, ErrAborted) {
			t.Errorf("got %v", err)
		}
	}
}

func TestWarmupChoosesTheTokenBudget(t *testing.T) {
	for _, c := range []struct {
		name        string
		fixed, each time.Duration // what a step costs, and each of its tokens
		low, high   int           // of the budget
	}{
		{"slow CPU", 10 * time.Millisecond, 4 * time.Millisecond, 48, 60},
		{"hopeless", time.Second, time.Second, 36, 36}, // never less: a row for each of 32 sequences, and a block of 4
		{"CPU", 5 * time.Millisecond, 500 * time.Microsecond, 400, 490},
		{"large fixed part", 20 * time.Millisecond, 230 * time.Microsecond, 400, 1000},
		{"GPU", 2 * time.Millisecond, 10 * time.Microsecond, 1024, 1024}, // the limit
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limits := model.Limits{MaxTokens: 1024, MaxSeqs: 32, MaxRows: 32, Context: 2048}
				r := newRig(t, Options{Limits: limits, NumBlocks: 1024})
				var tokens int
				r.model.forward = func(b *model.Batch) { tokens = b.Tokens.Len() }
				r.device.sync = func() error { time.Sleep(c.fixed + time.Duration(tokens)*c.each); return nil }
				began := time.Now()
				if err := r.Warmup(t.Context()); err != nil {
					t.Fatal(err)
				}
				took, got := time.Since(began), r.Stats().MaxBatchTokens
				if got < c.low || got > c.high {
					t.Errorf("chose %d tokens, want %d to %d", got, c.low, c.high)
				}
				if took > 2*(c.fixed+firstTrial*c.each)+DefaultStepTarget/2 {
					t.Errorf("took %v", took)
				}
				r.run(t)
				q := &Request{ID: "after", Prompt: prompt(100, 1), Stop: Stopping{MaxTokens: 3}}
				wantReference(t, r, q, r.submit(t.Context(), t, q))
			})
		})
	}
}

// A warm-up in a bad moment must not hold the engine down for ever, nor one in a good moment let steps grow too long.
func TestTokenBudgetFollowsTheDevice(t *testing.T) {
	for _, c := range []struct {
		name      string
		then, now time.Duration // what a token costs in the warm-up, and afterwards
		low, high int           // of the budget in the end
	}{
		{"neighbour left", 4 * time.Millisecond, 500 * time.Microsecond, 400, 512},
		{"neighbour came", 300 * time.Microsecond, 2 * time.Millisecond, 96, 144},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limits := model.Limits{MaxTokens: 1024, MaxSeqs: 8, MaxRows: 8, Context: 4096}
				r := newRig(t, Options{Limits: limits, NumBlocks: 1024})
				var tokens int
				each := c.then
				r.model.forward = func(b *model.Batch) { tokens = b.Tokens.Len() }
				r.device.sync = func() error { time.Sleep(time.Duration(tokens) * each); return nil }
				if err := r.Warmup(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.run(t)
				each = c.now
				for i := range 2 {
					q := &Request{ID: fmt.Sprint("long", i), Prompt: prompt(4000, i+1), Stop: Stopping{MaxTokens: 2}}
					wantReference(t, r, q, r.submit(t.Context(), t, q))
				}
				if got := r.Stats().MaxBatchTokens; got < c.low || got > c.high {
					t.Errorf("the budget ends at %d tokens, want %d to %d", got, c.low, c.high)
				}
			})
		})
	}
}

func TestWarmupFails(t *testing.T) {
	r := newRig(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Warmup(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	r.device.failed = device.ErrLost
	if err := r.Warmup(t.Context()); !errors.Is(err, device.ErrLost) {
		t.Errorf("got %v", err)
	}
	r.Close()
}

func TestNewReportsEveryFault(t *testing.T) {
	d := newFakeDevice(1 << 16)
	o := Options{Model: &fakeModel{device: d}, Device: d, Memory: fakeMemory{d},
		Limits: model.Limits{MaxTokens: 64, MaxSeqs: 8, MaxRows: 8, Context: 128}, MaxBatch: 9, MaxBatchTokens: 65, Context: 129}
	_, err := New(o)
	for _, want := range []string{"NumBlocks is 0", "MaxBatch is 9, want 1 to 8", "MaxBatchTokens is 65, want 0 to 64", "Context is 129"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	o.MaxBatch, o.MaxBatchTokens, o.Context, o.NumBlocks = 0, 0, 0, 10_000
	if _, err := New(o); !errors.Is(err, device.ErrOutOfMemory) {
		t.Errorf("10,000 blocks in 64 KiB: %v", err)
	}
	if _, err := New(Options{}); err == nil {
		t.Error("no fault in empty options")
	}
}

func TestALastTokenComesWithTheFinish(t *testing.T) { inEveryMode(t, aLastTokenComesWithTheFinish) }

func aLastTokenComesWithTheFinish(t *testing.T, newRig rigMaker) {
	r := newRig(t, Options{}).run(t)
	for i := range 50 {
		q := &Request{ID: fmt.Sprint(i), Prompt: prompt(2, i), Stop: Stopping{MaxTokens: 2}}
		s := r.submit(t.Context(), t, q)
		for {
			tokens, fin, err := s.Next(t.Context())
			if err != nil || len(tokens) == 0 {
				t.Fatalf("%s: got %v, %v, %v", q.ID, tokens, fin, err)
			}
			if fin != nil {
				break
			}
		}
		if tokens, fin, err := s.Next(t.Context()); !errors.Is(err, io.EOF) || fin != nil || tokens != nil {
			t.Fatalf("after the end: %v, %v, %v", tokens, fin, err)
		}
	}
}

// Whether a list is handed over or published by the loop itself, no reader sees fewer tokens than before, and in the end it sees all.
func TestWakerPublishesAllInOrder(t *testing.T) {
	const tokens = 2000
	w := newWaker(8)
	w.start()
	var readers sync.WaitGroup
	streams := make([]*Stream, 8)
	for i := range streams {
		s := &Stream{wake: make(chan struct{}, 1), writing: make([]int32, tokens)}
		streams[i] = s
		readers.Go(func() {
			for seen := int64(0); seen < tokens; {
				<-s.wake
				now := s.published.Load()
				if now < seen {
					t.Errorf("%d tokens published after %d", now, seen)
				}
				seen = now
			}
		})
	}
	for i := range tokens {
		for j, s := range streams {
			s.put(int32(i))
			if j <= i%8 || i == tokens-1 {
				w.add(s)
			}
		}
		w.flush()
	}
	w.stop()
	readers.Wait()
}
