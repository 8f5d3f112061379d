// Package tokenizer turns text into token ids and back: byte-pair encoding over bytes (GPT-2, Llama 3, Qwen, SmolLM) and
// over runes with bytes as the fallback (SentencePiece: Llama 2, Mistral), from a Hugging Face tokenizer.json or from the
// key-values of a GGUF file. The ids and texts are those of the Hugging Face tokenizers library.
//
// What a file asks for and this package does not have (another model type, normalizer, pre-tokenizer pattern, decoder)
// is an error that names it; nothing is run approximately.
//
// A Tokenizer is read-only after load: any goroutine may use it. A Decoder belongs to one goroutine.
package tokenizer

import (
	"fmt"
	"sync"
)

// Tokenizer turns text into token ids and back. It is safe for concurrent use.
type Tokenizer struct {
	pieces []string         // [v] as the file writes them; "" for an unused id
	ids    map[string]int32 // the inverse of pieces
	kinds  []kind           // [v]
	texts  []string         // [v] bytes that the token adds to a decoded text

	added      *matcher  // tokens matched in the raw text; nil for none
	normalize  []rewrite // applied to what is between them
	normalized *matcher  // tokens matched in the normalized text; nil for none
	prepare    []rewrite // applied to what is between those
	split      []splitter
	model      *bpe
	decode     decodeRules

	prefix, suffix []int32 // what AddSpecial puts around a text
	bos, eos       int32   // noToken where there is none
	ends           []int32

	maxTokenPiece int  // bytes of a piece that one token stands for at most
	maxTokenText  int  // the same of the text before it is normalized; 0 for no bound
	skips         bool // some symbols have no token, nor an unknown token each

	index   textIndex
	scratch sync.Pool // of *scratch
}

// kind tells what decoding does with a token.
type kind uint8

const (
	unused  kind = iota // an id without a token
	plain               // adds its text
	control             // adds its text unless special tokens are skipped
	rawByte             // adds one byte to a run that is a text only if it is valid UTF-8 as a whole
)

// NumTokens returns the size of the id space: the largest id + 1.
func (t *Tokenizer) NumTokens() int { return len(t.pieces) }

// Token returns the piece of an id as the tokenizer's file writes it ("Ġthe", "▁the", "<0x0A>").
func (t *Tokenizer) Token(id int32) (string, bool) {
	if !t.has(id) {
		return "", false
	}
	return t.pieces[id], true
}

// TokenBytes returns the bytes that a token stands for in a text: " the", "\n", "<s>". They may be a part of a character.
func (t *Tokenizer) TokenBytes(id int32) (string, bool) {
	if !t.has(id) {
		return "", false
	}
	return t.texts[id], true
}

// ID returns the id of a piece as the tokenizer's file writes it.
func (t *Tokenizer) ID(piece string) (int32, bool) {
	id, ok := t.ids[piece]
	return id, ok
}

// IsSpecial reports whether an id is a control token: one that is never part of a text.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.has(id) && t.kinds[id] == control }

// BOS returns the token that starts a text, if the tokenizer names one.
func (t *Tokenizer) BOS() (int32, bool) { return t.bos, t.bos != noToken }

// EOS returns the token that ends a text, if the tokenizer names one.
func (t *Tokenizer) EOS() (int32, bool) { return t.eos, t.eos != noToken }

// NumAdded returns how many tokens EncodeOptions.AddSpecial puts in front of a text and behind it.
func (t *Tokenizer) NumAdded() (before, behind int) { return len(t.prefix), len(t.suffix) }

// EndTokens returns the tokens that end a generation as far as the tokenizer's own file knows them, in ascending order.
// It may be empty: a Hugging Face checkpoint keeps them in config.json and generation_config.json.
func (t *Tokenizer) EndTokens() []int32 { return append([]int32(nil), t.ends...) }

func (t *Tokenizer) has(id int32) bool {
	return id >= 0 && int(id) < len(t.kinds) && t.kinds[id] != unused
}

func (t *Tokenizer) checkID(id int32) error {
	if id < 0 || int(id) >= len(t.kinds) {
		return fmt.Errorf("token id %d is outside [0, %d)", id, len(t.kinds))
	}
	if t.kinds[id] == unused {
		return fmt.Errorf("token id %d has no token", id)
	}
	return nil
}
