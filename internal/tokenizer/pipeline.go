package tokenizer

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// pipeline is what surrounds the model: how a text gets to it, and how its tokens become a text.
type pipeline struct {
	normalize []rewrite
	prepare   []rewrite
	split     []splitter
	byteLevel bool // the model sees bytes
	decode    decodeRules
	decodeMap []rewrite // what decoding does to each piece: replaceAll only
	rawBytes  bool      // <0xHH> tokens are bytes
}

// part is a normalizer, a pre-tokenizer or a decoder: the fields of all that are supported.
type part struct {
	Type string `json:"type"`

	Normalizers   []part `json:"normalizers"`
	PreTokenizers []part `json:"pretokenizers"`
	Decoders      []part `json:"decoders"`

	AddPrefixSpace   *bool  `json:"add_prefix_space"`
	UseRegex         *bool  `json:"use_regex"`
	IndividualDigits bool   `json:"individual_digits"`
	Prepend          string `json:"prepend"`
	PrependScheme    string `json:"prepend_scheme"`
	Replacement      string `json:"replacement"`
	Split            *bool  `json:"split"`
	Behavior         string `json:"behavior"`
	Invert           bool   `json:"invert"`
	Content          string `json:"content"`
	Start            int    `json:"start"`
	Stop             int    `json:"stop"`
	Pattern          struct {
		String *string
		Regex  *string
	} `json:"pattern"`
}

// maxParts bounds the length of each sequence.
const maxParts = 16

// readParts returns the parts of a sequence, or the one part that there is.
func readParts(data []byte) ([]part, error) {
	var p *part
	if data == nil {
		return nil, nil
	}
	if err := decodePart(data, &p); err != nil || p == nil {
		return nil, err
	}
	parts := p.flatten(nil)
	if len(parts) > maxParts {
		return nil, fmt.Errorf("%d parts; the limit is %d", len(parts), maxParts)
	}
	return parts, nil
}

func (p part) flatten(into []part) []part {
	if p.Type != "Sequence" {
		return append(into, p)
	}
	for _, list := range [][]part{p.Normalizers, p.PreTokenizers, p.Decoders} {
		for _, sub := range list {
			into = sub.flatten(into)
		}
	}
	return into
}

// pipeline reads normalizer, pre_tokenizer and decoder.
func (f *jsonFile) pipeline() (p pipeline, err error) {
	for _, section := range []struct {
		name string
		data []byte
		read func([]part) error
	}{
		{"normalizer", f.normalizer, p.readNormalizer},
		{"pre_tokenizer", f.preTokenizer, p.readPreTokenizer},
		{"decoder", f.decoder, p.readDecoder},
	} {
		parts, err := readParts(section.data)
		if err == nil {
			err = section.read(parts)
		}
		if err != nil {
			return p, fmt.Errorf("%s: %w", section.name, err)
		}
	}
	if p.byteLevel != p.decode.bytes {
		return p, errors.New("pre_tokenizer and decoder: ByteLevel in one of them only is not supported")
	}
	return p, checkGrowth(append(append([]rewrite(nil), p.normalize...), p.prepare...))
}

func (p *pipeline) readNormalizer(parts []part) error {
	for _, n := range parts {
		switch n.Type {
		case "NFC":
			p.normalize = append(p.normalize, rewrite{kind: composeNFC})
		case "Prepend":
			p.normalize = append(p.normalize, rewrite{kind: prepend, to: n.Prepend})
		case "Replace":
			step, err := n.replace()
			if err != nil {
				return err
			}
			p.normalize = append(p.normalize, step)
		default:
			return fmt.Errorf("type %.100q is not supported", n.Type)
		}
	}
	return nil
}

// replace reads Replace, which the normalizers and the decoders share.
func (p part) replace() (rewrite, error) {
	if p.Pattern.String == nil || *p.Pattern.String == "" {
		return rewrite{}, errors.New("Replace: only a pattern that is a String, and not empty, is supported")
	}
	return rewrite{kind: replaceAll, from: *p.Pattern.String, to: p.Content}, nil
}

func (p *pipeline) readPreTokenizer(parts []part) error {
	for i, t := range parts {
		if p.byteLevel {
			return fmt.Errorf("%.100q after ByteLevel is not supported", t.Type)
		}
		var err error
		switch t.Type {
		case "ByteLevel":
			err = p.readByteLevel(t, i == 0)
		case "Split":
			err = p.readSplit(t)
		case "Digits":
			split := splitDigitRuns
			if t.IndividualDigits {
				split = splitDigits
			}
			p.split = append(p.split, split)
		case "Metaspace":
			err = p.readMetaspace(t, len(parts) == 1)
		default:
			err = fmt.Errorf("type %.100q is not supported", t.Type)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pipeline) readByteLevel(t part, first bool) error {
	p.byteLevel = true
	if t.AddPrefixSpace != nil && *t.AddPrefixSpace {
		if !first {
			return errors.New("ByteLevel: add_prefix_space after another pre-tokenizer is not supported")
		}
		p.prepare = append(p.prepare, rewrite{kind: prependMissing, to: " "})
	}
	if t.UseRegex == nil || *t.UseRegex {
		p.split = append(p.split, splitGPT2)
	}
	return nil
}

func (p *pipeline) readSplit(t part) error {
	switch {
	case t.Pattern.Regex != nil:
		return p.readRegexSplit(t, *t.Pattern.Regex)
	case t.Pattern.String == nil || *t.Pattern.String == "" || t.Invert:
		return errors.New("Split: the pattern is neither a Regex nor a String, or is inverted")
	}
	sep := *t.Pattern.String
	switch t.Behavior {
	case "Isolated":
		p.split = append(p.split, isolate(sep))
	case "MergedWithPrevious":
		p.split = append(p.split, cutAfter(sep))
	case "MergedWithNext":
		p.split = append(p.split, cutBefore(sep))
	default:
		return fmt.Errorf("Split: behavior %.100q is not supported", t.Behavior)
	}
	return nil
}

// readRegexSplit accepts the known patterns. But for \p{N}, each of them matches every text from end to end, so that
// keeping the matches and removing the rest is the same as isolating them.
func (p *pipeline) readRegexSplit(t part, regex string) error {
	split, ok := splitterOf(regex)
	if !ok {
		return fmt.Errorf("Split: pattern %.100q is not supported", regex)
	}
	isolated := t.Behavior == "Isolated" && !t.Invert
	kept := t.Behavior == "Removed" && t.Invert && regex != patternDigit
	if !isolated && !kept {
		return fmt.Errorf("Split: behavior %.100q with invert %t is not supported", t.Behavior, t.Invert)
	}
	p.split = append(p.split, split)
	return nil
}

func (p *pipeline) readMetaspace(t part, alone bool) error {
	if !alone {
		return errors.New("Metaspace beside other pre-tokenizers is not supported")
	}
	scheme, err := t.metaspaceScheme()
	if err != nil {
		return err
	}
	p.prepare = append(p.prepare, rewrite{kind: replaceAll, from: " ", to: t.Replacement})
	switch scheme {
	case "always":
		p.prepare = append(p.prepare, rewrite{kind: prependMissing, to: t.Replacement})
	case "first":
		p.prepare = append(p.prepare, rewrite{kind: prependFirst, to: t.Replacement})
	}
	if t.Split == nil || *t.Split {
		p.split = append(p.split, cutBefore(t.Replacement))
	}
	return nil
}

// metaspaceScheme checks a Metaspace and returns its prepend_scheme; older files have add_prefix_space in its place.
func (p part) metaspaceScheme() (string, error) {
	if utf8.RuneCountInString(p.Replacement) != 1 {
		return "", fmt.Errorf("Metaspace: replacement %.100q is not one rune", p.Replacement)
	}
	scheme := p.PrependScheme
	if scheme == "" {
		scheme = "always"
		if p.AddPrefixSpace != nil && !*p.AddPrefixSpace {
			scheme = "never"
		}
	}
	if scheme != "always" && scheme != "first" && scheme != "never" {
		return "", fmt.Errorf("Metaspace: prepend_scheme %.100q is not supported", scheme)
	}
	return scheme, nil
}

// readDecoder accepts ByteLevel alone, or, in this order, each of them optional: Replace or Metaspace, ByteFallback,
// Fuse, Strip.
func (p *pipeline) readDecoder(parts []part) error {
	if len(parts) == 0 {
		return errors.New("missing")
	}
	if len(parts) == 1 && parts[0].Type == "ByteLevel" {
		p.decode.bytes = true
		return nil
	}
	order := map[string]int{"Replace": 1, "Metaspace": 1, "ByteFallback": 2, "Fuse": 3, "Strip": 4}
	last := 0
	for _, d := range parts {
		stage, ok := order[d.Type]
		if !ok || stage < last || stage == last && d.Type != "Replace" {
			return fmt.Errorf("type %.100q is not supported at this place", d.Type)
		}
		if stage == 4 && last != 3 {
			return errors.New("Strip without Fuse before it is not supported")
		}
		if err := p.readDecodeStep(d); err != nil {
			return err
		}
		last = stage
	}
	return nil
}

func (p *pipeline) readDecodeStep(d part) error {
	switch d.Type {
	case "Replace":
		step, err := d.replace()
		if err != nil {
			return err
		}
		p.decodeMap = append(p.decodeMap, step)
		return checkGrowth(p.decodeMap)
	case "Metaspace":
		scheme, err := d.metaspaceScheme()
		if err != nil {
			return err
		}
		if scheme != "never" {
			p.decode.firstBare = d.Replacement
		}
		p.decodeMap = append(p.decodeMap, rewrite{kind: replaceAll, from: d.Replacement, to: " "})
	case "ByteFallback":
		p.rawBytes = true
	case "Strip":
		if utf8.RuneCountInString(d.Content) != 1 || d.Start < 0 || d.Stop != 0 {
			return fmt.Errorf("Strip: content %.100q, start %d, stop %d; want one rune, start ≥ 0, stop 0", d.Content, d.Start, d.Stop)
		}
		p.decode.strip, p.decode.stripMax = d.Content, d.Start
	}
	return nil
}
