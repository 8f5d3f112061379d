package constraint

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

func (k keyword) readArray() (known bool, err error) {
	switch k.name {
	case "items", "additionalItems", "prefixItems":
		err = k.readItems()
	case "minItems":
		k.node.minItems, err = k.lowerCount()
	case "maxItems":
		k.node.maxItems, err = k.upperCount()
	case "uniqueItems":
		if k.value.Kind != strictjson.Bool || k.value.Text == "true" {
			return true, k.fault("want false: a grammar cannot compare items")
		}
		return true, nil
	default:
		return false, nil
	}
	k.touch(strictjson.Array)
	return true, err
}

// readItems takes an array under items, and what additionalItems says of those behind it, as drafts before 2020-12 have them.
func (k keyword) readItems() (err error) {
	if k.name == "prefixItems" || k.name == "items" && k.value.Kind == strictjson.Array {
		if k.node.prefix != nil {
			return k.fault("want the first items to be described once, by prefixItems")
		}
		k.node.prefix, err = k.parser.parseList(k.at, k.value)
		return err
	}
	if k.node.items != nil {
		return k.fault("want the items to be described once, by items")
	}
	k.node.items, err = k.parser.parse(k.at, k.value)
	return err
}

func (k keyword) readObject() (known bool, err error) {
	switch k.name {
	case "properties":
		err = k.readProperties()
	case "patternProperties":
		err = k.readPatternProperties()
	case "additionalProperties":
		k.node.additional, err = k.parser.parse(k.at, k.value)
	case "propertyNames":
		k.node.propertyNames, err = k.parser.parse(k.at, k.value)
	case "required":
		err = k.readRequired()
	case "minProperties":
		k.node.minProperties, err = k.lowerCount()
	case "maxProperties":
		k.node.maxProperties, err = k.upperCount()
		k.node.maxProperties = min(k.node.maxProperties, MaxProperties)
	default:
		return false, nil
	}
	k.touch(strictjson.Object)
	return true, err
}

func (k keyword) readProperties() error {
	if err := k.wantSchemas(); err != nil {
		return err
	}
	k.node.hasProperties = true
	for _, m := range k.value.Members {
		node, err := k.parser.parse(below(k.at, m.Key), m.Value)
		if err != nil {
			return err
		}
		k.node.properties = append(k.node.properties, schemaProperty{m.Key, node})
		k.node.byName[m.Key] = node
	}
	return nil
}

func (k keyword) readPatternProperties() error {
	if err := k.wantSchemas(); err != nil {
		return err
	}
	for _, m := range k.value.Members {
		pattern, err := parsePattern(below(k.at, m.Key), m.Key)
		if err != nil {
			return err
		}
		node, err := k.parser.parse(below(k.at, m.Key), m.Value)
		if err != nil {
			return err
		}
		k.node.patternProperties = append(k.node.patternProperties, patternProperty{pattern, node})
	}
	return nil
}

func (k keyword) wantSchemas() error {
	if k.value.Kind != strictjson.Object {
		return k.fault("want an object of schemas")
	}
	if len(k.value.Members) > MaxProperties {
		return &SchemaError{k.at, fmt.Sprintf("%d schemas", len(k.value.Members)), fmt.Sprintf("want at most %d", MaxProperties)}
	}
	return nil
}

func (k keyword) readRequired() error {
	if k.value.Kind != strictjson.Array {
		return k.fault("want an array of names")
	}
	if len(k.value.Items) > MaxProperties {
		return &SchemaError{k.at, fmt.Sprintf("%d names", len(k.value.Items)), fmt.Sprintf("want at most %d", MaxProperties)}
	}
	for i, item := range k.value.Items {
		if item.Kind != strictjson.String || slices.Contains(k.node.required, item.Text) {
			return &SchemaError{below(k.at, strconv.Itoa(i)), item.String(), "want a property's name, each once"}
		}
		k.node.required = append(k.node.required, item.Text)
	}
	return nil
}
