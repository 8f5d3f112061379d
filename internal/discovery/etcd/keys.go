package etcd

import (
	"encoding/json"
	"net/url"
	"strings"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/record"
)

// keys names what is where in etcd.
type keys struct{ prefix string }

func (k keys) instances() string         { return k.prefix + "/instances/" }
func (k keys) instance(id string) string { return k.instances() + url.PathEscape(id) }

func (k keys) endpoint(model, id string) string {
	return k.prefix + "/endpoints/" + url.PathEscape(model) + "/" + url.PathEscape(id)
}

// id is the one that an instance's key names; ok is false for a key that Inferno does not write.
func (k keys) id(key string) (id string, ok bool) {
	escaped, below := strings.CutPrefix(key, k.instances())
	id, err := url.PathUnescape(escaped)
	return id, below && err == nil && url.PathEscape(id) == escaped
}

// endpoint is the stock record, in the form that etcd's naming package of any version reads.
type endpoint struct {
	Op       int // 0: the address is there
	Addr     string
	Metadata metadata
}

// metadata is for a resolver that looks at it: what of the instance concerns one model.
type metadata struct {
	Instance   string `json:"instance"`
	Model      string `json:"model"`
	Revision   string `json:"revision"`
	MaxContext int    `json:"max_context"`
	Version    string `json:"version"`
}

// encode is all that etcd holds of i, by key: the instance, and an endpoint for each model that it would answer for now. Endpoints say
// nothing that changes with the load, so that stock clients do not hear of it.
func (k keys) encode(i discovery.Instance) (map[string]string, error) {
	value, err := record.Encode(i)
	if err != nil {
		return nil, err
	}
	values := map[string]string{k.instance(i.ID): string(value)}
	if i.State != discovery.Serving && i.State != discovery.Degraded {
		return values, nil
	}
	for _, m := range i.Models {
		if !m.Ready {
			continue
		}
		text, err := json.Marshal(endpoint{Addr: i.Address, Metadata: metadata{i.ID, m.Name, m.Revision, m.MaxContext, i.Version}})
		if err != nil {
			return nil, err
		}
		values[k.endpoint(m.Name, i.ID)] = string(text)
	}
	return values, nil
}

// decode reads the value under an instance's key, which must be of that instance.
func (k keys) decode(key, value []byte) (discovery.Instance, bool) {
	id, ok := k.id(string(key))
	if !ok {
		return discovery.Instance{}, false
	}
	i, err := record.Decode(value)
	return i, err == nil && i.ID == id
}
