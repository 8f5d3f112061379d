package tokenizer

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The benchmarks use the reference tokenizers where they are, and skip where they are not.
var benchNames = []string{"llama3_1", "qwen3", "mistral_v0_1"}

func benchEach(b *testing.B, run func(b *testing.B, path string, tok *Tokenizer)) {
	for _, name := range benchNames {
		b.Run(name, func(b *testing.B) {
			path := fixtures(b, "tokenizers", name, "tokenizer.json")
			tok, err := LoadFile(path)
			if err != nil {
				b.Fatal(err)
			}
			run(b, path, tok)
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	benchEach(b, func(b *testing.B, path string, _ *Tokenizer) {
		for b.Loop() {
			if _, err := LoadFile(path); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// English prose of some 9 kB, again and again up to 1 MiB.
func english(b *testing.B) string {
	data, err := os.ReadFile(filepath.Join(fixtures(b, "smollm2"), "nll.txt"))
	if err != nil {
		b.Fatal(err)
	}
	return strings.Repeat(string(data), 1<<20/len(data))
}

func benchEncode(b *testing.B, text string) {
	benchEach(b, func(b *testing.B, _ string, tok *Tokenizer) {
		var ids []int32
		var err error
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		used, n := cpuTime(b), 0
		for b.Loop() {
			if ids, err = tok.AppendEncode(ids[:0], text, EncodeOptions{AddSpecial: true}); err != nil {
				b.Fatal(err)
			}
			n++
		}
		b.ReportMetric(float64(n*len(text))/1e6/(cpuTime(b)-used).Seconds(), "MB/CPU-s")
	})
}

// cpuTime is what this process has used of all cores: on a machine with busy neighbours it says more than the clock.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkEncodeEnglish(b *testing.B)   { benchEncode(b, english(b)) }
func BenchmarkEncodeOneLetter(b *testing.B) { benchEncode(b, strings.Repeat("a", 1<<20)) }
func BenchmarkEncodeChinese(b *testing.B) {
	benchEncode(b, strings.Repeat("自然語言處理是人工智慧的分支領域", 1<<20/48))
}

func BenchmarkDecodeToken(b *testing.B) {
	text := english(b)
	benchEach(b, func(b *testing.B, _ string, tok *Tokenizer) {
		ids, err := tok.Encode(text, EncodeOptions{})
		if err != nil {
			b.Fatal(err)
		}
		d, i := tok.NewDecoder(true), 0
		b.ReportAllocs()
		for b.Loop() {
			d.Write(ids[i%len(ids)])
			i++
		}
	})
}
