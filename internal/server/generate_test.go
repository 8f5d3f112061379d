package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func parse[M proto.Message](t *testing.T, text string, into M) M {
	t.Helper()
	if err := prototext.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
	return into
}

func TestStreamBeginsWithStartAndEndsWithFinish(t *testing.T) {
	f := start(t, play(
		part{ids: byteIDs("He")}, part{ids: byteIDs("y")}, part{ids: []int32{'!', eosID}, finish: finished(engine.EndToken, eosID)},
	))
	stream, err := f.api.GenerateStream(t.Context(), parse(t, `
		model:"m" text:"hi" request_id:"r-1"
		sampling{temperature:0.5 seed:7} stopping{max_tokens:9 stop_token_ids:[65]}`, &infernov1.GenerateRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`start{
			request_id:"r-1" model:"m" model_revision:"r1" prompt_tokens:3 cached_prompt_tokens:1 queued{nanos:3000000}
			effective{
				sampling{temperature:0.5 top_k:0 top_p:1 min_p:0 typical_p:1 repetition_penalty:1 presence_penalty:0 frequency_penalty:0 penalty_window:0 seed:7 n:1}
				stopping{max_tokens:9 min_tokens:0 stop_token_ids:[65] include_stop:false ignore_eos:false}
				end_token_ids:[257]
			}
		}
		deltas{text:"He" token_ids:[72,101]}`,
		`deltas{text:"y" token_ids:[121] offset:2}`,
		`deltas{text:"!" token_ids:[33,257] offset:3}
		finish{
			finishes{reason:FINISH_REASON_END_TOKEN token_id:257}
			usage{prompt_tokens:3 cached_prompt_tokens:1 completion_tokens:5 preemptions:2}
			timings{queued{nanos:3000000} prefill{nanos:5000000} decode{nanos:7000000} time_to_first_token{nanos:8000000} total{nanos:15000000}}
		}`,
	}
	if len(got) != len(want) {
		t.Fatalf("%d messages, want %d: %v", len(got), len(want), got)
	}
	for i := range want {
		if diff := cmp.Diff(parse(t, want[i], &infernov1.GenerateStreamResponse{}), got[i], protocmp.Transform()); diff != "" {
			t.Errorf("message %d (−want +got):\n%s", i, diff)
		}
	}
}

func TestUnaryCollectsTheStream(t *testing.T) {
	f := start(t, play(part{ids: byteIDs("He")}, part{ids: byteIDs("y")}, part{finish: finished(engine.ContextFull, 'y')}))
	got, err := f.api.Generate(t.Context(), parse(t, `model:"m" token_ids{ids:[1,2]} request_id:"r" sampling{seed:0}`, &infernov1.GenerateRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	want := parse(t, `
		start{
			request_id:"r" model:"m" model_revision:"r1" prompt_tokens:2 cached_prompt_tokens:1 queued{nanos:3000000}
			effective{
				sampling{temperature:1 top_k:0 top_p:1 min_p:0 typical_p:1 repetition_penalty:1 presence_penalty:0 frequency_penalty:0 penalty_window:0 seed:0 n:1}
				stopping{max_tokens:30 min_tokens:0 include_stop:false ignore_eos:false}
				end_token_ids:[257]
			}
		}
		completions{text:"Hey" token_ids:[72,101,121] finish{reason:FINISH_REASON_CONTEXT_FULL}}
		usage{prompt_tokens:2 cached_prompt_tokens:1 completion_tokens:3 preemptions:2}
		timings{queued{nanos:3000000} prefill{nanos:5000000} decode{nanos:7000000} time_to_first_token{nanos:8000000} total{nanos:15000000}}`,
		&infernov1.GenerateResponse{})
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(−want +got):\n%s", diff)
	}
}

func TestEngineGetsTheCheckedRequest(t *testing.T) {
	defaults := GenerationDefaults{
		Temperature: new(float32(0.6)), TopK: new(40), TopP: new(float32(0.9)), MinP: new(float32(0.05)), TypicalP: new(float32(0.8)),
		RepetitionPenalty: new(float32(1.1)), PenaltyWindow: new(64),
	}
	for _, c := range []struct {
		name, request string
		defaults      GenerationDefaults
		want          engine.Request
	}{
		{
			"the API's defaults", `model:"m" text:"a</s>" request_id:"r" sampling{seed:3}`, GenerationDefaults{},
			engine.Request{
				ID: "r", Prompt: []int32{bosID, 'a', eosID}, Sampling: engine.Sampling{Temperature: 1, TopP: 1, TypicalP: 1, RepetitionPenalty: 1, Seed: 3},
				Stop: engine.Stopping{EndTokens: []int32{eosID}},
			},
		},
		{
			"the model's defaults", `model:"m" text:"a" request_id:"r" sampling{seed:3}`, defaults,
			engine.Request{
				ID: "r", Prompt: []int32{bosID, 'a'},
				Sampling: engine.Sampling{
					Temperature: 0.6, TopK: 40, TopP: 0.9, MinP: 0.05, TypicalP: 0.8, RepetitionPenalty: 1.1, PenaltyWindow: 64, Seed: 3,
				},
				Stop: engine.Stopping{EndTokens: []int32{eosID}},
			},
		},
		{
			"the request's own, zeros too", `
			model:"m" text:"</s>" request_id:"r" prompt_options{add_special_tokens:false parse_special:false}
			sampling{temperature:-0.0 top_k:0 top_p:1 min_p:0 typical_p:1 repetition_penalty:1 penalty_window:0 seed:18446744073709551615}
			stopping{max_tokens:4 min_tokens:2 stop_token_ids:[5] ignore_eos:true}`, defaults,
			engine.Request{
				ID: "r", Prompt: byteIDs("</s>"), Sampling: engine.Sampling{TopP: 1, TypicalP: 1, RepetitionPenalty: 1, Seed: 1<<64 - 1},
				Stop: engine.Stopping{MaxTokens: 4, MinTokens: 2, EndTokens: []int32{eosID}, StopTokens: []int32{5}, IgnoreEOS: true},
			},
		},
		{
			"ids as they are", `model:"m" token_ids{ids:[7]} request_id:"r" sampling{seed:1}`, GenerationDefaults{},
			engine.Request{
				ID: "r", Prompt: []int32{7}, Sampling: engine.Sampling{Temperature: 1, TopP: 1, TypicalP: 1, RepetitionPenalty: 1, Seed: 1},
				Stop: engine.Stopping{EndTokens: []int32{eosID}},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := play(part{ids: []int32{1}, finish: finished(engine.MaxTokens, 1)})
			f := start(t, g, func(o *Options) { o.Models.(models)[2].Defaults = c.defaults })
			if _, err := f.api.Generate(t.Context(), parse(t, c.request, &infernov1.GenerateRequest{})); err != nil {
				t.Fatal(err)
			}
			got := *(<-g.requests).Request
			if got.Arrived.IsZero() || time.Since(got.Arrived) < 0 {
				t.Errorf("arrived at %v", got.Arrived)
			}
			got.Arrived = time.Time{}
			c.want.N = 1
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(−want +got):\n%s", diff)
			}
			if bits := fmt.Sprint(got.Sampling.Temperature); strings.HasPrefix(bits, "-") {
				t.Errorf("temperature is %s, want no negative zero", bits)
			}
		})
	}
}

func TestUnsetSeedAndIDAreMadeAndReturned(t *testing.T) {
	g := play(part{ids: []int32{1}, finish: finished(engine.MaxTokens, 1)})
	f := start(t, g)
	seeds, ids := map[uint64]bool{}, map[string]bool{}
	for range 4 {
		got, err := f.api.Generate(t.Context(), textRequest("hi"))
		if err != nil {
			t.Fatal(err)
		}
		asked := <-g.requests
		if got.GetStart().GetEffective().GetSampling().GetSeed() != asked.Sampling.Seed || got.GetStart().GetRequestId() != asked.ID {
			t.Errorf("told %v, asked the engine with seed %d and id %s", got.GetStart(), asked.Sampling.Seed, asked.ID)
		}
		seeds[asked.Sampling.Seed], ids[asked.ID] = true, true
	}
	if len(seeds) != 4 || len(ids) != 4 {
		t.Errorf("%d seeds and %d ids in 4 requests, want 4 of each", len(seeds), len(ids))
	}
}

func TestText(t *testing.T) {
	end := func(reason engine.FinishReason, id int32) *engine.Finish { return finished(reason, id) }
	for _, c := range []struct {
		name, options string
		parts         []part
		want          []string // of each delta
	}{
		{
			"a rune in two messages", ``,
			[]part{{ids: byteIDs("a\xc3")}, {ids: byteIDs("\xa4b"), finish: end(engine.MaxTokens, 'b')}},
			[]string{"a", "äb"},
		},
		{
			"half a rune at the end", ``,
			[]part{{ids: byteIDs("a\xf0\x9f")}, {finish: end(engine.MaxTokens, 0x9f)}},
			[]string{"a", "\ufffd"},
		},
		{
			"no rune at all", ``,
			[]part{{ids: byteIDs("\xff\xfe"), finish: end(engine.MaxTokens, 0xfe)}},
			[]string{"\ufffd\ufffd"},
		},
		{
			"end token kept out even where special tokens are kept", `output{skip_special_tokens:false}`,
			[]part{{ids: []int32{'a', bosID, eosID}, finish: end(engine.EndToken, eosID)}},
			[]string{"a<s>"},
		},
		{
			"ignored end tokens", `stopping{ignore_eos:true} output{skip_special_tokens:false}`,
			[]part{{ids: []int32{'a', eosID, 'b'}, finish: end(engine.MaxTokens, 'b')}},
			[]string{"a</s>b"},
		},
		{
			"ignored end tokens skipped", `stopping{ignore_eos:true}`,
			[]part{{ids: []int32{'a', eosID, 'b'}, finish: end(engine.MaxTokens, 'b')}},
			[]string{"ab"},
		},
		{
			"stop token kept out", `stopping{stop_token_ids:[98]}`,
			[]part{{ids: byteIDs("ab"), finish: end(engine.StopToken, 'b')}},
			[]string{"a"},
		},
		{
			"ids without a token", ``,
			[]part{{ids: []int32{'a', 259, 'b'}, finish: end(engine.MaxTokens, 'b')}},
			[]string{"ab"},
		},
		{
			"text only: half a rune is no message", `output{token_ids:false}`,
			[]part{{ids: byteIDs("a")}, {ids: byteIDs("\xc3")}, {ids: byteIDs("\xa4"), finish: end(engine.MaxTokens, 0xa4)}},
			[]string{"a", "ä"},
		},
		{
			"no text", `output{text:false}`,
			[]part{{ids: byteIDs("a")}, {ids: byteIDs("b"), finish: end(engine.MaxTokens, 'b')}},
			[]string{"", ""},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := start(t, play(c.parts...))
			stream, err := f.api.GenerateStream(t.Context(), parse(t, `model:"m" text:"x" `+c.options, &infernov1.GenerateRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			messages, err := readAll(stream)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range messages {
				for _, d := range m.GetDeltas() {
					got = append(got, d.GetText())
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(−want +got):\n%s", diff)
			}
		})
	}
}

// TestNothingIsSentBeforeTheFirstToken lets all goroutines come to rest: a header on its way would have arrived.
func TestNothingIsSentBeforeTheFirstToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newScript()
		f := start(t, g)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := f.api.GenerateStream(ctx, textRequest("hi"))
		if err != nil {
			t.Fatal(err)
		}
		header := make(chan metadata.MD, 1)
		go func() {
			md, _ := stream.Header()
			header <- md
		}()
		request := <-g.requests
		<-request.waiting
		synctest.Wait()
		select {
		case md := <-header:
			t.Fatalf("header %v before the first token", md)
		default:
		}
		request.parts <- part{ids: byteIDs("x")}
		synctest.Wait()
		select {
		case <-header:
		default:
			t.Error("no header after the first token")
		}
		first, err := stream.Recv()
		if err != nil || first.GetStart() == nil || len(first.GetDeltas()) != 1 {
			t.Errorf("first message %v, %v, want start and tokens", first, err)
		}
		cancel()
		<-request.ctx.Done()
	})
}

func TestEndingTheCallEndsTheRequest(t *testing.T) {
	for _, c := range []struct {
		name  string
		begun bool // whether a token has been made
	}{{"queued", false}, {"decoding", true}} {
		t.Run(c.name, func(t *testing.T) {
			g := newScript()
			f := start(t, g)
			ctx, cancel := context.WithCancel(t.Context())
			stream, err := f.api.GenerateStream(ctx, textRequest("hi"))
			if err != nil {
				t.Fatal(err)
			}
			request := <-g.requests
			if c.begun {
				request.parts <- part{ids: byteIDs("x")}
				if _, err := stream.Recv(); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			<-request.ctx.Done()
		})
	}
	t.Run("deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newScript()
			f := start(t, g)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := f.api.Generate(ctx, textRequest("hi"))
			if code := grpcCode(err); code != codes.DeadlineExceeded {
				t.Errorf("got %v", err)
			}
			request := <-g.requests
			<-request.ctx.Done()
			if cause := context.Cause(request.ctx); !errors.Is(cause, context.DeadlineExceeded) && !errors.Is(cause, context.Canceled) {
				t.Errorf("the request ended with %v", cause)
			}
		})
	})
	t.Run("unary", func(t *testing.T) {
		g := newScript()
		f := start(t, g)
		ctx, cancel := context.WithCancel(t.Context())
		answered := make(chan error, 1)
		go func() {
			_, err := f.api.Generate(ctx, textRequest("hi"))
			answered <- err
		}()
		request := <-g.requests
		cancel()
		<-request.ctx.Done()
		if err := <-answered; grpcCode(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
	})
}

// An abort freed what another had freed, or reached what was another's. CVE-2025-23322.
func TestAbort(t *testing.T) {
	g := newScript()
	f := start(t, g)
	open := func(id string) (*scripted, infernov1.InferenceService_GenerateStreamClient) {
		stream, err := f.api.GenerateStream(t.Context(), &infernov1.GenerateRequest{RequestId: id, Model: "m", Input: textRequest("hi").Input})
		if err != nil {
			t.Fatal(err)
		}
		return <-g.requests, stream
	}
	a, streamA := open("a")
	_, streamB := open("b")
	_, streamC := open("c")
	a.parts <- part{ids: byteIDs("x")}
	if _, err := streamA.Recv(); err != nil {
		t.Fatal(err)
	}

	_, err := f.api.Generate(t.Context(), &infernov1.GenerateRequest{RequestId: "a", Model: "ids", Input: parse(t, `token_ids{ids:[1]}`, &infernov1.GenerateRequest{}).Input})
	wantStatus(t, err, codes.AlreadyExists, "DUPLICATE_REQUEST_ID")

	abort := func(text string) []string {
		t.Helper()
		answer, err := f.api.Abort(t.Context(), parse(t, text, &infernov1.AbortRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetAbortedRequestIds()
	}
	if got := abort(`request_ids:["b","unknown","a","a"]`); !cmp.Equal(got, []string{"a", "b"}) {
		t.Errorf("aborted %q", got)
	}
	for _, stream := range []infernov1.InferenceService_GenerateStreamClient{streamA, streamB} {
		_, err := stream.Recv()
		wantStatus(t, err, codes.Canceled, "ABORTED")
	}
	if got := abort(`request_ids:["b"]`); len(got) != 0 {
		t.Errorf("aborted %q again", got)
	}
	if got := abort(`all:true`); !cmp.Equal(got, []string{"c"}) {
		t.Errorf("aborted %q of all", got)
	}
	_, err = streamC.Recv()
	wantStatus(t, err, codes.Canceled, "ABORTED")

	for _, bad := range []string{`all:true request_ids:"x"`, strings.Repeat(`request_ids:"x" `, 1025)} {
		_, err := f.api.Abort(t.Context(), parse(t, bad, &infernov1.AbortRequest{}))
		wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")
	}
}

// TestSlowReaderEndsItsRequestAlone: a client that stops reading may not keep its place on the device.
func TestSlowReaderEndsItsRequestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newScript()
		f := start(t, g)
		stream, err := f.api.GenerateStream(t.Context(), textRequest("hi"))
		if err != nil {
			t.Fatal(err)
		}
		request := <-g.requests
		feed := make(chan int, 1)
		go func() { // until the server takes no more
			for n := 0; ; n++ {
				select {
				case request.parts <- part{ids: byteIDs(strings.Repeat("x", 4096))}:
				case <-request.ctx.Done():
					feed <- n
					return
				}
			}
		}()
		synctest.Wait()
		begin := time.Now()
		if n := <-feed; n < 2 {
			t.Errorf("%d messages were taken", n)
		}
		if waited := time.Since(begin); waited != defaultSendTimeout {
			t.Errorf("the request ended after %v, want %v", waited, defaultSendTimeout)
		}

		quick, err := f.api.GenerateStream(t.Context(), textRequest("hi"))
		if err != nil {
			t.Fatal(err)
		}
		(<-g.requests).parts <- part{ids: byteIDs("x"), finish: finished(engine.MaxTokens, 'x')}
		if _, err := readAll(quick); err != nil {
			t.Errorf("another client's stream: %v", err)
		}

		// When it reads again it gets what was sent, and why there is no more.
		_, err = readAll(stream)
		wantStatus(t, err, codes.Canceled, "SLOW_READER")
	})
}

func TestReaderThatPausesLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newScript()
		f := start(t, g)
		stream, err := f.api.GenerateStream(t.Context(), textRequest("hi"))
		if err != nil {
			t.Fatal(err)
		}
		request := <-g.requests
		const messages, each = 100, 4096
		go func() {
			for range messages {
				request.parts <- part{ids: byteIDs(strings.Repeat("x", each))}
			}
			request.parts <- part{finish: finished(engine.MaxTokens, 'x')}
		}()
		time.Sleep(defaultSendTimeout - time.Second) // of the bubble's clock, while the server cannot send
		all, err := readAll(stream)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, m := range all {
			for _, d := range m.GetDeltas() {
				if int(d.GetOffset()) != got {
					t.Fatalf("offset %d, want %d", d.GetOffset(), got)
				}
				got += len(d.GetTokenIds())
			}
		}
		if got != messages*each {
			t.Errorf("%d tokens, want %d", got, messages*each)
		}
	})
}

func TestFailuresOfTheEngine(t *testing.T) {
	secret := errors.New("cuda: 0x7ffe at /root/weights")
	for _, c := range []struct {
		name   string
		err    error
		code   codes.Code
		reason string
		retry  time.Duration
	}{
		{"queue full", &engine.QueueFullError{What: "4 requests", Limit: "3", RetryAfter: 1500 * time.Millisecond}, codes.ResourceExhausted, "QUEUE_FULL", 1500 * time.Millisecond},
		{"draining", engine.ErrDraining, codes.Unavailable, "DRAINING", retryElsewhere},
		{"device lost", fmt.Errorf("%w: %w", engine.ErrDeviceLost, secret), codes.Unavailable, "DEVICE_LOST", retryRestarted},
		{"not finite", fmt.Errorf("%w: %w", engine.ErrNotFinite, secret), codes.DataLoss, "LOGITS_NOT_FINITE", 0},
		{"duplicate", engine.ErrDuplicateID, codes.AlreadyExists, "DUPLICATE_REQUEST_ID", 0},
		{"limit", &engine.LimitError{Field: "max_tokens", Value: 9, Limit: "at most 8"}, codes.InvalidArgument, "INVALID_FIELD", 0},
		{"aborted", engine.ErrAborted, codes.Canceled, "ABORTED", 0},
		{"unforeseen", secret, codes.Internal, "INTERNAL", 0},
	} {
		check := func(t *testing.T, f *fixture, err error) {
			t.Helper()
			s := wantStatus(t, err, c.code, c.reason)
			if delay, ok := retryDelay(s); delay != c.retry || ok != (c.retry > 0) {
				t.Errorf("retry in %v (%t), want %v", delay, ok, c.retry)
			}
			if strings.Contains(fmt.Sprint(s.Proto()), "0x7ffe") {
				t.Errorf("the client sees %v", s.Proto())
			}
			if errors.Is(c.err, secret) && len(f.log.with("0x7ffe")) != 1 {
				t.Error("the log does not tell the cause in one line")
			}
		}
		t.Run(c.name+" at submit", func(t *testing.T) {
			g := newScript()
			g.refuse = c.err
			f := start(t, g)
			_, err := f.api.Generate(t.Context(), textRequest("hi"))
			check(t, f, err)
			f.wantNoneLive()
		})
		t.Run(c.name+" within the stream", func(t *testing.T) {
			f := start(t, play(part{ids: byteIDs("x")}, part{err: c.err}))
			stream, err := f.api.GenerateStream(t.Context(), textRequest("hi"))
			if err != nil {
				t.Fatal(err)
			}
			all, err := readAll(stream)
			if len(all) != 1 {
				t.Errorf("%d messages before the error, want 1", len(all))
			}
			check(t, f, err)
		})
	}
}

func TestPanicEndsItsCallAlone(t *testing.T) {
	f := start(t, play(part{ids: byteIDs("x")}, part{panics: "secret of the engine"}))
	_, err := f.api.Generate(t.Context(), textRequest("hi"))
	if grpcCode(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("unary: %v", err)
	}
	stream, err := f.api.GenerateStream(t.Context(), textRequest("hi"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = readAll(stream)
	if grpcCode(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("stream: %v", err)
	}
	if found := f.log.with("panic in a call", "secret of the engine", "scripted"); len(found) != 2 {
		t.Errorf("%d lines tell of the panic and where it was, want 2", len(found))
	}
	f.wantNoneLive()

	g := newScript()
	g.panics = "secret of the intake"
	f = start(t, g)
	_, err = f.api.Generate(t.Context(), textRequest("hi"))
	if grpcCode(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("at submit: %v", err)
	}
	f.wantNoneLive()
}

func (f *fixture) wantNoneLive() {
	f.t.Helper()
	if ids := f.live.cancelAll(errStopping, func(string) bool { return true }); len(ids) > 0 {
		f.t.Errorf("requests %q are live after their calls", ids)
	}
}

func TestOneLogLineACall(t *testing.T) {
	f := start(t, play(part{ids: byteIDs("geheim"), finish: finished(engine.MaxTokens, 'm')}))
	req := textRequest("verraten")
	req.RequestId = "r-7"
	if _, err := f.api.Generate(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	_, err := f.api.Generate(t.Context(), &infernov1.GenerateRequest{Model: "m", RequestId: "a\nb"})
	wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")
	f.Stop(t.Context()) // the lines are written once the handlers have ended

	if found := f.log.with("call finished", "level=INFO", "inferno.v1.InferenceService/Generate", "code=OK", "request_id=r-7",
		"model=m", "prompt_tokens=9", "completion_tokens=6", "finish=max_tokens"); len(found) != 1 {
		t.Errorf("%d lines for the call that succeeded, want 1: %q", len(found), f.log.with(""))
	}
	if found := f.log.with("code=InvalidArgument", `request_id="a\nb"`); len(found) != 1 {
		t.Errorf("%d lines for the refused call, want 1: %q", len(found), f.log.with(""))
	}
	if all := f.log.with(""); len(all) != 2 {
		t.Errorf("%d lines, want 2: %q", len(all), all)
	}
	if found := append(f.log.with("geheim"), f.log.with("verraten")...); len(found) > 0 {
		t.Errorf("contents in the log: %q", found)
	}
}

// TestRefusedRequestsHaveAnID: the client's own or one that was made, the same in the error and in the log.
func TestRefusedRequestsHaveAnID(t *testing.T) {
	g := newScript()
	f := start(t, g)
	for _, c := range []struct {
		name, request string
		refuse        error
	}{
		{"made", `model:"m"`, nil},
		{"its own", `model:"x" text:"hi" request_id:"r-1"`, nil},
		{"not a valid one", `model:"m" text:"hi" request_id:"a b"`, nil},
		{"by the engine", `model:"m" text:"hi"`, &engine.QueueFullError{Limit: "1"}},
	} {
		g.refuse = c.refuse
		req := parse(t, c.request, &infernov1.GenerateRequest{})
		_, unary := f.api.Generate(t.Context(), req)
		stream, err := f.api.GenerateStream(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		_, streamed := readAll(stream)
		for _, err := range []error{unary, streamed} {
			id := requestIDOf(status.Convert(err))
			if id == "" || req.GetRequestId() != "" && id != req.GetRequestId() {
				t.Errorf("%s: the error %v has request_id %q", c.name, err, id)
			}
		}
	}
	f.Stop(t.Context()) // the lines are written once the handlers have ended
	if found := f.log.with(`request_id=""`); len(found) > 0 {
		t.Errorf("calls without an id in the log: %q", found)
	}
	if found := f.log.with("request_id=r-1", "code=NotFound"); len(found) != 2 {
		t.Errorf("%d lines of request r-1, want 2", len(found))
	}
}

func requestIDOf(s *status.Status) string {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetMetadata()["request_id"]
		}
	}
	return ""
}

// TestAbortWhileTheServerStopsIsAnAbort: the engine may tell of it before the call's context does.
func TestAbortWhileTheServerStopsIsAnAbort(t *testing.T) {
	g := newScript()
	f := start(t, g)
	req := textRequest("hi")
	req.RequestId = "r"
	stream, err := f.api.GenerateStream(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	request := <-g.requests
	<-request.waiting
	f.Drain()
	request.ended = engine.ErrAborted
	if _, err := f.api.Abort(t.Context(), &infernov1.AbortRequest{All: true}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantStatus(t, err, codes.Canceled, "ABORTED")
}

func TestTokenizeAndDetokenize(t *testing.T) {
	f := start(t, newScript())
	for _, c := range []struct{ request, want string }{
		{`model:"m" text:"hé"`, `token_ids:[256,104,195,169] max_context:32`},
		{`model:"m" text:"<s>" prompt_options{add_special_tokens:false}`, `token_ids:[256] max_context:32`},
		{`model:"m" text:"<s>" prompt_options{add_special_tokens:false parse_special:false}`, `token_ids:[60,115,62] max_context:32`},
		{`model:"m" text:""`, `token_ids:[256] max_context:32`},
		{`model:"m" text:"h\303\251" pieces:true`, `token_ids:[256,104,195,169] pieces:["<s>","h","\303","\251"] max_context:32`},
		{`model:"m" text:"abcd" prompt_options{truncate_to:3}`, `token_ids:[256,99,100] max_context:32`},
		{`model:"m" text:"abcd" prompt_options{truncate_to:3} pieces:true`, `token_ids:[256,99,100] pieces:["<s>","c","d"] max_context:32`},
		{`model:"m" text:"abcd" prompt_options{truncate_to:2 add_special_tokens:false}`, `token_ids:[99,100] max_context:32`},
		{`model:"m" text:"ab" prompt_options{truncate_to:3}`, `token_ids:[256,97,98] max_context:32`},
	} {
		got, err := f.api.Tokenize(t.Context(), parse(t, c.request, &infernov1.TokenizeRequest{}))
		if err != nil {
			t.Errorf("%s: %v", c.request, err)
		} else if diff := cmp.Diff(parse(t, c.want+` model_revision:"r1"`, &infernov1.TokenizeResponse{}), got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (−want +got):\n%s", c.request, diff)
		}
	}
	for request, at := range map[string]string{
		`model:"m"`:            "input",
		`text:"x"`:             "model",
		`model:"ids" text:"x"`: "text",
		`model:"m" chat{}`:     "chat.messages",
		`model:"m" text:"x" prompt_options{truncation_side:3}`: "prompt_options.truncation_side",
		`model:"m" text:"x" prompt_options{truncate_to:0}`:     "prompt_options.truncate_to",
	} {
		_, err := f.api.Tokenize(t.Context(), parse(t, request, &infernov1.TokenizeRequest{}))
		if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); found[at] == "" {
			t.Errorf("%s: faults %q, want one at %s", request, found, at)
		}
	}

	for _, c := range []struct{ request, want string }{
		{`model:"m" token_ids:[256,104,195,169,257]`, `text:"hé"`},
		{`model:"m" token_ids:[104,257] skip_special_tokens:false`, `text:"h</s>"`},
		{`model:"m" token_ids:[104,195]`, `text:"h\357\277\275"`},
		{`model:"m" token_ids:[104,259]`, `text:"h"`},
		{`model:"m"`, ``},
	} {
		got, err := f.api.Detokenize(t.Context(), parse(t, c.request, &infernov1.DetokenizeRequest{}))
		if err != nil {
			t.Errorf("%s: %v", c.request, err)
		} else if diff := cmp.Diff(parse(t, c.want+` model_revision:"r1"`, &infernov1.DetokenizeResponse{}), got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (−want +got):\n%s", c.request, diff)
		}
	}
	for request, at := range map[string]string{
		`model:"m" token_ids:[1,260]`: "token_ids[1]",
		`model:"ids" token_ids:[1]`:   "model",
		`token_ids:[1]`:               "model",
	} {
		_, err := f.api.Detokenize(t.Context(), parse(t, request, &infernov1.DetokenizeRequest{}))
		if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); found[at] == "" {
			t.Errorf("%s: faults %q, want one at %s", request, found, at)
		}
	}
	_, err := f.api.Tokenize(t.Context(), parse(t, `model:"x" text:"x"`, &infernov1.TokenizeRequest{}))
	wantStatus(t, err, codes.NotFound, "UNKNOWN_MODEL")
}

func TestTokenizeBoundsItsPieces(t *testing.T) {
	f := start(t, newScript())
	text := &infernov1.TokenizeRequest_Text{Text: strings.Repeat("x", maxPieces)}
	_, err := f.api.Tokenize(t.Context(), &infernov1.TokenizeRequest{Model: "m", Input: text, Pieces: true}) // and <s>
	if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found["text"], "want at most 262144") {
		t.Errorf("faults %q, want one at text", found)
	}
	none := &infernov1.PromptOptions{AddSpecialTokens: new(false)}
	got, err := f.api.Tokenize(t.Context(), &infernov1.TokenizeRequest{Model: "m", Input: text, PromptOptions: none, Pieces: true})
	if err != nil || len(got.GetPieces()) != maxPieces {
		t.Errorf("%d pieces, %v, want %d", len(got.GetPieces()), err, maxPieces)
	}
	model, err := f.models.Get("m")
	if err != nil {
		t.Fatal(err)
	}
	var found faults
	if found.pieces(slices.Repeat([]int32{longID}, maxPieceBytes/len(longToken)+1), model); found.err() == nil {
		t.Errorf("more than %d bytes of pieces are taken", maxPieceBytes)
	}
}

// TestDetokenizeBoundsItsText: a request of half a megabyte stands for more text than an answer may hold.
func TestDetokenizeBoundsItsText(t *testing.T) {
	f := start(t, newScript())
	req := &infernov1.DetokenizeRequest{Model: "m", TokenIds: slices.Repeat([]uint32{longID}, maxSendBytes/len(longToken)), SkipSpecialTokens: new(false)}
	_, err := f.api.Detokenize(t.Context(), req)
	if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); found["token_ids"] == "" {
		t.Errorf("faults %q, want one at token_ids", found)
	}
	req.TokenIds = req.GetTokenIds()[:1000]
	got, err := f.api.Detokenize(t.Context(), req)
	if err != nil || got.GetText() != strings.Repeat(longToken, 1000) {
		t.Errorf("%d bytes of text, %v", len(got.GetText()), err)
	}
}

// TestFullQueueIsToldBeforeTheTextIsTokenized: a template that would be refused is not even rendered, but what is wrong with a field is said.
func TestFullQueueIsToldBeforeTheTextIsTokenized(t *testing.T) {
	g := newScript()
	g.full = &engine.QueueFullError{What: "9 requests", Limit: "8", RetryAfter: 250 * time.Millisecond}
	f := start(t, g)
	_, err := f.api.Generate(t.Context(), textRequest(strings.Repeat("too long for the context ", 2)))
	if delay, ok := retryDelay(wantStatus(t, err, codes.ResourceExhausted, "QUEUE_FULL")); !ok || delay != 250*time.Millisecond {
		t.Errorf("retry in %v, %v", delay, ok)
	}
	_, err = f.api.Generate(t.Context(), &infernov1.GenerateRequest{Model: "m"})
	wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")
	dry := textRequest("hi")
	dry.DryRun = true
	if _, err := f.api.Generate(t.Context(), dry); err != nil {
		t.Errorf("dry run: %v", err)
	}
}
