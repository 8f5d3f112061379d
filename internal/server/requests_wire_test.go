package server

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Bytes of fields, as a client that is no library may send them.

func varint(number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), v)
}

func fixed32(number protowire.Number, v uint32) []byte {
	return protowire.AppendFixed32(protowire.AppendTag(nil, number, protowire.Fixed32Type), v)
}

func fixed64(number protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(nil, number, protowire.Fixed64Type), v)
}

func float(number protowire.Number, v float32) []byte { return fixed32(number, math.Float32bits(v)) }

func text(number protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), s)
}

func message(number protowire.Number, fields ...[]byte) []byte {
	return text(number, string(slices.Concat(fields...)))
}

// wireGroups are what no client library sends: damaged messages, fields of other types, and of no known number, for each method.
func wireGroups() (groups []requestGroup) {
	for _, file := range []protoreflect.FileDescriptor{
		infernov1.File_inferno_v1_inference_proto, infernov1.File_inferno_v1_health_proto, infernov1.File_inferno_v1_registry_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				method := methods.Get(j)
				cases := slices.Concat(damagedCases(), unknownCases(), fieldCases(method.Input(), nil))
				groups = append(groups, requestGroup{fmt.Sprintf("%s/%s", file.Services().Get(i).Name(), method.Name()), cases})
			}
		}
	}
	return groups
}

// damagedCases are bytes that are no message at all.
func damagedCases() (cases []requestCase) {
	for name, wire := range map[string][]byte{
		"a tag without a value":        {0x0a},
		"a length beyond the message":  {0x0a, 0x05, 'a'},
		"a length of 2^63":             append([]byte{0x0a}, protowire.AppendVarint(nil, 1<<63)...),
		"a length of 2^31":             append([]byte{0x0a}, protowire.AppendVarint(nil, 1<<31)...),
		"a length of 4 GiB":            append([]byte{0x0a}, protowire.AppendVarint(nil, 1<<32-1)...),
		"a varint without an end":      {0x08, 0xff, 0xff, 0xff},
		"a varint of 11 bytes":         append([]byte{0x08}, bytes.Repeat([]byte{0xff}, 11)...),
		"field number 0":               {0x00, 0x01},
		"field number 2^29":            append(protowire.AppendVarint(nil, 1<<32), 1),
		"wire type 6":                  {0x0e, 0x01},
		"wire type 7":                  {0x0f, 0x01},
		"a group that ends unopened":   {0x0c},
		"a group that never ends":      {0x9b, 0x06},
		"20,000 groups in one another": slices.Concat(bytes.Repeat([]byte{0x9b, 0x06}, 20_000), bytes.Repeat([]byte{0x9c, 0x06}, 20_000)),
		"JSON in place of a message":   []byte(`{"a"`),
	} {
		cases = append(cases, requestCase{name: name, wire: wire, code: codes.Internal, says: "unmarshal"})
	}
	slices.SortFunc(cases, func(a, b requestCase) int { return strings.Compare(a.name, b.name) })
	return cases
}

// unknownCases are fields of numbers that no message here has, which a newer client may send.
func unknownCases() []requestCase {
	const number, last = 1000, protowire.MaxValidNumber
	refuse := func(name string, wire []byte, at string) requestCase {
		return requestCase{name: name, wire: wire, code: codes.InvalidArgument, at: at,
			says: at + ": is a field number that this server does not know"}
	}
	cases := []requestCase{
		refuse("unknown varint", varint(number, 1), "1000"),
		refuse("unknown fixed32", fixed32(number, 1), "1000"),
		refuse("unknown fixed64", fixed64(number, 1), "1000"),
		refuse("unknown text", text(number, "x"), "1000"),
		refuse("unknown text that is no UTF-8", text(number, "\xff"), "1000"),
		refuse("unknown group",
			append(protowire.AppendTag(nil, number, protowire.StartGroupType), protowire.AppendTag(nil, number, protowire.EndGroupType)...), "1000"),
		refuse("the largest field number", varint(last, 1), "536870911"),
		refuse("a hundred thousand unknown fields", bytes.Repeat(varint(number, 1), 100_000), "1000"),
		refuse("a megabyte in an unknown field", text(number, strings.Repeat("x", 1<<20)), "1000"),
	}
	for i := range cases { // the requests lack what they need
		cases[i].at += " …"
	}
	return cases
}

// fieldCases are, for each field of a message and of those in it that are supported: another wire type, and where it is a text, bytes that
// are no UTF-8.
func fieldCases(message protoreflect.MessageDescriptor, parents []protoreflect.FieldDescriptor) (cases []requestCase) {
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		path := append(slices.Clone(parents), field)
		name := pathName(path)
		cases = append(cases, requestCase{
			name: name + " of another type", wire: within(parents, otherType(field)), code: codes.InvalidArgument,
			at:   strings.TrimSuffix(name, string(field.Name())) + fmt.Sprint(field.Number()) + " …",
			says: "is a field number that this server does not know",
		})
		if field.Kind() == protoreflect.StringKind && !slices.Contains(refused, field.FullName()) {
			for _, bad := range []string{"\xff", "a\x80", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf0\x9f\x91"} {
				cases = append(cases, requestCase{
					name: fmt.Sprintf("%s of the bytes %x", name, bad), wire: within(parents, text(field.Number(), bad)), code: codes.Internal, says: "invalid UTF-8",
				})
			}
		}
		if field.Message() != nil && !field.IsMap() && supported[field.FullName()] && field.Message().ParentFile().Package() == message.ParentFile().Package() {
			cases = append(cases, fieldCases(field.Message(), path)...)
		}
	}
	return cases
}

// otherType is a field's number with a value that the field cannot have.
func otherType(field protoreflect.FieldDescriptor) []byte {
	if field.Kind() == protoreflect.FloatKind {
		return fixed64(field.Number(), 1)
	}
	return fixed32(field.Number(), 1)
}

// within puts a field into the messages that it is in.
func within(parents []protoreflect.FieldDescriptor, field []byte) []byte {
	for _, parent := range slices.Backward(parents) {
		field = message(parent.Number(), field)
	}
	return field
}
