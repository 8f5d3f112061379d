package tokenizer

import (
	"errors"
	"fmt"
	"slices"
)

// install gives t the pipeline and its added tokens.
func (p *pipeline) install(t *Tokenizer, added []jsonAdded) {
	t.normalize, t.prepare, t.split, t.decode = p.normalize, p.prepare, p.split, p.decode
	if m := t.model; !p.byteLevel && !m.wholeWords && !m.drops() && spaceStartsWords(m.words) {
		t.split = append(slices.Clip(t.split), cutWords)
	}
	p.setTexts(t, added)
	var raw, normalized []addedToken
	for _, a := range added {
		token := addedToken{
			id: *a.ID, text: a.Content, special: a.Special, lstrip: a.LStrip, rstrip: a.RStrip, singleWord: a.SingleWord,
		}
		if a.Special {
			t.kinds[token.id] = control
		}
		if !a.Normalized {
			raw = append(raw, token)
			continue
		}
		if token.text = applyRewrites(t.normalize, token.text, true); token.text != "" {
			normalized = append(normalized, token)
		}
	}
	t.added, t.normalized = newMatcher(raw), newMatcher(normalized)
}

// drops reports whether the model has no token for some runes, and none to stand for them.
func (m *bpe) drops() bool {
	return m.unknown == noToken && slices.Contains(m.fallback[:], noToken)
}

// setTexts sets what each token adds to a decoded text.
func (p *pipeline) setTexts(t *Tokenizer, added []jsonAdded) {
	if p.byteLevel {
		for text, id := range t.model.words {
			t.texts[id] = text
		}
		for _, a := range added { // one with a rune that writes no byte, such as a space, is taken as it is
			if text, ok := bytesOfPiece(nil, a.Content); ok {
				t.texts[*a.ID] = string(text)
			}
		}
		return
	}
	for id, piece := range t.pieces {
		text := applyRewrites(p.decodeMap, piece, false)
		if b, ok := byteOfToken(text); ok && p.rawBytes {
			t.kinds[id], text = rawByte, string([]byte{b})
		}
		t.texts[id] = text
	}
}

// processor is a post-processor of a tokenizer.json.
type processor struct {
	Type          string          `json:"type"`
	Processors    []processor     `json:"processors"`
	Single        []templatePiece `json:"single"`
	SpecialTokens map[string]struct {
		IDs []int32 `json:"ids"`
	} `json:"special_tokens"`
}

type templatePiece struct {
	SpecialToken *struct {
		ID string `json:"id"`
	}
	Sequence *struct {
		ID string `json:"id"`
	}
}

// useSpecials sets what AddSpecial adds, BOS and EOS.
func (t *Tokenizer) useSpecials(data []byte, config specialConfig) error {
	template, err := readTemplate(data)
	if err != nil {
		return fmt.Errorf("post_processor: %w", err)
	}
	if template != nil {
		if err := t.useTemplate(template); err != nil {
			return fmt.Errorf("post_processor: TemplateProcessing: %w", err)
		}
	}
	if t.bos, err = t.named(config.bos, t.prefix); err != nil {
		return fmt.Errorf("tokenizer_config.json: bos_token: %w", err)
	}
	if t.eos, err = t.named(config.eos, t.suffix); err != nil {
		return fmt.Errorf("tokenizer_config.json: eos_token: %w", err)
	}
	if template != nil {
		return nil
	}
	return t.addConfigured(config)
}

// named returns the id of a configured token, or without one the only token of the template at its place.
func (t *Tokenizer) named(name string, placed []int32) (int32, error) {
	if name != "" {
		id, ok := t.ids[name]
		if !ok {
			return noToken, fmt.Errorf("%.100q is not in the vocabulary", name)
		}
		return id, nil
	}
	if len(placed) == 1 {
		return placed[0], nil
	}
	return noToken, nil
}

func (t *Tokenizer) addConfigured(config specialConfig) error {
	for _, add := range []struct {
		name string
		want *bool
		id   int32
		list *[]int32
	}{{"add_bos_token", config.addBOS, t.bos, &t.prefix}, {"add_eos_token", config.addEOS, t.eos, &t.suffix}} {
		if add.want == nil || !*add.want {
			continue
		}
		if add.id == noToken {
			return fmt.Errorf("tokenizer_config.json: %s is true, but it names no such token", add.name)
		}
		*add.list = []int32{add.id}
	}
	return nil
}

// readTemplate returns the TemplateProcessing of a post_processor, or nil without one. ByteLevel, the other one that is
// known, changes offsets only.
func readTemplate(data []byte) (found *processor, err error) {
	if data == nil {
		return nil, nil
	}
	var root *processor
	if err := decodePart(data, &root); err != nil || root == nil {
		return nil, err
	}
	for _, p := range root.flatten(nil) {
		switch {
		case p.Type == "ByteLevel":
		case p.Type != "TemplateProcessing":
			return nil, fmt.Errorf("type %.100q is not supported", p.Type)
		case found != nil:
			return nil, errors.New("more than one TemplateProcessing is not supported")
		default:
			found = p
		}
	}
	return found, nil
}

func (p *processor) flatten(into []*processor) []*processor {
	if p.Type != "Sequence" {
		return append(into, p)
	}
	for i := range p.Processors {
		into = p.Processors[i].flatten(into)
	}
	return into
}

// useTemplate reads single: special tokens around the sequence A.
func (t *Tokenizer) useTemplate(p *processor) error {
	sequences := 0
	for _, piece := range p.Single {
		switch {
		case piece.SpecialToken != nil:
			name := piece.SpecialToken.ID
			special, ok := p.SpecialTokens[name]
			if !ok {
				return fmt.Errorf("special_tokens lacks %.100q", name)
			}
			for _, id := range special.IDs {
				if err := t.checkID(id); err != nil {
					return fmt.Errorf("special_tokens[%.100q]: %w", name, err)
				}
			}
			if sequences == 0 {
				t.prefix = append(t.prefix, special.IDs...)
			} else {
				t.suffix = append(t.suffix, special.IDs...)
			}
		case piece.Sequence != nil && piece.Sequence.ID == "A":
			sequences++
		default:
			return errors.New("single has a piece that is neither a SpecialToken nor Sequence A")
		}
	}
	if sequences != 1 {
		return fmt.Errorf("single has Sequence A %d times, want once", sequences)
	}
	return nil
}
