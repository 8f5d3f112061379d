package safetensors

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/model/modeldir"
)

// file is a safetensors file of a header and dataBytes bytes of data 0, 1, 2, …
func file(header string, dataBytes int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	for i := range dataBytes {
		b = append(b, byte(i))
	}
	return b
}

func open(data []byte) (*File, error) {
	return New("test.safetensors", bytes.NewReader(data), int64(len(data)))
}

func TestReads(t *testing.T) {
	f, err := open(file(`{"__metadata__":{"format":"pt"},`+
		`"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"a":{"data_offsets":[0,4],"shape":[],"dtype":"F32"}}   `, 16))
	if err != nil {
		t.Fatal(err)
	}
	if f.Metadata()["format"] != "pt" || len(f.Tensors()) != 2 {
		t.Fatalf("metadata %v, tensors %v", f.Metadata(), f.Tensors())
	}
	a, b := f.Tensors()[0], f.Tensors()[1]
	if a.Name != "a" || a.DType != F32 || len(a.Shape) != 0 || b.Name != "b" || b.DType != BF16 || !slices.Equal(b.Shape, []int{2, 3}) {
		t.Errorf("tensors %+v, %+v", a, b)
	}
	got := make([]byte, 3)
	if _, err := b.ReadAt(got, 9); err != nil || !bytes.Equal(got, []byte{13, 14, 15}) {
		t.Errorf("ReadAt = %v, %v", got, err)
	}
	for _, off := range []int64{-1, 10, 1 << 62} {
		if _, err := b.ReadAt(got, off); err == nil || !strings.Contains(err.Error(), "tensor b") {
			t.Errorf("ReadAt(3 bytes, %d) of 12: %v", off, err)
		}
	}
}

func TestRefusesBadFiles(t *testing.T) {
	one := func(name, dtype, shape, offsets string) string {
		return fmt.Sprintf(`"%s":{"dtype":"%s","shape":%s,"data_offsets":%s}`, name, dtype, shape, offsets)
	}
	wrap := func(tensors ...string) string { return "{" + strings.Join(tensors, ",") + "}" }
	length := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	a := one("a", "F32", "[2]", "[0,8]")

	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty file", nil, "0 bytes, want at least the 8"},
		{"seven bytes", make([]byte, 7), "7 bytes"},
		{"length negative", append(length(1<<63|5), "{}   "...), "at most 100000000"},
		{"length above the limit", append(length(MaxHeaderBytes+1), "{}"...), "at most 100000000"},
		{"length beyond the file", append(length(3), "{}"...), "has 3 bytes, but the file only 2"},
		{"length 0", length(0), "want '{'"},
		{"an array", file(`[]`, 0), "want '{'"},
		{"space first", file(` {}`, 0), "want '{'"},
		{"byte order mark", file("\ufeff{}", 0), "want '{'"},
		{"bad UTF-8", file("{\"a\xff\":1}", 0), "invalid UTF-8"},
		{"not closed", file(`{`+a, 8), "no ','"},
		{"rest after the object", file(wrap(a)+"x", 8), "text after the value"},
		{"a null byte after the object", file(wrap(a)+"\x00", 8), "text after the value"},
		{"duplicate name", file(wrap(a, one("a", "F32", "[2]", "[8,16]")), 16), `duplicate key "a"`},
		{"duplicate name by escape", file(wrap(a, one(`\u0061`, "F32", "[2]", "[8,16]")), 16), `duplicate key "a"`},
		{"duplicate key", file(`{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}`, 8), `a: offset 27: duplicate key "dtype"`},
		{"key in another case", file(`{"a":{"DType":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), "a: DType: unknown key"},
		{"no dtype", file(`{"a":{"shape":[2],"data_offsets":[0,8]}}`, 8), "a: incomplete"},
		{"no shape", file(`{"a":{"dtype":"F32","data_offsets":[0,8]}}`, 8), "a: incomplete"},
		{"no offsets", file(`{"a":{"dtype":"F32","shape":[2]}}`, 8), "a: incomplete"},
		{"a tensor that is a number", file(`{"a":5}`, 0), "a: offset 5: a number, want an object"},
		{"one offset", file(wrap(one("a", "F32", "[2]", "[0]")), 8), "a: data_offsets: 1 offsets, want 2"},
		{"three offsets", file(wrap(one("a", "F32", "[2]", "[0,8,9]")), 8), "a: data_offsets: [2]: more than 2"},
		{"reversed offsets", file(wrap(one("a", "F32", "[2]", "[8,0]")), 8), "a: data_offsets: [8, 0] is no range"},
		{"negative offset", file(wrap(one("a", "F32", "[2]", "[-8,0]")), 8), "a: data_offsets: [-8, 0] is no range"},
		{"offset of 2^63", file(wrap(one("a", "F32", "[2]", "[0,9223372036854775808]")), 8), "a: data_offsets: [1]: 9223372036854775808"},
		{"offset with a fraction", file(wrap(one("a", "F32", "[2]", "[0,8.0]")), 8), "a: data_offsets: [1]: 8.0 is not an integer"},
		{"overlap", file(wrap(a, one("b", "F32", "[2]", "[4,12]")), 12), `"b": its data begins at 4 and overlaps`},
		{"same range twice", file(wrap(a, one("b", "F32", "[2]", "[0,8]")), 8), "begins at 0 and overlaps"},
		{"hole", file(wrap(a, one("b", "F32", "[2]", "[9,17]")), 17), `"b": its data begins at 9, which leaves a hole from 8`},
		{"hole at the start", file(wrap(one("a", "F32", "[2]", "[1,9]")), 9), `"a": its data begins at 1`},
		{"past the end", file(wrap(a), 7), `"a": its data ends at`},
		{"far past the end", file(wrap(one("a", "U8", "[4611686018427387904]", "[4611686018427387904,9223372036854775807]")), 8), "a: shape"},
		{"a range that overflows", file(wrap(one("a", "U8", "[9223372036854775807]", "[0,9223372036854775807]")), 8), `"a": its data ends`},
		{"trailing bytes", file(wrap(a), 9), "1 bytes after the last tensor"},
		{"data without tensors", file("{}", 1), "1 bytes after the last tensor"},
		{"shape and range disagree", file(wrap(one("a", "F32", "[3]", "[0,8]")), 8), "a: shape [3] of F32 takes 12 bytes, data_offsets span 8"},
		{"shape overflows", file(wrap(one("a", "F32", "[4294967296,4294967296]", "[0,0]")), 0), "a: shape [4294967296 4294967296] of F32 has more than 2^63"},
		{"shape overflows to 0", file(wrap(one("a", "F32", "[4611686018427387904,4]", "[0,0]")), 0), "has more than 2^63"},
		{"negative dimension", file(wrap(one("a", "F32", "[-2,-1]", "[0,8]")), 8), "a: shape: [0]: dimension -2"},
		{"empty tensor that shares an offset", file(wrap(a, one("b", "F32", "[0]", "[8,8]")), 8), "b: shape: [0]: dimension 0"},
		{"too many dimensions", file(wrap(one("a", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]")), 8), "a: shape: [8]: more than 8"},
		{"unknown dtype", file(wrap(one("a", "F33", "[2]", "[0,8]")), 8), `a: unknown dtype "F33"`},
		{"dtype in lower case", file(wrap(one("a", "f32", "[2]", "[0,8]")), 8), `a: unknown dtype "f32"`},
		{"dtype a number", file(`{"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}}`, 8), "a: dtype: offset"},
		{"metadata not strings", file(`{"__metadata__":{"n":1}}`, 0), "__metadata__: n: offset"},
		{"metadata twice", file(`{"__metadata__":{},"__metadata__":{}}`, 0), `duplicate key "__metadata__"`},
		{"deep nesting", file(`{"a":{"dtype":`+strings.Repeat("[", 100_000), 0), "a: dtype"},
		{"name with a newline", file("{\"a\\nERROR\":5}", 0), `"a\nERROR": offset`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := open(c.data)
			if err == nil {
				t.Fatalf("accepted as %+v, want an error that says %q", f.Tensors(), c.want)
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "test.safetensors: ") {
				t.Errorf("error %q, want it to name the file and say %q", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q has more than a line", err)
			}
		})
	}
}

func TestManyTensorsAreFast(t *testing.T) {
	const count = 100_000
	var header strings.Builder
	header.WriteString("{")
	for i := range count {
		if i > 0 {
			header.WriteByte(',')
		}
		fmt.Fprintf(&header, `"model.layers.%d.weight":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}`, i, i, i+1)
	}
	data := file(header.String()+"}", count)
	start := time.Now()
	f, err := open(data)
	if err != nil || len(f.Tensors()) != count {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("a header of %d tensors took %v, want under 1 s (5 s allowed for a busy machine)", count, took)
	}
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	if f, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("Open of a directory: %v, %v", f, err)
	}
	if f, err := Open(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("Open of nothing: %v, %v", f, err)
	}
}

func TestTruncatedWhileOpenIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	if err := os.WriteFile(path, file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, 66); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Tensors()[0].ReadAt(make([]byte, 8), 0); err == nil || !strings.Contains(err.Error(), "tensor a: the file became shorter") {
		t.Errorf("error %v", err)
	}
}

// writeDir makes a directory of files and opens it.
func writeDir(t *testing.T, files map[string]string) *modeldir.Dir {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	opened, err := modeldir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	return opened
}

// shards are two good shards with one tensor each.
func shards() map[string]string {
	return map[string]string{
		"1.safetensors": string(file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8)),
		"2.safetensors": string(file(`{"b":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 4)),
		IndexName:       `{"metadata":{"total_size":12.0},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`,
	}
}

func TestOpenDir(t *testing.T) {
	single := map[string]string{SingleName: shards()["1.safetensors"]}
	for name, files := range map[string]map[string]string{"a b": shards(), "a": single} {
		s, err := OpenDir(writeDir(t, files))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, x := range s.Tensors() {
			names = append(names, x.Name)
			if _, err := x.ReadAt(make([]byte, x.Bytes), 0); err != nil {
				t.Error(err)
			}
		}
		if got := strings.Join(names, " "); got != name {
			t.Errorf("tensors %q, want %q", got, name)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	}
}

func TestRefusesBadDirectories(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "1.safetensors")
	if err := os.WriteFile(outside, []byte(shards()["1.safetensors"]), 0o644); err != nil {
		t.Fatal(err)
	}
	index := func(text string) map[string]string { return map[string]string{IndexName: text} }
	shard := func(name string) map[string]string {
		return index(fmt.Sprintf(`{"weight_map":{"a":%q,"b":"2.safetensors"}}`, name))
	}
	for _, c := range []struct {
		name    string
		replace map[string]string // "" removes the file
		link    string            // replaced by a link to a file outside
		want    string
	}{
		{"nothing", map[string]string{IndexName: ""}, "", "no model.safetensors and no model.safetensors.index.json"},
		{"missing shard", map[string]string{"2.safetensors": ""}, "", `shard "2.safetensors"`},
		{"bad shard", map[string]string{"2.safetensors": "short"}, "", "5 bytes"},
		{"shard above", shard("../1.safetensors"), "", `a: "../1.safetensors" is no shard`},
		{"absolute shard", shard(outside), "", "is no shard"},
		{"shard in a folder", shard("x/1.safetensors"), "", "is no shard"},
		{"shard with a null byte", index(`{"weight_map":{"a":"1\u0000.safetensors"}}`), "", "is no shard"},
		{"shard of another kind", shard("pytorch_model.bin"), "", "is no shard"},
		{"link that leads outside", nil, "1.safetensors", "escapes"},
		{"single file is a link that leads outside", nil, SingleName, "escapes"},
		{"index is a link that leads outside", nil, IndexName, "escapes"},
		{"tensor in two shards", map[string]string{"2.safetensors": shards()["1.safetensors"]}, "", `tensor "a" is in 2.safetensors, weight_map says 1`},
		{"tensor in the wrong shard", index(`{"weight_map":{"a":"2.safetensors","b":"1.safetensors"}}`), "", `tensor "a" is in 1.safetensors, weight_map says 2`},
		{"tensor that no shard has", index(`{"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"}}`), "", `tensor "c" is not in 2`},
		{"tensor that the index lacks", map[string]string{"2.safetensors": string(file(`{"c":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 4))}, "", `tensor "c" of 2.safetensors is not in weight_map`},
		{"tensor named twice", index(`{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}`), "", `duplicate key "a"`},
		{"size lies", index(`{"metadata":{"total_size":13},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`), "", "total_size is 13, the tensors have 12"},
		{"size is text", index(`{"metadata":{"total_size":"12"},"weight_map":{"a":"1.safetensors"}}`), "", "total_size"},
		{"no map", index(`{"metadata":{}}`), "", "names no tensor"},
		{"unknown key", index(`{"Weight_map":{"a":"1.safetensors"}}`), "", "Weight_map: unknown key"},
		{"map is an array", index(`{"weight_map":[]}`), "", "weight_map: offset"},
		{"shard is a number", index(`{"weight_map":{"a":1}}`), "", "weight_map: a: offset"},
		{"not JSON", index(`weights`), "", "where a value should be"},
		{"too long", index(strings.Repeat(" ", MaxIndexBytes+1)), "", "33554433 bytes, want at most 33554432"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := shards()
			maps.Copy(files, c.replace)
			maps.DeleteFunc(files, func(_, data string) bool { return data == "" })
			delete(files, c.link)
			dir := writeDir(t, files)
			if c.link != "" {
				if err := os.Symlink(outside, dir.Path(c.link)); err != nil {
					t.Fatal(err)
				}
			}
			s, err := OpenDir(dir)
			if err == nil {
				t.Fatalf("accepted with %d tensors, want an error that says %q", len(s.Tensors()), c.want)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want it to say %q", err, c.want)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"x":"y"}}`, 8))
	f.Add(file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[],"data_offsets":[8,9]}}  `, 9))
	f.Add(file(`{}`, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		sf, err := open(data)
		if err != nil {
			return
		}
		var bytes int64
		for _, x := range sf.Tensors() {
			if _, err := x.ReadAt(make([]byte, x.Bytes), 0); err != nil {
				t.Fatalf("accepted a file whose tensor cannot be read: %v", err)
			}
			bytes += x.Bytes
		}
		if header := int64(binary.LittleEndian.Uint64(data)); bytes+header+lengthBytes != int64(len(data)) {
			t.Fatalf("%d tensor bytes and a header of %d in a file of %d", bytes, header, len(data))
		}
	})
}
