package telemetry

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxSunk is how many lines of the log may wait to be written: a few seconds of a busy server's.
const maxSunk = 8192

// Sink writes a log's lines from a goroutine of its own. Whoever reads the log may cease to, and a write would wait for him: neither a call, nor
// the loop of an engine, nor the end of the process does. Write never blocks; a line that finds the queue full is lost and counted.
type Sink struct {
	to    io.Writer
	lines chan []byte
	done  chan struct{} // closed when all lines are written
	lost  atomic.Uint64

	mu     sync.RWMutex
	closed bool // nothing more goes into lines
}

// NewSink starts the goroutine, which Close ends.
func NewSink(to io.Writer) *Sink {
	s := &Sink{to: to, lines: make(chan []byte, maxSunk), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for line := range s.lines {
			_, _ = s.to.Write(line) // there is nobody left to tell
		}
	}()
	return s
}

// Write takes one line. It says that all went well whatever becomes of it.
func (s *Sink) Write(line []byte) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.closed {
		select {
		case s.lines <- append([]byte(nil), line...):
			return len(line), nil
		default:
		}
	}
	s.lost.Add(1)
	return len(line), nil
}

// Close waits until what was taken is written, for so long at most. Idempotent.
func (s *Sink) Close(patience time.Duration) {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.lines)
	}
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(patience):
	}
}

var lostDesc = prometheus.NewDesc("inferno_log_lines_lost_total", "Lines of the log that nobody took in time.", nil, nil)

// Describe implements prometheus.Collector.
func (s *Sink) Describe(descs chan<- *prometheus.Desc) { descs <- lostDesc }

// Collect implements prometheus.Collector.
func (s *Sink) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.MustNewConstMetric(lostDesc, prometheus.CounterValue, float64(s.lost.Load()))
}
