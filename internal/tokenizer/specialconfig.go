package tokenizer

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/inferno-serve/inferno/internal/model/modeldir"
	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// specialConfig is what tokenizer_config.json adds.
type specialConfig struct {
	bos, eos       string // "" where it names none
	addBOS, addEOS *bool
}

// maxConfigBytes bounds tokenizer_config.json; the largest in use, with chat templates and thousands of added tokens, have 1 MiB.
const maxConfigBytes = 16 << 20

func readSpecialConfig(dir *modeldir.Dir) (specialConfig, error) {
	const name = "tokenizer_config.json"
	data, err := dir.ReadFile(name, maxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return specialConfig{}, nil
	}
	if err != nil {
		return specialConfig{}, err
	}
	c, err := parseSpecialConfig(data)
	if err != nil {
		return specialConfig{}, fmt.Errorf("%s: %w", dir.Path(name), err)
	}
	return c, nil
}

func parseSpecialConfig(data []byte) (c specialConfig, err error) {
	r, err := strictjson.NewReader(data)
	if err != nil {
		return c, err
	}
	err = r.Object(func(key string) (err error) {
		switch key {
		case "bos_token":
			c.bos, err = tokenName(r)
		case "eos_token":
			c.eos, err = tokenName(r)
		case "add_bos_token":
			c.addBOS, err = boolOrNull(r)
		case "add_eos_token":
			c.addEOS, err = boolOrNull(r)
		default:
			err = r.Skip()
		}
		return err
	})
	if err != nil {
		return c, err
	}
	return c, r.End()
}

// tokenName reads a token's text, written as a string, as an object with a content, or as null.
func tokenName(r *strictjson.Reader) (name string, err error) {
	kind, err := r.Kind()
	switch {
	case err != nil:
		return "", err
	case kind == strictjson.Null:
		return "", r.Null()
	case kind != strictjson.Object:
		return r.String()
	}
	err = r.Object(func(key string) (err error) {
		if key != "content" {
			return r.Skip()
		}
		name, err = r.String()
		return err
	})
	return name, err
}

func boolOrNull(r *strictjson.Reader) (*bool, error) {
	if kind, err := r.Kind(); err != nil || kind == strictjson.Null {
		return nil, errors.Join(err, r.Null())
	}
	v, err := r.Bool()
	return &v, err
}
