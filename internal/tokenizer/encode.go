package tokenizer

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// EncodeOptions say how a text is read.
type EncodeOptions struct {
	// AddSpecial puts the tokens around the text that the model expects: the template of tokenizer.json's
	// post-processor, or BOS and EOS as the GGUF keys say.
	AddSpecial bool
	// ParseSpecial makes control tokens of their names in the text. Without it they are plain text, which is the
	// safe reading of text that a user wrote. Added tokens that are not special are found either way.
	ParseSpecial bool
	// Content are spans of the text, in order and apart, in which no control token is found whatever ParseSpecial says: what
	// a user wrote, within a text that is somebody else's. A control token that is partly in one is none. Everything else is
	// as for the text as a whole: tokens that are not special may lie across a span's end.
	Content []Span
	// MaxTokens ends the work with ErrTooManyTokens as soon as the text is known to have more, those that AddSpecial adds
	// included. 0 means that any number will do.
	MaxTokens int
}

// ErrTooManyTokens means that a text has more tokens than EncodeOptions.MaxTokens.
var ErrTooManyTokens = errors.New("too many tokens")

// maxTextBytes bounds a text: indices within it are 32 bits wide, and a normalizer may make it maxGrowth times longer.
const maxTextBytes = 16 << 20

// maxPooledBytes is the longest text whose scratch memory is kept for reuse: 4 bytes for each of its bytes beside what a window takes, and 40
// where a long piece could not be merged in windows.
const maxPooledBytes = 1 << 18

// Encode returns the tokens of a text. It fails if the text is not valid UTF-8 or is longer than 16 MiB.
func (t *Tokenizer) Encode(text string, o EncodeOptions) ([]int32, error) {
	return t.AppendEncode(nil, text, o)
}

// AppendEncode appends the tokens of a text to dst and returns it. After an error dst is as it was.
func (t *Tokenizer) AppendEncode(dst []int32, text string, o EncodeOptions) ([]int32, error) {
	if len(text) > maxTextBytes {
		return dst, fmt.Errorf("encode: text of %d bytes; the limit is %d", len(text), maxTextBytes)
	}
	if !utf8.ValidString(text) {
		return dst, fmt.Errorf("encode: text is not valid UTF-8 at byte %d", firstInvalid(text))
	}
	w, ok := t.scratch.Get().(*scratch)
	if !ok {
		w = &scratch{}
	}
	if len(text) <= maxPooledBytes {
		defer t.scratch.Put(w)
	}
	from := len(dst)
	w.limit(from, o.MaxTokens)
	if o.AddSpecial {
		dst = append(dst, t.prefix...)
	}
	dst = t.appendText(dst, text, o, w)
	if o.AddSpecial {
		dst = append(dst, t.suffix...)
	}
	if w.exceeds(len(dst)) {
		return dst[:from], fmt.Errorf("encode: %w: more than %d", ErrTooManyTokens, o.MaxTokens)
	}
	return dst, nil
}

// appendText cuts the raw text at its added tokens.
func (t *Tokenizer) appendText(dst []int32, text string, o EncodeOptions, w *scratch) []int32 {
	find, from := search{matcher: t.added, text: text, parseSpecial: o.ParseSpecial, content: o.Content}, 0
	segment := func(end int) []int32 {
		return t.appendSegment(dst, text[from:end], from == 0, o.ParseSpecial, find.content.within(from, end), w)
	}
	for {
		m, ok := find.next()
		if !ok {
			return segment(len(text))
		}
		if w.exceeds(len(dst)) {
			return dst
		}
		dst = append(segment(m.start), m.id)
		from = m.end
	}
}

// appendSegment normalizes what is between added tokens, and cuts it at those that are matched after that.
func (t *Tokenizer) appendSegment(dst []int32, text string, first, parseSpecial bool, c content, w *scratch) []int32 {
	if text == "" {
		return dst
	}
	if len(c) > 0 && t.normalized != nil && t.normalized.anySpecial {
		text, c = c.rewrite(t.normalize, text, first)
	} else {
		text = applyRewrites(t.normalize, text, first)
	}
	find, from := search{matcher: t.normalized, text: text, parseSpecial: parseSpecial, content: c}, 0
	for {
		m, ok := find.next()
		if !ok {
			return t.appendPlain(dst, text[from:], first && from == 0, w)
		}
		if w.exceeds(len(dst)) {
			return dst
		}
		dst = t.appendPlain(dst, text[from:m.start], first && from == 0, w)
		dst = append(dst, m.id)
		from = m.end
	}
}

func (t *Tokenizer) appendPlain(dst []int32, text string, first bool, w *scratch) []int32 {
	if text == "" {
		return dst
	}
	return t.appendPieces(dst, applyRewrites(t.prepare, text, first), t.split, w)
}

// appendPieces cuts a text by the first splitter, each piece by the next one, and gives the last pieces to the model.
func (t *Tokenizer) appendPieces(dst []int32, text string, split []splitter, w *scratch) []int32 {
	if len(split) == 0 {
		if w.most > 0 && w.exceeds(len(dst)+t.atLeast(text, t.maxTokenPiece)) {
			return dst
		}
		return t.model.appendEncode(dst, text, w)
	}
	for text != "" && !w.exceeded {
		n := split[0](text)
		dst = t.appendPieces(dst, text[:n], split[1:], w)
		text = text[n:]
	}
	return dst
}

// firstInvalid returns the index of the first byte of text that is not valid UTF-8.
func firstInvalid(text string) int {
	for i, r := range text {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(text[i:]); n == 1 {
				return i
			}
		}
	}
	return len(text)
}
