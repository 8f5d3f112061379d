package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// TestRequestsAreChecked sends each request for real. A row's request is in text form; `at` is what the violations name, "" for a
// request that is taken.
func TestRequestsAreChecked(t *testing.T) {
	const (
		text = `model:"m" text:"hi" `
		ids  = `model:"m" token_ids{ids:[1,2]} `
	)
	many := func(n int, item any) string {
		return strings.TrimSuffix(strings.Repeat(fmt.Sprint(item, ","), n), ",")
	}
	rows := []struct {
		name, request string
		at            string
		says          string
	}{
		{"text", text, "", ""},
		{"ids", ids, "", ""},
		{"model without tokenizer", `model:"ids" token_ids{ids:[1]}`, "", ""},

		{"no input", `model:"m"`, "input", "none is set"},
		{"empty text", `model:"m" text:""`, "text", "is empty"},
		{"text too long", `model:"m" text:"` + strings.Repeat("a", 31) + `"`, "text", "has more than 31 tokens, want at most 31"},
		{"text far too long", `model:"m" text:"` + strings.Repeat("a", 2047) + `"`, "text", "has 2047 bytes, and so at least 32 tokens, want at most 31"},
		{"longest text", `model:"m" text:"` + strings.Repeat("a", 30) + `"`, "", ""},
		{"text without BOS", `model:"m" text:"` + strings.Repeat("a", 31) + `" prompt_options{add_special_tokens:false}`, "", ""},
		{"only spaces", `model:"m" text:"   "`, "", ""},
		{"control characters in text", `model:"m" text:"\000\001\033"`, "", ""},
		{"text of a model without tokenizer", `model:"ids" text:"hi"`, "text", "has no tokenizer"},
		{"text out of a model without tokenizer", `model:"ids" token_ids{ids:[1]} output{text:true}`, "output.text", "has no tokenizer"},
		{"no text out of a model without tokenizer", `model:"ids" token_ids{ids:[1]} output{text:false}`, "", ""},
		{"empty ids", `model:"m" token_ids{}`, "token_ids.ids", "is empty"},
		{"id of the vocabulary's size", `model:"m" token_ids{ids:[1,260]}`, "token_ids.ids[1]", "is 260, want 0 to 259"},
		{"last id, which the tokenizer does not know", `model:"m" token_ids{ids:[259]}`, "", ""},
		{"id 2^31", `model:"m" token_ids{ids:[2147483648]}`, "token_ids.ids[0]", "want 0 to 259"},
		{"id 2^32-1", `model:"m" token_ids{ids:[4294967295]}`, "token_ids.ids[0]", "want 0 to 259"},
		{"as many ids as the context", `model:"m" token_ids{ids:[` + many(32, 1) + `]}`, "token_ids.ids", "has 32 tokens, want at most 31"},
		{"one id less", `model:"m" token_ids{ids:[` + many(31, 1) + `]}`, "", ""},
		{"far too many ids", `model:"m" token_ids{ids:[` + many(5000, 1) + `]}`, "token_ids.ids", "has 5000 tokens"},

		{"no model", `text:"hi"`, "model", "is empty"},
		{"long model", `model:"` + strings.Repeat("x", 129) + `" text:"hi"`, "model", "has 129 bytes, want at most 128"},
		{"model with NUL", `model:"m\000" text:"hi"`, "model", "control characters"},
		{"model with a line end", `model:"m\nlevel=ERROR" text:"hi"`, "model", "control characters"},

		{"id with all characters", text + `request_id:"aZ09._:-"`, "", ""},
		{"longest id", text + `request_id:"` + strings.Repeat("x", 128) + `"`, "", ""},
		{"long id", text + `request_id:"` + strings.Repeat("x", 129) + `"`, "request_id", "has 129 characters, want at most 128"},
		{"10 KiB id", text + `request_id:"` + strings.Repeat("x", 10<<10) + `"`, "request_id", "has 10240 characters"},
		{"id with a space", text + `request_id:"a b"`, "request_id", "[A-Za-z0-9._:-]"},
		{"id with a line end", text + `request_id:"a\nb"`, "request_id", `"a\nb"`},
		{"id with a slash", text + `request_id:"../x"`, "request_id", "[A-Za-z0-9._:-]"},
		{"id with another alphabet", text + `request_id:"\320\260"`, "request_id", "[A-Za-z0-9._:-]"},

		{"temperature 0", text + `sampling{temperature:0}`, "", ""},
		{"temperature −0", text + `sampling{temperature:-0.0}`, "", ""},
		{"temperature 100", text + `sampling{temperature:100}`, "", ""},
		{"least temperature", text + `sampling{temperature:1.1e-6}`, "", ""},
		{"temperature below", text + `sampling{temperature:1e-7}`, "sampling.temperature", "want 0, or 1e-06 to 100"},
		{"denormal temperature", text + `sampling{temperature:1e-40}`, "sampling.temperature", "want 0, or"},
		{"temperature above", text + `sampling{temperature:100.1}`, "sampling.temperature", "is 100.1"},
		{"negative temperature", text + `sampling{temperature:-1}`, "sampling.temperature", "is -1"},
		{"temperature NaN", text + `sampling{temperature:nan}`, "sampling.temperature", "is NaN"},
		{"temperature +Inf", text + `sampling{temperature:inf}`, "sampling.temperature", "is +Inf"},
		{"temperature −Inf", text + `sampling{temperature:-inf}`, "sampling.temperature", "is -Inf"},
		{"top_k 0", text + `sampling{top_k:0}`, "", ""},
		{"top_k beyond the vocabulary", text + `sampling{top_k:1000000}`, "", ""},
		{"top_k 2^31", text + `sampling{top_k:2147483648}`, "sampling.top_k", "want 0 to 2147483647"},
		{"top_p 1", text + `sampling{top_p:1}`, "", ""},
		{"least top_p", text + `sampling{top_p:1e-40}`, "", ""},
		{"top_p 0", text + `sampling{top_p:0}`, "sampling.top_p", "is 0, want above 0, up to 1"},
		{"top_p −0", text + `sampling{top_p:-0.0}`, "sampling.top_p", "want above 0"},
		{"top_p above", text + `sampling{top_p:1.01}`, "sampling.top_p", "is 1.01"},
		{"negative top_p", text + `sampling{top_p:-0.5}`, "sampling.top_p", "is -0.5"},
		{"top_p NaN", text + `sampling{top_p:nan}`, "sampling.top_p", "is NaN"},
		{"top_p Inf", text + `sampling{top_p:inf}`, "sampling.top_p", "is +Inf"},
		{"min_p 0", text + `sampling{min_p:0}`, "", ""},
		{"min_p 1", text + `sampling{min_p:1}`, "", ""},
		{"min_p above", text + `sampling{min_p:1.5}`, "sampling.min_p", "is 1.5, want 0 to 1"},
		{"negative min_p", text + `sampling{min_p:-0.1}`, "sampling.min_p", "is -0.1"},
		{"min_p NaN", text + `sampling{min_p:nan}`, "sampling.min_p", "is NaN"},
		{"seed 0", text + `sampling{seed:0}`, "", ""},
		{"largest seed", text + `sampling{seed:18446744073709551615}`, "", ""},

		{"max_tokens 1", ids + `stopping{max_tokens:1}`, "", ""},
		{"max_tokens 0", ids + `stopping{max_tokens:0}`, "stopping.max_tokens", "is 0, want at least 1"},
		{"max_tokens of all room", ids + `stopping{max_tokens:30}`, "", ""},
		{"max_tokens beyond", ids + `stopping{max_tokens:31}`, "stopping.max_tokens", "is 31, want at most 30 (the context of 32, less 2"},
		{"max_tokens 2^32-1", ids + `stopping{max_tokens:4294967295}`, "stopping.max_tokens", "want at most 30"},
		{"min_tokens of max_tokens", ids + `stopping{max_tokens:5 min_tokens:5}`, "", ""},
		{"min_tokens above max_tokens", ids + `stopping{max_tokens:5 min_tokens:6}`, "stopping.min_tokens", "is 6, want at most max_tokens, which is 5"},
		{"min_tokens of all room", ids + `stopping{min_tokens:30}`, "", ""},
		{"min_tokens beyond", ids + `stopping{min_tokens:31}`, "stopping.min_tokens", "is 31, want at most 30"},
		{"min_tokens 2^32-1", ids + `stopping{min_tokens:4294967295}`, "stopping.min_tokens", "want at most 30"},
		{"16 stop tokens", ids + `stopping{stop_token_ids:[` + many(16, 3) + `]}`, "", ""},
		{"17 stop tokens", ids + `stopping{stop_token_ids:[` + many(17, 3) + `]}`, "stopping.stop_token_ids", "has 17 ids, want at most 16"},
		{"stop token beyond the vocabulary", ids + `stopping{stop_token_ids:[1,260]}`, "stopping.stop_token_ids[1]", "is 260, want 0 to 259"},
		{"ignore_eos", ids + `stopping{ignore_eos:true}`, "", ""},

		{"neither text nor ids out", ids + `output{text:false token_ids:false}`, "", ""},
		{"special tokens kept", ids + `output{skip_special_tokens:false}`, "", ""},
		{"special tokens in text taken as text", text + `prompt_options{parse_special:false}`, "", ""},

		{"chat", `model:"m" chat{messages{role:"user" content:"hi"}}`, "", ""},
		{"empty chat", `model:"m" chat{}`, "chat.messages", "is empty, want at least 1 message"},
		{"chat too long", `model:"m" chat{messages{role:"user" content:"` + strings.Repeat("a", 40) + `"}}`, "chat", "has more than 31 tokens, want at most 31"},
		{"typical_p 1", text + `sampling{typical_p:1}`, "", ""},
		{"typical_p 0", text + `sampling{typical_p:0}`, "sampling.typical_p", "is 0, want above 0, up to 1"},
		{"typical_p above", text + `sampling{typical_p:1.1}`, "sampling.typical_p", "is 1.1"},
		{"typical_p NaN", text + `sampling{typical_p:nan}`, "sampling.typical_p", "is NaN"},
		{"repetition_penalty 10", text + `sampling{repetition_penalty:10}`, "", ""},
		{"repetition_penalty 0", text + `sampling{repetition_penalty:0}`, "sampling.repetition_penalty", "is 0, want above 0, up to 10"},
		{"repetition_penalty above", text + `sampling{repetition_penalty:10.1}`, "sampling.repetition_penalty", "is 10.1"},
		{"repetition_penalty NaN", text + `sampling{repetition_penalty:nan}`, "sampling.repetition_penalty", "is NaN"},
		{"repetition_penalty +Inf", text + `sampling{repetition_penalty:inf}`, "sampling.repetition_penalty", "is +Inf"},
		{"presence_penalty −10", text + `sampling{presence_penalty:-10}`, "", ""},
		{"presence_penalty below", text + `sampling{presence_penalty:-10.1}`, "sampling.presence_penalty", "is -10.1, want -10 to 10"},
		{"presence_penalty NaN", text + `sampling{presence_penalty:nan}`, "sampling.presence_penalty", "is NaN"},
		{"frequency_penalty 10", text + `sampling{frequency_penalty:10}`, "", ""},
		{"frequency_penalty above", text + `sampling{frequency_penalty:11}`, "sampling.frequency_penalty", "is 11, want -10 to 10"},
		{"frequency_penalty −Inf", text + `sampling{frequency_penalty:-inf}`, "sampling.frequency_penalty", "is -Inf"},
		{"penalty_window 0", text + `sampling{penalty_window:0}`, "", ""},
		{"penalty_window 2^32-1", text + `sampling{penalty_window:4294967295}`, "", ""},
		{"n 16", text + `sampling{n:16}`, "", ""},
		{"n 0", text + `sampling{n:0}`, "sampling.n", "is 0, want 1 to 16"},
		{"n of 2^31", text + `sampling{n:2147483648}`, "sampling.n", "is 2147483648, want 1 to 16"},
		{"logit_bias", text + `sampling{logit_bias{key:1 value:-100} logit_bias{key:259 value:100}}`, "", ""},
		{"logit_bias NaN", text + `sampling{logit_bias{key:1 value:nan}}`, "sampling.logit_bias[1]", "is NaN, want -100 to 100"},
		{"logit_bias above", text + `sampling{logit_bias{key:1 value:101}}`, "sampling.logit_bias[1]", "is 101"},
		{"logit_bias beyond the vocabulary", text + `sampling{logit_bias{key:260}}`, "sampling.logit_bias", "has id 260, want 0 to 259"},
		{"allowed ids", text + `sampling{allowed_token_ids:[1,1,259]}`, "", ""},
		{"allowed id beyond the vocabulary", text + `sampling{allowed_token_ids:[1,260]}`, "sampling.allowed_token_ids[1]", "is 260"},
		{"1025 allowed ids", text + `sampling{allowed_token_ids:[` + many(1025, 1) + `]}`, "sampling.allowed_token_ids", "has 1025 ids, want at most 1024"},
		{"banned ids", text + `sampling{banned_token_ids:[1,1,259]}`, "", ""},
		{"banned id beyond the vocabulary", text + `sampling{banned_token_ids:[4294967295]}`, "sampling.banned_token_ids[0]", "want 0 to 259"},
		{"1025 banned ids", text + `sampling{banned_token_ids:[` + many(1025, 1) + `]}`, "sampling.banned_token_ids", "has 1025 ids, want at most 1024"},
		{"banned string", text + `sampling{banned_strings:"` + strings.Repeat("x", 256) + `"}`, "", ""},
		{"empty banned string", text + `sampling{banned_strings:["a",""]}`, "sampling.banned_strings[1]", "has 0 bytes, want 1 to 256"},
		{"long banned string", text + `sampling{banned_strings:"` + strings.Repeat("x", 257) + `"}`, "sampling.banned_strings[0]", "has 257 bytes"},
		{"129 banned strings", text + `sampling{banned_strings:[` + many(129, `"x"`) + `]}`, "sampling.banned_strings", "has 129 texts, want at most 128"},
		{"banned string without tokenizer", `model:"ids" token_ids{ids:[1]} sampling{banned_strings:"x"}`, "sampling.banned_strings", "has no tokenizer"},
		{"stop string", text + `stopping{stop_strings:"` + strings.Repeat("x", 1024) + `"}`, "", ""},
		{"empty stop string", text + `stopping{stop_strings:""}`, "stopping.stop_strings[0]", "has 0 bytes, want 1 to 1024"},
		{"long stop string", text + `stopping{stop_strings:"` + strings.Repeat("x", 1025) + `"}`, "stopping.stop_strings[0]", "has 1025 bytes"},
		{"17 stop strings", text + `stopping{stop_strings:[` + many(17, `"x"`) + `]}`, "stopping.stop_strings", "has 17 texts, want at most 16"},
		{"stop string without tokenizer", `model:"ids" token_ids{ids:[1]} stopping{stop_strings:"x"}`, "stopping.stop_strings", "has no tokenizer"},
		{"include_stop", text + `stopping{include_stop:true}`, "", ""},
		{"time limit", text + `stopping{time_limit{seconds:1}}`, "", ""},
		{"no time at all", text + `stopping{time_limit{}}`, "stopping.time_limit", "is 0s, want above 0"},
		{"negative time limit", text + `stopping{time_limit{nanos:-1}}`, "stopping.time_limit", "want above 0"},
		{"time limit of two signs", text + `stopping{time_limit{seconds:1 nanos:-1}}`, "stopping.time_limit", "want above 0"},
		{"time limit of too many nanoseconds", text + `stopping{time_limit{nanos:1000000000}}`, "stopping.time_limit", "want above 0"},
		{"endless time limit", text + `stopping{time_limit{seconds:315576000000}}`, "stopping.time_limit", "want above 0, up to 9223372036s"},
		{"loop detection", text + `stopping{loop_detection{}}`, "", ""},
		{"widest loop detection", text + `stopping{loop_detection{max_period:256 min_repeats:4294967295}}`, "", ""},
		{"period 0", text + `stopping{loop_detection{max_period:0}}`, "stopping.loop_detection.max_period", "is 0, want 1 to 256"},
		{"period 257", text + `stopping{loop_detection{max_period:257}}`, "stopping.loop_detection.max_period", "is 257, want 1 to 256"},
		{"2 repeats", text + `stopping{loop_detection{min_repeats:2}}`, "stopping.loop_detection.min_repeats", "is 2, want at least 3"},
		{"flush options", text + `output{flush_tokens:4294967295 flush_interval{nanos:1}}`, "", ""},
		{"flush_tokens 0", text + `output{flush_tokens:0}`, "output.flush_tokens", "is 0, want at least 1"},
		{"flush_interval 0", text + `output{flush_interval{}}`, "output.flush_interval", "want above 0"},
		{"all log-probabilities", ids + `output{logprobs:20 prompt_logprobs:20 prompt_logprobs_start:1 echo:true logprob_token_ids:[0,259]}`, "", ""},
		{"logprobs 21", ids + `output{logprobs:21}`, "output.logprobs", "is 21, want 0 to 20"},
		{"logprobs 2^32-1", ids + `output{logprobs:4294967295}`, "output.logprobs", "want 0 to 20"},
		{"prompt_logprobs 21", ids + `output{prompt_logprobs:21}`, "output.prompt_logprobs", "is 21, want 0 to 20"},
		{"start at the end", ids + `output{prompt_logprobs:0 prompt_logprobs_start:2}`, "output.prompt_logprobs_start", "is 2, want 0 to 1"},
		{"start 2^32-1", ids + `output{prompt_logprobs:0 prompt_logprobs_start:4294967295}`, "output.prompt_logprobs_start", "want 0 to 1"},
		{"start alone", ids + `output{prompt_logprobs_start:0}`, "output.prompt_logprobs_start", "only with prompt_logprobs"},
		{"ids to tell of alone", ids + `output{logprob_token_ids:1}`, "output.logprob_token_ids", "only with logprobs or prompt_logprobs"},
		{"id to tell of beyond", ids + `output{logprobs:0 logprob_token_ids:[1,260]}`, "output.logprob_token_ids[1]", "is 260, want 0 to 259"},
		{"id to tell of twice", ids + `output{logprobs:0 logprob_token_ids:[1,2,1]}`, "output.logprob_token_ids", "has 1 twice"},
		{"129 ids to tell of", ids + `output{logprobs:0 logprob_token_ids:[` + many(129, 1) + `]}`, "output.logprob_token_ids", "has 129 ids, want at most 128"},
		{"dry run", ids + `dry_run:true`, "", ""},
		{"dry run of what is too long", `model:"m" dry_run:true token_ids{ids:[` + many(5000, 1) + `]}`, "", ""},
		{"dry run of too many new tokens", ids + `dry_run:true stopping{max_tokens:1000}`, "", ""},
		{"dry run with a fault", ids + `dry_run:true sampling{top_p:2}`, "sampling.top_p", "is 2"},
		{"truncation to nothing", text + `prompt_options{truncate_to:0}`, "prompt_options.truncate_to", "is 0, want at least 1"},
		{"truncation on no side", text + `prompt_options{truncation_side:3}`, "prompt_options.truncation_side", "is 3, want TRUNCATION_SIDE_LEFT"},
		{"priority 101", text + `priority:101`, "priority", "is 101, want -100 to 100"},
		{"a salt of 129 bytes", text + `cache{salt:"` + strings.Repeat("x", 129) + `"}`, "cache.salt", "has 129 bytes, want at most 128"},
	}
	f := start(t, play(part{ids: []int32{'x'}, finish: finished(engine.MaxTokens, 'x')}))
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			req := &infernov1.GenerateRequest{}
			if err := prototext.Unmarshal([]byte(row.request), req); err != nil {
				t.Fatal(err)
			}
			_, err := f.api.Generate(t.Context(), req)
			if row.at == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD"))
			if len(found) != 1 || !strings.Contains(found[row.at], row.says) {
				t.Errorf("violations %q, want one at %q that says %q", found, row.at, row.says)
			}
			if !strings.Contains(err.Error(), row.at+": ") {
				t.Errorf("message %q does not name %q", err, row.at)
			}
		})
	}
}

func TestAllFaultsAreToldAtOnce(t *testing.T) {
	f := start(t, newScript())
	req := &infernov1.GenerateRequest{
		RequestId: "a b", Model: "m", Input: &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: []uint32{999}}},
		Sampling: &infernov1.SamplingParameters{Temperature: new(float32(math.NaN())), TopP: new(float32(2)), N: new(uint32(17))},
		Stopping: &infernov1.StoppingParameters{MaxTokens: new(uint32(500)), StopTokenIds: []uint32{260}},
	}
	_, err := f.api.Generate(t.Context(), req)
	found := slices.Sorted(maps.Keys(faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD"))))
	want := []string{
		"request_id", "sampling.n", "sampling.temperature", "sampling.top_p", "stopping.max_tokens", "stopping.stop_token_ids[0]",
		"token_ids.ids[0]",
	}
	if !slices.Equal(found, want) {
		t.Errorf("faults at %q, want %q", found, want)
	}
}

func TestUnknownModelsAreNotFound(t *testing.T) {
	f := start(t, newScript())
	for _, name := range []string{"M", "n", "../m", "/etc/passwd", "m/", " m", "м"} {
		_, err := f.api.Generate(t.Context(), &infernov1.GenerateRequest{Model: name, Input: textRequest("hi").Input})
		wantStatus(t, err, codes.NotFound, "UNKNOWN_MODEL")
	}
	_, err := f.api.Generate(t.Context(), &infernov1.GenerateRequest{Model: "loading", Input: textRequest("hi").Input})
	s := wantStatus(t, err, codes.Unavailable, "MODEL_NOT_READY")
	if _, ok := retryDelay(s); !ok {
		t.Error("no RetryInfo for a model that is on its way")
	}
}

// refused are the fields that requests have and this server does not: a decision for each. A field of neither list fails the test.
var refused = []protoreflect.FullName{}

func TestEveryFieldIsSupportedOrRefused(t *testing.T) {
	decided := map[protoreflect.FullName]bool{}
	for _, message := range []proto.Message{
		&infernov1.GenerateRequest{}, &infernov1.TokenizeRequest{}, &infernov1.DetokenizeRequest{}, &infernov1.AbortRequest{},
		&infernov1.ScoreRequest{}, &infernov1.EmbedRequest{},
		&infernov1.CheckRequest{}, &infernov1.WatchRequest{}, &infernov1.GetModelRequest{}, &infernov1.ListInstancesRequest{},
		&infernov1.WatchInstancesRequest{}, &infernov1.LoadModelRequest{}, &infernov1.UnloadModelRequest{},
	} {
		root := message.ProtoReflect().Type()
		visit(t, root, nil, func(path []protoreflect.FieldDescriptor) {
			last := path[len(path)-1]
			decided[last.FullName()] = true
			name, isRefused := pathName(path), slices.Contains(refused, last.FullName())
			if supported[last.FullName()] == isRefused {
				t.Errorf("%s: supported is %t and refused is %t, want one of them", last.FullName(), supported[last.FullName()], isRefused)
			}
			var f faults
			f.unsupported("", setField(root, path).Interface().ProtoReflect())
			switch {
			case !isRefused && len(f.found) > 0:
				t.Errorf("%s is supported, but %v", name, f.err())
			case isRefused && (len(f.found) != 1 || f.found[0] != violation{name, "is not supported by this server yet"}):
				t.Errorf("%s is set: found %v, want it to be refused", name, f.found)
			}
		})
	}
	for name := range supported {
		if !decided[name] {
			t.Errorf("supported: there is no field %s in a request", name)
		}
	}
	for _, name := range refused {
		if !decided[name] {
			t.Errorf("refused: there is no field %s in a request", name)
		}
	}
}

// visit calls do with the path of every field, and within messages that are supported.
func visit(t *testing.T, root protoreflect.MessageType, parents []protoreflect.FieldDescriptor, do func([]protoreflect.FieldDescriptor)) {
	t.Helper()
	message := root.Descriptor()
	if len(parents) > 0 {
		message = parents[len(parents)-1].Message()
	}
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		path := append(slices.Clone(parents), field)
		do(path)
		if m := field.Message(); m != nil && supported[field.FullName()] && m.ParentFile().Package() == message.ParentFile().Package() && !field.IsMap() {
			visit(t, root, path, do)
		}
	}
}

func pathName(path []protoreflect.FieldDescriptor) string {
	names := make([]string, len(path))
	for i, field := range path {
		names[i] = string(field.Name())
		if field.IsList() && i < len(path)-1 {
			names[i] += "[0]"
		}
	}
	return strings.Join(names, ".")
}

// setField makes a message in which only the field of this path is set, to something.
func setField(root protoreflect.MessageType, path []protoreflect.FieldDescriptor) protoreflect.Message {
	message := root.New()
	parent := message
	for _, field := range path[:len(path)-1] {
		if field.IsList() {
			parent = parent.Mutable(field).List().AppendMutable().Message()
		} else {
			parent = parent.Mutable(field).Message()
		}
	}
	switch field := path[len(path)-1]; {
	case field.IsList():
		list := parent.Mutable(field).List()
		list.Append(list.NewElement())
	case field.IsMap():
		entries := parent.Mutable(field).Map()
		entries.Set(field.MapKey().Default().MapKey(), entries.NewValue())
	case field.Message() != nil:
		parent.Mutable(field)
	default:
		parent.Set(field, something(field.Kind()))
	}
	return message
}

func something(k protoreflect.Kind) protoreflect.Value {
	switch k {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("x")
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(1)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(1)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	}
	panic(fmt.Sprintf("no value for a field of kind %v", k))
}

func TestGenerationDefaultsAreChecked(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		name     string
		defaults GenerationDefaults
		want     string
	}{
		{"none", GenerationDefaults{}, ""},
		{"usual", GenerationDefaults{Temperature: new(float32(0.6)), TopK: new(50), TopP: new(float32(0.9)), MinP: new(float32(0))}, ""},
		{"temperature", GenerationDefaults{Temperature: &nan}, "temperature: is NaN"},
		{"top_k", GenerationDefaults{TopK: new(-1)}, "top_k: is -1"},
		{"large top_k", GenerationDefaults{TopK: new(1 << 40)}, "top_k: is 4294967295"},
		{"all", GenerationDefaults{TopP: new(float32(0)), MinP: new(float32(2))}, "min_p: is 2, want 0 to 1; top_p: is 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.defaults.Validate()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// FuzzPrepare: whatever bytes a client sends, the answer is a request that the engine takes or an error, and never a panic.
func FuzzPrepare(f *testing.F) {
	for _, seed := range []string{
		`model:"m" text:"hi"`, `model:"ids" token_ids{ids:[1,2]} stopping{max_tokens:3 min_tokens:3 stop_token_ids:[4]}`,
		`model:"m" text:"</s>" sampling{temperature:nan top_k:4 seed:1} output{text:true}`, `model:"m" chat{}`,
		`model:"m" chat{messages{role:"user" content:"</s>" extra{fields{key:"x" value{list_value{values{number_value:1}}}}}} continue_final_message:true}`,
		`model:"m" text:"x" constraint{regex:"(a|b)*[0-9]{2,4}"}`, `model:"m" text:"x" constraint{choice{texts:["a","bc"]}} sampling{banned_strings:"b"}`,
		`model:"m" text:"x" constraint{grammar:"root ::= \"a\" root? [x-z]"}`, `model:"m" text:"x" constraint{json_object:true}`,
		`model:"m" text:"x" constraint{json_schema:"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]}"} dry_run:true`,
		`model:"m" chat{messages{role:"tool" extra_json:"{\"content\":[{\"text\":\"a\"}]}"} tools_json:"[{}]" parse_special_in_content:true}`,
	} {
		req := &infernov1.GenerateRequest{}
		if err := prototext.Unmarshal([]byte(seed), req); err != nil {
			f.Fatal(err)
		}
		data, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	info := ModelInfo{Name: "m", State: ModelReady, VocabularySize: vocabularySize, MaxContext: maxContext}
	plain := info
	plain.Name = "ids"
	tokens := byteTokenizer(f)
	s := &Server{encoders: make(chan struct{}, 1), compilers: make(chan struct{}, 1), models: models{
		{
			Info: info, Engine: newScript(), Tokenizer: tokens, Constraints: NewConstraints(tokens, vocabularySize), Chat: templateOf(f, testTemplate),
			EndTokens: []int32{eosID},
		},
		{Info: plain, Engine: newScript(), EndTokens: []int32{eosID}},
	}}
	f.Fuzz(func(t *testing.T, data []byte) {
		req := &infernov1.GenerateRequest{}
		if proto.Unmarshal(data, req) != nil {
			return
		}
		if req.RequestId == "" {
			req.RequestId = "made"
		}
		g, err := s.prepare(t.Context(), req, startOfTests)
		if err != nil {
			return
		}
		r := g.request
		room := maxContext - len(r.Prompt)
		if r.ID == "" || len(r.Prompt) == 0 || room < 1 || r.Stop.MaxTokens > room || r.Stop.MinTokens > room || len(r.Stop.StopTokens) > 16 {
			t.Errorf("accepted %+v of %v", r, req)
		}
		if s := r.Sampling; !(s.Temperature >= 0) || math.IsInf(float64(s.Temperature), 0) || !(s.TopP > 0 && s.TopP <= 1) || s.TopK < 0 || !(s.MinP >= 0 && s.MinP <= 1) {
			t.Errorf("accepted %+v of %v", s, req)
		}
		for _, id := range slices.Concat(r.Prompt, r.Stop.StopTokens) {
			if id < 0 || id >= vocabularySize {
				t.Errorf("accepted token %d of %v", id, req)
			}
		}
	})
}

// A field of a newer API must not vanish without a word.
func TestUnknownFieldsAreRefused(t *testing.T) {
	f := start(t, newScript())
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	for field, edit := range map[string]func(*infernov1.GenerateRequest){
		"99":          func(r *infernov1.GenerateRequest) { r.ProtoReflect().SetUnknown(unknown) },
		"sampling.99": func(r *infernov1.GenerateRequest) { r.GetSampling().ProtoReflect().SetUnknown(unknown) },
	} {
		request := textRequest("hi")
		request.Sampling = &infernov1.SamplingParameters{}
		edit(request)
		_, err := f.api.Generate(t.Context(), request)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), field+": is a field number that this server does not know") {
			t.Errorf("unknown field %s: %v", field, err)
		}
	}
}

// TestEveryCallRefusesUnknownFields: none of the methods that there are, or come, may forget it.
func TestEveryCallRefusesUnknownFields(t *testing.T) {
	f := start(t, newScript())
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	calls := 0
	for _, file := range []protoreflect.FileDescriptor{
		infernov1.File_inferno_v1_inference_proto, infernov1.File_inferno_v1_health_proto, infernov1.File_inferno_v1_registry_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				calls++
				method := methods.Get(j)
				request := dynamicpb.NewMessage(method.Input())
				request.SetUnknown(unknown)
				if err := f.call(method, request); status.Code(err) != codes.InvalidArgument || faultsOf(status.Convert(err))["99"] == "" {
					t.Errorf("%s: %v, want INVALID_ARGUMENT for field 99", method.FullName(), err)
				}
			}
		}
	}
	if calls < 13 {
		t.Errorf("%d calls, want those of all services", calls)
	}
}

// call sends a request and waits for what comes first, an answer or an error.
func (f *fixture) call(method protoreflect.MethodDescriptor, request proto.Message) error {
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	stream, err := f.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name()))
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(request), stream.CloseSend()); err != nil {
		return err
	}
	return stream.RecvMsg(dynamicpb.NewMessage(method.Output()))
}

// Only so many long texts are tokenized at once, and one that cannot fit, or whose request is refused anyway, does not wait for that.
func TestLongTextsAreBounded(t *testing.T) {
	f := start(t, newScript())
	for range cap(f.encoders) { // as many calls as may be are at it
		f.encoders <- struct{}{}
	}
	_, err := f.api.Generate(t.Context(), textRequest(strings.Repeat("x", 3<<20)))
	if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found["text"], "has 3145728 bytes, and so at least 47663 tokens, want at most 31") {
		t.Errorf("faults %q, want one that tells how long the text is and may be", found)
	}
	refused := &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Text{Text: strings.Repeat("x", longText+1)}}
	refused.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	_, err = f.api.Tokenize(t.Context(), refused)
	wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	long := &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Text{Text: strings.Repeat("x", longText+1)}}
	if _, err := f.api.Tokenize(ctx, long); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a long text beside %d others: %v, want it to wait", cap(f.encoders), err)
	}
	short := &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Text{Text: "hi"}, Pieces: true}
	if answer, err := f.api.Tokenize(t.Context(), short); err != nil || len(answer.GetPieces()) != len(answer.GetTokenIds()) ||
		string(answer.GetPieces()[len(answer.GetPieces())-1]) != "i" {
		t.Errorf("a short text beside them: %v %v", answer, err)
	}
	<-f.encoders
	if _, err := f.api.Tokenize(t.Context(), long); err != nil {
		t.Errorf("a long text in its turn: %v", err)
	}
}
