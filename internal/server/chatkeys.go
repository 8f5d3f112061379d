package server

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/types/known/structpb"
)

// usualOrder is that of the members of tools and tool calls, as those who train models write them.
var usualOrder = []string{
	"type", "id", "function", "name", "description", "arguments", "parameters", "properties", "items", "enum", "required", "return",
}

// keysOf are the keys of a Struct, which does not keep their order, in one that is the same every time.
func keysOf(s *structpb.Struct) []string {
	keys := make([]string, 0, len(s.GetFields()))
	for key := range s.GetFields() {
		keys = append(keys, key)
	}
	place := func(key string) int {
		if i := slices.Index(usualOrder, key); i >= 0 {
			return i
		}
		return len(usualOrder)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a, b)) })
	return keys
}
