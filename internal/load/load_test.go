package load

import (
	"maps"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// near: a histogram's quantile is within 1/256 of the exact one.
func near(got, want float64) bool { return math.Abs(got-want) <= want/256+1e-6 }

// wantTimes compares a distribution with the exact figures in milliseconds: mean, p50, p90, p99, max.
func wantTimes(t *testing.T, what string, d Distribution, mean, p50, p90, p99, most float64) {
	t.Helper()
	if math.Abs(d.Mean-mean) > 1e-6*(mean+1) || !near(d.P50, p50) || !near(d.P90, p90) || !near(d.P99, p99) || math.Abs(d.Max-most) > 1e-6 {
		t.Errorf("%s: %+v, want mean %v, p50 %v, p90 %v, p99 %v, max %v", what, d, mean, p50, p90, p99, most)
	}
}

func fixed(prompt, output int) Workload {
	return Workload{Prompt: Fixed(prompt), Output: Fixed(output), Seed: 1}
}

func TestClosedLoopMeasuresWhatIsScripted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The n-th of 100 requests has its first token after n + 1 ms, and 4 more at gaps of 10 ms; every tenth pauses 100 ms once.
		s := &scripted{answer: func(n int, req *infernov1.GenerateRequest, a *answer) error {
			for i := range 5 {
				wait := 10 * time.Millisecond
				switch {
				case i == 0:
					wait = time.Duration(n+1) * time.Millisecond
				case i == 2 && n%10 == 0:
					wait = 100 * time.Millisecond
				}
				time.Sleep(wait)
				if err := a.tokens(1); err != nil {
					return err
				}
			}
			return a.finish()
		}}
		g := s.open(t, Options{Workload: fixed(7, 5), Targets: Targets{FirstToken: 90 * time.Millisecond, Pause: 50 * time.Millisecond}})
		r := mustRun(t, g, Point{Concurrency: 1, Requests: 100})

		// 5050 ms of first tokens, 90 × 40 ms and 10 × 130 ms of others: 9.95 s.
		if r.Requests != 100 || r.Succeeded != 100 || r.Failed != 0 || r.OutputTokens != 500 || !near(r.Seconds, 9.95) {
			t.Errorf("%+v", r)
		}
		if !near(r.OutputPerSecond, 500/9.95) || !near(r.PromptPerSecond, 700/9.95) || !near(r.RequestsPerSecond, 100/9.95) {
			t.Errorf("rates: %+v", r)
		}
		wantTimes(t, "first token", r.FirstToken, 50.5, 50, 90, 99, 100)
		wantTimes(t, "between tokens", r.InterToken, (390*10+10*100)/400., 10, 10, 100, 100)
		wantTimes(t, "per output token", r.PerOutputToken, (90*10+10*32.5)/100, 10, 10, 32.5, 32.5)
		wantTimes(t, "overdue", r.Overdue, 0, 0, 0, 0, 0)
		// Good: first token within 90 ms (n ≤ 89), and no pause (n%10 ≠ 0): 90 − 9.
		if r.Good != 81 || !near(r.GoodPerSecond, 81/9.95) {
			t.Errorf("good %d, %v a second", r.Good, r.GoodPerSecond)
		}
		if s.most != 1 {
			t.Errorf("%d requests at once, want 1", s.most)
		}
	})
}

func TestOpenLoopCountsFromTheIntendedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The server answers nothing at all before the 10th second, then everything at once. A generator that waited for answers would
		// have seen one slow request.
		var begin time.Time
		s := &scripted{answer: func(_ int, req *infernov1.GenerateRequest, a *answer) error {
			time.Sleep(max(0, 10*time.Second-time.Since(begin)))
			return a.all(req, 0, 0)
		}}
		g := s.open(t, Options{Workload: fixed(3, 2)})
		begin = time.Now()
		r := mustRun(t, g, Point{Rate: 100, Duration: 20 * time.Second})
		// Poisson: some 2,000 arrivals, half of which waited evenly between 0 and 10 s.
		if r.Requests < 1800 || r.Requests > 2200 || r.Succeeded != r.Requests || r.Seconds != 20 {
			t.Fatalf("%+v", r)
		}
		if d := r.FirstToken; d.Mean < 2000 || d.Mean > 3000 || d.P90 < 7000 || d.P90 > 9000 || d.Max < 9800 {
			t.Errorf("first token: %+v", d)
		}
		if s.most < 800 {
			t.Errorf("at most %d requests at once, want all that came before the 10th second", s.most)
		}
		// 100 streams a connection.
		if want := (s.most + 99) / 100; r.Connections < want || r.Connections != s.conns {
			t.Errorf("%d connections, the server saw %d; want at least %d", r.Connections, s.conns, want)
		}
		if r.Overdue.Max != 0 {
			t.Errorf("arrivals waited: %+v", r.Overdue)
		}
	})
}

func TestArrivalsArePoisson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{answer: func(_ int, req *infernov1.GenerateRequest, a *answer) error { return a.all(req, 0, 0) }}
		g := s.open(t, Options{Workload: fixed(1, 1)})
		mustRun(t, g, Point{Rate: 50, Requests: 4000})
		// Exponential gaps: mean and standard deviation are both 20 ms; 1 − 1/e of them are below it.
		var sum, squares, below float64
		for i := range len(s.starts) - 1 {
			gap := (s.starts[i+1] - s.starts[i]).Seconds() * 1000
			sum += gap
			squares += gap * gap
			if gap < 20 {
				below++
			}
		}
		n := float64(len(s.starts) - 1)
		mean := sum / n
		deviation := math.Sqrt(squares/n - mean*mean)
		if math.Abs(mean-20) > 1.5 || math.Abs(deviation-20) > 1.5 || math.Abs(below/n-(1-1/math.E)) > .03 {
			t.Errorf("gaps: mean %.2f, deviation %.2f, %.3f below 20 ms", mean, deviation, below/n)
		}
	})
}

func TestMessagesOfSeveralTokensShareTheirPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{answer: func(_ int, _ *infernov1.GenerateRequest, a *answer) error {
			time.Sleep(30 * time.Millisecond)
			if err := a.tokens(3); err != nil {
				return err
			}
			time.Sleep(80 * time.Millisecond)
			if err := a.tokens(4); err != nil {
				return err
			}
			return a.finish()
		}}
		g := s.open(t, Options{Workload: fixed(2, 7)})
		r := mustRun(t, g, Point{Concurrency: 2, Requests: 6})
		wantTimes(t, "first token", r.FirstToken, 30, 30, 30, 30, 30)
		wantTimes(t, "pause", r.Pause, 80, 80, 80, 80, 80)
		wantTimes(t, "between tokens", r.InterToken, 80./6, 20, 20, 20, 20) // 2 of 6 came with the first
		wantTimes(t, "per output token", r.PerOutputToken, 80./6, 80./6, 80./6, 80./6, 80./6)
		wantTimes(t, "end to end", r.Total, 110, 110, 110, 110, 110)
	})
}

func TestWarmUpDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begin time.Time
		s := &scripted{answer: func(_ int, req *infernov1.GenerateRequest, a *answer) error {
			first := 10 * time.Millisecond
			if time.Since(begin) < 2*time.Second {
				first = 500 * time.Millisecond
			}
			return a.all(req, first, 10*time.Millisecond)
		}}
		g := s.open(t, Options{Workload: fixed(2, 9)})
		begin = time.Now()
		r := mustRun(t, g, Point{Concurrency: 1, WarmUp: 2 * time.Second, Duration: 3 * time.Second})
		wantTimes(t, "first token", r.FirstToken, 10, 10, 10, 10, 10)
		// The fourth request begins at 3 × 580 ms. From its first token at 2.24 s on one comes every 10 ms; those before 5 s count.
		if r.Seconds != 3 || r.OutputTokens != 276 {
			t.Errorf("%d tokens in %v s, want 276 in 3", r.OutputTokens, r.Seconds)
		}
		r = mustRun(t, g, Point{Concurrency: 3, WarmUp: time.Second, Requests: 5})
		if r.Requests != 5 || r.Succeeded != 5 {
			t.Errorf("%+v", r)
		}
	})
}

func TestFailuresAreCountedByStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{answer: func(n int, req *infernov1.GenerateRequest, a *answer) error {
			switch n % 10 {
			case 1, 2, 3:
				time.Sleep(4 * time.Millisecond)
				return status.Error(codes.ResourceExhausted, "queue is full")
			case 4:
				if err := a.tokens(2); err != nil {
					return err
				}
				return status.Error(codes.DataLoss, "not finite")
			case 5:
				if err := a.tokens(2); err != nil { // of 4
					return err
				}
				return a.finish()
			case 6:
				return a.sleep(time.Hour)
			}
			return a.all(req, time.Millisecond, time.Millisecond)
		}}
		w := fixed(2, 4)
		w.Deadline = time.Second
		g := s.open(t, Options{Workload: w})
		r := mustRun(t, g, Point{Concurrency: 4, Requests: 50})
		if r.Requests != 50 || r.Succeeded != 25 || r.Short != 5 || r.Good != 20 || r.Failed != 25 ||
			!maps.Equal(r.Errors, map[string]int{"RESOURCE_EXHAUSTED": 15, "DATA_LOSS": 5, "DEADLINE_EXCEEDED": 5}) || r.Error == "" {
			t.Errorf("%+v", r)
		}
		wantTimes(t, "refused", r.Refused, 4, 4, 4, 4, 4)
		if n := r.Unexpected(&w); n != 20 { // in a closed loop nobody is refused for want of places
			t.Errorf("%d unexpected failures, want 20", n)
		}
		r.Rate = 1
		if n := r.Unexpected(&w); n != 5 {
			t.Errorf("%d unexpected failures of an open loop, want 5", n)
		}
	})
}

func TestRequestsAreCancelledWhenTheyAreToBe(t *testing.T) {
	for _, c := range []struct {
		name       string
		cancel     Cancel
		least      int // tokens that came
		most       int
		lastsMilli float64 // all of it, one after the other
	}{
		{"after tokens", Cancel{1, CancelTime{Tokens: 3}}, 60, 60, 20 * 30},
		{"after a time", Cancel{1, CancelTime{Time: 25 * time.Millisecond}}, 40, 40, 20 * 25},
		{"at once", Cancel{1, CancelTime{}}, 0, 0, 0},
		{"at random", Cancel{1, CancelTime{Random: true}}, 30, 150, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scripted{answer: func(_ int, req *infernov1.GenerateRequest, a *answer) error {
					return a.all(req, 10*time.Millisecond, 10*time.Millisecond)
				}}
				w := fixed(2, 10)
				w.Cancel = c.cancel
				g := s.open(t, Options{Workload: w})
				r := mustRun(t, g, Point{Concurrency: 1, Requests: 20})
				if r.Cancelled != 20 || r.Failed != 0 || r.Good != 0 || int(r.OutputTokens) < c.least || int(r.OutputTokens) > c.most {
					t.Errorf("%+v", r)
				}
				if c.lastsMilli > 0 && !near(r.Seconds*1000, c.lastsMilli) {
					t.Errorf("took %v s, want %v ms", r.Seconds, c.lastsMilli)
				}
				synctest.Wait()
				if s.running != 0 {
					t.Errorf("%d requests run on", s.running)
				}
			})
		})
	}
}

func TestAnInterruptedRunIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{answer: func(_ int, _ *infernov1.GenerateRequest, a *answer) error { return a.sleep(time.Hour) }}
		g := s.open(t, Options{Workload: fixed(2, 2)})
		for _, p := range []Point{{Concurrency: 3, Requests: 10}, {Rate: 5, Duration: time.Minute}, {Rate: 1e-3, Requests: 1}} {
			ctx, cancel := contextWithin(t, 2*time.Second)
			if r, err := g.Run(ctx, p, nil); err == nil {
				t.Errorf("%+v", r)
			}
			cancel()
		}
		synctest.Wait()
		if s.running != 0 {
			t.Errorf("%d requests run on", s.running)
		}
	})
}

func TestAServerThatIsGoneIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{answer: func(int, *infernov1.GenerateRequest, *answer) error { return status.Error(codes.Unavailable, "gone") }}
		g := s.open(t, Options{Workload: fixed(2, 2)})
		r := mustRun(t, g, Point{Concurrency: 2, Duration: time.Second})
		if r.Requests != 200 || r.Failed != 200 { // each place is empty for 10 ms
			t.Errorf("%d requests of which %d failed, want 200", r.Requests, r.Failed)
		}
	})
}
