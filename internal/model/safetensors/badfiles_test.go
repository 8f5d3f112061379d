package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
)

// goodTensors are the headers of two tensors that tile 12 bytes.
const goodTensors = `"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[2,1],"data_offsets":[8,12]}`

// replaced is a good file in whose header a text was replaced.
func replaced(old, by string) []byte {
	header := "{" + goodTensors + "}"
	if !strings.Contains(header, old) {
		panic("nothing to replace: " + old)
	}
	return file(strings.Replace(header, old, by, 1), 12)
}

// TestBadFilesTakeNoMemory: each of these is refused by name, in one short line, and takes no more memory than some times its own size.
func TestBadFilesTakeNoMemory(t *testing.T) {
	length := func(n uint64, rest string) []byte { return append(binary.LittleEndian.AppendUint64(nil, n), rest...) }
	long := strings.Repeat("x", 1<<20)
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		// The header's length, of which eight bytes of a file decide how much is read.
		{"length of 2^64-1", length(math.MaxUint64, "{}"), "18446744073709551615 bytes, want at most 100000000"},
		{"length of 2^63-1", length(math.MaxInt64, "{}"), "9223372036854775807 bytes, want at most"},
		{"length of 2^63", length(1<<63, "{}"), "want at most"},
		{"length of 2^32", length(1<<32, "{}"), "want at most"},
		{"length of the limit in a file of ten bytes", length(MaxHeaderBytes, "{}"), "has 100000000 bytes, but the file only 2"},
		{"length that makes the sum with its own 8 bytes overflow", length(math.MaxUint64-7, "{}"), "want at most"},
		{"length of all but the last byte", length(1, "{}"), "key: offset 1: the text ends"},
		{"length in the order of other machines", append(binary.BigEndian.AppendUint64(nil, 2), "{}"...), "want at most"},
		{"eight bytes of zero", make([]byte, 8), "want '{'"},
		{"zeros", make([]byte, 1<<20), "want '{'"},
		{"a GGUF file", []byte("GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), "want at most"},
		{"a zip archive", []byte("PK\x03\x04\x14\x00\x00\x00\x00\x00"), "want at most"},
		{"a pickle", []byte("\x80\x02}q\x00X\x01\x00\x00\x00aq\x01"), "want at most"},
		// The header's text.
		{"two objects", file(`{}{}`, 0), "text after the value"},
		{"a key without a value", file(`{"a"}`, 0), "no colon"},
		{"a comma first", file(`{,}`, 0), "key: offset 1"},
		{"a comma last", file(`{`+goodTensors+`,}`, 12), "after a comma"},
		{"single quotes", file(`{'a':1}`, 0), "where a value"},
		{"a comment", file(`{/**/}`, 0), "where a value"},
		{"a control character in a name", file("{\"a\x01\":{}}", 0), "control character"},
		{"a lone surrogate in a name", file(`{"\ud800":{}}`, 0), "surrogate"},
		{"an overlong encoding in a name", file("{\"a\xc0\xaf\":{}}", 0), "invalid UTF-8"},
		{"a name that is there twice, once by escapes", replaced(`"b"`, `"\u0061"`), `duplicate key "a"`},
		{"a name of a megabyte twice", file(`{"`+long+`":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"`+long+`":{}}`, 1), "duplicate key"},
		{"a dtype of a megabyte", replaced(`"F32"`, `"`+long+`"`), "unknown dtype"},
		{"a number of a megabyte", replaced(`[2]`, `[`+strings.Repeat("9", 1<<20)+`]`), "shape: [0]"},
		{"a fraction of a megabyte", replaced(`[2]`, `[1.`+strings.Repeat("9", 1<<20)+`]`), "is not an integer"},
		{"arrays in a megabyte of arrays", replaced(`[2]`, strings.Repeat("[", 1<<20)), "a: shape: [0]"},
		{"objects in a megabyte of objects", file(strings.Repeat(`{"a":`, 200_000), 0), "a: a: unknown key"},
		{"a megabyte of metadata that is no text", file(`{"__metadata__":{"a":`+strings.Repeat("[", 1<<20)+`}}`, 0), "__metadata__: a"},
		{"metadata a list", file(`{"__metadata__":[]}`, 0), "__metadata__: offset"},
		{"metadata with a key twice", file(`{"__metadata__":{"a":"b","a":"c"}}`, 0), `duplicate key "a"`},
		{"metadata null", file(`{"__metadata__":null}`, 0), "__metadata__: offset"},
		// Types and shapes.
		{"a shape that is a number", replaced(`[2]`, `2`), "a: shape: offset"},
		{"a shape that is null", replaced(`[2]`, `null`), "a: shape: offset"},
		{"a dimension that is a text", replaced(`[2]`, `["2"]`), "a: shape: [0]"},
		{"a dimension with an exponent", replaced(`[2]`, `[2e0]`), "2e0 is not an integer"},
		{"a dimension of −0", replaced(`[2]`, `[-0]`), "dimension 0"},
		{"a dimension with a leading zero", replaced(`[2]`, `[02]`), "malformed number"},
		{"a dimension with a plus", replaced(`[2]`, `[+2]`), "where a value"},
		{"a hexadecimal dimension", replaced(`[2]`, `[0x2]`), "dimension 0"},
		{"a dimension of 2^64", replaced(`[2]`, `[18446744073709551616]`), "does not fit in 64 bits"},
		{"a dimension of 2^63", replaced(`[2]`, `[9223372036854775808]`), "does not fit in 64 bits"},
		{"dimensions whose product wraps to the right size", replaced(`[2]`, `[4611686018427387906,2,2]`), "more than 2^63 bytes"},
		{"dimensions whose product wraps with the size of the type", replaced(`[2]`, `[4611686018427387906]`), "more than 2^63 bytes"},
		{"a scalar with bytes for two", replaced(`[2]`, `[]`), "takes 4 bytes, data_offsets span 8"},
		{"a type of half the size", replaced(`"F32"`, `"F16"`), "takes 4 bytes, data_offsets span 8"},
		{"a type of twice the size", replaced(`"F32"`, `"F64"`), "takes 16 bytes, data_offsets span 8"},
		{"a type of a few bits", replaced(`"F32"`, `"F4"`), "unknown dtype"},
		{"no type", replaced(`"F32"`, `""`), "incomplete"},
		// Where the data lies.
		{"offsets that are an object", replaced(`[0,8]`, `{"0":8}`), "a: data_offsets: offset"},
		{"offsets that are texts", replaced(`[0,8]`, `["0","8"]`), "a: data_offsets: [0]"},
		{"offsets of null", replaced(`[0,8]`, `[null,8]`), "a: data_offsets: [0]"},
		{"offsets near 2^63", replaced(`[0,8]`, `[9223372036854775799,9223372036854775807]`), "leaves a hole"},
		{"offsets far apart", replaced(`[8,12]`, `[8,9223372036854775807]`), "data_offsets span"},
		{"a tensor within another", replaced(`[8,12]`, `[2,6]`), "overlaps what ends at 8"},
		{"a hole of a byte", append(replaced(`[8,12]`, `[9,13]`), 0), "leaves a hole from 8"},
		{"both at the same place", replaced(`"shape":[2,1],"data_offsets":[8,12]`, `"shape":[4],"data_offsets":[0,8]`), "overlaps"},
		{"no bytes at an offset that another has", replaced(`"shape":[2,1],"data_offsets":[8,12]`, `"shape":[0],"data_offsets":[8,8]`), "dimension 0"},
		{"a byte less", file("{"+goodTensors+"}", 11), `"b": its data ends at`},
		{"a byte more", file("{"+goodTensors+"}", 13), "1 bytes after the last tensor"},
		{"a megabyte more", file("{"+goodTensors+"}", 12+1<<20), "1048576 bytes after the last tensor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			f, err := open(c.data)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatalf("accepted as %+v, want an error that says %q", f.Tensors(), c.want)
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "test.safetensors: ") {
				t.Errorf("error %q, want it to name the file and say %q", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 1<<10 {
				t.Errorf("an error of %d bytes, or of more than a line: %.300q", len(err.Error()), err)
			}
			if took, most := after.TotalAlloc-before.TotalAlloc, uint64(64<<10+16*len(c.data)); took > most {
				t.Errorf("a file of %d bytes took %d bytes of memory, want at most %d", len(c.data), took, most)
			}
		})
	}
	if _, err := open(file("{"+goodTensors+"}", 12)); err != nil {
		t.Errorf("a good file after them: %v", err)
	}
}

// TestCutAndChangedFilesNeverPanic: of a file that was cut nothing is accepted, and of one of which a byte is wrong what is accepted can be
// read.
func TestCutAndChangedFilesNeverPanic(t *testing.T) {
	good := file("{"+goodTensors+"}", 12)
	for i := range good {
		if _, err := open(good[:i]); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", i, len(good))
		}
		for b := range 256 {
			changed := append([]byte(nil), good...)
			changed[i] = byte(b)
			f, err := open(changed)
			if err != nil {
				continue
			}
			for _, x := range f.Tensors() {
				if _, err := x.ReadAt(make([]byte, x.Bytes), 0); err != nil {
					t.Fatalf("byte %d is %#02x: %v", i, b, err)
				}
			}
		}
	}
}

// TestHeadersOfManyTensorsTakeMemoryInProportion: 200,000 tensors, the most that are taken, and one more.
func TestHeadersOfManyTensorsTakeMemoryInProportion(t *testing.T) {
	header := func(count int) string {
		var b strings.Builder
		b.WriteString("{")
		for i := range count {
			fmt.Fprintf(&b, `"%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]},`, i, i, i+1)
		}
		return strings.TrimSuffix(b.String(), ",") + "}"
	}
	for _, count := range []int{MaxTensors, MaxTensors + 1} {
		data := file(header(count), count)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := open(data)
		runtime.ReadMemStats(&after)
		if (err == nil) != (count == MaxTensors) {
			t.Errorf("%d tensors: %v", count, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 16*uint64(len(data)) {
			t.Errorf("%d tensors in %d bytes took %d bytes of memory, want at most 16 times the file", count, len(data), took)
		}
	}
}
