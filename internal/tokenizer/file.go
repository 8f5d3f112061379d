package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"unicode/utf8"

	"github.com/inferno-serve/inferno/internal/model/modeldir"
)

// ErrNoTokenizer is what LoadDir's error wraps when the directory has no tokenizer.json. It is fs.ErrNotExist too.
var ErrNoTokenizer = fmt.Errorf("no tokenizer.json: %w", fs.ErrNotExist)

// LoadFile reads a Hugging Face tokenizer.json. Of its special tokens it knows the template's only: BOS is the token
// that the template puts first, EOS the one that it puts last.
func LoadFile(path string) (*Tokenizer, error) {
	real, err := filepath.EvalSymlinks(path) // a link that was named is meant
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	folder, name := filepath.Split(real)
	dir, err := modeldir.Open(filepath.Clean(folder))
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	defer dir.Close()
	return loadIn(dir, name, specialConfig{})
}

func loadIn(dir *modeldir.Dir, name string, config specialConfig) (*Tokenizer, error) {
	data, err := dir.ReadFile(name, maxFileBytes)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	t, err := parse(data, config)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer %s: %w", dir.Path(name), err)
	}
	return t, nil
}

// LoadDir reads tokenizer.json of a Hugging Face directory, and of tokenizer_config.json, if it is there, bos_token and
// eos_token, and where tokenizer.json has no template, add_bos_token and add_eos_token.
func LoadDir(path string) (*Tokenizer, error) {
	dir, err := modeldir.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	defer dir.Close()
	config, err := readSpecialConfig(dir)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	t, err := loadIn(dir, "tokenizer.json", config)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load tokenizer of %s: %w", path, ErrNoTokenizer)
	}
	return t, err
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
	seen := map[string]bool{}
	err = r.object(func(key []byte) error {
		name := string(key)
		if seen[name] {
			return r.fail("duplicate key %.100q", name)
		}
		seen[name] = true
		switch name {
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
			var raw []byte
			if raw, err = r.raw(); err == nil {
				err = checkJSON(raw)
			}
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
	seen := map[string]bool{}
	return r.object(func(key []byte) (err error) {
		name := string(key)
		if seen[name] {
			return r.fail("model: duplicate key %.100q", name)
		}
		seen[name] = true
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
				return fmt.Errorf("model.%.100s: unknown field", name)
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
		return fmt.Errorf("model.type: %.100q is not supported; only BPE is", f.modelType)
	case f.vocab == nil:
		return errors.New("model.vocab: missing")
	case f.merges == nil:
		return errors.New("model.merges: missing; only BPE models are supported")
	case f.dropout != nil && *f.dropout != 0:
		return fmt.Errorf("model.dropout: %g makes encoding random", *f.dropout)
	case f.continuingPrefix != nil && *f.continuingPrefix != "":
		return fmt.Errorf("model.continuing_subword_prefix: %.100q is not supported", *f.continuingPrefix)
	case f.endSuffix != nil && *f.endSuffix != "":
		return fmt.Errorf("model.end_of_word_suffix: %.100q is not supported", *f.endSuffix)
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
	words := make(chan map[string]int32, 1)
	go func() { words <- wordsOf(v, p.byteLevel) }() // beside the merges: both only read v
	merges, err := readMerges(f.merges, v)
	ofModel := <-words
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
	t.model = newBPE(ofModel, len(t.pieces), p.byteLevel)
	t.model.useMerges(merges, len(t.pieces))
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
			return fmt.Errorf("model.unk_token: %.100q is not in the vocabulary", *f.unknown)
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
