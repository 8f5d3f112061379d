package gguf_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model/gguf"
	"github.com/inferno-serve/inferno/internal/model/gguf/gguftest"
)

func open(data []byte) (*gguf.File, error) {
	return gguf.New("test.gguf", bytes.NewReader(data), int64(len(data)))
}

func TestReads(t *testing.T) {
	data := gguftest.File([]any{
		"general.architecture", "llama", "u8", uint8(200), "i8", int8(-1), "u32", uint32(7), "i32", int32(8), "u64", uint64(1 << 63),
		"i64", int64(-9), "f32", float32(0.5), "f64", 0.25, "yes", true, "no", false, "words", []string{"a", "", "<|é|>"},
		"ints", []int32{1, -2}, "uints", []uint32{3}, "big", []uint32{1 << 31}, "floats", []float32{-1.5}, "none", []string{},
	},
		gguftest.Tensor{Name: "a.weight", DType: device.Q4_1, Shape: []int{2, 64}, Data: bytes.Repeat([]byte{1}, 80)},
		gguftest.Tensor{Name: "b.weight", DType: device.F32, Shape: []int{3}, Data: bytes.Repeat([]byte{2}, 12)},
		gguftest.Tensor{Name: "c.weight", DType: device.BF16, Shape: []int{2, 1, 3}, Data: []byte("abcdefghijkl")},
	)
	f, err := open(data)
	if err != nil {
		t.Fatal(err)
	}
	m := f.Metadata()
	check := func(key string, got any, ok bool, want any) {
		t.Helper()
		if want == nil && ok || want != nil && (!ok || fmt.Sprint(got) != fmt.Sprint(want)) {
			t.Errorf("%s is %v, %v; want %v", key, got, ok, want)
		}
	}
	for key, want := range map[string]any{"u8": 200, "u32": 7, "i32": 8, "u64": uint64(1 << 63), "i8": nil, "i64": nil, "f32": nil, "words": nil, "absent": nil} {
		got, ok := m.Uint(key)
		check(key, got, ok, want)
	}
	for key, want := range map[string]any{"f32": 0.5, "f64": 0.25, "u32": nil} {
		got, ok := m.Float(key)
		check(key, got, ok, want)
	}
	for key, want := range map[string]any{"yes": true, "no": false, "u8": nil, "absent": nil} {
		got, ok := m.Bool(key)
		check(key, got, ok, want)
	}
	for key, want := range map[string]any{"general.architecture": "llama", "words": nil, "absent": nil} {
		got, ok := m.String(key)
		check(key, got, ok, want)
	}
	for key, want := range map[string]any{"words": []string{"a", "", "<|é|>"}, "none": []string{}, "ints": nil, "absent": nil} {
		got, ok := m.Strings(key)
		check(key, got, ok, want)
	}
	for key, want := range map[string]any{"ints": []int32{1, -2}, "uints": []int32{3}, "big": nil, "words": nil, "floats": nil} {
		got, ok := m.Ints(key)
		check(key, got, ok, want)
	}
	for key, want := range map[string]any{"floats": []float32{-1.5}, "ints": nil} {
		got, ok := m.Floats(key)
		check(key, got, ok, want)
	}
	for key, want := range map[string]string{
		"words": "ARRAY of 3 STRING", "u32": "UINT32 7", "i64": "INT64 below 0", "f32": "FLOAT32 0.5", "yes": "true", "absent": "",
		"general.architecture": `"llama"`,
	} {
		if got := m.Describe(key); got != want {
			t.Errorf("Describe(%s) = %s, want %s", key, got, want)
		}
	}
	if keys := slices.Collect(m.Keys()); len(keys) != 17 || keys[0] != "general.architecture" || keys[16] != "none" {
		t.Errorf("keys %v", keys)
	}
	if len(f.Tensors()) != 3 || f.Tensor("absent") != nil {
		t.Fatalf("%d tensors", len(f.Tensors()))
	}
	c := f.Tensor("c.weight")
	if c != f.Tensors()[2] || c.DType != device.BF16 || !slices.Equal(c.Shape, []int{2, 1, 3}) || c.Bytes != 12 {
		t.Errorf("c is %+v", c)
	}
	got := make([]byte, 3)
	if _, err := c.ReadAt(got, 9); err != nil || string(got) != "jkl" {
		t.Errorf("ReadAt = %q, %v", got, err)
	}
	for _, off := range []int64{-1, 10, 1 << 62} {
		if _, err := c.ReadAt(got, off); err == nil || !strings.Contains(err.Error(), "tensor c.weight") {
			t.Errorf("ReadAt(3 bytes, %d) of 12: %v", off, err)
		}
	}
	binary.LittleEndian.PutUint32(data[4:], 2)
	if _, err := open(data); err != nil {
		t.Errorf("version 2: %v", err)
	}
}

// w begins a file of the given counts.
func w(tensors, keys uint64) *gguftest.Writer {
	return (&gguftest.Writer{}).Raw("GGUF").U32(3).U64(tensors).U64(keys)
}

// tensor appends the description of a tensor "a" in the file's order of dimensions.
func tensor(b *gguftest.Writer, name string, number uint32, offset uint64, dims ...uint64) *gguftest.Writer {
	b.Str(name).U32(uint32(len(dims)))
	for _, n := range dims {
		b.U64(n)
	}
	return b.U32(number).U64(offset)
}

// zeros appends padding and n bytes.
func zeros(b *gguftest.Writer, n int) []byte { return append(b.Pad().Data, make([]byte, n)...) }

func TestRefusesBadFiles(t *testing.T) {
	const f32, q40 = 0, 2
	const align = "general.alignment"
	key := func(name string) *gguftest.Writer { return w(0, 1).Str(name) }
	one := func(number uint32, dims ...uint64) []byte { return zeros(tensor(w(1, 0), "a", number, 0, dims...), 64) }
	two := func(offset uint64) []byte {
		return zeros(tensor(tensor(w(2, 0), "a", f32, 0, 9), "b", f32, offset, 8), 96)
	}

	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		// header
		{"empty file", nil, "not a GGUF file"},
		{"three bytes", []byte("GGU"), "not a GGUF file"},
		{"magic", []byte("GGML\x03\x00\x00\x00"), "not a GGUF file"},
		{"no version", []byte("GGUF\x03"), "version: "},
		{"version 0", (&gguftest.Writer{}).Raw("GGUF").U32(0).U64(0).U64(0).Data, "version is 0, want 2 or 3"},
		{"version 1", (&gguftest.Writer{}).Raw("GGUF").U32(1).U64(0).U64(0).Data, "version is 1"},
		{"version 4", (&gguftest.Writer{}).Raw("GGUF").U32(4).U64(0).U64(0).Data, "version is 4"},
		{"byte order", []byte("GGUF\x00\x00\x00\x03"), "big-endian"},
		{"no counts", (&gguftest.Writer{}).Raw("GGUF").U32(3).U64(0).Data, "number of key-values"},
		{"2^63 tensors", w(1<<63, 0).Data, "9223372036854775808 tensors, want at most"},
		{"2^63 keys", w(0, 1<<63).Data, "9223372036854775808 key-values, want at most"},
		{"more tensors than bytes", w(1000, 0).Data, "1000 tensors, but only"},
		{"more keys than bytes", w(0, 1000).Data, "1000 key-values, but only 0"},
		// key-values
		{"empty key", key("").Value(uint32(1)).Data, `key 1 of 1 is ""`},
		{"key with a newline", key("a\nERROR").Value(uint32(1)).Data, `"a\nERROR"`},
		{"key of 1 GiB", w(0, 1).U64(1 << 30).Raw("general.name and more").Data, "1073741824 bytes of a string, want at most 65535"},
		{"key of 2^64-1 bytes", w(0, 1).U64(math.MaxUint64).Raw("general.name and more").Data, "18446744073709551615 bytes of a string"},
		{"key longer than the file", w(0, 1).U64(1000).Raw("general.name and more").Data, "1000 bytes of a string, but only 21"},
		{"duplicate key", w(0, 2).Str("a").Value(uint32(1)).Str("a").Value(uint32(1)).Data, `key "a" occurs twice`},
		{"unknown type", key("a").U32(13).U64(0).Data, `key "a": unknown type 13`},
		{"no type", key("a").Raw("\x04\x00").Data, "key-values, but only"},
		{"value cut off", key("abcdef").U32(10).Raw("1234567").Data, `key "abcdef": 8 bytes at`},
		{"bool of 2", key("a").U32(7).Raw("\x02").Data, `key "a": a BOOL of 2`},
		{"bool of 2 in an array", key("a").U32(9).U32(7).U64(2).Raw("\x01\x02").Data, `key "a": element 1: a BOOL of 2`},
		{"string longer than the limit", key("a").U32(8).U64(gguf.MaxStringBytes + 1).Data, `key "a": 16777217 bytes of a string, want at most`},
		{"string longer than the file", key("a").U32(8).U64(5).Raw("abc").Data, `key "a": 5 bytes of a string, but only 3`},
		{"nested array", key("a").U32(9).U32(9).U64(1).U32(4).U64(1).U32(1).Data, `key "a": an array of arrays`},
		{"array of unknown type", key("a").U32(9).U32(77).U64(1).U32(1).Data, `key "a": elements of unknown type 77`},
		{"array of 2^61 elements", key("a").U32(9).U32(10).U64(1 << 61).Data, `key "a": 2305843009213693952 elements`},
		{"array longer than the file", key("a").U32(9).U32(4).U64(3).U32(1).U32(2).Data, `key "a": 3 elements, but only 8`},
		{"array of strings longer than the file", key("a").U32(9).U32(8).U64(2).Str("abcdefgh").Raw("\x00").Data, `key "a": element 1: number of bytes of a string`},
		{"array of strings, the last cut off", key("a").U32(9).U32(8).U64(2).Str("abcdefgh").U64(9).Raw("abc").Data, `key "a": element 1: 9 bytes of a string`},
		{"alignment 0", key(align).Value(uint32(0)).Data, "general.alignment is 0, want a power of two"},
		{"alignment 3", key(align).Value(uint32(3)).Data, "general.alignment is 3"},
		{"alignment 2^31", key(align).Value(uint32(1 << 31)).Data, "general.alignment is 2147483648"},
		{"alignment of another type", key(align).Value(uint64(32)).Data, "general.alignment is of type UINT64"},
		{"alignment a string", key(align).Value("32").Data, "general.alignment is of type STRING"},
		// tensors
		{"empty name", zeros(tensor(w(1, 0), "", f32, 0, 8), 32), `tensor 1 of 1: name ""`},
		{"long name", zeros(tensor(w(1, 0), strings.Repeat("a", 65), f32, 0, 8), 32), "65 bytes of a string, want at most 64"},
		{"name twice", zeros(tensor(tensor(w(2, 0), "a", f32, 0, 8), "a", f32, 32, 8), 64), `name "a" occurs twice`},
		{"no dimensions", one(f32), `"a": 0 dimensions`},
		{"five dimensions", one(f32, 1, 1, 1, 1, 8), `"a": 5 dimensions, want 1 to 4`},
		{"dimension 0", one(f32, 8, 0), `"a": dimension 0`},
		{"dimension of 2^63", one(f32, 1<<63), `"a": dimension 9223372036854775808`},
		{"product overflows", one(f32, 1<<32, 1<<32), `"a": shape [4294967296 4294967296] has more than 2^63 bytes`},
		{"product overflows to a small one", one(f32, 1<<62, 4, 4), `has more than 2^63 bytes`},
		{"unknown type", one(999, 8), `"a": unknown type 999; F32, F16`},
		{"removed type", one(4, 32), `"a": type Q4_2 (removed) is not supported`},
		{"type of others", one(12, 256), `"a": type Q4_K is not supported; F32`},
		{"row not a multiple of a block", one(q40, 33), `"a": shape [33]: rows of 33 elements, want a multiple of the 32`},
		{"offset unaligned", two(36), `"b": its data begins at 36, want 64`},
		{"hole", two(96), `"b": its data begins at 96, want 64`},
		{"overlap", two(32), `"b": its data begins at 32, want 64`},
		{"offset near 2^64", two(math.MaxUint64 - 31), `"b": its data begins at 18446744073709551584`},
		{"first offset not 0", zeros(tensor(w(1, 0), "a", f32, 32, 8), 64), `"a": its data begins at 32, want 0`},
		{"description cut off", tensor(w(1, 0), "a", f32, 0, 8).Data[:56], `tensor 1 of 1: "a": `},
		// data
		{"no data", tensor(w(1, 0), "a", f32, 0, 8).Data, `"a": its 32 bytes at 0 end beyond`},
		{"data short", zeros(tensor(w(1, 0), "a", f32, 0, 8), 31), `"a": its 32 bytes at 0 end beyond`},
		{"second tensor short", zeros(tensor(tensor(w(2, 0), "a", f32, 0, 8), "b", f32, 32, 8), 60), `"b": its 32 bytes at 32 end beyond`},
		{"huge tensor", one(f32, 1<<58, 4), `"a": its 4611686018427387904 bytes at 0 end beyond`},
		{"sizes that overflow together", zeros(tensor(tensor(w(2, 0), "a", f32, 0, 8), "b", f32, 32, 1<<59, 3), 32), `"b": its 6917529027641081856 bytes at 32 end beyond`},
		{"trailing bytes", zeros(tensor(w(1, 0), "a", f32, 0, 8), 64), "32 bytes after the last tensor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := open(c.data)
			if err == nil {
				t.Fatalf("accepted with %d tensors, want an error that says %q", len(f.Tensors()), c.want)
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "test.gguf: ") {
				t.Errorf("error %q, want it to name the file and say %q", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q has more than a line", err)
			}
		})
	}
}

func TestHeaderLargerThanTheFirstRead(t *testing.T) {
	words := make([]string, 300_000)
	for i := range words {
		words[i] = fmt.Sprintf("token number %d", i)
	}
	f, err := open(gguftest.File([]any{"tokens", words, "after", uint32(5)}))
	if err != nil {
		t.Fatal(err)
	}
	got, _ := f.Metadata().Strings("tokens")
	if after, _ := f.Metadata().Uint("after"); !slices.Equal(got, words) || after != 5 {
		t.Errorf("%d tokens, after %d", len(got), after)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.gguf")
	data := gguftest.File(nil, gguftest.Tensor{Name: "a", DType: device.F32, Shape: []int{8}, Data: make([]byte, 32)})
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(data)-1)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Tensor("a").ReadAt(make([]byte, 32), 0); err == nil || !strings.Contains(err.Error(), "tensor a: the file became shorter") {
		t.Errorf("truncated while open: %v", err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if f, err := gguf.Open(dir); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("Open of a directory: %v, %v", f, err)
	}
	if f, err := gguf.Open(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("Open of nothing: %v, %v", f, err)
	}
}

func BenchmarkOpen(b *testing.B) {
	words := make([]string, 128_000)
	for i := range words {
		words[i] = fmt.Sprintf("tok%d", i)
	}
	data := gguftest.File([]any{"tokens", words, "merges", words})
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		f, err := open(data)
		if err != nil {
			b.Fatal(err)
		}
		if s, ok := f.Metadata().Strings("merges"); !ok || len(s) != len(words) {
			b.Fatal(len(s))
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(gguftest.File([]any{"a", "b", "c", []string{"d", "e"}, "f", true, "general.alignment", uint32(64)}))
	f.Add(gguftest.File([]any{"i", []int32{1, 2}, "f", []float32{1}, "u", uint64(3)},
		gguftest.Tensor{Name: "a", DType: device.F32, Shape: []int{2, 4}, Data: make([]byte, 32)},
		gguftest.Tensor{Name: "b", DType: device.Q8_0, Shape: []int{1, 32}, Data: make([]byte, 34)},
	))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := open(data)
		if err != nil {
			return
		}
		m := file.Metadata()
		for key := range m.Keys() {
			if m.Describe(key) == "" {
				t.Fatalf("key %q is listed and not there", key)
			}
			m.String(key)
			m.Bool(key)
			m.Uint(key)
			m.Float(key)
			m.Strings(key)
			m.Ints(key)
			m.Floats(key)
		}
		var last int64
		for _, x := range file.Tensors() {
			if x.Offset < last {
				t.Fatalf("tensor %q at %d overlaps what ends at %d", x.Name, x.Offset, last)
			}
			last = x.Offset + x.Bytes
			if _, err := x.ReadAt(make([]byte, x.Bytes), 0); err != nil {
				t.Fatalf("accepted a file whose tensor cannot be read: %v", err)
			}
		}
	})
}
