package server

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// scoring is a script that computes every prompt at once; its vectors are (3, 4·tokens).
func scoring() *script {
	s := newScript()
	s.requests = make(chan *scripted, 2048)
	s.begin = func(r *scripted) {
		f := finished(engine.PromptDone, -1)
		f.Vector = []float32{3, 4 * float32(len(r.Prompt))}
		r.parts <- part{finish: f}
	}
	return s
}

// ones is a list of so many ids.
func ones(n int) string { return strings.Repeat("1,", n-1) + "1" }

func TestScoreTokenizesContextAndContinuation(t *testing.T) {
	g := scoring()
	f := start(t, g)
	long := strings.Repeat("x", maxContext)
	for _, c := range []struct {
		name, input string
		prompt      []int32
		from        int // first token that is scored
	}{
		{"text", `text:"ab"`, append([]int32{bosID}, byteIDs("ab")...), 1},
		{"text and context", `context_text:"ab" text:"cd"`, append([]int32{bosID}, byteIDs("abcd")...), 3},
		{"the space goes to the text", `context_text:"ab \n" text:"cd"`, append([]int32{bosID}, byteIDs("ab \ncd")...), 3},
		{"a context of spaces is none", `context_text:"  " text:"cd"`, append([]int32{bosID}, byteIDs("  cd")...), 1},
		{"an empty context is none", `context_text:"" text:"cd"`, append([]int32{bosID}, byteIDs("cd")...), 1},
		{"ids", `token_ids{ids:[5,6,7]}`, []int32{5, 6, 7}, 1},
		{"one id", `token_ids{ids:[5]}`, []int32{5}, 1},
		{"ids behind ids", `context_ids{ids:[5]} token_ids{ids:[6,7]}`, []int32{5, 6, 7}, 1},
		{"ids behind no ids", `context_ids{} token_ids{ids:[6,7]}`, []int32{6, 7}, 1},
		{"ids behind a text", `context_text:"ab" token_ids{ids:[6,7]}`, []int32{bosID, 'a', 'b', 6, 7}, 3},
		{"a text behind ids", `context_ids{ids:[5,6]} text:"ab"`, []int32{5, 6, 'a', 'b'}, 2},
		{"as long as the context", `text:"` + long[:maxContext-1] + `"`, append([]int32{bosID}, byteIDs(long[:maxContext-1])...), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, err := f.api.Score(t.Context(), parse(t, `model:"m" inputs{`+c.input+`}`, &infernov1.ScoreRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			r := answer.GetResults()[0]
			if r.GetError() != nil {
				t.Fatal(r.GetError())
			}
			asked := <-g.requests
			if !slices.Equal(asked.Prompt, c.prompt) || !asked.PromptOnly || !asked.Logprobs.Prompt {
				t.Errorf("the engine is asked for %v, want %v", asked.Prompt, c.prompt)
			}
			sum, scored := 0.0, c.prompt[c.from:]
			for i, id := range scored {
				sum -= float64(id) / 8
				if got := r.GetTokens()[i]; got.GetTokenId() != uint32(id) || got.GetLogprob() != -float32(id)/8 || got.GetRank() != uint32(id)+1 {
					t.Errorf("token %d is %v, want %d", i, got, id)
				}
			}
			if r.GetLogprob() != sum || int(r.GetScoredTokens()) != len(scored) || int(r.GetPromptTokens()) != len(c.prompt) || r.GetGreedy() != (len(scored) == 0) {
				t.Errorf("%v, want %v over %d of %d tokens", r, sum, len(scored), len(c.prompt))
			}
		})
	}
}

// A fault of one input is told in its result, and the others are computed.
func TestFaultsOfInputsLeaveTheOthersAlone(t *testing.T) {
	long := strings.Repeat("x", maxContext+1)
	for _, c := range []struct{ score, embed, field, says string }{
		{`text:""`, `text:""`, "text", "is empty, want at least 1 character"},
		{`token_ids{}`, `token_ids{}`, "token_ids.ids", "is empty, want at least 1 token id"},
		{`token_ids{ids:[1,260]}`, `token_ids{ids:[1,260]}`, "token_ids.ids[1]", "is 260, want 0 to 259"},
		{`token_ids{ids:[` + ones(33) + `]}`, `token_ids{ids:[` + ones(33) + `]}`, "token_ids.ids", "has 33 tokens, want at most 32, the context"},
		{`text:"` + long + `"`, `text:"` + long + `"`, "text", "want at most 32"},
		{`context_ids{ids:[260]} token_ids{ids:[1]}`, "", "context_ids.ids[0]", "is 260"},
		{`context_text:"` + long + `" token_ids{ids:[1]}`, "", "context_text", "want at most 32"},
		{`context_ids{ids:[` + ones(20) + `]} token_ids{ids:[` + ones(13) + `]}`, "", "", "has 33 tokens, want at most 32, the context"},
		{``, ``, "", "none is set, want exactly one of text and token_ids"},
	} {
		f := start(t, scoring())
		score, err := f.api.Score(t.Context(), parse(t, `model:"m" inputs{text:"a"} inputs{`+c.score+`} inputs{text:"b"}`, &infernov1.ScoreRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		check := func(kind string, i int, e *infernov1.ItemError) {
			t.Helper()
			switch {
			case i != 1 && e != nil:
				t.Errorf("%s: %s: input %d: %v", kind, c.score, i, e)
			case i == 1 && (e.GetCode() != int32(codes.InvalidArgument) || e.GetReason() != "INVALID_FIELD" || !strings.Contains(e.GetMessage(), c.says) ||
				!strings.HasPrefix(e.GetField(), "inputs[1]") || !strings.HasSuffix(e.GetField(), c.field)):
				t.Errorf("%s: %s: %v, want %q at inputs[1].%s", kind, c.score, e, c.says, c.field)
			}
		}
		for i, r := range score.GetResults() {
			check("score", i, r.GetError())
		}
		if c.embed == "" && c.score != "" {
			continue
		}
		embed, err := f.api.Embed(t.Context(), parse(t, `model:"m" inputs{text:"a"} inputs{`+c.embed+`} inputs{text:"b"}`, &infernov1.EmbedRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range embed.GetResults() {
			check("embed", i, r.GetError())
		}
	}
}

func TestScoreAndEmbedRequestsAreChecked(t *testing.T) {
	f := start(t, scoring())
	one := `inputs{text:"a"} `
	for _, c := range []struct{ request, at, says string }{
		{`model:"m"`, "inputs", "has 0, want 1 to"},
		{`model:"m" ` + strings.Repeat(one, 1025), "inputs", "has 1025, want 1 to"},
		{one, "model", "is empty"},
		{one + `model:"m" request_id:"a b"`, "request_id", "[A-Za-z0-9._:-]"},
		{one + `model:"m" prompt_options{truncate_to:5}`, "prompt_options.truncate_to", ""},
	} {
		_, err := f.api.Score(t.Context(), parse(t, c.request, &infernov1.ScoreRequest{}))
		if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found[c.at], c.says) {
			t.Errorf("score %.60s: violations %q, want one at %s", c.request, found, c.at)
		}
		_, err = f.api.Embed(t.Context(), parse(t, c.request, &infernov1.EmbedRequest{}))
		if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found[c.at], c.says) {
			t.Errorf("embed %.60s: violations %q, want one at %s", c.request, found, c.at)
		}
	}
	for _, c := range []struct{ request, at, says string }{
		{`top_logprobs:21`, "top_logprobs", "is 21, want 0 to 20"},
		{`tokens:false top_logprobs:0`, "tokens", "is false, want true"},
		{`tokens:false logprob_token_ids:1`, "tokens", "is false, want true"},
		{`logprob_token_ids:[1,1]`, "logprob_token_ids", "has 1 twice"},
		{`logprob_token_ids:[1,260]`, "logprob_token_ids[1]", "is 260, want 0 to 259"},
		{`logprob_token_ids:[` + ones(129) + `]`, "logprob_token_ids", "has 129 ids, want at most 128"},
	} {
		_, err := f.api.Score(t.Context(), parse(t, one+`model:"m" `+c.request, &infernov1.ScoreRequest{}))
		if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found[c.at], c.says) {
			t.Errorf("%.60s: violations %q, want one at %s", c.request, found, c.at)
		}
	}
	_, err := f.api.Embed(t.Context(), parse(t, one+`model:"m" pooling:7`, &infernov1.EmbedRequest{}))
	if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found["pooling"], "is 7") {
		t.Errorf("pooling 7: violations %q", found)
	}
	_, err = f.api.Embed(t.Context(), parse(t, strings.Repeat(one, 257)+`model:"m"`, &infernov1.EmbedRequest{}))
	wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")
	_, err = f.api.Score(t.Context(), parse(t, one+`model:"other"`, &infernov1.ScoreRequest{}))
	wantStatus(t, err, codes.NotFound, "UNKNOWN_MODEL")
}

func TestEmbedNormalises(t *testing.T) {
	f := start(t, scoring())
	for _, c := range []struct {
		options string
		want    []float32
	}{
		{``, []float32{0.6, 0.8}}, {`normalize:true pooling:POOLING_MEAN`, []float32{0.6, 0.8}}, {`normalize:false`, []float32{3, 4}},
	} {
		answer, err := f.api.Embed(t.Context(), parse(t, `model:"m" inputs{token_ids{ids:5}} `+c.options, &infernov1.EmbedRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		got := answer.GetResults()[0].GetEmbedding()
		if len(got) != 2 || math.Abs(float64(got[0]-c.want[0])) > 1e-6 || math.Abs(float64(got[1]-c.want[1])) > 1e-6 {
			t.Errorf("%s: %v, want %v", c.options, got, c.want)
		}
	}
}

// crowded has so many places in its queue, and gives a place back when a request is read to its end.
type crowded struct {
	*script
	places, most, now atomic.Int64
}

func (c *crowded) Submit(ctx context.Context, r *engine.Request) ([]Stream, error) {
	if c.now.Load() >= c.places.Load() {
		return nil, &engine.QueueFullError{Limit: fmt.Sprint(c.places.Load()), RetryAfter: time.Second}
	}
	c.most.Store(max(c.most.Load(), c.now.Add(1)))
	streams, err := c.script.Submit(ctx, r)
	return []Stream{leaving{streams[0], c}}, err
}

type leaving struct {
	Stream
	c *crowded
}

func (l leaving) Poll() ([]int32, *engine.Finish, error) {
	tokens, finish, err := l.Stream.Poll()
	if finish != nil {
		l.c.now.Add(-1)
	}
	return tokens, finish, err
}

func TestInputsWaitForEachOthersPlaces(t *testing.T) {
	c := &crowded{script: scoring()}
	c.places.Store(3)
	f := start(t, c, func(o *Options) {
		for _, m := range o.Models.(models) {
			m.Info.MaxBatch = 8
		}
	})
	request := &infernov1.ScoreRequest{Model: "m"}
	for i := range 40 {
		request.Inputs = append(request.Inputs, &infernov1.ScoreInput{Continuation: &infernov1.ScoreInput_Text{Text: fmt.Sprint(i)}})
	}
	answer, err := f.api.Score(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range answer.GetResults() {
		if got := len(fmt.Sprint(i)); r.GetError() != nil || int(r.GetScoredTokens()) != got {
			t.Errorf("input %d: %v", i, r)
		}
	}
	if c.most.Load() != 3 {
		t.Errorf("%d at once, want the 3 that there is room for", c.most.Load())
	}
	c.places.Store(0)
	_, err = f.api.Score(t.Context(), request)
	wantStatus(t, err, codes.ResourceExhausted, "QUEUE_FULL")
}

// What ends one request of the engine for reasons of its own is an input's error; what ends all is the call's.
func TestEndsOfInputsAndOfCalls(t *testing.T) {
	g := newScript()
	g.begin = func(r *scripted) {
		switch r.Prompt[0] {
		case 1:
			r.parts <- part{err: engine.ErrNotFinite}
		case 2:
			r.parts <- part{err: engine.ErrDeviceLost}
		default:
			r.parts <- part{finish: finished(engine.PromptDone, -1)}
		}
	}
	f := start(t, g)
	answer, err := f.api.Score(t.Context(), parse(t, `model:"m" inputs{token_ids{ids:[1,5]}} inputs{token_ids{ids:[6,5]}}`, &infernov1.ScoreRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if e := answer.GetResults()[0].GetError(); e.GetCode() != int32(codes.DataLoss) || e.GetReason() != "LOGITS_NOT_FINITE" || answer.GetResults()[1].GetError() != nil {
		t.Errorf("%v", answer)
	}
	_, err = f.api.Score(t.Context(), parse(t, `model:"m" inputs{token_ids{ids:[6,5]}} inputs{token_ids{ids:[2,5]}}`, &infernov1.ScoreRequest{}))
	wantStatus(t, err, codes.Unavailable, "DEVICE_LOST")
}

func TestAbortEndsAScore(t *testing.T) {
	g := newScript()
	f := start(t, g)
	ended := make(chan error, 1)
	go func() {
		_, err := f.api.Score(t.Context(), &infernov1.ScoreRequest{Model: "m", RequestId: "mine", Inputs: []*infernov1.ScoreInput{
			{Continuation: &infernov1.ScoreInput_Text{Text: "a"}}, {Continuation: &infernov1.ScoreInput_Text{Text: "b"}},
		}})
		ended <- err
	}()
	first := <-g.requests
	if answer, err := f.api.Abort(t.Context(), &infernov1.AbortRequest{RequestIds: []string{"mine"}}); err != nil || len(answer.GetAbortedRequestIds()) != 1 {
		t.Errorf("%v, %v", answer, err)
	}
	wantStatus(t, <-ended, codes.Canceled, "ABORTED")
	<-first.ctx.Done() // the engine's requests end with it
}

// What a tokenizer adds behind a text is behind the whole, and no token of the context.
func TestContextsDoNotEndTheText(t *testing.T) {
	file := byteTokenizerFile()
	piece := func(id string) map[string]any {
		return map[string]any{"SpecialToken": map[string]any{"id": id, "type_id": 0}}
	}
	file["post_processor"] = map[string]any{
		"type": "TemplateProcessing", "pair": []any{},
		"single": []any{piece("<s>"), map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}, piece("</s>")},
		"special_tokens": map[string]any{
			"<s>":  map[string]any{"id": "<s>", "ids": []int{bosID}, "tokens": []string{"<s>"}},
			"</s>": map[string]any{"id": "</s>", "ids": []int{eosID}, "tokens": []string{"</s>"}},
		},
	}
	g := scoring()
	f := start(t, g, func(o *Options) { o.Models.(models)[2].Tokenizer = loaded(t, file) })
	for _, c := range []struct {
		input  string
		prompt []int32
		from   int
	}{
		{`context_text:"ab" text:"cd"`, []int32{bosID, 'a', 'b', 'c', 'd', eosID}, 3},
		{`context_text:"ab" token_ids{ids:[6,7]}`, []int32{bosID, 'a', 'b', 6, 7}, 3},
		{`text:"ab"`, []int32{bosID, 'a', 'b', eosID}, 0},
	} {
		answer, err := f.api.Score(t.Context(), parse(t, `model:"m" inputs{`+c.input+`}`, &infernov1.ScoreRequest{}))
		if err != nil || answer.GetResults()[0].GetError() != nil {
			t.Errorf("%s: %v, %v", c.input, answer, err)
			continue
		}
		if r := <-g.requests; !slices.Equal(r.Prompt, c.prompt) || r.Logprobs.Start != c.from {
			t.Errorf("%s: %v from %d on, want %v from %d on", c.input, r.Prompt, r.Logprobs.Start, c.prompt, c.from)
		}
	}
}

func TestGreedyMeansEveryScoredToken(t *testing.T) {
	f := start(t, scoring())
	answer, err := f.api.Score(t.Context(), parse(t,
		`model:"m" inputs{token_ids{ids:[5,3,0]}} inputs{token_ids{ids:[5,0,0]}} inputs{token_ids{ids:[5,0,3]}}`, &infernov1.ScoreRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, false} { // 0 is the likeliest everywhere
		if got := answer.GetResults()[i].GetGreedy(); got != want {
			t.Errorf("input %d: greedy is %t, want %t", i, got, want)
		}
	}
}

func TestTheEngineHearsOfNoInputWithAFault(t *testing.T) {
	g := scoring()
	f := start(t, g)
	answer, err := f.api.Score(t.Context(), parse(t, `model:"m" inputs{text:""} inputs{text:"ab"} inputs{}`, &infernov1.ScoreRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for i, fault := range []bool{true, false, true} {
		if got := answer.GetResults()[i].GetError() != nil; got != fault {
			t.Errorf("input %d: has a fault: %t, want %t", i, got, fault)
		}
	}
	if n := len(g.requests); n != 1 {
		t.Errorf("the engine got %d requests, want that of the good input", n)
	}
}

// Of several continuations: from the first that starts to the first token of any, and to the last of any.
func TestTimingsAreThoseOfAllContinuations(t *testing.T) {
	o := &output{}
	for _, c := range []engine.Timings{
		{Queued: 5 * time.Millisecond, Prefill: 20 * time.Millisecond, Decode: 100 * time.Millisecond, Total: 125 * time.Millisecond},
		{Queued: 7 * time.Millisecond, Prefill: 3 * time.Millisecond, Decode: 40 * time.Millisecond, Total: 50 * time.Millisecond},
	} {
		o.continuations = append(o.continuations, &continuation{finish: &engine.Finish{Timings: c}})
	}
	want := parse(t, `queued{nanos:5000000} prefill{nanos:5000000} time_to_first_token{nanos:10000000} decode{nanos:115000000} total{nanos:125000000}`,
		&infernov1.Timings{})
	if got := o.timings(); !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// An echo with log-probabilities tells of the whole prompt, wherever prompt_logprobs starts.
func TestEchoTellsOfThePromptFromItsStart(t *testing.T) {
	g := play(part{ids: []int32{'x'}, finish: finished(engine.MaxTokens, 'x')})
	f := start(t, g)
	answer, err := f.api.Generate(t.Context(), parse(t,
		`model:"m" token_ids{ids:[7,8,9]} output{prompt_logprobs:0 prompt_logprobs_start:2 logprobs:0 echo:true}`, &infernov1.GenerateRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	tokens := func(all []*infernov1.TokenLogprob) (ids []uint32) {
		for _, l := range all {
			ids = append(ids, l.GetTokenId())
		}
		return ids
	}
	if got, want := tokens(answer.GetStart().GetPromptLogprobs()), []uint32{9}; !slices.Equal(got, want) {
		t.Errorf("prompt_logprobs of %v, want %v", got, want)
	}
	if got, want := tokens(answer.GetCompletions()[0].GetLogprobs()), []uint32{7, 8, 9, 'x'}; !slices.Equal(got, want) {
		t.Errorf("logprobs of %v, want %v", got, want)
	}
}

// An answer that no message holds is refused before it is computed where max_tokens tells, and else once it has grown so large.
func TestLogprobsThatFitNoMessageAreRefused(t *testing.T) {
	const perToken = logprobBytes + 20*alternativeBytes
	g := newScript()
	f := start(t, g, func(o *Options) { o.Models.(models)[2].Info.MaxContext = 1 << 20 })
	send := func(stopping string) error {
		_, err := f.api.Generate(t.Context(), parse(t,
			fmt.Sprintf(`model:"m" text:"x" stopping{%s} sampling{n:2} output{logprobs:20 text:false}`, stopping),
			&infernov1.GenerateRequest{}), grpc.MaxCallRecvMsgSize(maxSendBytes))
		return err
	}
	most := maxLogprobBytes / perToken / 2
	err := send(fmt.Sprintf("max_tokens:%d", most+1))
	if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); found["output"] == "" || len(g.requests) > 0 {
		t.Errorf("faults %q, and %d requests of the engine, want one of output and none", found, len(g.requests))
	}
	ids := make([]int32, most+1)
	g.begin = func(r *scripted) {
		for i := range 2 {
			r.parts <- part{index: i, ids: ids[:most]}
			r.parts <- part{index: i, ids: ids[most:]}
		}
	}
	err = send("")
	if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); found["output"] == "" {
		t.Errorf("faults %q, want one of output", found)
	}
	g.begin = func(r *scripted) {
		for i := range 2 {
			r.parts <- part{index: i, ids: ids[:most], finish: finished(engine.MaxTokens, 0)}
		}
	}
	if err := send(fmt.Sprintf("max_tokens:%d", most)); err != nil {
		t.Errorf("what fits: %v", err)
	}
}

// What only the engine knows to be a fault is one in a dry run too.
func TestADryRunIsRefusedAsTheRequestWouldBe(t *testing.T) {
	g := newScript()
	g.refuse = &engine.LimitError{Field: "allowed_token_ids", Value: "empty", Limit: "at least 1 token"}
	f := start(t, g)
	for _, dry := range []string{"true", "false"} {
		_, err := f.api.Generate(t.Context(), parse(t, `model:"m" text:"x" dry_run:`+dry, &infernov1.GenerateRequest{}))
		if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); found["sampling.allowed_token_ids"] == "" {
			t.Errorf("dry run %s: faults %q", dry, found)
		}
	}
}

func TestDryRunTellsWhatTheEngineExpects(t *testing.T) {
	g := newScript()
	f := start(t, g)
	for _, c := range []struct {
		request string
		want    string
	}{
		{`model:"m" dry_run:true text:"hello"`, `prompt_tokens:6 cached_prompt_tokens:3 fits:true queue_length:3 estimated_queue_time{nanos:7000000}`},
		{`model:"m" dry_run:true text:"hello" stopping{max_tokens:27}`, `prompt_tokens:6 cached_prompt_tokens:3 queue_length:3 estimated_queue_time{nanos:7000000}`},
		{`model:"m" dry_run:true token_ids{ids:5}`, `prompt_tokens:1 fits:true queue_length:3`},
	} {
		answer, err := f.api.Generate(t.Context(), parse(t, c.request, &infernov1.GenerateRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		want := parse(t, c.want, &infernov1.DryRun{})
		if !proto.Equal(answer.GetDryRun(), want) || answer.GetStart().GetPromptTokens() != want.GetPromptTokens() || answer.GetStart().GetEffective() == nil {
			t.Errorf("%s: %v, want %v", c.request, answer, want)
		}
	}
	if len(g.requests) > 0 {
		t.Error("the engine got a request")
	}
}

// With several continuations the first message waits for the first of them, which alone knows what the prompt was told.
func TestFirstMessageWaitsForThePromptsLogprobs(t *testing.T) {
	g := newScript()
	f := start(t, g)
	stream, err := f.api.GenerateStream(t.Context(), parse(t,
		`model:"m" token_ids{ids:[7,8]} sampling{n:2} output{prompt_logprobs:1 logprobs:0 echo:true}`, &infernov1.GenerateRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	r := <-g.requests
	<-r.waiting
	r.parts <- part{index: 1, ids: []int32{'x'}}
	<-r.waiting // it has seen that, and waits again
	r.parts <- part{index: 0, ids: []int32{'y'}, finish: finished(engine.MaxTokens, 'y')}
	r.parts <- part{index: 1, ids: []int32{'z'}, finish: finished(engine.MaxTokens, 'z')}
	messages, err := readAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	told := messages[0].GetStart().GetPromptLogprobs()
	if len(told) != 2 || told[0].Logprob != nil || told[1].GetTokenId() != 8 || len(told[1].GetAlternatives()) != 1 {
		t.Errorf("the prompt has %v", told)
	}
	ids := map[uint32][]uint32{}
	for _, m := range messages {
		for _, d := range m.GetDeltas() {
			ids[d.GetIndex()] = append(ids[d.GetIndex()], d.GetTokenIds()...)
			for i, l := range d.GetLogprobs() {
				if l.GetTokenId() != d.GetTokenIds()[i] || len(l.GetAlternatives()) > 0 {
					t.Errorf("log-probability %v of token %d", l, d.GetTokenIds()[i])
				}
			}
		}
	}
	if !slices.Equal(ids[0], []uint32{7, 8, 'y'}) || !slices.Equal(ids[1], []uint32{7, 8, 'x', 'z'}) {
		t.Errorf("ids %v", ids)
	}
}
