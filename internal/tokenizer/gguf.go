package tokenizer

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Metadata is what FromGGUF reads of a GGUF file: its key-values. A method returns false where the key is missing or
// has a value of another kind.
type Metadata interface {
	Has(key string) bool
	String(key string) (string, bool)
	Bool(key string) (bool, bool)
	Uint(key string) (uint64, bool)
	Strings(key string) ([]string, bool)
	Ints(key string) ([]int32, bool)
	Floats(key string) ([]float32, bool)
}

// Token types of tokenizer.ggml.token_type.
const (
	ggufNormal      = 1
	ggufUnknown     = 2
	ggufControl     = 3
	ggufUserDefined = 4
	ggufUnused      = 5
	ggufByte        = 6
)

const ggufPrefix = "tokenizer.ggml."

// FromGGUF makes a Tokenizer of the tokenizer.ggml.* keys of a GGUF file: the models gpt2 (byte-level BPE; the pattern
// goes by tokenizer.ggml.pre) and llama (SentencePiece BPE with scores).
func FromGGUF(md Metadata) (*Tokenizer, error) {
	g, err := readGGUF(md)
	if err != nil {
		return nil, fmt.Errorf("tokenizer of GGUF file: %w", err)
	}
	var t *Tokenizer
	switch g.model {
	case "gpt2":
		t, err = g.byteLevel()
	case "llama":
		t, err = g.sentencePiece()
	default:
		err = fmt.Errorf("%smodel: %.100q is not supported; gpt2 and llama are", ggufPrefix, g.model)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer of GGUF file: %w", err)
	}
	t.measure()
	return t, nil
}

// ggufFile is the tokenizer's arrays of a GGUF file while it is read.
type ggufFile struct {
	Metadata
	model  string
	tokens []string
	types  []int32 // [v]
	vocab  *vocabulary
}

func readGGUF(md Metadata) (*ggufFile, error) {
	g := &ggufFile{Metadata: md}
	if err := g.checkKinds(); err != nil {
		return nil, err
	}
	var ok bool
	if g.model, ok = md.String(ggufPrefix + "model"); !ok {
		return nil, fmt.Errorf("%smodel: missing", ggufPrefix)
	}
	if g.tokens, ok = md.Strings(ggufPrefix + "tokens"); !ok || len(g.tokens) == 0 {
		return nil, fmt.Errorf("%stokens: missing or empty", ggufPrefix)
	}
	if g.types, ok = md.Ints(ggufPrefix + "token_type"); !ok {
		g.types = slices.Repeat([]int32{ggufNormal}, len(g.tokens))
	}
	if len(g.types) != len(g.tokens) {
		return nil, fmt.Errorf("%stoken_type: %d elements for %d tokens", ggufPrefix, len(g.types), len(g.tokens))
	}
	g.vocab = newVocabulary(len(g.tokens))
	for id, piece := range g.tokens {
		if err := g.vocab.add(piece, int32(id)); err != nil {
			return nil, fmt.Errorf("%stokens: %w", ggufPrefix, err)
		}
		if !utf8.ValidString(piece) {
			return nil, fmt.Errorf("%stokens: token %d, %.100q, is not valid UTF-8", ggufPrefix, id, piece)
		}
	}
	return g, nil
}

// checkKinds refuses keys that may be missing and have a value of another kind than they must: taken as missing, they would change the
// tokens without a word.
func (g *ggufFile) checkKinds() error {
	for _, kind := range []struct {
		want string
		has  func(key string) bool
		keys []string
	}{
		{"an array of 32-bit integers", has(g.Ints), []string{"token_type"}},
		{"an integer of 0 or more", has(g.Uint), []string{"bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id", "unknown_token_id"}},
		{"a boolean", has(g.Bool), []string{"add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"}},
	} {
		for _, key := range kind.keys {
			if g.Has(ggufPrefix+key) && !kind.has(ggufPrefix+key) {
				return fmt.Errorf("%s%s: has a value of another type, want %s", ggufPrefix, key, kind.want)
			}
		}
	}
	return nil
}

func has[T any](get func(key string) (T, bool)) func(key string) bool {
	return func(key string) bool {
		_, ok := get(key)
		return ok
	}
}

// ggufPre is what a name in tokenizer.ggml.pre stands for.
type ggufPre struct {
	split      []splitter
	nfc        bool // the model's own tokenizer normalizes
	wholeWords bool
	addBOS     bool // unless tokenizer.ggml.add_bos_token says otherwise
}

// ggufPreOf returns the settings of the names whose patterns are known.
func ggufPreOf(name string) (ggufPre, bool) {
	switch name {
	case "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "midm-2.0":
		return ggufPre{split: []splitter{splitLlama3}, wholeWords: true, addBOS: true}, true
	case "smaug-bpe", "dbrx":
		return ggufPre{split: []splitter{splitLlama3}}, true
	case "tekken":
		return ggufPre{split: []splitter{splitTekken}, wholeWords: true, addBOS: true}, true
	case "gpt-4o", "llama4":
		return ggufPre{split: []splitter{splitO200K}}, true
	case "qwen2", "deepseek-r1-qwen":
		return ggufPre{split: []splitter{splitQwen2}, nfc: true}, true
	case "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b":
		return ggufPre{split: []splitter{splitDigits, splitGPT2}}, true
	case "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4":
		return ggufPre{split: []splitter{splitGPT2}}, true
	}
	return ggufPre{}, false
}

func (g *ggufFile) byteLevel() (*Tokenizer, error) {
	name, ok := g.String(ggufPrefix + "pre")
	if !ok {
		return nil, fmt.Errorf("%spre: missing, so the pre-tokenizer is not known; convert the model again", ggufPrefix)
	}
	pre, ok := ggufPreOf(name)
	if !ok {
		return nil, fmt.Errorf("%spre: %.100q is not supported", ggufPrefix, name)
	}
	lines, ok := g.Strings(ggufPrefix + "merges")
	if !ok {
		return nil, fmt.Errorf("%smerges: missing", ggufPrefix)
	}
	merges, err := mergesOfLines(lines, g.vocab)
	if err != nil {
		return nil, fmt.Errorf("%smerges: %w", ggufPrefix, err)
	}
	p := pipeline{split: pre.split, byteLevel: true, decode: decodeRules{bytes: true}}
	if pre.nfc {
		p.normalize = []rewrite{{kind: composeNFC}}
	}
	t, err := g.install(&p, g.mergeable(func(piece string) (string, bool) {
		text, ok := bytesOfPiece(nil, piece)
		return string(text), ok && len(text) > 0
	}))
	if err != nil {
		return nil, err
	}
	t.model.useMerges(merges, len(t.pieces))
	t.model.wholeWords = pre.wholeWords
	return t, g.useSpecials(t, pre.addBOS)
}

func mergesOfLines(lines []string, v *vocabulary) (mergeTable, error) {
	if len(lines) > maxMerges {
		return mergeTable{}, fmt.Errorf("%d; the limit is %d", len(lines), maxMerges)
	}
	table := newMergeTable(len(lines))
	var pair mergePair
	for i, line := range lines {
		if err := pair.split([]byte(line)); err != nil {
			return table, fmt.Errorf("merge %d: %w", i, err)
		}
		left, right, id, err := pair.lookUp(v.ids)
		if err != nil {
			return table, fmt.Errorf("merge %d: %w", i, err)
		}
		table.put(left, right, merge{rank: uint32(i), id: id})
	}
	return table, nil
}

func (g *ggufFile) sentencePiece() (*Tokenizer, error) {
	scores, ok := g.Floats(ggufPrefix + "scores")
	if !ok || len(scores) != len(g.tokens) {
		return nil, fmt.Errorf("%sscores: %d elements for %d tokens", ggufPrefix, len(scores), len(g.tokens))
	}
	if on, ok := g.Bool(ggufPrefix + "remove_extra_whitespaces"); ok && on {
		return nil, fmt.Errorf("%sremove_extra_whitespaces: not supported", ggufPrefix)
	}
	spaceFirst := true
	if on, ok := g.Bool(ggufPrefix + "add_space_prefix"); ok {
		spaceFirst = on
	}
	p := pipeline{
		decodeMap: []rewrite{{kind: replaceAll, from: metaSpace, to: " "}},
		rawBytes:  true,
	}
	if spaceFirst {
		p.normalize = append(p.normalize, rewrite{kind: prepend, to: metaSpace})
		p.decode.strip, p.decode.stripMax = " ", 1
	}
	p.normalize = append(p.normalize, rewrite{kind: replaceAll, from: " ", to: metaSpace})
	t, err := g.install(&p, g.mergeable(func(piece string) (string, bool) { return piece, piece != "" }))
	if err != nil {
		return nil, err
	}
	merges, err := mergesOfScores(t.model.words, scores)
	if err != nil {
		return nil, fmt.Errorf("%sscores: %w", ggufPrefix, err)
	}
	t.model.useMerges(merges, len(t.pieces))
	return t, g.useSpecials(t, true)
}

// mergesOfScores makes a merge of each way to cut a word in two words. SentencePiece joins the pair that makes the word
// of the highest score, so the rank of a merge is the place of its word's score.
func mergesOfScores(words map[string]int32, scores []float32) (mergeTable, error) {
	order := make([]int32, 0, len(words))
	for text, id := range words {
		if s := float64(scores[id]); math.IsNaN(s) || math.IsInf(s, 0) {
			return mergeTable{}, fmt.Errorf("token %d, %.100q, has the score %g", id, text, s)
		}
		order = append(order, id)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(scores[b], scores[a]), cmp.Compare(a, b))
	})
	ranks := make([]uint32, len(scores))
	for i, id := range order {
		ranks[id] = uint32(i)
		if i > 0 && scores[id] == scores[order[i-1]] {
			ranks[id] = ranks[order[i-1]]
		}
	}
	table := newMergeTable(2 * len(words))
	for text, id := range words {
		if len(text) > maxScoredBytes {
			return table, fmt.Errorf("token %d has %d bytes; the limit is %d", id, len(text), maxScoredBytes)
		}
		for i := 1; i < len(text); i++ {
			left, okLeft := words[text[:i]]
			right, okRight := words[text[i:]]
			if okLeft && okRight {
				table.put(left, right, merge{rank: ranks[id], id: id})
			}
		}
	}
	return table, nil
}

// maxScoredBytes bounds a word that is cut in every place.
const maxScoredBytes = 1024

// mergeable returns the tokens that the model may make, by their text.
func (g *ggufFile) mergeable(textOf func(piece string) (string, bool)) map[string]int32 {
	words := make(map[string]int32, len(g.tokens))
	for id, piece := range g.tokens {
		switch g.types[id] {
		case ggufControl, ggufUnknown, ggufByte:
			continue
		}
		if text, ok := textOf(piece); ok {
			words[text] = int32(id)
		}
	}
	return words
}

// install makes the Tokenizer with its special tokens.
func (g *ggufFile) install(p *pipeline, words map[string]int32) (*Tokenizer, error) {
	var added []jsonAdded
	size := 0
	for i, piece := range g.tokens {
		special := g.types[i] == ggufControl || g.types[i] == ggufUnknown
		if !special && g.types[i] != ggufUserDefined || piece == "" {
			continue
		}
		if len(piece) > maxAddedBytes {
			return nil, fmt.Errorf("%stokens: special token %d has %d bytes; the limit is %d",
				ggufPrefix, i, len(piece), maxAddedBytes)
		}
		if size += len(piece); size > maxAddedTotalBytes {
			return nil, fmt.Errorf("%stokens: special tokens of more than %d bytes in all", ggufPrefix, maxAddedTotalBytes)
		}
		id := int32(i)
		added = append(added, jsonAdded{ID: &id, Content: piece, Special: special, RStrip: special && g.stripsRight(piece)})
	}
	t, err := g.vocab.tokenizer()
	if err != nil {
		return nil, fmt.Errorf("%stokens: %w", ggufPrefix, err)
	}
	t.model = newBPE(words, len(g.tokens), p.byteLevel)
	if !p.byteLevel {
		if err := g.useUnknown(t); err != nil {
			return nil, err
		}
	}
	p.install(t, added)
	for _, a := range added { // written as they are, whatever bytes their runes could write
		t.texts[*a.ID] = a.Content
	}
	return t, nil
}

// stripsRight reports whether a special token takes the blanks behind it. GGUF has no key for it: llama.cpp goes by
// the model's name, which is how the Phi-3 models are known, and so does this.
func (g *ggufFile) stripsRight(piece string) bool {
	name, _ := g.String("general.name")
	name = strings.ToLower(name)
	if !strings.Contains(name, "phi-3") && !strings.Contains(name, "phi3") {
		return false
	}
	return piece != "<unk>" && piece != "<s>" && piece != "<|endoftext|>"
}

// useUnknown sets what stands for runes that no token has: byte tokens, and the unknown token where these are missing.
func (g *ggufFile) useUnknown(t *Tokenizer) error {
	for id, piece := range g.tokens {
		if g.types[id] != ggufByte {
			continue
		}
		b, ok := byteOfToken(piece)
		if !ok {
			return fmt.Errorf("%stokens: token %d, %.100q, is of the type byte but not written <0xHH>", ggufPrefix, id, piece)
		}
		t.model.fallback[b] = int32(id)
	}
	id, err := g.token("unknown_token_id", len(g.tokens))
	t.model.unknown, t.model.fuseUnknown = id, true
	return err
}

// token returns the id of a key, or noToken where the key is missing.
func (g *ggufFile) token(key string, size int) (int32, error) {
	id, ok := g.Uint(ggufPrefix + key)
	if !ok {
		return noToken, nil
	}
	if id >= uint64(size) {
		return noToken, fmt.Errorf("%s%s: %d is outside [0, %d)", ggufPrefix, key, id, size)
	}
	return int32(id), nil
}

// endNames are control tokens that end a turn in the known chat formats. Files often name only one of a model's.
var endNames = []string{
	"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
}

// useSpecials sets BOS, EOS, the end tokens, and what AddSpecial adds; addBOS is the model's habit, the keys prevail.
func (g *ggufFile) useSpecials(t *Tokenizer, addBOS bool) (err error) {
	if t.bos, t.prefix, err = g.outerToken("bos", addBOS); err != nil {
		return err
	}
	if t.eos, t.suffix, err = g.outerToken("eos", false); err != nil {
		return err
	}
	return g.useEnds(t)
}

// outerToken returns the token of a name, bos or eos, and what of it AddSpecial adds.
func (g *ggufFile) outerToken(name string, add bool) (int32, []int32, error) {
	id, err := g.token(name+"_token_id", len(g.tokens))
	if err != nil {
		return noToken, nil, err
	}
	if on, ok := g.Bool(ggufPrefix + "add_" + name + "_token"); ok {
		add = on
	}
	switch {
	case !add:
		return id, nil, nil
	case id == noToken:
		return noToken, nil, fmt.Errorf("%s%s_token_id: missing, but every text takes that token", ggufPrefix, name)
	}
	return id, []int32{id}, nil
}

func (g *ggufFile) useEnds(t *Tokenizer) error {
	var errs []error
	for _, key := range []string{"eos_token_id", "eot_token_id", "eom_token_id"} {
		id, err := g.token(key, len(g.tokens))
		errs = append(errs, err)
		if id != noToken {
			t.ends = append(t.ends, id)
		}
	}
	for _, name := range endNames {
		if id, ok := t.ids[name]; ok && t.kinds[id] == control {
			t.ends = append(t.ends, id)
		}
	}
	slices.Sort(t.ends)
	t.ends = slices.Compact(t.ends)
	return errors.Join(errs...)
}
