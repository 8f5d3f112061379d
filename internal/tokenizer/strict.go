package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// Limits of a part of tokenizer.json that is read by encoding/json, which makes a large value of few bytes.
const (
	maxPartBytes   = 1 << 20
	maxPartObjects = 1000
)

// checkJSON reads a value and forgets it.
func checkJSON(data []byte) error {
	r, err := strictjson.NewReader(data)
	if err != nil {
		return err
	}
	if err := r.Skip(); err != nil {
		return err
	}
	return r.End()
}

// decodePart reads a part of tokenizer.json, and refuses what other readers of it would understand in another way: keys that are there
// twice or are written in another case, which encoding/json takes for the same.
func decodePart(data []byte, into any) error {
	if len(data) > maxPartBytes {
		return fmt.Errorf("%d bytes; the limit is %d", len(data), maxPartBytes)
	}
	if n := bytes.Count(data, []byte("{")); n > maxPartObjects {
		return fmt.Errorf("%d objects; the limit is %d", n, maxPartObjects)
	}
	r, err := strictjson.NewReader(data)
	if err != nil {
		return err
	}
	if err := checkKeys(r, false); err != nil {
		return err
	}
	if err := r.End(); err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// checkKeys reads a value whose objects have keys in the case that the format gives them; named tells that its own keys are names of
// tokens.
func checkKeys(r *strictjson.Reader, named bool) error {
	kind, err := r.Kind()
	switch {
	case err != nil:
		return err
	case kind == strictjson.Array:
		return r.Array(func(int) error { return checkKeys(r, false) })
	case kind != strictjson.Object:
		return r.Skip()
	}
	return r.Object(func(key string) error {
		if !named && !isPartKey(key) {
			return errors.New("unknown key")
		}
		return checkKeys(r, key == "special_tokens")
	})
}

// isPartKey reports whether a key is written as those of the format are: in lower case, but for four.
func isPartKey(key string) bool {
	switch key {
	case "String", "Regex", "SpecialToken", "Sequence":
		return true
	case "string", "regex", "specialtoken", "sequence":
		return false
	}
	for _, c := range key {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}
