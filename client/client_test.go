package client

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/testing/protocmp"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type service struct {
	infernov1.UnimplementedInferenceServiceServer
	stream func(*infernov1.GenerateRequest, infernov1.InferenceService_GenerateStreamServer) error
}

func (s service) GenerateStream(req *infernov1.GenerateRequest, stream infernov1.InferenceService_GenerateStreamServer) error {
	return s.stream(req, stream)
}

// connect runs a server that answers GenerateStream so, and returns a client of it.
func connect(
	t *testing.T, o Options, stream func(*infernov1.GenerateRequest, infernov1.InferenceService_GenerateStreamServer) error,
) *Client {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxRequestBytes), grpc.MaxSendMsgSize(maxResponseBytes), grpc.WaitForHandlers(true))
	infernov1.RegisterInferenceServiceServer(server, service{stream: stream})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	o.Addr = "passthrough:///bufconn"
	o.DialOptions = append(o.DialOptions, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return listener.DialContext(ctx)
	}))
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return c
}

// messages answers every request with these, in text form.
func messages(t *testing.T, texts ...string) func(*infernov1.GenerateRequest, infernov1.InferenceService_GenerateStreamServer) error {
	t.Helper()
	var all []*infernov1.GenerateStreamResponse
	for _, text := range texts {
		m := &infernov1.GenerateStreamResponse{}
		if err := prototext.Unmarshal([]byte(text), m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return func(_ *infernov1.GenerateRequest, stream infernov1.InferenceService_GenerateStreamServer) error {
		for _, m := range all {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		return nil
	}
}

var whole = []string{
	`progress{computed_tokens:3 prompt_tokens:4}`,
	`start{request_id:"r" model:"m" model_revision:"v" prompt_tokens:4 cached_prompt_tokens:1 queued{nanos:1000000}
		effective{sampling{seed:7}}} deltas{text:"a" token_ids:[1,2]}`,
	`deltas{text:"b" token_ids:[3] offset:2} deltas{index:1 text:"x" token_ids:[9]}`,
	`deltas{text:"c"}
	finish{finishes{reason:FINISH_REASON_MAX_TOKENS} finishes{index:1 reason:FINISH_REASON_END_TOKEN token_id:9}
		usage{prompt_tokens:4 cached_prompt_tokens:1 completion_tokens:4 draft_tokens:5 accepted_draft_tokens:6 preemptions:2}
		timings{queued{nanos:1000000} prefill{nanos:2000000} decode{nanos:3000000} time_to_first_token{nanos:3000000} total{nanos:6000000}}}`,
}

var (
	wholeStart = Start{
		RequestID: "r", Model: "m", ModelRevision: "v", PromptTokens: 4, CachedPromptTokens: 1, Queued: time.Millisecond,
		Effective: &infernov1.EffectiveParameters{Sampling: &infernov1.SamplingParameters{Seed: new(uint64(7))}},
	}
	wholeSummary = Summary{
		Usage: Usage{PromptTokens: 4, CachedPromptTokens: 1, CompletionTokens: 4, DraftTokens: 5, AcceptedDraftTokens: 6, Preemptions: 2},
		Timings: Timings{
			Queued: time.Millisecond, Prefill: 2 * time.Millisecond, Decode: 3 * time.Millisecond, TimeToFirstToken: 3 * time.Millisecond,
			Total: 6 * time.Millisecond,
		},
	}
	finishA = Finish{Reason: infernov1.FinishReason_FINISH_REASON_MAX_TOKENS}
	finishB = Finish{Index: 1, Reason: infernov1.FinishReason_FINISH_REASON_END_TOKEN, TokenID: new(uint32(9))}
)

func TestStreamYieldsEventsInOrder(t *testing.T) {
	c := connect(t, Options{}, messages(t, whole...))
	var got []Event
	for event, err := range c.Stream(t.Context(), &infernov1.GenerateRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, event)
	}
	want := []Event{
		Progress{3, 4}, wholeStart, Tokens{Text: "a", IDs: []uint32{1, 2}}, Tokens{Text: "b", IDs: []uint32{3}, Offset: 2},
		Tokens{Index: 1, Text: "x", IDs: []uint32{9}}, Tokens{Text: "c"}, finishA, finishB, wholeSummary,
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(−want +got):\n%s", diff)
	}
}

func TestGenerateCollectsAllContinuations(t *testing.T) {
	c := connect(t, Options{}, messages(t, whole...))
	got, err := c.Generate(t.Context(), &infernov1.GenerateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &Result{
		Start: wholeStart, Summary: wholeSummary,
		Completions: []Completion{
			{Text: "abc", TokenIDs: []uint32{1, 2, 3}, Finish: finishA}, {Text: "x", TokenIDs: []uint32{9}, Finish: finishB},
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(−want +got):\n%s", diff)
	}
}

func TestBrokenServersAreNoticed(t *testing.T) {
	const first = `start{request_id:"r"} deltas{token_ids:[1]}`
	for _, c := range []struct {
		name     string
		messages []string
		want     string
	}{
		{"nothing at all", nil, "ended without a finish"},
		{"no finish", []string{first}, "ended without a finish"},
		{"no start", []string{`deltas{token_ids:[1]}`}, "no start"},
		{"two starts", []string{first, first}, "second start"},
		{"lost tokens", []string{first, `deltas{token_ids:[3] offset:2}`}, "start at 2, want 1"},
		{"repeated tokens", []string{first, `deltas{token_ids:[3] offset:0}`}, "start at 0, want 1"},
		{"a message after the finish", []string{first, `finish{}`, `deltas{token_ids:[3] offset:1}`}, "after its finish"},
		{"a continuation that nobody asked for", []string{first, `deltas{index:4000000000 text:"x"}`}, "continuation 4000000000"},
		{"its finish", []string{first, `finish{finishes{index:16}}`}, "continuation 16"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := connect(t, Options{}, messages(t, c.messages...))
			_, err := client.Generate(t.Context(), &infernov1.GenerateRequest{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestLeavingTheLoopEndsTheCall(t *testing.T) {
	ended := make(chan struct{})
	c := connect(t, Options{}, func(_ *infernov1.GenerateRequest, stream infernov1.InferenceService_GenerateStreamServer) error {
		defer close(ended)
		if err := messages(t, `start{}`)(nil, stream); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	})
	for range c.Stream(t.Context(), &infernov1.GenerateRequest{}) {
		break
	}
	<-ended
}

// TestUnavailableIsTriedAgain: before the first message only, and for prompts of any length that a server takes.
func TestUnavailableIsTriedAgain(t *testing.T) {
	long := &infernov1.GenerateRequest{Input: &infernov1.GenerateRequest_Text{Text: strings.Repeat("x", 3<<20)}}
	for _, c := range []struct {
		name     string
		options  Options
		failures int32
		began    bool // whether a message was sent before the failure
		code     codes.Code
		attempts int32
		want     codes.Code
	}{
		{"a restart", Options{}, 2, false, codes.Unavailable, 3, codes.OK},
		{"an outage", Options{}, 99, false, codes.Unavailable, 4, codes.Unavailable},
		{"a full queue", Options{}, 1, false, codes.ResourceExhausted, 1, codes.ResourceExhausted},
		{"after the first token", Options{}, 1, true, codes.Unavailable, 1, codes.Unavailable},
		{"not wanted", Options{DisableRetries: true}, 1, false, codes.Unavailable, 1, codes.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attempts atomic.Int32
				answer := messages(t, whole...)
				client := connect(t, c.options, func(req *infernov1.GenerateRequest, stream infernov1.InferenceService_GenerateStreamServer) error {
					if attempts.Add(1) > c.failures {
						return answer(req, stream)
					}
					if c.began {
						if err := messages(t, `start{}`)(req, stream); err != nil {
							return err
						}
					}
					return status.Error(c.code, "as the test says")
				})
				_, err := client.Generate(t.Context(), long)
				if status.Code(err) != c.want || attempts.Load() != c.attempts {
					t.Errorf("%d attempts, %v; want %d, %v", attempts.Load(), err, c.attempts, c.want)
				}
			})
		})
	}
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "Options.Addr is empty") {
		t.Errorf("got %v", err)
	}
	if _, err := New(Options{Addr: "dns:///%zz"}); err == nil {
		t.Error("an address that cannot be parsed was taken")
	}
}

func TestUnreachableServerIsTheCallsError(t *testing.T) {
	refuse := grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, net.ErrClosed })
	c, err := New(Options{Addr: "passthrough:///nowhere", DialOptions: []grpc.DialOption{refuse}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Generate(t.Context(), &infernov1.GenerateRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}
