package chat

import (
	"errors"
	"fmt"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat/jinja"
)

// ParseTools reads a JSON array of objects: tools, with their keys in the order in which they stand there.
func ParseTools(data []byte) (*jinja.List, error) {
	v, err := parse(data, strictjson.Array)
	if err != nil {
		return nil, err
	}
	list := v.(*jinja.List)
	for i, one := range list.Items {
		if _, ok := one.(*jinja.Dict); !ok {
			return nil, fmt.Errorf("[%d] is no object", i)
		}
	}
	return list, nil
}

// ParseExtra reads a JSON object: the further members of a message.
func ParseExtra(data []byte) (*jinja.Dict, error) {
	v, err := parse(data, strictjson.Object)
	if err != nil {
		return nil, err
	}
	return v.(*jinja.Dict), nil
}

// parse reads JSON of a kind. All of its strings are content.
func parse(data []byte, kind strictjson.Kind) (jinja.Value, error) {
	v, err := strictjson.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("is no JSON: %w", err)
	}
	if v.Kind != kind {
		return nil, errors.New("is " + v.Kind.String() + ", want " + kind.String())
	}
	return jinja.FromJSON(v, true)
}
