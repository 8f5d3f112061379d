package server

import (
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// progressRequest is of a prompt of 8 tokens.
func progressRequest(options string) string {
	return `model:"m" token_ids{ids:[1,2,3,4,5,6,7,8]} output{prompt_progress:true flush_tokens:2} ` + options
}

// A request that waits is told its length at once; each step is told by itself to who reads in time, and nothing once there are tokens.
func TestProgressComesBeforeTheFirstToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newScript()
		f := start(t, g)
		stream, err := f.api.GenerateStream(t.Context(), parse(t, progressRequest(``), &infernov1.GenerateRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		request := <-g.requests
		want := func(computed uint32) {
			t.Helper()
			m, err := stream.Recv()
			if err != nil || m.GetProgress().GetComputedTokens() != computed || m.GetProgress().GetPromptTokens() != 8 ||
				m.GetStart() != nil || len(m.GetDeltas()) > 0 {
				t.Fatalf("got %v, %v, want progress of %d of 8 tokens alone", m, err, computed)
			}
		}
		want(0)
		for _, computed := range []int{3, 3, 6} {
			request.parts <- part{done: computed}
			synctest.Wait()
		}
		want(3)
		want(6)
		request.parts <- part{ids: byteIDs("a"), done: 8} // held back, and the prompt is done
		request.parts <- part{ids: byteIDs("b"), finish: finished(engine.MaxTokens, 'b')}
		m, err := stream.Recv()
		if err != nil || m.GetProgress() != nil || m.GetStart().GetPromptTokens() != 8 || len(m.GetDeltas()) != 1 || m.GetFinish() == nil {
			t.Errorf("the first tokens came as %v, %v", m, err)
		}
		if rest, err := readAll(stream); err != nil || len(rest) > 0 {
			t.Errorf("then %v, %v", rest, err)
		}
	})
}

// Of several continuations any may be the one that computes the prompt; a time limit or an error may end it.
func TestProgressOfRequestsThatEndEarly(t *testing.T) {
	for _, c := range []struct {
		name, options string
		parts         []part
		code          codes.Code
		computed      uint32 // that was told last
	}{
		{"time limit", `sampling{n:2}`, []part{
			{index: 1, done: 5}, {index: 0, finish: finished(engine.TimeLimit, -1)}, {index: 1, finish: finished(engine.TimeLimit, -1)},
		}, codes.OK, 5},
		{"error", ``, []part{{done: 4}, {err: engine.ErrNotFinite}}, codes.DataLoss, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newScript()
				f := start(t, g)
				stream, err := f.api.GenerateStream(t.Context(), parse(t, progressRequest(c.options), &infernov1.GenerateRequest{}))
				if err != nil {
					t.Fatal(err)
				}
				request := <-g.requests
				for _, p := range c.parts {
					request.parts <- p
					synctest.Wait()
				}
				messages, err := readAll(stream)
				if grpcCode(err) != c.code {
					t.Fatalf("ended with %v", err)
				}
				last := uint32(0)
				for _, m := range messages {
					last = max(last, m.GetProgress().GetComputedTokens())
				}
				if last != c.computed {
					t.Errorf("%d tokens were told in %v, want %d", last, messages, c.computed)
				}
			})
		})
	}
}

// What cannot tell progress refuses to be asked for it.
func TestProgressIsOfStreamsOnly(t *testing.T) {
	f := start(t, play(part{ids: byteIDs("x"), finish: finished(engine.MaxTokens, 'x')}))
	_, err := f.api.Generate(t.Context(), parse(t, progressRequest(``), &infernov1.GenerateRequest{}))
	if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); len(found) != 1 || found["output.prompt_progress"] == "" {
		t.Errorf("violations %q", found)
	}
	for _, request := range []string{progressRequest(`dry_run:true`), withIDs + `output{prompt_progress:false}`} { // who tries a stream's request out asks Generate
		if _, err := f.api.Generate(t.Context(), parse(t, request, &infernov1.GenerateRequest{})); err != nil {
			t.Errorf("%s: %v", request, err)
		}
	}
}

// A client that does not read has a bounded number of messages under way, whatever its prompt does, and the engine does not wait for it; what it
// gets next tells all that came between.
func TestProgressIsMergedForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newScript()
		f := start(t, g)
		stream, err := f.api.GenerateStream(t.Context(), parse(t, progressRequest(``), &infernov1.GenerateRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		request := <-g.requests
		const steps = 8000 // of messages of 12 bytes: a stream's window is 64 KiB
		for step := 1; step <= steps; step++ {
			request.computed.Store(int64(step))
			select {
			case request.parts <- part{}: // a wake
			default:
			}
			synctest.Wait()
		}
		var told []uint32
		for len(told) == 0 || told[len(told)-1] < steps {
			m, err := stream.Recv()
			if err != nil || m.GetProgress() == nil {
				t.Fatalf("after %d messages: %v, %v", len(told), m, err)
			}
			told = append(told, m.GetProgress().GetComputedTokens())
		}
		if !slices.IsSorted(told) || len(slices.Compact(told)) != len(told) || len(told) > steps-1000 || len(told) < 1000 {
			t.Errorf("%d messages for %d steps", len(told), steps)
		}
		request.parts <- part{ids: byteIDs("x"), finish: finished(engine.MaxTokens, 'x')}
		if rest, err := readAll(stream); err != nil || len(rest) != 1 || rest[0].GetStart() == nil {
			t.Errorf("then %v, %v", rest, err)
		}
	})
}
