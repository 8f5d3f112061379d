package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// progress tells a person how far long work has come: a bar on a terminal, a line at each end elsewhere.
type progress struct {
	c          *console
	what       string
	done, want int // requests; want is 0 where it is not known
	every      time.Duration
	drawn      time.Time
}

func (c *console) progress(what string, want int) *progress {
	p := &progress{c: c, what: what, want: want}
	switch {
	case c.errTerm:
		p.draw()
	case want > 0:
		fmt.Fprintf(c.err, "%s: %d requests\n", what, want)
	default:
		fmt.Fprintln(c.err, what)
	}
	return p
}

// step draws again, unless that was done within the time `every`: thousands of requests a second are faster than a terminal.
func (p *progress) step() {
	p.done++
	if now := time.Now(); p.c.errTerm && now.Sub(p.drawn) >= p.every {
		p.drawn = now
		p.draw()
	}
}

// draw writes over the line; what is left of a longer one is erased.
func (p *progress) draw() {
	text := fmt.Sprintf("%s  %d ", p.what, p.done)
	if p.want > 0 {
		text = fmt.Sprintf("%s  %d/%d ", p.what, p.done, p.want)
		if width := min(40, p.c.errWidth()-len(text)-3); width > 0 {
			full := width * p.done / p.want
			text += "[" + strings.Repeat("#", full) + strings.Repeat(" ", width-full) + "]"
		}
	}
	fmt.Fprintf(p.c.err, "\r%s\x1b[K", text)
}

// end takes the bar away, since the table tells the rest.
func (p *progress) end(took time.Duration) {
	switch {
	case p.c.errTerm:
		fmt.Fprint(p.c.err, "\r\x1b[K")
	case p.want > 0:
		fmt.Fprintf(p.c.err, "%s: %d of %d done in %.1f s\n", p.what, p.done, p.want, took.Seconds())
	default:
		fmt.Fprintf(p.c.err, "%s: %d done in %.1f s\n", p.what, p.done, took.Seconds())
	}
}

// promptProgress is what a person sees of a prompt until the answer begins; nobody else asks for it, since a request that tells its progress is not
// sent again by itself where an instance fails.
type promptProgress struct {
	c     *console
	drawn bool
}

// ask has the server tell it.
func (p *promptProgress) ask(o *infernov1.OutputOptions) {
	if p.c.errTerm && p.c.outTerm {
		o.PromptProgress = new(true)
	}
}

func (p *promptProgress) draw(e client.Progress) {
	if p.c.errTerm {
		p.drawn = true
		fmt.Fprintf(p.c.err, "\rprompt  %d/%d tokens\x1b[K", e.ComputedTokens, e.PromptTokens)
	}
}

// end takes it away.
func (p *promptProgress) end() {
	if p.drawn {
		p.drawn = false
		fmt.Fprint(p.c.err, "\r\x1b[K")
	}
}
