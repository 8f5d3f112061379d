package server

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// makes is a script that makes these tokens, one a message where `apart`, and ends with a reason, or when the server ends it.
func makes(text string, reason engine.FinishReason) *script {
	s := newScript()
	s.begin = func(r *scripted) {
		for i := range r.N {
			for _, id := range byteIDs(text) {
				r.parts <- part{index: i, ids: []int32{id}}
			}
			r.parts <- part{index: i, finish: finished(reason, 'x')}
		}
	}
	return s
}

func TestStopping(t *testing.T) {
	for _, c := range []struct {
		name, request, made string
		reason              engine.FinishReason // the engine's
		text                string
		tokens              int
		want                infernov1.FinishReason
		match               string
	}{
		{"stop string", `stopping{stop_strings:"lo"}`, "hello world", engine.MaxTokens, "hel", 5,
			infernov1.FinishReason_FINISH_REASON_STOP_STRING, "lo"},
		{"kept", `stopping{stop_strings:"lo" include_stop:true}`, "hello world", engine.MaxTokens, "hello", 5,
			infernov1.FinishReason_FINISH_REASON_STOP_STRING, "lo"},
		{"first complete", `stopping{stop_strings:["orl","o w"]}`, "hello world", engine.MaxTokens, "hell", 7,
			infernov1.FinishReason_FINISH_REASON_STOP_STRING, "o w"},
		{"longest of two", `stopping{stop_strings:["o","llo"]}`, "hello world", engine.MaxTokens, "he", 5,
			infernov1.FinishReason_FINISH_REASON_STOP_STRING, "llo"},
		{"not before min_tokens", `stopping{stop_strings:"o" min_tokens:6}`, "hello world", engine.MaxTokens, "hello w", 8,
			infernov1.FinishReason_FINISH_REASON_STOP_STRING, "o"},
		{"multi-byte", `stopping{stop_strings:"€"}`, "a€b", engine.MaxTokens, "a", 4, infernov1.FinishReason_FINISH_REASON_STOP_STRING, "€"},
		{"half a character at the end", `stopping{stop_strings:"€"}`, "a\xe2\x82", engine.MaxTokens, "a\ufffd", 3,
			infernov1.FinishReason_FINISH_REASON_MAX_TOKENS, ""},
		{"start of one at the end", `stopping{stop_strings:"world!"}`, "hello world", engine.MaxTokens, "hello world", 11,
			infernov1.FinishReason_FINISH_REASON_MAX_TOKENS, ""},
		{"none", `stopping{stop_strings:"xyz"}`, "hello", engine.MaxTokens, "hello", 5, infernov1.FinishReason_FINISH_REASON_MAX_TOKENS, ""},
		{"without text", `stopping{stop_strings:"lo"} output{text:false}`, "hello world", engine.MaxTokens, "", 5,
			infernov1.FinishReason_FINISH_REASON_STOP_STRING, "lo"},
		{"without ids", `stopping{stop_strings:"lo"} output{token_ids:false}`, "hello world", engine.MaxTokens, "hel", 0,
			infernov1.FinishReason_FINISH_REASON_STOP_STRING, "lo"},
		{"loop", `stopping{loop_detection{}}`, "aaaa", engine.Loop, "aaaa", 4, infernov1.FinishReason_FINISH_REASON_LOOP, ""},
		{"nothing left to choose", `sampling{banned_strings:"b"}`, "aaaa", engine.MaskDone, "aaaa", 4,
			infernov1.FinishReason_FINISH_REASON_CONSTRAINT_DONE, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := makes(c.made, c.reason)
			f := start(t, g)
			req := parse(t, `model:"m" text:"hi" `+c.request, &infernov1.GenerateRequest{})
			res, err := f.api.Generate(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			got := res.GetCompletions()[0]
			if got.GetText() != c.text || len(got.GetTokenIds()) != c.tokens || got.GetFinish().GetReason() != c.want ||
				got.GetFinish().GetStopString() != c.match {
				t.Errorf("got %v", got)
			}
			if made := res.GetUsage().GetCompletionTokens(); c.tokens > 0 && int(made) != c.tokens {
				t.Errorf("usage says %d tokens, want %d", made, c.tokens)
			}
			r := <-g.requests
			if c.match != "" && <-r.finished != engine.StopString {
				t.Error("the engine was told of another reason")
			}
			stream, err := f.api.GenerateStream(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			messages, err := readAll(stream)
			if err != nil {
				t.Fatal(err)
			}
			text := ""
			for _, m := range messages {
				for _, d := range m.GetDeltas() {
					text += d.GetText()
				}
			}
			last := messages[len(messages)-1].GetFinish().GetFinishes()
			if text != c.text || len(last) != 1 || last[0].GetReason() != c.want || last[0].GetStopString() != c.match {
				t.Errorf("streamed %q, ended by %v", text, last)
			}
		})
	}
}

// include_stop keeps an end token's text, unless special tokens are left out.
func TestIncludeStopKeepsTheTokensText(t *testing.T) {
	for request, want := range map[string]string{
		`stopping{include_stop:true}`:                                       "hi",
		`stopping{include_stop:true} output{skip_special_tokens:false}`:     "hi</s>",
		`output{skip_special_tokens:false}`:                                 "hi",
		`stopping{stop_token_ids:105 ignore_eos:true}`:                      "h",
		`stopping{stop_token_ids:105 ignore_eos:true include_stop:true}`:    "hi",
		`stopping{include_stop:true stop_strings:"</s>"} output{text:true}`: "hi",
	} {
		parts := []part{{ids: []int32{'h'}}, {ids: []int32{'i'}}, {ids: []int32{eosID}, finish: finished(engine.EndToken, eosID)}}
		if parse(t, request, &infernov1.GenerateRequest{}).GetStopping().GetIgnoreEos() {
			parts = []part{{ids: []int32{'h'}}, {ids: []int32{'i'}, finish: finished(engine.StopToken, 'i')}}
		}
		f := start(t, play(parts...))
		res, err := f.api.Generate(t.Context(), parse(t, `model:"m" text:"x" `+request, &infernov1.GenerateRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if got := res.GetCompletions()[0].GetText(); got != want {
			t.Errorf("%s: text %q, want %q", request, got, want)
		}
	}
}

func TestContinuationsAreToldApart(t *testing.T) {
	g := newScript()
	g.begin = func(r *scripted) {
		for _, p := range []part{
			{index: 1, ids: byteIDs("b1")}, {index: 0, ids: byteIDs("a1")}, {index: 2, finish: finished(engine.TimeLimit, -1)},
			{index: 1, ids: byteIDs("b2"), finish: finished(engine.MaxTokens, '2')}, {index: 0, ids: byteIDs("a2 stop here")},
			{index: 0, finish: finished(engine.MaxTokens, 'e')},
		} {
			r.parts <- p
		}
	}
	f := start(t, g)
	req := parse(t, `model:"m" text:"hi" sampling{n:3 seed:5} stopping{stop_strings:"stop"}`, &infernov1.GenerateRequest{})
	check := func(finishes []*infernov1.Finish, texts []string, usage *infernov1.Usage) {
		t.Helper()
		want := []infernov1.FinishReason{
			infernov1.FinishReason_FINISH_REASON_STOP_STRING, infernov1.FinishReason_FINISH_REASON_MAX_TOKENS,
			infernov1.FinishReason_FINISH_REASON_TIME_LIMIT,
		}
		for i, finish := range finishes {
			if int(finish.GetIndex()) != i || finish.GetReason() != want[i] {
				t.Errorf("finish %d is %v, want %v", i, finish, want[i])
			}
		}
		if !slices.Equal(texts, []string{"a1a2 ", "b1b2", ""}) {
			t.Errorf("texts %q", texts)
		}
		if usage.GetPromptTokens() != 3 || usage.GetCompletionTokens() != 9+4 || usage.GetPreemptions() != 6 {
			t.Errorf("usage %v", usage)
		}
	}
	res, err := f.api.Generate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var finishes []*infernov1.Finish
	var texts []string
	for i, c := range res.GetCompletions() {
		if int(c.GetIndex()) != i {
			t.Errorf("completion %d has index %d", i, c.GetIndex())
		}
		finishes, texts = append(finishes, c.GetFinish()), append(texts, c.GetText())
	}
	check(finishes, texts, res.GetUsage())
	if n := res.GetStart().GetEffective().GetSampling().GetN(); n != 3 {
		t.Errorf("effective n is %d", n)
	}

	stream, err := f.api.GenerateStream(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := readAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	texts, offsets := make([]string, 3), make([]uint32, 3)
	for _, m := range messages {
		var seen []uint32
		for _, d := range m.GetDeltas() {
			if slices.Contains(seen, d.GetIndex()) || d.GetOffset() != offsets[d.GetIndex()] {
				t.Errorf("delta %v after indexes %v, want offset %d", d, seen, offsets[d.GetIndex()])
			}
			seen = append(seen, d.GetIndex())
			texts[d.GetIndex()] += d.GetText()
			offsets[d.GetIndex()] += uint32(len(d.GetTokenIds()))
		}
	}
	last := messages[len(messages)-1].GetFinish()
	check(last.GetFinishes(), texts, last.GetUsage())
}

// time_limit ends a request wherever it is, with what it has: here nothing.
func TestTimeLimitEndsNormally(t *testing.T) {
	g := newScript()
	f := start(t, g)
	answer := make(chan *infernov1.GenerateResponse, 1)
	go func() {
		res, err := f.api.Generate(t.Context(), parse(t, `model:"m" text:"hi" sampling{n:2} stopping{time_limit{nanos:1000000}} output{prompt_logprobs:1 prompt_logprobs_start:2}`, &infernov1.GenerateRequest{}))
		if err != nil {
			t.Error(err)
		}
		answer <- res
	}()
	r := <-g.requests
	for i := range 2 {
		if reason := <-r.finished; reason != engine.TimeLimit {
			t.Errorf("continuation ended with %v", reason)
		}
		r.parts <- part{index: i, finish: finished(engine.TimeLimit, -1)}
	}
	res := <-answer
	if len(res.GetCompletions()) != 2 || res.GetCompletions()[1].GetFinish().GetReason() != infernov1.FinishReason_FINISH_REASON_TIME_LIMIT ||
		res.GetStart().GetPromptTokens() != 3 {
		t.Errorf("got %v", res)
	}
	if limit := res.GetStart().GetEffective().GetStopping().GetTimeLimit().AsDuration(); limit != time.Millisecond {
		t.Errorf("effective time_limit is %v", limit)
	}
}

// Deltas wait for flush_tokens; what is held when the output ends comes with the finish; a stop string in a window is cut out all the same.
func TestDeltasWaitForFlushTokens(t *testing.T) {
	f := start(t, makes("abcdefghSTOPij", engine.MaxTokens))
	for _, c := range []struct {
		request string
		least   int
		text    string
	}{
		{`output{flush_tokens:3}`, 3, "abcdefghSTOPij"},
		{`output{flush_tokens:5} stopping{stop_strings:"STOP"}`, 5, "abcdefgh"},
		{`output{flush_tokens:10} stopping{stop_strings:"STOP"}`, 10, "abcdefgh"},
		{`output{flush_tokens:4294967295}`, 14, "abcdefghSTOPij"},
	} {
		stream, err := f.api.GenerateStream(t.Context(), parse(t, `model:"m" text:"hi" `+c.request, &infernov1.GenerateRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		messages, err := readAll(stream)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for i, m := range messages {
			for _, d := range m.GetDeltas() {
				text += d.GetText()
				if len(d.GetTokenIds()) < c.least && i < len(messages)-2 {
					t.Errorf("%s: message %d has %d tokens", c.request, i, len(d.GetTokenIds()))
				}
			}
		}
		if text != c.text || messages[0].GetStart() == nil {
			t.Errorf("%s: %q, want %q, first message %v", c.request, text, c.text, messages[0])
		}
	}
}

// flush_interval sends what is held while nothing more comes.
func TestFlushIntervalSendsWhatIsHeld(t *testing.T) {
	g := newScript()
	f := start(t, g)
	req := parse(t, `model:"m" text:"hi" output{flush_tokens:100}`, &infernov1.GenerateRequest{})
	req.Output.FlushInterval = durationpb.New(time.Millisecond)
	stream, err := f.api.GenerateStream(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	r := <-g.requests
	for _, want := range []string{"ab", "c"} {
		r.parts <- part{ids: byteIDs(want)}
		m, err := stream.Recv() // the test hangs where nothing is sent
		if err != nil || m.GetDeltas()[0].GetText() != want {
			t.Fatalf("got %v, %v, want %q", m, err, want)
		}
	}
	r.parts <- part{finish: finished(engine.MaxTokens, 'c')}
	if messages, err := readAll(stream); err != nil || len(messages) != 1 || messages[0].GetFinish() == nil {
		t.Errorf("in the end: %v, %v", messages, err)
	}
}
