package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
)

// readVocab reads model.vocab: {"piece": id, …}.
func readVocab(data []byte) (*vocabulary, error) {
	v := newVocabulary(len(data) / typicalTokenBytes)
	r := jsonReader{data: data}
	err := r.object(func(key []byte) error {
		piece := string(key)
		id, err := r.id()
		if err != nil {
			return fmt.Errorf("token %q: %w", piece, err)
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

// What an entry takes in a file, or a little less: the first guess of a table's size.
const (
	typicalTokenBytes = 24
	typicalMergeBytes = 16
)

// readMerges reads model.merges: pairs of pieces, each as "a b" or as ["a", "b"], in order of rank.
func readMerges(data []byte, v *vocabulary) (mergeTable, error) {
	table := newMergeTable(len(data) / typicalMergeBytes)
	r := jsonReader{data: data}
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
		return fmt.Errorf("%q is not two pieces with one space between", text)
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
		return 0, 0, 0, fmt.Errorf("%q + %q: the vocabulary lacks one of them or what they make",
			p.joined[:p.middle], p.joined[p.middle:])
	}
	return left, right, joined, nil
}

// jsonAdded is an element of added_tokens.
type jsonAdded struct {
	ID         *int32 `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// readAdded reads added_tokens and adds those to v that the model's vocabulary lacks.
func readAdded(data []byte, v *vocabulary) ([]jsonAdded, error) {
	if data == nil {
		return nil, nil
	}
	var added []jsonAdded
	if err := json.Unmarshal(data, &added); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for i, a := range added {
		if err := a.check(v, seen[a.Content]); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		seen[a.Content] = true
	}
	return added, nil
}

func (a *jsonAdded) check(v *vocabulary, seen bool) error {
	switch {
	case a.Content == "":
		return errors.New("content: empty")
	case len(a.Content) > maxAddedBytes:
		return fmt.Errorf("content: %d bytes; the limit is %d", len(a.Content), maxAddedBytes)
	case a.ID == nil:
		return fmt.Errorf("%q: id: missing", a.Content)
	case seen:
		return fmt.Errorf("%q: listed twice", a.Content)
	}
	if id, ok := v.ids[a.Content]; ok {
		if id != *a.ID {
			return fmt.Errorf("%q has id %d here and %d in model.vocab", a.Content, *a.ID, id)
		}
		return nil
	}
	return v.add(a.Content, *a.ID)
}
