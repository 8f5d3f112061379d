package jinja

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Text is a string that knows which of its bytes are content: data that was given as such, whatever a template did with it since.
type Text struct {
	S       string
	Content []Span // in order, none empty, none touching the next
}

// Span is a range of bytes.
type Span struct{ Start, End int }

// Trusted makes a text of which no byte is content: what the template itself might have written.
func Trusted(s string) Text { return Text{S: s} }

// Content makes a text of which every byte is content.
func Content(s string) Text {
	if s == "" {
		return Text{}
	}
	return Text{S: s, Content: []Span{{0, len(s)}}}
}

// slice is t.S[start:end].
func (t Text) slice(start, end int) Text {
	out := Text{S: t.S[start:end]}
	for i := t.spanAfter(start); i < len(t.Content) && t.Content[i].Start < end; i++ {
		s := t.Content[i]
		out.Content = append(out.Content, Span{max(s.Start, start) - start, min(s.End, end) - start})
	}
	return out
}

// spanAfter is the index of the first span that ends behind a byte.
func (t Text) spanAfter(at int) int {
	i, _ := slices.BinarySearchFunc(t.Content, at, func(s Span, at int) int {
		if s.End <= at {
			return -1
		}
		return 1
	})
	return i
}

// isContent tells of one byte.
func (t Text) isContent(at int) bool {
	i := t.spanAfter(at)
	return i < len(t.Content) && t.Content[i].Start <= at
}

// builder joins texts.
type builder struct {
	r       *renderer
	buf     []byte
	content []Span
}

func (r *renderer) newBuilder() *builder { return &builder{r: r} }

// add appends a text with its origin.
func (b *builder) add(t Text) error {
	at := len(b.buf)
	if err := b.write(t.S); err != nil {
		return err
	}
	for _, s := range t.Content {
		b.mark(at+s.Start, at+s.End)
	}
	return nil
}

// as appends a string whose bytes are all content, or none.
func (b *builder) as(s string, content bool) error {
	at := len(b.buf)
	if err := b.write(s); err != nil {
		return err
	}
	if content {
		b.mark(at, len(b.buf))
	}
	return nil
}

// trusted appends a string of the template.
func (b *builder) trusted(s string) error { return b.write(s) }

func (b *builder) mark(start, end int) {
	if start == end {
		return
	}
	if n := len(b.content); n > 0 && b.content[n-1].End == start {
		b.content[n-1].End = end
		return
	}
	b.content = append(b.content, Span{start, end})
}

// write charges what it appends: the builder's own copy, and the string that it becomes.
func (b *builder) write(s string) error {
	if len(b.buf)+len(s) > b.r.limits.Output {
		return b.r.outputError()
	}
	if err := b.r.make(2 * len(s)); err != nil {
		return err
	}
	b.buf = append(b.buf, s...)
	return nil
}

func (b *builder) text() Text { return Text{S: string(b.buf), Content: b.content} }

// concat joins two texts.
func (r *renderer) concat(a, b Text) (Text, error) { return r.joinTexts([]Text{a, b}) }

// joinTexts joins texts, and copies none where all others are empty.
func (r *renderer) joinTexts(parts []Text) (Text, error) {
	size, filled, last := 0, 0, 0
	for i, part := range parts {
		if size += len(part.S); size > r.limits.Output {
			return Text{}, r.outputError()
		}
		if part.S != "" {
			filled, last = filled+1, i
		}
	}
	if filled <= 1 {
		return parts[last], nil
	}
	if err := r.make(size); err != nil {
		return Text{}, err
	}
	var text strings.Builder
	text.Grow(size)
	var joint builder
	for _, part := range parts {
		for _, s := range part.Content {
			joint.mark(text.Len()+s.Start, text.Len()+s.End)
		}
		text.WriteString(part.S)
	}
	return Text{S: text.String(), Content: joint.content}, nil
}

// mapRunes gives each rune its replacement, which keeps the origin of the rune's first byte.
func (r *renderer) mapRunes(t Text, replace func(at int, c rune) string) (Text, error) {
	if err := r.make(2 * len(t.S)); err != nil {
		return Text{}, err
	}
	if err := r.work(len(t.S) >> 6); err != nil {
		return Text{}, err
	}
	var joint builder
	out := make([]byte, 0, len(t.S))
	span := 0 // of t.Content, the first that is not behind us
	for i, c := range t.S {
		start := len(out)
		out = append(out, replace(i, c)...)
		if len(out) > r.limits.Output {
			return Text{}, r.outputError()
		}
		for span < len(t.Content) && t.Content[span].End <= i {
			span++
		}
		if span < len(t.Content) && t.Content[span].Start <= i {
			joint.mark(start, len(out))
		}
	}
	return Text{S: string(out), Content: joint.content}, r.make(len(out))
}

// runeOffsets are the byte offsets of the runes of s, and its length: what Python's indices stand for.
func (r *renderer) runeOffsets(s string) ([]int, error) {
	n := utf8.RuneCountInString(s)
	if err := r.make(8 * (n + 1)); err != nil {
		return nil, err
	}
	offsets := make([]int, 0, n+1)
	for i := range s {
		offsets = append(offsets, i)
	}
	return append(offsets, len(s)), nil
}
