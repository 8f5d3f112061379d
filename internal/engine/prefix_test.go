package engine

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
)

// dialogues are n requests of everything that a request can ask for, in three rounds: prompts that start alike in groups, the same ones again,
// and prompts that go on from what was generated.
func dialogues(n int) (rounds [3][]*Request) {
	for i, q := range withEverything(n) {
		q.Prompt = slices.Concat(prompt(8+4*(i%3), i%5), prompt(1+i%7, i))
		q.N = 1 + i%2
		rounds[0] = append(rounds[0], q)
	}
	for i, q := range rounds[0] {
		again, on := *q, *q
		again.ID += " again"
		again.Sampling.Seed += 100
		rounds[1] = append(rounds[1], &again)
		on.ID += " goes on"
		output, _ := reference(q, 256)
		on.Prompt = slices.Concat(q.Prompt, output, prompt(1+i%5, i+1))
		rounds[2] = append(rounds[2], &on)
	}
	return rounds
}

// Whatever a request asks for, it gets the same tokens where its first blocks come from the cache: with penalties too, for which the device
// needs the tokens in those blocks.
func TestPrefixHitsChangeNoToken(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		for name, c := range map[string]struct {
			blocks int
			little bool
		}{"room for all": {900, false}, "little room": {24, true}} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, Options{NumBlocks: c.blocks, MaxBatch: 12, PrefixCache: true})
				for n, round := range dialogues(24) {
					streams := make([][]*Stream, len(round))
					for i, q := range round {
						if o, err := r.Outlook(q); err != nil || o.Cached < 0 || o.Cached >= len(q.Prompt) { // while the loop is at work
							t.Errorf("%d of %d tokens would be found (%v)", o.Cached, len(q.Prompt), err)
						}
						streams[i] = r.submitAll(t.Context(), t, q)
					}
					if n == 0 { // all of them together, so that little room is too little
						r.run(t)
					}
					for i, q := range round {
						for j, s := range streams[i] {
							wantReferenceOf(t, r, q, s, continuationSeed(q.Sampling.Seed, j))
						}
					}
				}
				s := r.Stats()
				if s.CacheHits == 0 && !c.little || s.CacheAsked < s.CacheHits || (s.Preemptions > 0) != c.little || (s.CacheEvictions > 0) != c.little ||
					s.BlocksUsed != 0 || s.BlocksCached == 0 {
					t.Errorf("in the end: %+v", s)
				}
			})
		}
	})
}

// What was found is in the usage of a request, and what would be found is told to whoever asks; a request that bypasses the cache has neither.
func TestHitsAreTold(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		r := newRig(t, Options{PrefixCache: true, BlockSize: 4}).run(t)
		ask := func(what string, q Request, want int) {
			t.Helper()
			q.ID, q.Stop.MaxTokens = what, 3
			if o, err := r.Outlook(&q); err != nil || o.Cached != want {
				t.Errorf("%s: %d tokens would be found, want %d (%v)", what, o.Cached, want, err)
			}
			s := r.submit(t.Context(), t, &q)
			_, fin, err := readAll(s)
			if err != nil || fin.Usage.CachedTokens != want || s.Started().CachedTokens != want {
				t.Errorf("%s: usage %+v, start %+v (%v), want %d cached tokens", what, fin.Usage, s.Started(), err, want)
			}
		}
		p := prompt(22, 1)
		ask("bypasses, and leaves nothing", Request{Prompt: p, Cache: Cache{Bypass: true}}, 0)
		ask("first", Request{Prompt: p}, 0)
		ask("again", Request{Prompt: p}, 20)
		ask("bypasses", Request{Prompt: p, Cache: Cache{Bypass: true}}, 0)
		ask("one block less", Request{Prompt: p[:20]}, 16)
		ask("others behind a block", Request{Prompt: slices.Concat(p[:9], p[:13])}, 8)
		ask("another tenant", Request{Prompt: p, Tenant: "t"}, 0)
		ask("another salt", Request{Prompt: p, Cache: Cache{Salt: "t"}}, 0)
		ask("continuations", Request{Prompt: p, N: 3}, 20)
		if s := r.Stats(); s.CacheHits != 20+16+8+20 || s.CacheAsked != 22+22+20+22+22+22+22 {
			t.Errorf("hits are %d of %d tokens", s.CacheHits, s.CacheAsked)
		}
	})
}

// A request that ends with logits that are not finite leaves nothing that the next one could trip over.
func TestNothingIsLeftOfWhatIsNotFinite(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		r := newRig(t, Options{PrefixCache: true, BlockSize: 4, MaxBatchTokens: 48})
		r.model.broken = true
		q := &Request{ID: "q", Prompt: prompt(90, 1), Stop: Stopping{MaxTokens: 3}}
		s := r.submit(t.Context(), t, q)
		r.run(t)
		if _, _, err := readAll(s); err == nil {
			t.Error("no error")
		}
		if cached := r.Stats().BlocksCached; cached != 0 {
			t.Errorf("%d blocks are cached", cached)
		}
	})
}

// Without a cache nothing is kept.
func TestNoCacheKeepsNothing(t *testing.T) {
	r := newRig(t, Options{}).run(t)
	for i := range 2 {
		q := &Request{ID: fmt.Sprint(i), Prompt: prompt(40, 1), Stop: Stopping{MaxTokens: 4}}
		wantReference(t, r, q, r.submit(t.Context(), t, q))
	}
	if s := r.Stats(); s.CacheAsked != 0 || s.BlocksCached != 0 {
		t.Errorf("in the end: %+v", s)
	}
}

// A prompt that is there takes one step of one row for its last tokens, however long it is.
func TestAHitIsNotComputedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{PrefixCache: true, MaxBatchTokens: 16, MaxBatch: 1, BlockSize: 4}).run(t)
		for i, want := range []uint64{200/16 + 1, 1} {
			before := r.Stats()
			q := &Request{ID: fmt.Sprint(i), Prompt: prompt(200, 3), Stop: Stopping{MaxTokens: 1}}
			wantReference(t, r, q, r.submit(t.Context(), t, q))
			if got := r.Stats().Steps - before.Steps; got != want {
				t.Errorf("time %d: %d steps, want %d", i, got, want)
			}
		}
	})
}

func TestRootsTellWhatMustNotBeShared(t *testing.T) {
	c, other := newPrefixCache(8, true), newPrefixCache(8, true)
	seen := map[digest128]string{}
	for _, tenant := range []string{"", "a", "ab", "b"} {
		for _, salt := range []string{"", "a", "b", "bc", "c"} {
			for _, penalized := range []bool{false, true} {
				name := fmt.Sprintf("%q %q %v", tenant, salt, penalized)
				for where, root := range map[string]digest128{"": c.root(tenant, salt, penalized), " elsewhere": other.root(tenant, salt, penalized)} {
					if same, ok := seen[root]; ok {
						t.Errorf("%s has the root of %s", name+where, same)
					}
					seen[root] = name + where
				}
			}
		}
	}
}

// While sequences decode, a plan and its commit allocate nothing; nor does the step in which prompts are left in the cache.
func TestTheCacheAllocatesNothingPerStep(t *testing.T) {
	w := newWorldOn(newBlockPool(256, 4, true), 16, 64, 1, 256)
	for i := range 16 {
		w.add(fmt.Sprint(i), 9+i, 200)
	}
	ids := make([]int32, 16)
	allocated := testing.AllocsPerRun(100, func() {
		b := w.s.Next()
		w.s.Commit(b, ids[:b.rows])
	})
	if allocated != 0 || w.byID["0"].prefix.kept == 0 {
		t.Errorf("a step allocates %v times; %d blocks of a prompt are in the cache", allocated, w.byID["0"].prefix.kept)
	}
}

// BenchmarkPrefixCache is what the cache adds to a request of 1,024 + 128 tokens that finds nothing: all that submitting, scheduling and ending it
// takes, with and without.
func BenchmarkPrefixCache(b *testing.B) {
	for _, blockSize := range []int{16, 64} {
		for _, on := range []bool{false, true} {
			b.Run(fmt.Sprintf("block=%d/cache=%v", blockSize, on), func(b *testing.B) {
				const tokens, output = 1024, 128
				w := newWorldOn(newBlockPool(64<<10/blockSize, blockSize, on), 8, 2048, 1, 2048)
				q := &Request{ID: "q", Prompt: make([]int32, tokens), Stop: Stopping{MaxTokens: output}}
				n := int32(0)
				for b.Loop() {
					n++
					q.Prompt[0] = n
					seq := newSequence(q, w.context)
					seq.prefix = w.s.blocks.prefixOf(q)
					w.s.Add(seq)
					for seq.state != ended {
						next := w.s.Next()
						w.s.Commit(next, make([]int32, next.rows))
					}
				}
				if on && w.s.hits.tokens > 0 {
					b.Errorf("%d tokens were found", w.s.hits.tokens)
				}
			})
		}
	}
}
