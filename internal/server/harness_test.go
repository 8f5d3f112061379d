package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/tokenizer"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The model of the tests: bytes are tokens 0 to 255, then come the special tokens <s>, which starts every text, </s>, and a long one. The
// logits are wider than the tokenizer, as those of real models are.
const (
	bosID          = 256
	eosID          = 257
	longID         = 258
	vocabularySize = 260
	maxContext     = 32
)

// longToken is a special token of much text.
var longToken = "<" + strings.Repeat("long", 16) + ">"

// byteTokenizer is the tokenizer of the tests. Words are further tokens, from longID + 1 on.
func byteTokenizer(t testing.TB, words ...string) *tokenizer.Tokenizer {
	t.Helper()
	return loaded(t, byteTokenizerFile(words...))
}

// byteTokenizerFile is its tokenizer.json.
func byteTokenizerFile(words ...string) map[string]any {
	vocab := map[string]int{}
	for i, word := range words {
		var symbols strings.Builder
		for _, b := range []byte(word) {
			symbols.WriteRune(byteSymbol(int(b)))
		}
		vocab[symbols.String()] = longID + 1 + i
	}
	for b := range 256 {
		vocab[string(byteSymbol(b))] = b
	}
	special := func(id int, content string) map[string]any {
		return map[string]any{
			"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
		}
	}
	return map[string]any{
		"version": "1.0", "added_tokens": []any{special(bosID, "<s>"), special(eosID, "</s>"), special(longID, longToken)},
		"normalizer":    nil,
		"pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
		"post_processor": map[string]any{
			"type":           "TemplateProcessing",
			"single":         []any{map[string]any{"SpecialToken": map[string]any{"id": "<s>", "type_id": 0}}, map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}},
			"pair":           []any{},
			"special_tokens": map[string]any{"<s>": map[string]any{"id": "<s>", "ids": []int{bosID}, "tokens": []string{"<s>"}}},
		},
		"decoder": map[string]any{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
		"model":   map[string]any{"type": "BPE", "vocab": vocab, "merges": []any{}},
	}
}

// loaded is the tokenizer of a tokenizer.json.
func loaded(t testing.TB, file map[string]any) *tokenizer.Tokenizer {
	t.Helper()
	data, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tokenizer.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// byteSymbol is the rune by which byte-level BPE writes a byte: itself where it prints, else the next one from U+0100 on.
func byteSymbol(b int) rune {
	prints := func(b int) bool { return b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae }
	if prints(b) {
		return rune(b)
	}
	next := rune(0x100)
	for other := range b {
		if !prints(other) {
			next++
		}
	}
	return next
}

// startOfTests is an arrival.
var startOfTests = time.Now()

func byteIDs(text string) []int32 {
	var ids []int32
	for _, b := range []byte(text) {
		ids = append(ids, int32(b))
	}
	return ids
}

// script is a Generator that hands each request to the test, which plays the engine.
type script struct {
	panics   string          // what Submit does
	refuse   error           // what Submit answers
	full     error           // what Full answers
	requests chan *scripted  // what was submitted
	begin    func(*scripted) // called by Submit, where set
}

func newScript() *script { return &script{requests: make(chan *scripted, 64)} }

// play is a script that answers every continuation of every request with these parts.
func play(parts ...part) *script {
	s := newScript()
	s.begin = func(r *scripted) {
		for i := range r.N {
			for _, p := range parts {
				p.index = i
				r.parts <- p
			}
		}
	}
	return s
}

func (s *script) Submit(ctx context.Context, r *engine.Request) ([]Stream, error) {
	switch {
	case s.panics != "":
		panic(s.panics)
	case s.refuse != nil:
		return nil, s.refuse
	}
	one := &scripted{
		Request: r, ctx: ctx, parts: make(chan part, 64), waiting: make(chan struct{}, 1), finished: make(chan engine.FinishReason, 64),
		taken: make([][]part, r.N), sent: make([]int, r.N), last: make([][]int32, r.N),
	}
	if s.begin != nil {
		s.begin(one)
	}
	select {
	case s.requests <- one:
	default: // a test that does not read them, or no longer: Submit waits for nobody whose caller has left
		select {
		case s.requests <- one:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	streams := make([]Stream, r.N)
	for i := range streams {
		streams[i] = scriptedStream{one, i}
	}
	return streams, nil
}

func (s *script) Full(string, int, int) error { return s.full }

func (s *script) Outlook(r *engine.Request) (engine.Outlook, error) {
	prompt := len(r.Prompt)
	return engine.Outlook{
		Cached: prompt / 2, Fits: prompt+max(r.Stop.MaxTokens, 1) <= maxContext, Queued: 3, Wait: 7 * time.Millisecond, Unknown: prompt == 1,
	}, s.refuse
}

// scripted is one request of which the test makes the tokens.
type scripted struct {
	*engine.Request
	ctx     context.Context
	parts   chan part
	waiting chan struct{} // told when the server waits
	ended   error         // what Wait says when its context has ended; nil: the context's error

	finished chan engine.FinishReason // what the server ended continuations with
	taken    [][]part                 // by continuation: what the server has not asked for yet
	sent     []int                    // tokens by continuation
	last     [][]int32                // the latest ones, by continuation
	computed atomic.Int64             // tokens of the prompt
}

type part struct {
	index  int // of the continuation
	ids    []int32
	done   int // tokens of the prompt that are computed, where there are no ids
	finish *engine.Finish
	err    error
	panics string
}

// scriptedStream is one continuation.
type scriptedStream struct {
	*scripted
	index int
}

func (s scriptedStream) Poll() ([]int32, *engine.Finish, error) {
	for {
		select {
		case p := <-s.parts:
			s.taken[p.index] = append(s.taken[p.index], p)
			continue
		default:
		}
		break
	}
	mine := &s.taken[s.index]
	if len(*mine) == 0 {
		return nil, nil, nil
	}
	p := (*mine)[0]
	*mine = (*mine)[1:]
	if p.panics != "" {
		panic(p.panics)
	}
	s.computed.Store(max(s.computed.Load(), int64(p.done)))
	s.sent[s.index] += len(p.ids)
	s.last[s.index] = p.ids
	if p.finish != nil {
		p.finish.Usage = engine.Usage{
			PromptTokens: len(s.Prompt), CachedTokens: 1, CompletionTokens: s.sent[s.index], DraftTokens: 3 * s.Speculation.MaxTokens,
			AcceptedTokens: s.Speculation.MinMatch,
		}
	}
	return p.ids, p.finish, p.err
}

func (s scriptedStream) Wait(ctx context.Context) error {
	for _, left := range s.taken {
		if len(left) > 0 {
			return nil
		}
	}
	select {
	case s.waiting <- struct{}{}:
	default:
	}
	select {
	case p := <-s.parts:
		s.taken[p.index] = append(s.taken[p.index], p)
		return nil
	case <-ctx.Done():
		return cmp.Or(s.ended, ctx.Err())
	}
}

func (s scriptedStream) Finish(reason engine.FinishReason) { s.finished <- reason }

func (s scriptedStream) Computed() int { return int(s.computed.Load()) }

func (s scriptedStream) PromptLogprobs() []engine.TokenLogprob { return scriptedPrompt(s.Request) }

func (s scriptedStream) Logprobs(n int) []engine.TokenLogprob {
	var all []engine.TokenLogprob
	if last := s.last[s.index]; s.Request.Logprobs.Output {
		for _, id := range last[len(last)-n:] {
			all = append(all, scriptedLogprob(s.Request, id))
		}
	}
	return all
}

// scriptedLogprob is −id/8, of rank id + 1, beside tokens 0, 1, … of the same.
func scriptedLogprob(r *engine.Request, id int32) engine.TokenLogprob {
	value := func(id int32) float32 { return float32(-id) / 8 }
	l := engine.TokenLogprob{ID: id, Logprob: value(id), Rank: int(id) + 1}
	for i := range r.Logprobs.Top {
		l.Alternatives = append(l.Alternatives, engine.Alternative{ID: int32(i), Logprob: value(int32(i))})
	}
	for _, other := range r.Logprobs.IDs {
		l.Alternatives = append(l.Alternatives, engine.Alternative{ID: other, Logprob: value(other)})
	}
	return l
}

// scriptedPrompt is what a prompt is told.
func scriptedPrompt(r *engine.Request) (all []engine.TokenLogprob) {
	if !r.Logprobs.Prompt {
		return nil
	}
	for i, id := range r.Prompt[r.Logprobs.Start:] {
		if r.Logprobs.Start+i == 0 {
			all = append(all, engine.TokenLogprob{ID: id})
			continue
		}
		all = append(all, scriptedLogprob(r, id))
	}
	return all
}

func (s *scripted) Started() engine.Start {
	return engine.Start{PromptTokens: len(s.Prompt), CachedTokens: 1, Queued: 3 * time.Millisecond}
}

func finished(reason engine.FinishReason, token int32) *engine.Finish {
	return &engine.Finish{Reason: reason, Token: token, Timings: engine.Timings{
		Queued: 3 * time.Millisecond, Prefill: 5 * time.Millisecond, Decode: 7 * time.Millisecond, Total: 15 * time.Millisecond, Preemptions: 2,
	}}
}

// models is a fixed set.
type models []*Model

func (m models) Get(name string) (*Model, error) {
	for _, model := range m {
		switch {
		case model.Info.Name != name:
		case model.Info.State == ModelReady:
			return model, nil
		default:
			return nil, ErrModelNotReady
		}
	}
	return nil, ErrUnknownModel
}

func (m models) List() []ModelInfo {
	var list []ModelInfo
	for _, model := range m {
		list = append(list, model.Info)
	}
	return list
}

// part of the checker that a test sets.
type component struct {
	mu    sync.Mutex
	name  string
	state health.State
}

func (c *component) Component() string { return c.name }

func (c *component) Health(context.Context) (health.State, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == health.Serving {
		return c.state, ""
	}
	return c.state, "as the test says"
}

func (c *component) set(s health.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = s
}

// fixture is a server that runs, and a client of it.
type fixture struct {
	*Server
	t        testing.TB
	conn     *grpc.ClientConn
	api      infernov1.InferenceServiceClient
	checker  *health.Checker
	engine   *component
	fleet    *static.Registry
	registry *prometheus.Registry
	log      *lines
	listener *bufconn.Listener
}

// start runs a server over an in-memory connection, with a model "m" on g, and "ids", which has no tokenizer.
func start(t testing.TB, g Generator, edit ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{
		t: t, checker: health.NewChecker(health.Options{}), engine: &component{name: "engine/m", state: health.Serving},
		fleet: static.New(), registry: prometheus.NewRegistry(), log: &lines{}, listener: bufconn.Listen(1 << 20),
	}
	f.checker.Add(f.engine, true)
	info := ModelInfo{
		Name: "m", Revision: "r1", State: ModelReady, VocabularySize: vocabularySize, MaxContext: maxContext, HasTokenizer: true,
		Parameters: 1000, WeightType: "F32", Architecture: "llama",
	}
	plain := info
	plain.Name, plain.HasTokenizer = "ids", false
	loading := info
	loading.Name, loading.State, loading.Reason = "loading", ModelLoading, "weights are read"
	tokens := byteTokenizer(t)
	options := Options{
		Models: models{
			{Info: plain, Engine: g, EndTokens: []int32{eosID}},
			{Info: loading},
			{Info: info, Engine: g, Tokenizer: tokens, Constraints: NewConstraints(tokens, vocabularySize), Chat: templateOf(t, testTemplate), EndTokens: []int32{eosID}},
		},
		Health: f.checker, Instances: f.fleet, Registerer: f.registry, Reflection: true, Loader: loadsPaths, LocalOnly: true,
		Log: slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, e := range edit {
		e(&options)
	}
	var err error
	if f.Server, err = New(options); err != nil {
		t.Fatal(err)
	}
	served, checked := make(chan error, 1), make(chan error, 1)
	checking, enough := context.WithCancel(context.Background())
	go func() { served <- f.Serve(f.listener) }()
	go func() { checked <- f.checker.Run(checking) }()
	f.conn = f.dial()
	f.api = infernov1.NewInferenceServiceClient(f.conn)
	t.Cleanup(func() {
		f.conn.Close()
		now, cancel := context.WithCancel(context.Background())
		cancel()
		f.Stop(now)
		enough()
		if err := errors.Join(<-served, <-checked); err != nil {
			t.Errorf("Serve, or the checks: %v", err)
		}
	})
	return f
}

func (f *fixture) dial(options ...grpc.DialOption) *grpc.ClientConn {
	f.t.Helper()
	conn, err := grpc.NewClient("passthrough:///bufconn", append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return f.listener.DialContext(ctx) }),
	}, options...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	return conn
}

// lines is a log that tests read.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// with are the lines that contain all of these texts.
func (l *lines) with(texts ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.text.String()) {
		if !slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(line, s) }) {
			found = append(found, line)
		}
	}
	return found
}

func textRequest(text string) *infernov1.GenerateRequest {
	return &infernov1.GenerateRequest{Model: "m", Input: &infernov1.GenerateRequest_Text{Text: text}}
}

// readAll reads a stream to its end.
func readAll(stream infernov1.InferenceService_GenerateStreamClient) ([]*infernov1.GenerateStreamResponse, error) {
	var all []*infernov1.GenerateStreamResponse
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
}

// wantStatus checks a failed call's code and the reason in its ErrorInfo, and returns the status.
func wantStatus(t testing.TB, err error, code codes.Code, reason string) *status.Status {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != code || reasonOf(s) != reason {
		t.Fatalf("got %v %q (%v), want %v %q", s.Code(), reasonOf(s), err, code, reason)
	}
	return s
}

func reasonOf(s *status.Status) string {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "inferno" {
			return info.GetReason()
		}
	}
	return ""
}

func retryDelay(s *status.Status) (time.Duration, bool) {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// faultsOf are the fields of a status' BadRequest and what is said of each.
func faultsOf(s *status.Status) map[string]string {
	found := map[string]string{}
	for _, detail := range s.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				found[v.GetField()] += v.GetDescription()
			}
		}
	}
	return found
}

func grpcCode(err error) codes.Code { return status.Code(err) }
