package model

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// required, as a default, makes an absent key a fault; so does NaN where the default is a float64.
const required = -1

// keys reads the members of a JSON object by name. A member that is null is as good as absent. Faults carry the key and the value.
type keys struct {
	prefix string // "rope_scaling."
	values []strictjson.Member
	used   map[string]bool
	faults *faults
}

func newKeys(v strictjson.Value, prefix string, f *faults) *keys {
	return &keys{prefix: prefix, values: v.Members, used: map[string]bool{}, faults: f}
}

// get finds a member that is not null, and marks the key as known.
func (k *keys) get(key string) (strictjson.Value, bool) {
	k.used[key] = true
	for _, m := range k.values {
		if m.Key == key && m.Value.Kind != strictjson.Null {
			return m.Value, true
		}
	}
	return strictjson.Value{}, false
}

func (k *keys) has(key string) bool {
	for _, m := range k.values {
		if m.Key == key && m.Value.Kind != strictjson.Null {
			return true
		}
	}
	return false
}

func (k *keys) missing(key string) { k.faults.addf("%s%s: missing", k.prefix, key) }

func (k *keys) bad(key string, v strictjson.Value, want string) {
	k.faults.addf("%s%s: %v, want %s", k.prefix, key, v, want)
}

// integer reads a number of low to high; 0 where there is a fault.
func (k *keys) integer(key string, low, high, absent int) int {
	v, ok := k.get(key)
	if !ok {
		if absent == required {
			k.missing(key)
			return 0
		}
		return absent
	}
	n, err := strconv.Atoi(v.Text)
	if v.Kind != strictjson.Number || err != nil || n < low || n > high {
		k.bad(key, v, "an integer from "+strconv.Itoa(low)+" to "+strconv.Itoa(high))
		return 0
	}
	return n
}

// number reads a number of low to high; low where there is a fault.
func (k *keys) number(key string, low, high, absent float64) float64 {
	v, ok := k.get(key)
	if !ok {
		if math.IsNaN(absent) {
			k.missing(key)
			return low
		}
		return absent
	}
	n, err := strconv.ParseFloat(v.Text, 64)
	if v.Kind != strictjson.Number || err != nil || !(n >= low && n <= high) {
		k.bad(key, v, "a number from "+formatFloat(low)+" to "+formatFloat(high))
		return low
	}
	return n
}

func (k *keys) optional(key string, low, high float64) *float64 {
	if !k.has(key) {
		return nil
	}
	n := k.number(key, low, high, low)
	return &n
}

func (k *keys) boolean(key string, absent bool) bool {
	v, ok := k.get(key)
	if !ok {
		return absent
	}
	if v.Kind != strictjson.Bool {
		k.bad(key, v, "true or false")
	}
	return v.Text == "true"
}

// text reads a string; an absent one is a fault where the default is empty.
func (k *keys) text(key, absent string) string {
	v, ok := k.get(key)
	switch {
	case !ok && absent == "":
		k.missing(key)
		return ""
	case !ok:
		return absent
	case v.Kind != strictjson.String || v.Text == "":
		k.bad(key, v, "a text")
		return absent
	}
	return v.Text
}

// maxIDs bounds a list of token ids.
const maxIDs = 1024

// ids reads one token id or a list of them; nil where absent.
func (k *keys) ids(key string) []int32 {
	v, ok := k.get(key)
	if !ok {
		return nil
	}
	items := []strictjson.Value{v}
	if v.Kind == strictjson.Array {
		items = v.Items
	}
	if len(items) > maxIDs {
		k.faults.addf("%s%s: %d token ids, want at most %d", k.prefix, key, len(items), maxIDs)
		return nil
	}
	var all []int32
	for _, item := range items {
		n, err := strconv.Atoi(item.Text)
		if item.Kind != strictjson.Number || err != nil || n < 0 || n >= maxVocab {
			k.bad(key, v, "a token id or a list of them")
			return nil
		}
		if !slices.Contains(all, int32(n)) {
			all = append(all, int32(n))
		}
	}
	return all
}

// object reads a nested object; an empty one where there is a fault.
func (k *keys) object(key string) *keys {
	v, ok := k.get(key)
	if ok && v.Kind != strictjson.Object {
		k.bad(key, v, "an object")
	}
	return newKeys(v, k.prefix+key+".", k.faults)
}

// oneOf returns which of two spellings of a key is there; both are allowed where they agree.
func (k *keys) oneOf(newer, older string) string {
	a, hasNewer := k.get(newer)
	b, hasOlder := k.get(older)
	if hasNewer && hasOlder && a.String() != b.String() {
		k.faults.addf("%s%s: %v, but %s is %v", k.prefix, newer, a, older, b)
	}
	if hasOlder && !hasNewer {
		return older
	}
	return newer
}

// only allows a key the given values, as JSON; null and absence are always allowed.
func (k *keys) only(key string, allowed ...string) {
	v, ok := k.get(key)
	if !ok || slices.Contains(allowed, v.String()) {
		return
	}
	if len(allowed) == 0 {
		allowed = []string{"null"}
	}
	k.faults.addf("%s%s: %v is not supported, want %s", k.prefix, key, v, strings.Join(allowed, " or "))
}

func (k *keys) ignore(keys ...string) {
	for _, key := range keys {
		k.used[key] = true
	}
}

func (k *keys) ignoreAll() {
	for _, m := range k.values {
		k.used[m.Key] = true
	}
}

// errUnknownKey is what a key that nobody asked for is reported as.
var errUnknownKey = errors.New("unknown key, which may change the arithmetic")

// finish reports the keys that nobody asked for, null or not.
func (k *keys) finish() {
	for _, m := range k.values {
		if !k.used[m.Key] {
			k.faults.addf("%s%.100q: %v: %w", k.prefix, m.Key, m.Value, errUnknownKey)
		}
	}
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
