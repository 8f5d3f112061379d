package backend

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressIsABarOnATerminalAndLinesElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		load := func(terminal *bytes.Buffer, step time.Duration) string {
			var log bytes.Buffer
			b := &backend{log: slog.New(slog.NewTextHandler(&log, nil))}
			if terminal != nil {
				b.o.Terminal = terminal
			}
			p := b.progress("m")
			for i := range int64(200) {
				time.Sleep(step)
				p.update((i+1)<<20, 200<<20)
			}
			p.end()
			return log.String()
		}
		slow := load(nil, 50*time.Millisecond) // 10 s: the first fifth passes in silence
		if n := strings.Count(slow, "msg=loading"); n != 8 || !strings.Contains(slow, "percent=100 of=200MiB") || !strings.Contains(slow, "gb_per_s=0.0") {
			t.Errorf("%d lines, want 8 with the size and the rate:\n%s", n, slow)
		}
		if quick := load(nil, time.Millisecond); quick != "" {
			t.Errorf("a quick load says %s", quick)
		}
		var terminal bytes.Buffer
		if log := load(&terminal, 50*time.Millisecond); log != "" {
			t.Errorf("beside the bar the log says %s", log)
		}
		lines := strings.Split(terminal.String(), "\r")
		if len(lines) != 102 || !strings.Contains(lines[50], "loading m [####################                    ] 100MiB of 200MiB") {
			t.Errorf("%d drawings, the middle one %q", len(lines), lines[min(50, len(lines)-1)])
		}
		if last := lines[len(lines)-1]; last != "\x1b[K" {
			t.Errorf("the bar ends as %q, want it gone", last)
		}
	})
}
