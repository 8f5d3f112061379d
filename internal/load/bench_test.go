package load

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/client"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/server"
)

// becomeServer is set in the environment of the process that BenchmarkGenerator starts.
const becomeServer = "INFERNO_LOAD_BENCH_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(becomeServer) != "" {
		serveTicks()
		return
	}
	goleak.VerifyTestMain(m)
}

// ticking is an engine that takes no time itself, in front of a device whose steps take stepTime: each step gives every stream a token.
type ticking struct {
	steps atomic.Int64
	step  atomic.Pointer[chan struct{}] // closed at the next step's end
}

const stepTime = 10 * time.Millisecond

func (e *ticking) run() {
	for range time.Tick(stepTime) {
		next := make(chan struct{})
		e.steps.Add(1)
		close(*e.step.Swap(&next))
	}
}

func (e *ticking) Submit(_ context.Context, r *engine.Request) ([]server.Stream, error) {
	return []server.Stream{&tickingStream{engine: e, request: r, seen: e.steps.Load()}}, nil
}

func (*ticking) Full(string, int, int) error { return nil }

func (*ticking) Outlook(*engine.Request) (engine.Outlook, error) {
	return engine.Outlook{Fits: true}, nil
}

type tickingStream struct {
	engine  *ticking
	request *engine.Request
	seen    int64 // steps
	made    int
}

func (s *tickingStream) Poll() ([]int32, *engine.Finish, error) {
	now := s.engine.steps.Load()
	n := min(int(now-s.seen), s.request.Stop.MaxTokens-s.made)
	s.seen = now
	s.made += n
	if s.made == s.request.Stop.MaxTokens {
		return make([]int32, n), &engine.Finish{Reason: engine.MaxTokens, Usage: engine.Usage{CompletionTokens: s.made}}, nil
	}
	return make([]int32, n), nil, nil
}

func (s *tickingStream) Wait(ctx context.Context) error {
	step := s.engine.step.Load()
	if s.engine.steps.Load() > s.seen {
		return nil
	}
	select {
	case <-*step:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (*tickingStream) Finish(engine.FinishReason) {}

func (*tickingStream) Started() engine.Start { return engine.Start{} }

func (*tickingStream) Computed() int { return 0 }

func (*tickingStream) PromptLogprobs() []engine.TokenLogprob { return nil }

func (*tickingStream) Logprobs(int) []engine.TokenLogprob { return nil }

// one is the only model.
type one struct{ *server.Model }

func (o one) Get(string) (*server.Model, error) { return o.Model, nil }

func (o one) List() []server.ModelInfo { return []server.ModelInfo{o.Info} }

// serveTicks serves until it is killed, and prints its address.
func serveTicks() {
	e := &ticking{}
	first := make(chan struct{})
	e.step.Store(&first)
	go e.run()
	s, err := server.New(server.Options{
		Models: one{&server.Model{
			Info: server.ModelInfo{Name: "m", State: server.ModelReady, VocabularySize: 1000, MaxContext: 1 << 20}, Engine: e,
		}},
		Health: health.NewChecker(health.Options{}), Instances: static.New(),
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	panic(s.Serve(l))
}

// BenchmarkGenerator reads tokens, one a message, from a server in another process, with 128, 256 or 512 requests at a time. It tells how
// many tokens a second came of those that the steps offered, and what one cost either process in CPU time.
func BenchmarkGenerator(b *testing.B) {
	for _, concurrency := range []int{128, 256, 512} {
		b.Run(fmt.Sprint(concurrency), func(b *testing.B) {
			command := exec.Command(os.Args[0])
			command.Env = append(os.Environ(), becomeServer+"=1")
			command.Stderr = os.Stderr
			out, err := command.StdoutPipe()
			if err != nil {
				b.Fatal(err)
			}
			if err := command.Start(); err != nil {
				b.Fatal(err)
			}
			stop := sync.OnceFunc(func() {
				_ = command.Process.Kill()
				_ = command.Wait()
			})
			b.Cleanup(stop)
			address, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				b.Fatal(err)
			}
			g, err := Open(b.Context(), Options{
				Dial:  func() (*client.Client, error) { return client.New(client.Options{Addr: strings.TrimSpace(address)}) },
				Model: "m", Workload: fixed(100, 100),
			})
			if err != nil {
				b.Fatal(err)
			}
			var tokens, cpu, overdue, seconds float64
			b.ResetTimer()
			for b.Loop() {
				r, err := g.Run(b.Context(), Point{Concurrency: concurrency, WarmUp: 500 * time.Millisecond, Duration: 2 * time.Second}, nil)
				if err != nil || r.Failed > 0 {
					b.Fatal(err, r)
				}
				tokens += float64(r.OutputTokens)
				cpu += r.GeneratorCPU * float64(r.OutputTokens)
				seconds += r.Seconds
				overdue = r.Overdue.P99
			}
			b.StopTimer()
			if err := g.Close(); err != nil {
				b.Error(err)
			}
			stop()
			state := command.ProcessState
			b.ReportMetric(tokens/seconds, "tok/s")
			b.ReportMetric(float64(concurrency)/stepTime.Seconds(), "offered-tok/s")
			b.ReportMetric(cpu/tokens, "generator-µs/tok")
			b.ReportMetric(overdue, "overdue-p99-ms")
			// Of all that it sent, the run-in and run-out too: about 3.5 s for each 2 that count.
			b.ReportMetric(float64((state.UserTime()+state.SystemTime()).Microseconds())/tokens, "server-µs/tok-counted")
			b.ReportMetric(0, "ns/op")
		})
	}
}
