package config

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// file is a configuration file: one mapping, kept as nodes, so that values reach the flags as they are written and in their order.
type file struct {
	name   string
	keys   []string              // in the file's order, each once
	values map[string]*yaml.Node // by key
}

func readFile(name string) (*file, error) {
	opened, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	defer opened.Close()
	return parseFile(name, opened)
}

func parseFile(name string, text io.Reader) (*file, error) {
	limited := &io.LimitedReader{R: text, N: maxFile + 1}
	decoder := yaml.NewDecoder(limited)
	f := &file{name: name, values: map[string]*yaml.Node{}}
	var first, second yaml.Node
	err := decoder.Decode(&first)
	next := err
	if err == nil {
		next = decoder.Decode(&second)
	}
	switch {
	case limited.N <= 0:
		return nil, f.fault("larger than %d bytes", maxFile)
	case errors.Is(err, io.EOF):
		return f, nil // empty, or comments alone
	case err != nil:
		return nil, f.fault("%w", err)
	case next == nil:
		return nil, f.fault("line %d: a second document, want one", second.Line)
	case !errors.Is(next, io.EOF):
		return nil, f.fault("%w", next)
	}
	return f, f.readMapping(first.Content[0])
}

func (f *file) fault(format string, args ...any) error {
	return fmt.Errorf("configuration file %s: %w", f.name, fmt.Errorf(format, args...))
}

func (f *file) readMapping(top *yaml.Node) error {
	if isNull(top) {
		return nil
	}
	if top.Kind != yaml.MappingNode {
		return f.fault("%s, want a mapping of settings to values", kindOf(top))
	}
	var faults []error
	for i := 0; i < len(top.Content); i += 2 {
		key := top.Content[i]
		switch _, twice := f.values[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			faults = append(faults, f.fault("line %d: %s as a key, want the name of a setting", key.Line, kindOf(key)))
		case twice:
			faults = append(faults, f.fault("line %d: key %q is given twice", key.Line, key.Value))
		default:
			f.keys = append(f.keys, key.Value)
			f.values[key.Value] = top.Content[i+1]
		}
	}
	return errors.Join(faults...)
}

// unknownKeys refuses keys that are no settings.
func (f *file) unknownKeys(flags []*kong.Flag) error {
	known := map[string]bool{}
	for _, flag := range flags {
		known[flag.Name] = true
	}
	for _, name := range []string{"help", "version", "config"} {
		delete(known, name)
	}
	var faults []error
	for _, key := range f.keys {
		if !known[key] {
			faults = append(faults, f.fault("line %d: unknown key %q", f.values[key].Line, key))
		}
	}
	return errors.Join(faults...)
}

// value is the text of a setting, or a list where the setting is one; nil where the file has none.
func (f *file) value(name string) (any, error) {
	node, set := f.values[name]
	if !set {
		return nil, nil
	}
	switch node = target(node); {
	case name == "model" && node.Kind != yaml.ScalarNode:
		return f.models(node)
	case name == "etcd-endpoints" && node.Kind == yaml.SequenceNode:
		return f.list(name, node)
	}
	return f.scalar(name, node)
}

// models are a list of NAME=PATH, or a mapping of names to paths.
func (f *file) models(node *yaml.Node) (any, error) {
	list := []any{}
	for i := 0; i < len(node.Content); i++ {
		entry, err := f.scalar("model", node.Content[i])
		if err != nil {
			return nil, err
		}
		if node.Kind == yaml.MappingNode {
			i++
			path, err := f.scalar("model: "+entry, node.Content[i])
			if err != nil {
				return nil, err
			}
			entry += "=" + path
		}
		list = append(list, entry)
	}
	return list, nil
}

func (f *file) list(name string, node *yaml.Node) (any, error) {
	list := []any{}
	for _, entry := range node.Content {
		value, err := f.scalar(name, entry)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	return list, nil
}

func (f *file) scalar(name string, node *yaml.Node) (string, error) {
	node = target(node)
	if node.Kind != yaml.ScalarNode || isNull(node) {
		return "", f.fault("line %d: %s: %s, want one value", node.Line, name, kindOf(node))
	}
	return node.Value, nil
}

// target is what an alias stands for.
func target(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.Tag == "!!null" }

func kindOf(node *yaml.Node) string {
	switch {
	case isNull(node):
		return "nothing"
	case node.Kind == yaml.MappingNode:
		return "a mapping"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	}
	return "one value"
}
