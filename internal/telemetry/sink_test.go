package telemetry

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestSinkKeepsLinesWholeAndInOrder(t *testing.T) {
	const writers, lines = 8, 500 // fewer than wait
	var to bytes.Buffer
	s := NewSink(&to)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			line := make([]byte, 0, 64) // used again, as slog does
			for i := range lines {
				line = fmt.Appendf(line[:0], "%d %d\n", w, i)
				if n, err := s.Write(line); n != len(line) || err != nil {
					t.Errorf("%d %v", n, err)
				}
			}
		})
	}
	all.Wait()
	s.Close(time.Minute)
	s.Close(time.Minute)
	next := map[int]int{}
	for line := range strings.Lines(to.String()) {
		var w, i int
		if _, err := fmt.Sscanf(line, "%d %d\n", &w, &i); err != nil || i != next[w] {
			t.Fatalf("%q, want line %d of writer %d (%v)", line, next[w], w, err)
		}
		next[w]++
	}
	for w := range writers {
		if next[w] != lines {
			t.Errorf("%d lines of writer %d, want %d", next[w], w, lines)
		}
	}
}

// stuck is a writer that takes nothing until it is let go.
type stuck chan struct{}

func (w stuck) Write(line []byte) (int, error) {
	<-w
	return len(line), nil
}

func TestSinkLosesAndCountsWhatNobodyTakes(t *testing.T) {
	to := make(stuck)
	s := NewSink(to)
	const lines = maxSunk + 100 // one more may be on its way
	for range lines {
		_, _ = s.Write([]byte("line\n"))
	}
	s.Close(time.Millisecond) // it does not wait for ever either
	_, _ = s.Write([]byte("late\n"))
	registry := prometheus.NewRegistry()
	registry.MustRegister(s)
	if text := scrape(t, registry); !strings.Contains(text, "inferno_log_lines_lost_total 101\n") && !strings.Contains(text, "inferno_log_lines_lost_total 100\n") {
		t.Errorf("of %d and a late one, with room for %d: %s", lines, maxSunk, text)
	}
	close(to)
	<-s.done
}
