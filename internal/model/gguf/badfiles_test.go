package gguf_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model/gguf"
	"github.com/inferno-serve/inferno/internal/model/gguf/gguftest"
)

// refuses opens a bad file: the error must be the documented one, short, of one line and with the file's name, and the memory in proportion
// to the file.
func refuses(t *testing.T, data []byte, want string) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, err := open(data)
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Fatalf("accepted with %d tensors, want an error that says %q", len(f.Tensors()), want)
	}
	if !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "test.gguf: ") {
		t.Errorf("error %q, want it to name the file and say %q", err, want)
	}
	if strings.Contains(err.Error(), "\n") || len(err.Error()) > 1<<10 {
		t.Errorf("an error of %d bytes, or of more than a line: %.300q", len(err.Error()), err)
	}
	if took, most := after.TotalAlloc-before.TotalAlloc, uint64(64<<10+16*len(data)); took > most {
		t.Errorf("a file of %d bytes took %d bytes of memory, want at most %d", len(data), took, most)
	}
}

// TestCountsAreComparedWithTheFileBeforeTheyAllocate: each number in a header that says how much follows, with each value that made readers
// multiply past 2^64, allocate gigabytes for a file of some bytes, or write behind what they had allocated.
// CVE-2024-23605, CVE-2025-53630, CVE-2026-27940, CVE-2026-33298, CVE-2025-66959, CVE-2025-66960,
// GHSA-3p4r-fq3f-q74v.
func TestCountsAreComparedWithTheFileBeforeTheyAllocate(t *testing.T) {
	counts := []uint64{1000, 1 << 20, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 60, 1<<61 + 1, 1 << 62, 1<<63 - 1, 1 << 63,
		math.MaxUint64 - 7, math.MaxUint64}
	for _, n := range counts {
		said := fmt.Sprint(n)
		for name, data := range map[string][]byte{
			"tensors":                         w(n, 0).Data,
			"keys":                            w(0, n).Data,
			"tensors and keys":                w(n, n).Data,
			"bytes of a key":                  w(0, 1).U64(n).Raw("general.name, and more").Data,
			"bytes of a text":                 w(0, 1).Str("a").U32(8).U64(n).Raw("text").Data,
			"bytes of a tensor's name":        w(1, 0).U64(n).Raw("a name, and a description of some length").Data,
			"bytes of a text in an array":     w(0, 1).Str("a").U32(9).U32(8).U64(1).U64(n).Raw("text").Data,
			"bytes of the second text of two": w(0, 1).Str("a").U32(9).U32(8).U64(2).Str("ok").U64(n).Raw("text").Data,
		} {
			t.Run(name+" "+said, func(t *testing.T) { refuses(t, data, said) })
		}
		for kind, size := range map[gguf.Kind]int{
			gguf.Uint8: 1, gguf.Int8: 1, gguf.Bool: 1, gguf.Uint16: 2, gguf.Int16: 2, gguf.Uint32: 4, gguf.Int32: 4, gguf.Float32: 4, gguf.Uint64: 8, gguf.Int64: 8,
			gguf.Float64: 8, gguf.String: 8,
		} {
			data := w(0, 1).Str("a").U32(9).U32(uint32(kind)).U64(n).Raw(strings.Repeat("\x00", 3*size)).Data
			t.Run(fmt.Sprintf("elements of %v %d", kind, n), func(t *testing.T) { refuses(t, data, `key "a": `+said+" elements") })
		}
		if n > math.MaxInt32 {
			t.Run("dimension "+said, func(t *testing.T) {
				for _, dims := range [][]uint64{{n}, {32, n}, {n, n}, {n, n, n, n}, {32, 1, n, 1}} {
					refuses(t, zeros(tensor(w(1, 0), "a", 0, 0, dims...), 128), `"a": `)
				}
			})
		}
	}
}

// TestTensorsNeverReachBeyondTheFile: a tensor that does would be packed from memory behind the file's, and sent to whoever asks for the
// model. CVE-2026-7482.
func TestTensorsNeverReachBeyondTheFile(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"a row more", zeros(tensor(w(1, 0), "a", 0, 0, 8, 3), 64), `"a": its 96 bytes at 0 end beyond`},
		{"an offset of the file's size", zeros(tensor(w(1, 0), "a", 0, 4096, 8), 64), "its data begins at 4096, want 0"},
		{"an offset of −32", zeros(tensor(w(1, 0), "a", 0, math.MaxUint64-31, 8), 64), "its data begins at 18446744073709551584, want 0"},
		{"quantised blocks cut off", zeros(tensor(w(1, 0), "a", 8, 0, 32, 2), 67), `"a": its 68 bytes at 0 end beyond`},
		{"all that there is, without padding", append(tensor(w(1, 0), "a", 0, 0, 8).Data, make([]byte, 32)...),
			`"a": its 32 bytes at 0 end beyond`},
		{"an alignment that moves the data out of the file",
			zeros(tensor(w(1, 1).Str("general.alignment").Value(uint32(1<<16)), "a", 0, 0, 8), 64), `"a": its 32 bytes at 0 end beyond`},
		{"an alignment above the limit", zeros(tensor(w(1, 1).Str("general.alignment").Value(uint32(1<<17)), "a", 0, 0, 8), 64),
			"general.alignment is 131072"},
		{"an alignment below the limit", zeros(tensor(w(1, 1).Str("general.alignment").Value(uint32(4)), "a", 0, 0, 8), 64),
			"general.alignment is 4"},
		{"an alignment of 2^32-1", zeros(tensor(w(1, 1).Str("general.alignment").Value(uint32(math.MaxUint32)), "a", 0, 0, 8), 64),
			"general.alignment is 4294967295"},
		{"a negative alignment", zeros(tensor(w(1, 1).Str("general.alignment").Value(int32(-32)), "a", 0, 0, 8), 64),
			"general.alignment is of type INT32"},
		{"an alignment of eight bits", zeros(tensor(w(1, 1).Str("general.alignment").Value(uint8(32)), "a", 0, 0, 8), 64),
			"general.alignment is of type UINT8"},
		{"alignments in an array", zeros(tensor(w(1, 1).Str("general.alignment").Value([]uint32{32}), "a", 0, 0, 8), 64),
			"general.alignment is of type ARRAY"},
		{"two alignments", zeros(tensor(w(1, 2).Str("general.alignment").Value(uint32(32)).Str("general.alignment").Value(uint32(64)), "a", 0, 0,
			8), 64), "occurs twice"},
		{"a megabyte behind the last", zeros(tensor(w(1, 0), "a", 0, 0, 8), 32+1<<20), "bytes after the last tensor"},
	} {
		t.Run(c.name, func(t *testing.T) { refuses(t, c.data, c.want) })
	}
}

// TestNamesCannotForgeMessages: names and texts of a file get into errors and logs.
func TestNamesCannotForgeMessages(t *testing.T) {
	for _, name := range []string{"a\nlevel=ERROR", "a\rb", "a\x1b[31m", "a\x00", "é", "a b", "\x7f", strings.Repeat("\n", 60)} {
		refuses(t, zeros(tensor(w(1, 0), name, 0, 0, 8), 32), "printable ASCII")
		refuses(t, w(0, 1).Str(name).Value(uint32(1)).Data, "printable ASCII")
	}
	refuses(t, w(0, 1).Str(strings.Repeat("\n", gguf.MaxKeyBytes)).Value(uint32(1)).Data, "printable ASCII")
	refuses(t, w(0, 2).Str(strings.Repeat("k", gguf.MaxKeyBytes)).Value(uint32(1)).Str(strings.Repeat("k",
		gguf.MaxKeyBytes)).Value(uint32(1)).Data, "occurs twice")
}

// TestValuesAreReadAsTheirOwnTypeOnly: scores of eight bits, read as floats, would be read past their end.
func TestValuesAreReadAsTheirOwnTypeOnly(t *testing.T) {
	small := (&gguftest.Writer{}).Raw("GGUF").U32(3).U64(0).U64(12)
	for kind := range uint32(13) {
		if kind == uint32(gguf.Array) {
			continue
		}
		small.Str(fmt.Sprintf("of%d", kind)).U32(9).U32(kind).U64(1)
		size := map[uint32]int{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 8: 8, 10: 8, 11: 8, 12: 8}[kind]
		small.Raw(strings.Repeat("\x00", size))
	}
	f, err := open(small.Data)
	if err != nil {
		t.Fatal(err)
	}
	m := f.Metadata()
	for kind := range uint32(13) {
		key := fmt.Sprintf("of%d", kind)
		_, ints := m.Ints(key)
		_, floats := m.Floats(key)
		_, texts := m.Strings(key)
		_, number := m.Uint(key)
		_, float := m.Float(key)
		_, text := m.String(key)
		_, flag := m.Bool(key)
		if ints != (kind == 4 || kind == 5) || floats != (kind == 6) || texts != (kind == 8) || number || float || text || flag {
			t.Errorf("an array of %v is read as ints %t, floats %t, texts %t, or as one value", gguf.Kind(kind), ints, floats, texts)
		}
	}
}

// TestCutAndChangedFilesNeverPanic: of a file that was cut before its padding nothing is accepted, and of one of which a byte is wrong what is
// accepted can be read.
func TestCutAndChangedFilesNeverPanic(t *testing.T) {
	good := gguftest.File([]any{"general.alignment", uint32(32), "words", []string{"a", "bc"}, "ids", []int32{1}, "on", true, "scores",
		[]float32{1}},
		gguftest.Tensor{Name: "a", DType: device.F32, Shape: []int{2, 4}, Data: make([]byte, 32)},
		gguftest.Tensor{Name: "b", DType: device.Q8_0, Shape: []int{1, 32}, Data: bytes.Repeat([]byte{1}, 34)})
	end := bytes.LastIndexByte(good, 1) + 1
	for i := range good {
		if _, err := open(good[:i]); err == nil && i < end {
			t.Fatalf("the first %d of %d bytes are accepted", i, len(good))
		}
		for b := range 256 {
			changed := bytes.Clone(good)
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
			for key := range f.Metadata().Keys() {
				if f.Metadata().Describe(key) == "" {
					t.Fatalf("byte %d is %#02x: key %q is listed and not there", i, b, key)
				}
				f.Metadata().Strings(key)
				f.Metadata().Ints(key)
				f.Metadata().Floats(key)
			}
		}
		if i+8 <= len(good) { // every eight bytes may be a count
			for _, n := range []uint64{1 << 31, 1 << 62, math.MaxUint64} {
				changed := bytes.Clone(good)
				binary.LittleEndian.PutUint64(changed[i:], n)
				if f, err := open(changed); err == nil {
					for _, x := range f.Tensors() {
						if _, err := x.ReadAt(make([]byte, x.Bytes), 0); err != nil {
							t.Fatalf("bytes %d are %d: %v", i, n, err)
						}
					}
				}
			}
		}
	}
}
