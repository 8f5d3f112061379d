package tokenizer

import (
	"sort"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Span is a range of bytes of a text.
type Span struct{ Start, End int }

// content is the spans of a text, in order and apart, in which no control token is recognized.
type content []Span

// touches reports whether a byte of [start, end) is content.
func (c content) touches(start, end int) bool {
	i := c.after(start)
	return i < len(c) && c[i].Start < end
}

// holds reports whether all of [start, end) is content.
func (c content) holds(start, end int) bool {
	i := c.after(start)
	return i < len(c) && c[i].Start <= start && end <= c[i].End
}

// after returns the index of the first span that ends behind a byte.
func (c content) after(at int) int {
	return sort.Search(len(c), func(i int) bool { return c[i].End > at })
}

// within returns the content of text[start:end], by the bytes of that.
func (c content) within(start, end int) content {
	var out content
	for i := c.after(start); i < len(c) && c[i].Start < end; i++ {
		out = append(out, Span{max(c[i].Start, start) - start, min(c[i].End, end) - start})
	}
	return out
}

// rewrite returns the text rewritten, and where the content is then. What a rewrite makes of content and something else together is
// content: too few control tokens are recognized then, never too many.
func (c content) rewrite(steps []rewrite, text string, first bool) (string, content) {
	for i, step := range steps {
		to := applyRewrites(steps[i:i+1], text, first)
		if to != text {
			c = c.carry(step, text, to)
		}
		text = to
	}
	return text, c
}

// carry moves the spans of a text to where they are once a step has changed it.
func (c content) carry(step rewrite, from, to string) content {
	switch step.kind {
	case composeNFC:
		return c.composed(from, to)
	case replaceAll:
		return c.replaced(step, from)
	}
	var out content
	for _, s := range c { // something is in front now
		out = append(out, Span{s.Start + len(to) - len(from), s.End + len(to) - len(from)})
	}
	return out
}

// replaced takes what stands for a match that is partly of content into the content.
func (c content) replaced(step rewrite, from string) content {
	next, grown := 0, 0 // bytes of from that are done with; what they have grown by
	move := func(to int, end bool) int {
		for {
			i := strings.Index(from[next:], step.from)
			switch {
			case i < 0 || next+i >= to:
				return to + grown
			case next+i+len(step.from) > to && end:
				return next + i + grown + len(step.to)
			case next+i+len(step.from) > to:
				return next + i + grown
			}
			next += i + len(step.from)
			grown += len(step.to) - len(step.from)
		}
	}
	var out content
	for _, s := range c {
		out = out.join(Span{move(s.Start, false), move(s.End, true)})
	}
	return out
}

// composed widens each span to where composition cannot reach across its ends, and measures what is between them.
func (c content) composed(from, to string) content {
	var out content
	done, length := 0, 0 // bytes of from that are measured, and of to that they become
	move := func(at int) int {
		if at > done {
			length += len(toNFC(from[done:at]))
			done = at
		}
		return length
	}
	for _, s := range c {
		for s.Start > 0 && !composesAlone(from[s.Start:]) {
			_, n := utf8.DecodeLastRuneInString(from[:s.Start])
			s.Start -= n
		}
		for s.End < len(from) && !composesAlone(from[s.End:]) {
			_, n := utf8.DecodeRuneInString(from[s.End:])
			s.End += n
		}
		start := move(s.Start)
		out = out.join(Span{start, move(s.End)})
	}
	if move(len(from)) != len(to) {
		return content{{0, len(to)}}
	}
	return out
}

// composesAlone reports whether nothing in front of a text changes what it is composed to.
func composesAlone(text string) bool {
	return text[0] < utf8.RuneSelf || norm.NFC.PropertiesString(text).BoundaryBefore()
}

// join appends a span, which may touch the last one or lie across its end.
func (c content) join(s Span) content {
	if n := len(c); n > 0 && s.Start <= c[n-1].End {
		c[n-1].End = max(c[n-1].End, s.End)
		return c
	}
	return append(c, s)
}
