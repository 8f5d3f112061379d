package tokenizer

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/model/gguf"
)

// fixtures returns a path of the reference data, which is not part of the repository, or skips the test.
func fixtures(tb testing.TB, elem ...string) string {
	tb.Helper()
	root := os.Getenv("INFERNO_FIXTURES")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "fixtures")
	}
	path := filepath.Join(append([]string{root}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		tb.Skipf("no reference data: %v (set INFERNO_FIXTURES)", err)
	}
	return path
}

// goldenCase is one line of a cases.jsonl, made by the Hugging Face tokenizers library.
type goldenCase struct {
	Text         string  `json:"text"`
	IDs          []int32 `json:"ids"`
	IDsPlain     []int32 `json:"ids_plain"`
	Decoded      string  `json:"decoded"`
	DecodedPlain string  `json:"decoded_plain"`
}

func readCases(tb testing.TB, path string) (cases []goldenCase) {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c goldenCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			tb.Fatalf("%s: line %d: %v", path, len(cases)+1, err)
		}
		cases = append(cases, c)
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	return cases
}

// checkCase compares all four results of a case.
func checkCase(t *testing.T, tok *Tokenizer, c goldenCase) {
	t.Helper()
	for _, e := range []struct {
		name    string
		options EncodeOptions
		want    []int32
	}{
		{"ids", EncodeOptions{AddSpecial: true, ParseSpecial: true}, c.IDs},
		{"ids_plain", EncodeOptions{ParseSpecial: true}, c.IDsPlain},
	} {
		got, err := tok.Encode(c.Text, e.options)
		if err != nil {
			t.Fatalf("Encode(%q): %v", c.Text, err)
		}
		if !slices.Equal(got, e.want) {
			t.Errorf("%s of %q\n got %v\nwant %v", e.name, c.Text, got, e.want)
		}
	}
	for _, d := range []struct {
		name        string
		ids         []int32
		skipSpecial bool
		want        string
	}{
		{"decoded", c.IDs, false, c.Decoded},
		{"decoded_plain", c.IDsPlain, true, c.DecodedPlain},
	} {
		got, err := tok.Decode(d.ids, d.skipSpecial)
		if err != nil {
			t.Fatalf("Decode(%v): %v", d.ids, err)
		}
		if got != d.want {
			t.Errorf("%s of %q\n got %q\nwant %q", d.name, c.Text, got, d.want)
		}
		if got := stream(tok.NewDecoder(d.skipSpecial), d.ids); got != d.want {
			t.Errorf("%s of %q, streamed\n got %q\nwant %q", d.name, c.Text, got, d.want)
		}
	}
}

func stream(d *Decoder, ids []int32) (text string) {
	for _, id := range ids {
		text += d.Write(id)
	}
	return text + d.Flush()
}

func TestSameTokensAsHuggingFace(t *testing.T) {
	for name, want := range map[string]int{"mistral_v0_1": 442, "llama3_1": 442, "qwen3": 442} {
		t.Run(name, func(t *testing.T) {
			dir := fixtures(t, "tokenizers", name)
			tok, err := LoadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			cases := readCases(t, filepath.Join(dir, "cases.jsonl"))
			if len(cases) != want {
				t.Errorf("%d cases, want %d", len(cases), want)
			}
			for _, c := range cases {
				checkCase(t, tok, c)
			}
		})
	}
}

// The merges of Mistral's file were made of the scores of a SentencePiece model: ordered by the score of the token that
// they make. Scores of that order and no merges, which is GGUF's form, must give the same tokens.
func TestScoresGiveTheTokensOfMerges(t *testing.T) {
	dir := fixtures(t, "tokenizers", "mistral_v0_1")
	hf, err := LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	md := fakeMetadata{
		"tokenizer.ggml.model": "llama", "tokenizer.ggml.bos_token_id": uint64(1), "tokenizer.ggml.eos_token_id": uint64(2),
		"tokenizer.ggml.unknown_token_id": uint64(0), "tokenizer.ggml.tokens": hf.pieces,
	}
	types, scores := make([]int32, len(hf.pieces)), make([]float32, len(hf.pieces))
	for id := range types {
		switch {
		case id == 0:
			types[id] = ggufUnknown
		case id < 3:
			types[id] = ggufControl
		case id < 259:
			types[id] = ggufByte
		default:
			types[id], scores[id] = ggufNormal, -1e6
		}
	}
	for _, s := range hf.model.merges.slots {
		if s.pair != emptySlot {
			scores[s.merge.id] = max(scores[s.merge.id], -float32(s.merge.rank))
		}
	}
	md["tokenizer.ggml.token_type"], md["tokenizer.ggml.scores"] = types, scores
	tok, err := FromGGUF(md)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range readCases(t, filepath.Join(dir, "cases.jsonl")) {
		checkCase(t, tok, c)
	}
	if ends := tok.EndTokens(); !slices.Equal(ends, []int32{2}) {
		t.Errorf("EndTokens() = %v, want [2]", ends)
	}
}

func TestSmolLM2(t *testing.T) {
	path := os.Getenv("INFERNO_SMOLLM2")
	if path == "" {
		t.Skip("INFERNO_SMOLLM2 names no SmolLM2-135M-Instruct GGUF file")
	}
	cases := readCases(t, fixtures(t, "smollm2", "tokenizer.jsonl"))
	file, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tok, err := FromGGUF(file.Metadata())
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) != 257 {
		t.Errorf("%d cases, want 257", len(cases))
	}
	for _, c := range cases {
		checkCase(t, tok, c)
	}
	if ends := tok.EndTokens(); !slices.Equal(ends, []int32{0, 2}) {
		t.Errorf("EndTokens() = %v, want [0 2]", ends)
	}
}

func TestTinyCheckpoints(t *testing.T) {
	root := fixtures(t, "models")
	dirs, err := filepath.Glob(filepath.Join(root, "*"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no checkpoints in %s: %v", root, err)
	}
	text := "The quick brown fox, naïve café, 日本語 👋🏽\n\t  12345 it's"
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			tok, err := LoadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := roundTrip(t, tok, text); got != text {
				t.Errorf("round trip of %q gives %q", text, got)
			}
			if id, ok := tok.EOS(); !ok || id != 2 {
				t.Errorf("EOS() = %d, %t, want 2", id, ok)
			}
		})
	}
}

func roundTrip(tb testing.TB, tok *Tokenizer, text string) string {
	tb.Helper()
	ids, err := tok.Encode(text, EncodeOptions{})
	if err != nil {
		tb.Fatalf("Encode(%q): %v", text, err)
	}
	got, err := tok.Decode(ids, false)
	if err != nil {
		tb.Fatalf("Decode(%v): %v", ids, err)
	}
	return got
}
