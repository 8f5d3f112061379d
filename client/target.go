package client

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// scheme is that of targets which are looked up in the registry: "inferno:///MODEL?etcd=HOST:PORT,HOST:PORT".
const scheme = "inferno"

// Defaults of what a target does not say; they are a server's, too.
const (
	defaultEtcd   = "127.0.0.1:2379"
	defaultPrefix = "inferno/v1"
)

// maxModelBytes is the longest name that a registry takes.
const maxModelBytes = 256

// lookup is a target taken apart.
type lookup struct {
	model    string
	etcd     []string // endpoints
	prefix   string   // of keys
	affinity bool
}

// parseLookup reads a target of the scheme. ok is false for any other, which is gRPC's to read.
func parseLookup(target string) (l lookup, ok bool, err error) {
	if !strings.HasPrefix(target, scheme+":") {
		return lookup{}, false, nil
	}
	l, err = parseURL(target)
	if err != nil {
		err = fmt.Errorf("client: address %q: %w", target, err)
	}
	return l, true, err
}

func parseURL(target string) (lookup, error) {
	u, err := url.Parse(target)
	if err != nil {
		return lookup{}, errors.Unwrap(err) // the target is named by the caller
	}
	model := strings.TrimPrefix(u.Path, "/")
	switch {
	case u.Host != "" || u.User != nil || u.Opaque != "":
		return lookup{}, errors.New("want inferno:///MODEL, three slashes; etcd is named by ?etcd=HOST:PORT")
	case model == "" || len(model) > maxModelBytes:
		return lookup{}, fmt.Errorf("a model of %d bytes, want inferno:///MODEL with 1 to %d", len(model), maxModelBytes)
	case u.Fragment != "":
		return lookup{}, fmt.Errorf("fragment %q, want none", u.Fragment)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return lookup{}, err
	}
	l := lookup{model: model, prefix: defaultPrefix, etcd: []string{defaultEtcd}}
	for name, values := range query {
		if len(values) != 1 || values[0] == "" {
			return lookup{}, fmt.Errorf("%s=%s, want one value", name, strings.Join(values, ","))
		}
		if err := l.set(name, values[0]); err != nil {
			return lookup{}, err
		}
	}
	return l, nil
}

func (l *lookup) set(name, value string) error {
	switch name {
	case "etcd":
		l.etcd = strings.Split(value, ",")
		for _, endpoint := range l.etcd {
			if endpoint == "" {
				return fmt.Errorf("etcd=%s, want HOST:PORT, with commas between", value)
			}
		}
	case "prefix":
		l.prefix = strings.TrimSuffix(value, "/")
	case "affinity":
		if value != "prefix" && value != "none" {
			return fmt.Errorf("affinity=%s, want prefix or none", value)
		}
		l.affinity = value == "prefix"
	default:
		return fmt.Errorf("unknown parameter %s, want etcd, prefix or affinity", name)
	}
	return nil
}
