package main

import (
	"fmt"
	"strings"
	"time"
)

// progress tells a person how far long work has come: a bar on a terminal, a line at each end elsewhere.
type progress struct {
	c          *console
	what       string
	done, want int
}

func (c *console) progress(what string, want int) *progress {
	p := &progress{c: c, what: what, want: want}
	if c.errTerm {
		p.draw()
	} else {
		fmt.Fprintf(c.err, "%s: %d requests\n", what, want)
	}
	return p
}

func (p *progress) step() {
	p.done++
	if p.c.errTerm {
		p.draw()
	}
}

// draw writes over the line; what is left of a longer one is erased.
func (p *progress) draw() {
	text := fmt.Sprintf("%s  %d/%d ", p.what, p.done, p.want)
	width := min(40, p.c.errWidth()-len(text)-3)
	if width > 0 {
		full := width * p.done / max(p.want, 1)
		text += "[" + strings.Repeat("#", full) + strings.Repeat(" ", width-full) + "]"
	}
	fmt.Fprintf(p.c.err, "\r%s\x1b[K", text)
}

// end takes the bar away, since the table tells the rest.
func (p *progress) end(took time.Duration) {
	if p.c.errTerm {
		fmt.Fprint(p.c.err, "\r\x1b[K")
		return
	}
	fmt.Fprintf(p.c.err, "%s: %d of %d done in %.1f s\n", p.what, p.done, p.want, took.Seconds())
}
