package constraint

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/inferno-serve/inferno/internal/model/gguf"
	"github.com/inferno-serve/inferno/internal/tokenizer"
)

// reference loads a tokenizer of the reference data, or SmolLM2's of the default model's file, or skips the test.
func reference(tb testing.TB, name string) *tokenizer.Tokenizer {
	tb.Helper()
	if name == "smollm2" {
		path := os.Getenv("INFERNO_SMOLLM2")
		if path == "" {
			tb.Skip("no default model: set INFERNO_SMOLLM2")
		}
		f, err := gguf.Open(path)
		if err != nil {
			tb.Fatal(err)
		}
		defer f.Close()
		tok, err := tokenizer.FromGGUF(f.Metadata())
		if err != nil {
			tb.Fatal(err)
		}
		return tok
	}
	root := os.Getenv("INFERNO_FIXTURES")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "fixtures")
	}
	dir := filepath.Join(root, "tokenizers", name)
	if _, err := os.Stat(dir); err != nil {
		tb.Skipf("no reference data: %v (set INFERNO_FIXTURES)", err)
	}
	tok, err := tokenizer.LoadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return tok
}

// vocabularies are made once: they are what all constraints of a model share.
var vocabularies sync.Map

func referenceVocabulary(tb testing.TB, name string) *Vocabulary {
	tb.Helper()
	if v, ok := vocabularies.Load(name); ok {
		return v.(*Vocabulary)
	}
	tok := reference(tb, name)
	v := NewVocabulary(tok, tok.NumTokens())
	vocabularies.Store(name, v)
	return v
}

var referenceNames = []string{"llama3_1", "qwen3", "mistral_v0_1", "smollm2"}

// jsonEBNF is JSON as people write it in EBNF.
const jsonEBNF = `
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
`

func ebnfProgram(tb testing.TB, text string) *Program {
	tb.Helper()
	g, err := FromEBNF(text)
	return compiled(tb, g, err)
}

// A walk by the mask of a real vocabulary: each mask is that of every token by itself, and where the walk ends there is a text that matches.
func TestWalksByTheMaskEndInTextsThatMatch(t *testing.T) {
	for _, name := range referenceNames {
		t.Run(name, func(t *testing.T) {
			v := referenceVocabulary(t, name)
			for form, p := range map[string]*Program{
				"JSON":       ebnfProgram(t, jsonEBNF),
				"words":      regexProgram(t, `(\p{L}+[ ,.!?]{1,2}){3,9}`),
				"characters": regexProgram(t, `.{0,40}`),
				"address":    regexProgram(t, `(?i)[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}`),
				"sum":        ebnfProgram(t, `root ::= sum "\n" sum ::= part ([-+] part)* part ::= [0-9]{1,3} | "(" sum ")"`),
			} {
				t.Run(form, func(t *testing.T) {
					walkByMask(t, p.Bind(v), rand.New(rand.NewPCG(5, 6)))
				})
			}
		})
	}
}

func walkByMask(t *testing.T, b *Bound, rng *rand.Rand) {
	t.Helper()
	v := b.vocabulary
	judge := newMachine(b.machine.program)
	m := b.NewMatcher(nil)
	text := ""
	for step := 0; !m.Complete() || step < 20; step++ {
		allowed := idsOf(m.Mask())
		if step%8 < 2 {
			wantSingly(t, judge, v, text, m.Mask())
		}
		if len(allowed) == 0 {
			if !m.Complete() {
				t.Fatalf("%q: no token can follow: %v", text, m.Err())
			}
			break
		}
		id := allowed[rng.IntN(len(allowed))]
		for closers := "\"}])@.a1:\n "; step >= 20 && closers != ""; closers = closers[1:] {
			i := slices.IndexFunc(allowed, func(id int32) bool { return v.texts[id] == closers[:1] })
			if i >= 0 && rng.IntN(4) > 0 {
				id = allowed[i]
				break
			}
		}
		m.Accept(id)
		text += v.texts[id]
		if step > 3000 {
			t.Fatalf("no end of %q", text)
		}
	}
	if !judge.program.Match(text) {
		t.Errorf("%q does not match", text)
	}
	t.Logf("%.300q", text)
}

// wantSingly compares a mask with what becomes of each token by itself.
func wantSingly(t *testing.T, judge *machine, v *Vocabulary, text string, mask []uint32) {
	t.Helper()
	from := run(judge, judge.begin(), text)
	for id := range int32(v.size) {
		want := v.texts[id] != "" && run(judge, from, v.texts[id]).alive
		if got := mask[id/32]>>(id%32)&1 == 1; got != want {
			t.Fatalf("after %q, token %d, %q, is allowed: %v, want %v", text, id, v.texts[id], got, want)
		}
	}
}

func run(m *machine, s *state, text string) *state {
	m.steps = 1 << 40
	for i := range len(text) {
		s = m.next(s, m.program.class[text[i]])
	}
	return s
}

func idsOf(mask []uint32) (ids []int32) {
	for id := range int32(32 * len(mask)) {
		if mask[id/32]>>(id%32)&1 == 1 {
			ids = append(ids, id)
		}
	}
	return ids
}
