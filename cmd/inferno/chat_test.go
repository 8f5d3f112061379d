package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
)

// screen is what a person sees, and what tests wait for.
type screen struct {
	mu      sync.Mutex
	changed sync.Cond
	text    bytes.Buffer
}

func newScreen() *screen {
	s := &screen{}
	s.changed.L = &s.mu
	return s
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
	return s.text.Write(p)
}

// wait returns once the screen shows a text so many times.
func (s *screen) wait(text string, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for strings.Count(s.text.String(), text) < times {
		s.changed.Wait()
	}
}

// TestInterruptsStopAnAnswerAndThenTheChat plays a person at a terminal: the first Ctrl-C ends the answer and the request on the server, the
// conversation goes on, and a Ctrl-C at the prompt leaves.
func TestInterruptsStopAnAnswerAndThenTheChat(t *testing.T) {
	f := startFake(t, false)
	in, keys := io.Pipe()
	defer keys.Close()
	interrupts := make(chan os.Signal)
	out, shown := &bytes.Buffer{}, newScreen()
	code := make(chan int, 1)
	go func() {
		code <- run(t.Context(), []string{"chat", "--addr=" + f.addr, "--model=wait"}, &console{
			in: in, out: out, err: shown, inTerm: true, interrupts: interrupts,
		})
	}()
	press := func(line string) {
		if _, err := io.WriteString(keys, line+"\n"); err != nil {
			t.Error(err)
		}
	}
	for answer := 1; answer <= 2; answer++ {
		shown.wait("> ", answer)
		press("hello")
		<-f.waiting.begun
		interrupts <- os.Interrupt
		<-f.waiting.ended // the server has let the request go
		shown.wait("[stopped]\n", answer)
	}
	shown.wait("> ", 3)
	interrupts <- os.Interrupt
	if got := <-code; got != 0 || out.Len() > 0 {
		t.Errorf("exit code %d, %q", got, out)
	}
}
