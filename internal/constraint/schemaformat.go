package constraint

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Parts of the formats' expressions.
const (
	dateOfRFC3339 = `(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|` +
		`02-(?:0[1-9]|1[0-9]|2[0-8]))` +
		`|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)`
	timeOfRFC3339 = `(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])`

	octet   = `(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])`
	address = octet + `(?:\.` + octet + `){3}`

	// Four labels of up to 39 characters are within the 63 of a label and the 253 of a name, and leave 64 of the 254 of an address by mail.
	label    = `[A-Za-z0-9](?:-?[A-Za-z0-9]){0,19}`
	hostname = label + `(?:\.` + label + `){0,3}`
	atom     = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}"

	path = `(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*`
)

// stringFormats are expressions of whole texts, each within what the format's standard accepts.
var stringFormats = map[string]string{
	"date":         dateOfRFC3339,
	"time":         timeOfRFC3339,
	"date-time":    `(?:` + dateOfRFC3339 + `)T` + timeOfRFC3339,
	"duration":     durationOfRFC3339(),
	"uuid":         `[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}`,
	"ipv4":         address,
	"ipv6":         ipv6(),
	"hostname":     hostname,
	"idn-hostname": hostname,
	"email":        atom + `(?:\.` + atom + `){0,2}@` + label + `(?:\.` + label + `){1,3}`,
	"idn-email":    atom + `(?:\.` + atom + `){0,2}@` + label + `(?:\.` + label + `){1,3}`,
	// The form that has a host, without user and fragment.
	"uri":           `[A-Za-z][A-Za-z0-9+.-]{0,15}://` + hostname + `(?::[0-9]{1,4})?(?:/` + path + `)?(?:\?` + path + `)?`,
	"uri-reference": `[A-Za-z][A-Za-z0-9+.-]{0,15}://` + hostname + `(?::[0-9]{1,4})?(?:/` + path + `)?(?:\?` + path + `)?`,
	"iri":           `[A-Za-z][A-Za-z0-9+.-]{0,15}://` + hostname + `(?::[0-9]{1,4})?(?:/` + path + `)?(?:\?` + path + `)?`,
	"iri-reference": `[A-Za-z][A-Za-z0-9+.-]{0,15}://` + hostname + `(?::[0-9]{1,4})?(?:/` + path + `)?(?:\?` + path + `)?`,
	"json-pointer":  `(?:/(?:[^/~]|~[01])*)*`,
	"byte":          `(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?`,
}

// freeFormats say how a text is shown or a number is held, not what it is.
var freeFormats = map[string]bool{"password": true, "binary": true, "float": true, "double": true}

// numberFormats are ranges of integers.
var numberFormats = map[string]integerFormat{
	"int8": {8, true}, "int16": {16, true}, "int32": {32, true}, "int64": {64, true},
	"uint8": {8, false}, "uint16": {16, false}, "uint32": {32, false}, "uint64": {64, false},
}

type integerFormat struct {
	bits   int
	signed bool
}

func (f integerFormat) narrow(n *numbers) {
	low, high := decimal{}, strconv.FormatUint(1<<f.bits-1, 10)
	if f.signed {
		high = strconv.FormatUint(1<<(f.bits-1)-1, 10)
		low, _ = parseDecimal("-" + strconv.FormatUint(1<<(f.bits-1), 10)) // 20 digits at most
	}
	most, _ := parseDecimal(high)
	n.integer = true
	n.above(low, false)
	n.below(most, false)
}

// parseFormat finds the expression of a format.
func parseFormat(at, name string) (*textPattern, error) {
	source, ok := stringFormats[name]
	if !ok {
		known := append(slices.Collect(maps.Keys(stringFormats)), slices.Collect(maps.Keys(numberFormats))...)
		slices.Sort(known)
		return nil, &SchemaError{at, strconv.Quote(shortened(name)), fmt.Sprintf("unknown format, which cannot be held; want one of %s",
			strings.Join(known, ", "))}
	}
	pattern, err := compilePattern(at, `^(?:`+source+`)$`)
	if err != nil {
		return nil, err
	}
	pattern.source = "format " + name
	return pattern, nil
}

// durationOfRFC3339 is appendix A: units from the largest to the smallest, none left out between two.
func durationOfRFC3339() string {
	const n = `[0-9]{1,6}`
	clock := `T(?:` + n + `H(?:` + n + `M(?:` + n + `S)?)?|` + n + `M(?:` + n + `S)?|` + n + `S)`
	calendar := `(?:` + n + `Y(?:` + n + `M(?:` + n + `D)?)?|` + n + `M(?:` + n + `D)?|` + n + `D)`
	return `P(?:` + calendar + `(?:` + clock + `)?|` + clock + `|` + n + `W)`
}

// ipv6 is eight groups, or fewer where :: stands for the others; the last two may be written as IPv4.
func ipv6() string {
	const group = `[0-9A-Fa-f]{1,4}`
	const last = `(?:` + group + `:` + group + `|` + address + `)`
	forms := []string{`(?:` + group + `:){6}` + last}
	for behind := range 7 { // groups behind the ::, at most 7 in all
		tail := ""
		switch {
		case behind == 1:
			tail = group
		case behind > 1:
			tail = `(?:` + group + `:){` + strconv.Itoa(behind-2) + `}` + last
		}
		for ahead := range 8 - behind {
			head := ""
			if ahead > 0 {
				head = group + `(?::` + group + `){` + strconv.Itoa(ahead-1) + `}`
			}
			forms = append(forms, head+`::`+tail)
		}
	}
	return strings.Join(forms, "|")
}
