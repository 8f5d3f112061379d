package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/model/gguf/gguftest"
	"github.com/inferno-serve/inferno/internal/server"
	"github.com/inferno-serve/inferno/internal/tokenizer"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat"
)

// The vocabulary of the tests' model: ! to ~ are ids 0 to 93, then come two merged words and the special tokens <s>, which starts
// every text, and </s>.
var words = []string{"he", "llo", "<s>", "</s>"}

const (
	bosID = 96
	eosID = 97
)

func pieces() []string {
	var all []string
	for r := '!'; r <= '~'; r++ {
		all = append(all, string(r))
	}
	return append(all, words...)
}

// chatTemplate is that of the tests' model. An echo of its prompts ends with the first message.
const chatTemplate = `{% for m in messages %}<s>{{ m.role[0] }}:{{ m.content }}</s>{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}` +
	`{% if add_generation_prompt %}<s>a:{% endif %}`

var merges = []string{"h e", "l l", "ll o"}

// writeTokenizers makes dir/hf/tokenizer.json and dir/model.gguf, which say the same.
func writeTokenizers(dir string) error {
	vocab := map[string]int{}
	for id, piece := range pieces()[:bosID] {
		vocab[piece] = id
	}
	vocab["ll"] = 98
	special := func(id int, content string) map[string]any {
		return map[string]any{
			"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
		}
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	data, err := json.Marshal(map[string]any{
		"version": "1.0", "added_tokens": []any{special(bosID, "<s>"), special(eosID, "</s>")}, "normalizer": nil,
		"pre_tokenizer": byteLevel, "decoder": byteLevel,
		"post_processor": map[string]any{
			"type": "TemplateProcessing", "pair": []any{},
			"single": []any{
				map[string]any{"SpecialToken": map[string]any{"id": "<s>", "type_id": 0}},
				map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}},
			},
			"special_tokens": map[string]any{"<s>": map[string]any{"id": "<s>", "ids": []int{bosID}, "tokens": []string{"<s>"}}},
		},
		"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": merges},
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "hf"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "hf", "tokenizer.json"), data, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "hf", "chat_template.jinja"), []byte(chatTemplate), 0o600); err != nil {
		return err
	}
	types := make([]int32, 99)
	for id := range types {
		types[id] = 1
	}
	types[bosID], types[eosID] = 3, 3
	file := gguftest.File([]any{
		"general.architecture", "llama", "tokenizer.ggml.model", "gpt2", "tokenizer.ggml.pre", "gpt-2",
		"tokenizer.ggml.tokens", append(pieces(), "ll"), "tokenizer.ggml.token_type", types, "tokenizer.ggml.merges", merges,
		"tokenizer.ggml.bos_token_id", uint32(bosID), "tokenizer.ggml.eos_token_id", uint32(eosID), "tokenizer.ggml.add_bos_token", true,
		"tokenizer.chat_template", chatTemplate,
	})
	return os.WriteFile(filepath.Join(dir, "model.gguf"), file, 0o600)
}

// fake is a real server over engines that play.
type fake struct {
	addr    string
	waiting *waiting
	state   *state
	checker *health.Checker
	fleet   leasing
}

// leasing is a registry that tells of leases, by its instances' addresses: those below 10.0.0.2 have one of 10 s, less a second with each
// look.
type leasing struct {
	*static.Registry
	looks *atomic.Int64
}

func (l leasing) ListWithLeases(ctx context.Context) ([]discovery.Instance, error) {
	looks := l.looks.Add(1)
	all, err := l.List(ctx)
	for i := range all {
		if all[i].Address < "10.0.0.2" {
			all[i].LeaseLeft = 10*time.Second - time.Duration(looks)*time.Second
		}
	}
	return all, err
}

// models are fixed.
type models []*server.Model

func (m models) Get(name string) (*server.Model, error) {
	for _, model := range m {
		if model.Info.Name == name {
			return model, nil
		}
	}
	return nil, server.ErrUnknownModel
}

func (m models) List() (list []server.ModelInfo) {
	for _, model := range m {
		list = append(list, model.Info)
	}
	return list
}

// startFake runs a server with models "echo", which says its prompt again, and unless only is set "wait", which never answers,
// "lost", whose device is lost, and "plain", an echo without a tokenizer.
func startFake(t testing.TB, only bool, edit ...func(*server.Options)) *fake {
	t.Helper()
	dir := t.TempDir()
	if err := writeTokenizers(dir); err != nil {
		t.Fatal(err)
	}
	tokens, err := tokenizer.LoadDir(filepath.Join(dir, "hf"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{
		waiting: &waiting{begun: make(chan struct{}, 1), ended: make(chan struct{}, 1)}, state: &state{now: health.Serving},
		checker: health.NewChecker(health.Options{}), fleet: leasing{static.New(), &atomic.Int64{}},
	}
	f.checker.Add(f.state, true)
	info := server.ModelInfo{
		State: server.ModelReady, Revision: "r1", Architecture: "llama", Parameters: 135e6, WeightType: "Q8_0", VocabularySize: 99,
		MaxContext: 64, Device: "cpu: test", HasTokenizer: true, Since: time.Unix(1e9, 0),
	}
	add := func(all models, name string, g server.Generator, t *tokenizer.Tokenizer) models {
		i := info
		i.Name, i.HasTokenizer = name, t != nil
		m := &server.Model{Info: i, Engine: g, Tokenizer: t, EndTokens: []int32{eosID}}
		if t != nil {
			m.Constraints = server.NewConstraints(t, i.VocabularySize)
		}
		if t != nil {
			m.Chat = chat.LoadDir(filepath.Join(dir, "hf"), t)
		}
		return append(all, m)
	}
	all := add(nil, "echo", echo{}, tokens)
	if !only {
		all = add(all, "lost", lost{}, tokens)
		all = add(all, "plain", echo{}, nil)
		all = add(all, "wait", f.waiting, tokens)
	}
	options := server.Options{
		Models: all, Health: f.checker, Instances: f.fleet, Loader: loader{info}, LocalOnly: true,
	}
	for _, e := range edit {
		e(&options)
	}
	s, err := server.New(options)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = listener.Addr().String()
	served, checked := make(chan error, 1), make(chan error, 1)
	checking, enough := context.WithCancel(context.Background())
	go func() { served <- s.Serve(listener) }()
	go func() { checked <- f.checker.Run(checking) }()
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		s.Stop(now)
		enough()
		if err := errors.Join(<-served, <-checked); err != nil {
			t.Errorf("Serve, or the checks: %v", err)
		}
	})
	return f
}

// loader has a model from "good", of 200 MB, and none from elsewhere. It unloads the model "echo", and tells the patience as the reason.
type loader struct{ model server.ModelInfo }

func (l loader) Load(_ context.Context, r server.LoadRequest, progress func(server.LoadProgress) error) error {
	p := server.LoadProgress{Model: l.model, Loaded: 50e6, Total: 200e6}
	p.Model.Name, p.Model.State, p.Model.Pinned = r.Name, server.ModelLoading, r.Pinned
	if err := progress(p); err != nil {
		return err
	}
	if r.Path != "good" {
		p.Model.State, p.Model.Reason = server.ModelFailed, "config.json: it is broken"
		return errors.Join(progress(p), fmt.Errorf("%w: %s", server.ErrLoadFailed, p.Model.Reason))
	}
	p.Model.State, p.Loaded = server.ModelReady, p.Total
	return progress(p)
}

func (l loader) Unload(_ context.Context, name string, drain *time.Duration) (server.ModelInfo, error) {
	if name != "echo" {
		return server.ModelInfo{}, server.ErrUnknownModel
	}
	info := l.model
	info.Name, info.State, info.Reason = name, server.ModelUnloaded, "unloaded by request"
	if drain != nil {
		info.Reason += " within " + drain.String()
	}
	return info, nil
}

// state is a component whose state a test sets between calls.
type state struct {
	mu  sync.Mutex
	now health.State
}

func (s *state) Component() string { return "engine/echo" }

func (s *state) Health(context.Context) (health.State, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == health.Serving {
		return s.now, ""
	}
	return s.now, "as the test says"
}

func (f *fake) set(t testing.TB, name string) {
	t.Helper()
	for s := health.Unknown; s <= health.Draining; s++ {
		if strings.EqualFold(s.String(), name) {
			f.state.mu.Lock()
			f.state.now = s
			f.state.mu.Unlock()
			f.checker.Ask(t.Context())
			return
		}
	}
	t.Fatalf("no health state %s", name)
}

// echo makes the prompt's tokens again, one at a time, over and over, until max_tokens or an end token.
type echo struct{}

func (echo) Submit(_ context.Context, r *engine.Request) ([]server.Stream, error) {
	streams := make([]server.Stream, r.N)
	for i := range streams {
		streams[i] = &echoStream{request: r}
	}
	return streams, nil
}

func (echo) Full(string, int, int) error { return nil }

func (echo) Outlook(r *engine.Request) (engine.Outlook, error) {
	o := engine.Outlook{Fits: len(r.Prompt)+max(r.Stop.MaxTokens, 1) <= 64, Queued: 2, Wait: 1500 * time.Millisecond}
	if !r.Cache.Bypass {
		o.Cached = len(r.Tenant) + len(r.Cache.Salt) + r.Priority // so that a test sees what arrived
	}
	return o, nil
}

type echoStream struct {
	request *engine.Request
	halfway bool // through the prompt, which was told
	made    int
	reason  engine.FinishReason // that the reader has found
}

func (e *echoStream) Wait(context.Context) error { return nil }

func (e *echoStream) Finish(reason engine.FinishReason) { e.reason = reason }

func (e *echoStream) Poll() ([]int32, *engine.Finish, error) {
	if e.request.PromptOnly {
		return nil, &engine.Finish{
			Reason: engine.PromptDone, Usage: engine.Usage{PromptTokens: len(e.request.Prompt)}, Vector: []float32{3, float32(len(e.request.Prompt))},
		}, nil
	}
	if e.request.Progress && !e.halfway {
		e.halfway = true
		return nil, nil, nil
	}
	id := e.request.Prompt[e.made%len(e.request.Prompt)]
	e.made++
	f := &engine.Finish{
		Token:   id,
		Usage:   engine.Usage{PromptTokens: len(e.request.Prompt), CompletionTokens: e.made},
		Timings: engine.Timings{Queued: time.Millisecond, Prefill: 2 * time.Millisecond, Decode: 4 * time.Millisecond, Total: 7 * time.Millisecond},
	}
	switch {
	case e.reason != 0:
		f.Reason = e.reason
	case id == eosID && !e.request.Stop.IgnoreEOS:
		f.Reason = engine.EndToken
	case slices.Contains(e.request.Stop.StopTokens, id):
		f.Reason = engine.StopToken
	case e.made == e.request.Stop.MaxTokens:
		f.Reason = engine.MaxTokens
	case len(e.request.Prompt)+e.made == 64:
		f.Reason = engine.ContextFull
	default:
		f = nil
	}
	return []int32{id}, f, nil
}

// Computed is half of the prompt, until there are tokens.
func (e *echoStream) Computed() int { return len(e.request.Prompt) / 2 }

func (e *echoStream) Started() engine.Start { return engine.Start{PromptTokens: len(e.request.Prompt)} }

// logprob is −id/8, of rank id + 1, beside as many others as were asked for.
func (e *echoStream) logprob(id int32) engine.TokenLogprob {
	value := func(id int32) float32 { return float32(-id) / 8 }
	l := engine.TokenLogprob{ID: id, Logprob: value(id), Rank: int(id) + 1}
	for i := range e.request.Logprobs.Top {
		l.Alternatives = append(l.Alternatives, engine.Alternative{ID: int32(i), Logprob: value(int32(i))})
	}
	for _, other := range e.request.Logprobs.IDs {
		l.Alternatives = append(l.Alternatives, engine.Alternative{ID: other, Logprob: value(other)})
	}
	return l
}

func (e *echoStream) Logprobs(n int) (all []engine.TokenLogprob) {
	for i := e.made - n; e.request.Logprobs.Output && i < e.made; i++ {
		all = append(all, e.logprob(e.request.Prompt[i%len(e.request.Prompt)]))
	}
	return all
}

func (e *echoStream) PromptLogprobs() (all []engine.TokenLogprob) {
	for i := e.request.Logprobs.Start; e.request.Logprobs.Prompt && i < len(e.request.Prompt); i++ {
		if i == 0 {
			all = append(all, engine.TokenLogprob{ID: e.request.Prompt[0]})
			continue
		}
		all = append(all, e.logprob(e.request.Prompt[i]))
	}
	return all
}

// waiting never answers, and tells when a request began and ended.
type waiting struct{ begun, ended chan struct{} }

func (w *waiting) Submit(context.Context, *engine.Request) ([]server.Stream, error) {
	return []server.Stream{w}, nil
}

func (w *waiting) Poll() ([]int32, *engine.Finish, error) { return nil, nil, nil }

func (w *waiting) Wait(ctx context.Context) error {
	w.begun <- struct{}{}
	<-ctx.Done()
	w.ended <- struct{}{}
	return ctx.Err()
}

func (w *waiting) Finish(engine.FinishReason) {}

func (w *waiting) Computed() int { return 0 }

func (w *waiting) Started() engine.Start { return engine.Start{} }

func (w *waiting) PromptLogprobs() []engine.TokenLogprob { return nil }

func (w *waiting) Logprobs(int) []engine.TokenLogprob { return nil }

func (w *waiting) Full(string, int, int) error { return nil }

func (w *waiting) Outlook(*engine.Request) (engine.Outlook, error) { return engine.Outlook{}, nil }

type lost struct{}

func (lost) Full(string, int, int) error { return nil }

func (lost) Outlook(*engine.Request) (engine.Outlook, error) { return engine.Outlook{}, nil }

func (lost) Submit(context.Context, *engine.Request) ([]server.Stream, error) {
	return nil, engine.ErrNotFinite
}
