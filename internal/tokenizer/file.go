package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf8"
)

// ErrNoTokenizer is what LoadDir's error wraps when the directory has no tokenizer.json. It is fs.ErrNotExist too.
var ErrNoTokenizer = fmt.Errorf("no tokenizer.json: %w", fs.ErrNotExist)

// LoadFile reads a Hugging Face tokenizer.json. Of its special tokens it knows the template's only: BOS is the token
// that the template puts first, EOS the one that it puts last.
func LoadFile(path string) (*Tokenizer, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	t, err := parse(data, specialConfig{})
	if err != nil {
		return nil, fmt.Errorf("load tokenizer %s: %w", path, err)
	}
	return t, nil
}

// LoadDir reads tokenizer.json of a Hugging Face directory, and of tokenizer_config.json, if it is there, bos_token and
// eos_token, and where tokenizer.json has no template, add_bos_token and add_eos_token.
func LoadDir(dir string) (*Tokenizer, error) {
	path := filepath.Join(dir, "tokenizer.json")
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load tokenizer of %s: %w", dir, ErrNoTokenizer)
	}
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	config, err := readSpecialConfig(filepath.Join(dir, "tokenizer_config.json"))
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	t, err := parse(data, config)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer %s: %w", path, err)
	}
	return t, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s has %d bytes; the limit is %d", path, info.Size(), maxFileBytes)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// specialConfig is what tokenizer_config.json adds.
type specialConfig struct {
	BOS    tokenName `json:"bos_token"`
	EOS    tokenName `json:"eos_token"`
	AddBOS *bool     `json:"add_bos_token"`
	AddEOS *bool     `json:"add_eos_token"`
}

// tokenName is a token's text, written as a string, as an object with a content, or as null.
type tokenName string

func (n *tokenName) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '{' {
		var object struct {
			Content string `json:"content"`
		}
		err := json.Unmarshal(data, &object)
		*n = tokenName(object.Content)
		return err
	}
	var text *string
	if err := json.Unmarshal(data, &text); err != nil || text == nil {
		return err
	}
	*n = tokenName(*text)
	return nil
}

func readSpecialConfig(path string) (c specialConfig, err error) {
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// jsonFile is a tokenizer.json, cut in its parts. truncation and padding are for batches of training texts and do not
// change the tokens of one text.
type jsonFile struct {
	added                                            []byte
	normalizer, preTokenizer, postProcessor, decoder []byte
	modelType                                        string
	vocab, merges                                    []byte
	dropout                                          *float64
	unknown, continuingPrefix, endSuffix             *string
	fuseUnknown, byteFallback, wholeWords            bool
}

// cut finds the parts of a tokenizer.json.
func cut(data []byte) (f jsonFile, err error) {
	r := jsonReader{data: data}
	err = r.object(func(key []byte) error {
		switch string(key) {
		case "added_tokens":
			f.added, err = r.raw()
		case "normalizer":
			f.normalizer, err = r.raw()
		case "pre_tokenizer":
			f.preTokenizer, err = r.raw()
		case "post_processor":
			f.postProcessor, err = r.raw()
		case "decoder":
			f.decoder, err = r.raw()
		case "model":
			err = f.cutModel(&r)
		default:
			_, err = r.raw()
		}
		return err
	})
	if err != nil {
		return f, err
	}
	return f, r.end()
}

func (f *jsonFile) cutModel(r *jsonReader) error {
	fields := map[string]any{
		"type": &f.modelType, "dropout": &f.dropout, "unk_token": &f.unknown, "continuing_subword_prefix": &f.continuingPrefix,
		"end_of_word_suffix": &f.endSuffix, "fuse_unk": &f.fuseUnknown, "byte_fallback": &f.byteFallback,
		"ignore_merges": &f.wholeWords,
	}
	return r.object(func(key []byte) (err error) {
		name := string(key)
		raw, err := r.raw()
		if err != nil {
			return err
		}
		switch name {
		case "vocab":
			f.vocab = raw
		case "merges":
			f.merges = raw
		default:
			field, ok := fields[name]
			if !ok {
				return fmt.Errorf("model.%s: unknown field", name)
			}
			if err := json.Unmarshal(raw, field); err != nil {
				return fmt.Errorf("model.%s: %w", name, err)
			}
		}
		return nil
	})
}

// check refuses model settings that would change the result.
func (f *jsonFile) check() error {
	switch {
	case f.modelType != "BPE" && f.modelType != "":
		return fmt.Errorf("model.type: %q is not supported; only BPE is", f.modelType)
	case f.vocab == nil:
		return errors.New("model.vocab: missing")
	case f.merges == nil:
		return errors.New("model.merges: missing; only BPE models are supported")
	case f.dropout != nil && *f.dropout != 0:
		return fmt.Errorf("model.dropout: %g makes encoding random", *f.dropout)
	case f.continuingPrefix != nil && *f.continuingPrefix != "":
		return fmt.Errorf("model.continuing_subword_prefix: %q is not supported", *f.continuingPrefix)
	case f.endSuffix != nil && *f.endSuffix != "":
		return fmt.Errorf("model.end_of_word_suffix: %q is not supported", *f.endSuffix)
	}
	return nil
}

// parse builds a Tokenizer from the text of a tokenizer.json.
func parse(data []byte, config specialConfig) (*Tokenizer, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("json: not valid UTF-8")
	}
	f, err := cut(data)
	if err != nil {
		return nil, err
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	p, err := f.pipeline()
	if err != nil {
		return nil, err
	}
	v, err := readVocab(f.vocab)
	if err != nil {
		return nil, fmt.Errorf("model.vocab: %w", err)
	}
	words := wordsOf(v, p.byteLevel)
	merges, err := readMerges(f.merges, v)
	if err != nil {
		return nil, fmt.Errorf("model.merges: %w", err)
	}
	added, err := readAdded(f.added, v)
	if err != nil {
		return nil, fmt.Errorf("added_tokens: %w", err)
	}
	t, err := v.tokenizer()
	if err != nil {
		return nil, fmt.Errorf("model.vocab: %w", err)
	}
	t.model = newBPE(words, len(t.pieces), p.byteLevel)
	t.model.merges = merges
	if err := f.configure(t.model, t.ids); err != nil {
		return nil, err
	}
	p.install(t, added)
	t.measure()
	return t, t.useSpecials(f.postProcessor, config)
}

// configure sets what the model does beside merging.
func (f *jsonFile) configure(m *bpe, ids map[string]int32) error {
	m.wholeWords, m.fuseUnknown = f.wholeWords, f.fuseUnknown
	if f.unknown != nil && *f.unknown != "" {
		id, ok := ids[*f.unknown]
		if !ok {
			return fmt.Errorf("model.unk_token: %q is not in the vocabulary", *f.unknown)
		}
		m.unknown = id
	}
	if f.byteFallback {
		if m.byteSymbols {
			return errors.New("model.byte_fallback: not supported with a ByteLevel pre-tokenizer")
		}
		m.useByteFallback(m.words)
	}
	return nil
}
