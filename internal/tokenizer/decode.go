package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// decodeRules say how the texts of tokens become one text.
type decodeRules struct {
	bytes     bool   // texts are bytes; what is not UTF-8 among them becomes U+FFFD. Else texts are whole runes
	strip     string // one rune, taken off the start of the text up to stripMax times
	stripMax  int
	firstBare string // taken out of the first token wherever it occurs; "" for none
}

// Decode returns the text of a sequence of tokens; skipSpecial leaves control tokens out. Bytes that are not valid UTF-8
// become U+FFFD. It fails on an id that has no token.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) (string, error) {
	for i, id := range ids {
		if err := t.checkID(id); err != nil {
			return "", fmt.Errorf("decode: position %d: %w", i, err)
		}
	}
	d := t.NewDecoder(skipSpecial)
	var text []byte
	for _, id := range ids {
		text = d.append(text, id)
	}
	return string(d.appendFlush(text)), nil
}

// A Decoder turns a growing sequence of tokens into a growing text. What it has returned never changes: the bytes of an
// unfinished rune are held back, and so is a run of byte-fallback tokens, which is a text only if all of it is valid.
// Everything that Write and Flush return, joined, is what Decode returns for the whole sequence. One goroutine.
type Decoder struct {
	t           *Tokenizer
	skipSpecial bool
	started     bool   // a token was written, so the next is not the first of its text
	strip       int    // how many more runes the start of the text may lose
	held        []byte // the start of a rune (decodeRules.bytes), or a run of byte tokens
	out         []byte // reused by Write
}

// NewDecoder returns a Decoder of a whole text. A SentencePiece tokenizer takes the space off its start that encoding
// put there.
func (t *Tokenizer) NewDecoder(skipSpecial bool) *Decoder {
	return &Decoder{t: t, skipSpecial: skipSpecial, strip: t.decode.stripMax}
}

// NewContinuation returns a Decoder of what follows a text, such as a completion of a prompt: its first token keeps the
// space that it starts with.
func (t *Tokenizer) NewContinuation(skipSpecial bool) *Decoder {
	return &Decoder{t: t, skipSpecial: skipSpecial, started: true}
}

// Write returns the text that became certain with this token; it may be empty. An id without a token, which a model
// with more rows than its vocabulary may produce, adds nothing.
func (d *Decoder) Write(id int32) string {
	d.out = d.append(d.out[:0], id)
	return string(d.out)
}

// Flush returns the text held back, with U+FFFD for what is no rune, and ends the sequence.
func (d *Decoder) Flush() string {
	return string(d.appendFlush(nil))
}

func (d *Decoder) append(dst []byte, id int32) []byte {
	t := d.t
	if !t.has(id) || d.skipSpecial && t.kinds[id] == control {
		return dst
	}
	text := t.texts[id]
	first := !d.started
	d.started = true
	if t.decode.bytes {
		return d.appendBytes(dst, text)
	}
	if t.kinds[id] == rawByte {
		d.held = append(d.held, text...)
		return dst
	}
	dst = d.appendRun(dst)
	if first && t.decode.firstBare != "" {
		text = strings.ReplaceAll(t.pieces[id], t.decode.firstBare, "")
	}
	return d.appendText(dst, text)
}

func (d *Decoder) appendFlush(dst []byte) []byte {
	if !d.t.decode.bytes {
		return d.appendRun(dst)
	}
	if len(d.held) > 0 {
		dst = append(dst, runeError...)
	}
	d.held = d.held[:0]
	return dst
}

const runeError = string(utf8.RuneError)

// appendBytes appends the runes of held + text; an unfinished one at the end is held.
func (d *Decoder) appendBytes(dst []byte, text string) []byte {
	if len(d.held) > 0 {
		n := 0
		for n < len(text) && unfinished(d.held) {
			d.held = append(d.held, text[n])
			n++
		}
		if unfinished(d.held) {
			return dst
		}
		if utf8.Valid(d.held) {
			dst = append(dst, d.held...)
			text = text[n:]
		} else { // the last byte showed that the others are no rune, and belongs to what follows
			dst = append(dst, runeError...)
			text = text[n-1:]
		}
		d.held = d.held[:0]
	}
	for text != "" {
		r, n := utf8.DecodeRuneInString(text)
		if r != utf8.RuneError || n > 1 {
			dst = append(dst, text[:n]...)
			text = text[n:]
			continue
		}
		n = prefixLen(text)
		if n == len(text) && unfinished([]byte(text)) {
			d.held = append(d.held, text...)
			return dst
		}
		dst = append(dst, runeError...)
		text = text[n:]
	}
	return dst
}

// unfinished reports whether b, not empty, is the start of a rune and more bytes could complete it.
func unfinished(b []byte) bool { return !utf8.FullRune(b) }

// prefixLen returns the length of the longest start of s, at least 1, that could still become a rune: the maximal
// subpart that one U+FFFD replaces (Unicode, chapter 3, U+FFFD Substitution of Maximal Subparts).
func prefixLen(s string) int {
	n := 1
	for n < len(s) && n < utf8.UTFMax && !utf8.FullRuneInString(s[:n]) {
		if utf8.FullRuneInString(s[:n+1]) {
			break
		}
		n++
	}
	return n
}

// appendRun ends a run of byte tokens: its text, or one U+FFFD for each byte where any of it is invalid.
func (d *Decoder) appendRun(dst []byte) []byte {
	if len(d.held) == 0 {
		return dst
	}
	run := string(d.held)
	if !utf8.Valid(d.held) {
		run = strings.Repeat(runeError, len(d.held))
	}
	d.held = d.held[:0]
	return d.appendText(dst, run)
}

// appendText appends a text, less what the start of the whole text loses.
func (d *Decoder) appendText(dst []byte, text string) []byte {
	for d.strip > 0 && text != "" {
		rest, ok := strings.CutPrefix(text, d.t.decode.strip)
		if !ok {
			d.strip = 0
			break
		}
		text = rest
		d.strip--
	}
	return append(dst, text...)
}
