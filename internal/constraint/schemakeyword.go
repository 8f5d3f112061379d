package constraint

import (
	"fmt"
	"math"
	"strings"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// keyword is one member of a schema on its way into the schema's node.
type keyword struct {
	parser *schemaParser
	node   *schemaNode
	name   string
	at     string // pointer to it
	value  strictjson.Value
}

// cannotHold are the keywords of the standard that a grammar cannot hold, or ours does not, each with what may be done instead.
var cannotHold = map[string]string{
	"not":                   "cannot be held by a grammar; list what is allowed by enum or anyOf",
	"if":                    "conditions are not supported; use anyOf of the cases",
	"then":                  "conditions are not supported; use anyOf of the cases",
	"else":                  "conditions are not supported; use anyOf of the cases",
	"dependentRequired":     "dependencies are not supported; use anyOf of the cases",
	"dependentSchemas":      "dependencies are not supported; use anyOf of the cases",
	"dependencies":          "dependencies are not supported; use anyOf of the cases",
	"unevaluatedProperties": "is not supported but for true; use additionalProperties",
	"unevaluatedItems":      "is not supported but for true; use items",
	"contains":              "is not supported; use prefixItems or items",
	"minContains":           "is not supported; use prefixItems or items",
	"maxContains":           "is not supported; use prefixItems or items",
	"$anchor":               "anchors are not supported; use $defs and \"#/$defs/name\"",
	"$dynamicAnchor":        "anchors are not supported; use $defs and \"#/$defs/name\"",
	"$dynamicRef":           "anchors are not supported; use $ref and \"#/$defs/name\"",
	"$recursiveAnchor":      "anchors are not supported; use $defs and \"#/$defs/name\"",
	"$recursiveRef":         "anchors are not supported; use $ref and \"#/$defs/name\"",
	"nullable":              "is no JSON schema; use \"type\": [\"…\", \"null\"]",
}

// isAnnotation tells the keywords that tell people something and accept everything. Definitions are read where a $ref leads to them.
func isAnnotation(name string) bool {
	switch name {
	case "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$schema", "$comment", "$defs",
		"definitions", "contentMediaType", "contentEncoding", "contentSchema", "discriminator", "externalDocs", "xml":
		return true
	}
	return strings.HasPrefix(name, "x-")
}

func (k keyword) read() error {
	if isAnnotation(k.name) {
		return nil
	}
	if why, ok := cannotHold[k.name]; ok {
		if strings.HasPrefix(k.name, "unevaluated") && k.value.Kind == strictjson.Bool && k.value.Text == "true" {
			return nil
		}
		return k.fault(why)
	}
	for _, read := range []func() (known bool, err error){k.readApplicator, k.readNumeric, k.readText, k.readArray, k.readObject} {
		if known, err := read(); known || err != nil {
			return err
		}
	}
	return k.fault("unknown keyword; what is not known cannot be held")
}

// readApplicator reads what concerns values of every type.
func (k keyword) readApplicator() (known bool, err error) {
	switch k.name {
	case "type":
		err = k.readType()
	case "enum":
		err = k.readEnum()
	case "const":
		err = k.setEnum([]strictjson.Value{k.value})
	case "allOf":
		k.node.allOf, err = k.parser.parseList(k.at, k.value)
	case "anyOf":
		k.node.anyOf, err = k.parser.parseList(k.at, k.value)
	case "oneOf":
		k.node.oneOf, err = k.parser.parseList(k.at, k.value)
	case "$ref":
		if k.value.Kind != strictjson.String {
			return true, k.fault("want a string")
		}
		k.parser.refs = append(k.parser.refs, schemaRef{k.node, k.at, k.value.Text})
	case "$id", "id":
		if k.node.pointer != "" || k.value.Kind != strictjson.String {
			err = k.fault("want it at the root alone, a string: schemas within schemas are not supported")
		}
	default:
		return false, nil
	}
	return true, err
}

var typeNames = map[string]strictjson.Kind{
	"null": strictjson.Null, "boolean": strictjson.Bool, "number": strictjson.Number, "integer": strictjson.Number,
	"string": strictjson.String, "array": strictjson.Array, "object": strictjson.Object,
}

func (k keyword) readType() error {
	const want = "want null, boolean, integer, number, string, array, object, or an array of these, each once"
	names := k.value.Items
	if k.value.Kind == strictjson.String {
		names = []strictjson.Value{k.value}
	}
	if len(names) == 0 {
		return k.fault(want)
	}
	accepted := typeSet(0)
	seen := map[string]bool{}
	for _, name := range names {
		kind, ok := typeNames[name.Text]
		if !ok || name.Kind != strictjson.String || seen[name.Text] {
			return k.fault(want)
		}
		seen[name.Text] = true
		accepted |= types(kind)
	}
	k.node.types &= accepted
	if seen["integer"] && !seen["number"] {
		k.node.numbers.integer = true
		k.touch(strictjson.Number)
	}
	return nil
}

func (k keyword) readEnum() error {
	if k.value.Kind != strictjson.Array || len(k.value.Items) == 0 {
		return k.fault("want an array of values, at least one")
	}
	if len(k.value.Items) > MaxEnumValues {
		return &SchemaError{k.at, fmt.Sprintf("%d values", len(k.value.Items)), fmt.Sprintf("want at most %d", MaxEnumValues)}
	}
	return k.setEnum(k.value.Items)
}

func (k keyword) setEnum(values []strictjson.Value) error {
	if k.node.hasEnum {
		return k.fault("want enum or const, not both")
	}
	k.node.hasEnum, k.node.enumKeys = true, map[string]bool{}
	for _, v := range values {
		if err := checkListed(k.at, v); err != nil {
			return err
		}
		if key := canonical(v); !k.node.enumKeys[key] {
			k.node.enumKeys[key] = true
			k.node.enum = append(k.node.enum, v)
		}
	}
	k.node.touches |= allTypes
	return nil
}

// checkListed refuses numbers that cannot be compared with others.
func checkListed(at string, v strictjson.Value) error {
	if v.Kind == strictjson.Number {
		if _, err := parseDecimal(v.Text); err != nil {
			return &SchemaError{at, v.String(), err.Error()}
		}
	}
	for _, item := range v.Items {
		if err := checkListed(at, item); err != nil {
			return err
		}
	}
	for _, m := range v.Members {
		if err := checkListed(at, m.Value); err != nil {
			return err
		}
	}
	return nil
}

func (k keyword) readNumeric() (known bool, err error) {
	switch k.name {
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf":
	default:
		return false, nil
	}
	if k.value.Kind == strictjson.Bool {
		return true, k.fault("want a number, as drafts from 6 on have it")
	}
	d, err := k.decimal()
	if err != nil {
		return true, err
	}
	k.touch(strictjson.Number)
	n := &k.node.numbers
	switch k.name {
	case "minimum":
		n.above(d, false)
	case "exclusiveMinimum":
		n.above(d, true)
	case "maximum":
		n.below(d, false)
	case "exclusiveMaximum":
		n.below(d, true)
	default:
		step := d.exp - 1
		if d.negative || d.digits != "1" || step > maxWholeDigits || step < -maxFractionDigits {
			return true, k.fault(fmt.Sprintf("want a power of ten from 1e-%d to 1e%d: no other can be held", maxFractionDigits, maxWholeDigits))
		}
		n.step = &step
	}
	return true, nil
}

func (k keyword) readText() (known bool, err error) {
	switch k.name {
	case "minLength":
		k.node.minLength, err = k.lowerCount()
	case "maxLength":
		k.node.maxLength, err = k.upperCount()
	case "pattern":
		err = k.addPattern(parsePattern)
	case "format":
		if k.value.Kind != strictjson.String {
			return true, k.fault("want a string")
		}
		if r, ok := numberFormats[k.value.Text]; ok {
			k.touch(strictjson.Number)
			r.narrow(&k.node.numbers)
			return true, nil
		}
		if freeFormats[k.value.Text] {
			return true, nil
		}
		err = k.addPattern(parseFormat)
	default:
		return false, nil
	}
	k.touch(strictjson.String)
	return true, err
}

func (k keyword) addPattern(parse func(at, source string) (*textPattern, error)) error {
	if k.value.Kind != strictjson.String {
		return k.fault("want a string")
	}
	pattern, err := parse(k.at, k.value.Text)
	k.node.patterns = append(k.node.patterns, pattern)
	return err
}

// lowerCount is a count that is to be reached.
func (k keyword) lowerCount() (int, error) {
	n, err := k.count()
	if err == nil && n > MaxCount {
		err = k.fault(fmt.Sprintf("want at most %d", MaxCount))
	}
	return n, err
}

// upperCount is a count that is not to be passed; it is as well held by a smaller one.
func (k keyword) upperCount() (int, error) {
	n, err := k.count()
	return min(n, MaxCount), err
}

// count is an integer of 0 or more, which 2.0 is too.
func (k keyword) count() (int, error) {
	const want = "want an integer of 0 or more"
	d, err := k.decimal()
	if err != nil {
		return 0, k.fault(want)
	}
	if d.negative || !d.integral() {
		return 0, k.fault(want)
	}
	if d.exp > maxWholeDigits {
		return math.MaxInt, nil
	}
	whole, _ := d.parts()
	return int(whole.Int64()), nil
}

func (k keyword) decimal() (decimal, error) {
	if k.value.Kind != strictjson.Number {
		return decimal{}, k.fault("want a number")
	}
	d, err := parseDecimal(k.value.Text)
	if err != nil {
		return decimal{}, k.fault(err.Error())
	}
	return d, nil
}

func (k keyword) touch(kind strictjson.Kind) { k.node.touches |= types(kind) }

func (k keyword) fault(want string) error { return &SchemaError{k.at, k.value.String(), want} }
