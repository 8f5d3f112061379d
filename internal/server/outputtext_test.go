package server

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/inferno-serve/inferno/internal/engine"
)

// Whatever the text, the stop strings and the tokens that the text comes in: what is let out is always a start of the right output, which a
// search at every byte finds.
func TestStopStringsWhereverTokensBegin(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	alphabet := []rune("aab€é")
	random := func(most int) string {
		runes := make([]rune, 1+rng.IntN(most))
		for i := range runes {
			runes[i] = alphabet[rng.IntN(len(alphabet))]
		}
		return string(runes)
	}
	tok, found := byteTokenizer(t), 0
	for range 20_000 {
		text, stops := random(30), []string{random(5), random(3), random(4)}[:rng.IntN(4)]
		minTokens := rng.IntN(12)
		want, match := stopSearch(text, stops, minTokens)
		if match != "" {
			found++
		}
		o, got := newOutputText(tok.NewContinuation(true), stops), ""
		var ended *stopMatch
		for i, id := range byteIDs(text) {
			more, m := o.write(id, i+1 >= minTokens)
			if got += more; !strings.HasPrefix(want, got) || !utf8.ValidString(got) {
				t.Fatalf("%q with stops %q from token %d on: let out %q, want %q", text, stops, minTokens, got, want)
			}
			if ended = m; m != nil {
				break
			}
		}
		if ended == nil {
			more, m := o.flush(true)
			got, ended = got+more, m
		}
		if got != want || (ended == nil) != (match == "") || ended != nil && ended.text != match {
			t.Fatalf("%q with stops %q from token %d on: %q ended by %v, want %q ended by %q", text, stops, minTokens, got, ended, want, match)
		}
	}
	if found < 1000 {
		t.Errorf("only %d texts had a stop string", found)
	}
}

// stopSearch cuts a text, of which each byte is a token, where the first of the stop strings is complete: the longest of them.
func stopSearch(text string, stops []string, minTokens int) (before, match string) {
	for end := max(minTokens, 1); end <= len(text); end++ {
		for _, s := range stops {
			if strings.HasSuffix(text[:end], s) && len(s) > len(match) {
				match = s
			}
		}
		if match != "" {
			return text[:end-len(match)], match
		}
	}
	return text, ""
}

// Text is held back only as long as it may be the start of a stop string.
func TestTextIsLetOutAsSoonAsItIsCertain(t *testing.T) {
	tok := byteTokenizer(t)
	for _, c := range []struct {
		stops []string
		steps []string // text of a token, then what comes out
	}{
		{nil, []string{"a", "a", "b", "b"}},
		{[]string{"abc"}, []string{"a", "", "b", "", "b", "abb", "a", "", "a", "a"}},
		{[]string{"aab"}, []string{"a", "", "a", "", "a", "a", "a", "a"}},
		{[]string{"<|x|>", "<|xy"}, []string{"<", "", "|", "", "x", "", "z", "<|xz"}},
	} {
		o := newOutputText(tok.NewContinuation(true), c.stops)
		for i := 0; i < len(c.steps); i += 2 {
			if got, _ := o.write(int32(c.steps[i][0]), true); got != c.steps[i+1] {
				t.Errorf("stops %q, token %d: %q came out, want %q", c.stops, i/2, got, c.steps[i+1])
			}
		}
	}
}

// The mask of banned strings leaves out just the tokens that would complete one, whatever the tokens before; so no output contains one.
func TestBannedStringsLeaveOutWhatWouldCompleteThem(t *testing.T) {
	words := []string{"ab", "aba", "bab", "abab", "ba", "b a", "é", "€", "\xc3", "\xa9x", " a", "aa", "bb"}
	model := &Model{Tokenizer: byteTokenizer(t, words...), Info: ModelInfo{VocabularySize: longID + 1 + len(words) + 3}}
	for name, banned := range map[string][]string{
		"one byte": {"a"}, "a word": {"abab"}, "overlapping": {"aab", "abba", "bbb"}, "within a token": {"bab"}, "of two bytes": {"é", "x€"},
		"special text": {"/s"}, "one in another": {"bab", "abba", "ba"}, "runs": {"aaaaaaaab", "aaaab", "babababa", "ababababb"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, skipSpecial := range []bool{true, false} {
				g := &generation{model: model, skipSpecial: skipSpecial, request: &engine.Request{}}
				g.request.Stop.EndTokens, g.request.Stop.IgnoreEOS = []int32{eosID}, true
				rng := rand.New(rand.NewPCG(uint64(len(name)), 2))
				masker, text := newBannedText(g, banned)(), ""
				decoder := model.Tokenizer.NewContinuation(skipSpecial)
				decoded := ""
				for range 300 {
					mask := masker.Mask()
					var open []int32
					for id := range int32(model.Info.VocabularySize) {
						own, _ := model.Tokenizer.TokenBytes(id)
						if skipSpecial && model.Tokenizer.IsSpecial(id) {
							own = ""
						}
						completes := slices.ContainsFunc(banned, func(s string) bool { return strings.Contains(text+own, s) })
						if allowed := mask[id/32]>>(id%32)&1 == 1; allowed == completes {
							t.Fatalf("after %q token %d (%q): allowed is %t", text, id, own, allowed)
						}
						if !completes {
							open = append(open, id)
						}
					}
					id := open[rng.IntN(len(open))]
					if near := slices.IndexFunc(open, func(id int32) bool { return id == 'a' || id == 'b' }); near >= 0 && rng.IntN(2) == 0 {
						id = open[near]
					}
					masker.Accept(id)
					if own, _ := model.Tokenizer.TokenBytes(id); !skipSpecial || !model.Tokenizer.IsSpecial(id) {
						text += own
					}
					decoded += decoder.Write(id)
				}
				for _, s := range banned {
					if strings.Contains(decoded, s) {
						t.Errorf("the output contains %q: %q", s, decoded)
					}
				}
			}
		})
	}
}

// An end token that adds no text to the output is never banned for its name.
func TestBannedStringsDoNotKeepAnOutputFromEnding(t *testing.T) {
	model := &Model{Tokenizer: byteTokenizer(t), Info: ModelInfo{VocabularySize: vocabularySize}}
	g := &generation{model: model, request: &engine.Request{}}
	g.request.Stop.EndTokens = []int32{eosID}
	for _, include := range []bool{false, true} {
		g.includeStop = include
		mask := newBannedText(g, []string{"/s"})().Mask()
		if allowed := mask[eosID/32]>>(eosID%32)&1 == 1; allowed == include {
			t.Errorf("include_stop %t: the end token is allowed: %t", include, allowed)
		}
	}
}

func TestDeadEndsAreRefused(t *testing.T) {
	// The engine is the one that knows, and names the field.
	got := failureOf(&engine.LimitError{Field: "allowed_token_ids", Value: "empty", Limit: "at least 1 token"})
	if want := "sampling.allowed_token_ids: is empty, want at least 1 token"; got.text != want {
		t.Errorf("told %q, want %q", got.text, want)
	}
}
