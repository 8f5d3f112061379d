package tokenizer

import (
	"bytes"
	"errors"
	"fmt"
	"maps"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// readVocab reads model.vocab: {"piece": id, …}.
func readVocab(data []byte) (*vocabulary, error) {
	v := newVocabulary(len(data) / typicalTokenBytes)
	r := jsonReader{data: data}
	err := r.object(func(key []byte) error {
		piece := string(key)
		id, err := r.id()
		if err != nil {
			return fmt.Errorf("token %.100q: %w", piece, err)
		}
		return v.add(piece, id)
	})
	return v, err
}

// wordsOf returns the tokens of the model by the text that they stand for.
func wordsOf(v *vocabulary, byteLevel bool) map[string]int32 {
	if !byteLevel {
		return maps.Clone(v.ids)
	}
	words := make(map[string]int32, len(v.ids))
	var text []byte
	for piece, id := range v.ids {
		var ok bool
		if text, ok = bytesOfPiece(text[:0], piece); ok && len(text) > 0 {
			words[string(text)] = id
		}
	}
	return words
}

// typicalTokenBytes are what a token takes in a file, or a little less: the first guess of a table's size.
const typicalTokenBytes = 24

// readMerges reads model.merges: pairs of pieces, each as "a b" or as ["a", "b"], in order of rank.
func readMerges(data []byte, v *vocabulary) (mergeTable, error) {
	r := jsonReader{data: data}
	table := newMergeTable(r.countMerges())
	rank := uint32(0)
	var pair mergePair
	err := r.array(func() (err error) {
		if rank >= maxMerges {
			return fmt.Errorf("more than %d", maxMerges)
		}
		if err := pair.read(&r); err != nil {
			return fmt.Errorf("merge %d: %w", rank, err)
		}
		left, right, id, err := pair.lookUp(v.ids)
		if err != nil {
			return fmt.Errorf("merge %d: %w", rank, err)
		}
		table.put(left, right, merge{rank: rank, id: id})
		rank++
		return nil
	})
	return table, err
}

// countMerges is about how many merges there are: a comma stands between two, and one more within each that is an array.
func (r *jsonReader) countMerges() int {
	n := min(bytes.Count(r.data, []byte(",")), 2*maxMerges)
	if start := bytes.TrimLeft(r.data, " \n\t\r["); len(start) < len(r.data) && bytes.Count(r.data[:len(r.data)-len(start)], []byte("[")) > 1 {
		n /= 2
	}
	return n + 1
}

// mergePair is the text of one merge: both pieces, joined, and where the second one starts.
type mergePair struct {
	joined []byte
	middle int
}

func (p *mergePair) read(r *jsonReader) error {
	p.joined = p.joined[:0]
	if r.peek() == '"' {
		text, err := r.str()
		if err != nil {
			return err
		}
		return p.split(text)
	}
	n := 0
	err := r.array(func() error {
		text, err := r.str()
		p.middle = len(p.joined)
		p.joined = append(p.joined, text...)
		n++
		return err
	})
	if err == nil && n != 2 {
		err = fmt.Errorf("%d pieces, want 2", n)
	}
	return err
}

// split reads "a b".
func (p *mergePair) split(text []byte) error {
	i := bytes.IndexByte(text, ' ')
	if i < 0 || bytes.IndexByte(text[i+1:], ' ') >= 0 {
		return fmt.Errorf("%.100q is not two pieces with one space between", text)
	}
	p.joined = append(append(p.joined[:0], text[:i]...), text[i+1:]...)
	p.middle = i
	return nil
}

func (p *mergePair) lookUp(ids map[string]int32) (left, right, joined int32, err error) {
	left, okLeft := ids[string(p.joined[:p.middle])]
	right, okRight := ids[string(p.joined[p.middle:])]
	joined, okJoined := ids[string(p.joined)]
	if !okLeft || !okRight || !okJoined {
		return 0, 0, 0, fmt.Errorf("%.100q + %.100q: the vocabulary lacks one of them or what they make",
			p.joined[:p.middle], p.joined[p.middle:])
	}
	return left, right, joined, nil
}

// jsonAdded is an element of added_tokens.
type jsonAdded struct {
	ID                                              *int32
	Content                                         string
	SingleWord, LStrip, RStrip, Normalized, Special bool
}

// readAdded reads added_tokens and adds those to v that the model's vocabulary lacks.
func readAdded(data []byte, v *vocabulary) (added []jsonAdded, err error) {
	if data == nil || string(data) == "null" {
		return nil, nil
	}
	r, err := strictjson.NewReader(data)
	if err != nil {
		return nil, err
	}
	seen, size := map[string]bool{}, 0
	err = r.Array(func(int) error {
		a, err := readAddedToken(r)
		if err != nil {
			return err
		}
		if err := a.check(v, seen[a.Content]); err != nil {
			return err
		}
		if size += len(a.Content); size > maxAddedTotalBytes {
			return fmt.Errorf("content: more than %d bytes in all", maxAddedTotalBytes)
		}
		seen[a.Content] = true
		added = append(added, a)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return added, r.End()
}

func readAddedToken(r *strictjson.Reader) (a jsonAdded, err error) {
	flags := map[string]*bool{
		"single_word": &a.SingleWord, "lstrip": &a.LStrip, "rstrip": &a.RStrip, "normalized": &a.Normalized, "special": &a.Special,
	}
	err = r.Object(func(key string) (err error) {
		flag := flags[key]
		switch {
		case key == "id":
			a.ID, err = readID(r)
		case key == "content":
			a.Content, err = r.String()
		case flag != nil:
			*flag, err = r.Bool()
		default:
			err = errors.New("unknown key")
		}
		return err
	})
	return a, err
}

func readID(r *strictjson.Reader) (*int32, error) {
	n, err := r.Int()
	if err == nil && (n < 0 || n >= maxTokens) {
		err = fmt.Errorf("%d, want 0 to %d", n, maxTokens-1)
	}
	id := int32(n)
	return &id, err
}

func (a *jsonAdded) check(v *vocabulary, seen bool) error {
	switch {
	case a.Content == "":
		return errors.New("content: empty")
	case len(a.Content) > maxAddedBytes:
		return fmt.Errorf("content: %d bytes; the limit is %d", len(a.Content), maxAddedBytes)
	case a.ID == nil:
		return fmt.Errorf("%.100q: id: missing", a.Content)
	case seen:
		return fmt.Errorf("%.100q: listed twice", a.Content)
	}
	if id, ok := v.ids[a.Content]; ok {
		if id != *a.ID {
			return fmt.Errorf("%.100q has id %d here and %d in model.vocab", a.Content, *a.ID, id)
		}
		return nil
	}
	return v.add(a.Content, *a.ID)
}
