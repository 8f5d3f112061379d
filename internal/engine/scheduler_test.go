package engine

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts under testdata produce as their expected output")

// TestSchedulerScripts runs the histories in testdata/scheduler. A script is a list of commands, each followed by a line `----`, its
// expected output and an empty line:
//
//	new blocks=8 block-size=4 max-batch=4 max-tokens=16 context=32 [cache=yes]
//	add id=a prompt=5 max=3            a prompt that all others start with too
//	add id=a prompt=5 tail=7,8 max=3   but for its last 2 tokens
//	add id=a prompt=5 max=3 salt=x bypass=yes tenant=t penalty=yes priority=7
//	add id=a prompt=5 max=3 n=2        continuations a0 and a1
//	add id=a prompt=5 max=3 masked=yes it needs the host between its tokens
//	step [a=-1]                the batch, and who ended; the token sampled is 1 but where it says otherwise
//	launch, commit [a=-1]      the same in two, so that two batches may be under way
//	cancel id=a
//	now 3s                     the time, which counts for priorities
//	took 60ms decodes=2 prompts=16   what a step of such a size took; new has target=50ms
//	state                      what runs (computed/tokens, blocks) and waits
//
// A sequence that found blocks in the prefix cache starts behind them.
func TestSchedulerScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/scheduler/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("got:\n%s", got)
			}
		})
	}
}

func runScript(t *testing.T, text string) string {
	var out strings.Builder
	w := &world{}
	for _, section := range strings.Split(strings.TrimSpace(text), "\n\n") {
		head, _, _ := strings.Cut(section, "\n----")
		if out.Len() > 0 {
			out.WriteString("\n")
		}
		fmt.Fprintf(&out, "%s\n----\n", head)
		for line := range strings.Lines(head) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
				out.WriteString(w.command(t, strings.Fields(line)))
			}
		}
		if w.s != nil {
			if err := w.s.checkIntegrity(); err != nil {
				t.Fatalf("after %q: %v", head, err)
			}
		}
	}
	return out.String()
}

// world is a scheduler with names.
type world struct {
	s       *scheduler
	context int
	byID    map[string]*sequence
}

func newWorld(blocks, blockSize, maxBatch, maxTokens, maxRows, context int) *world {
	return newWorldOn(newBlockPool(blocks, blockSize, false), maxBatch, maxTokens, maxRows, context)
}

func newWorldOn(blocks *blockPool, maxBatch, maxTokens, maxRows, context int) *world {
	context = min(context, blocks.total()*blocks.blockSize)
	return &world{
		s:       newScheduler(blocks, maxBatch, maxTokens, maxRows, context),
		context: context, byID: map[string]*sequence{},
	}
}

func (w *world) add(id string, prompt, maxNew int) {
	w.addAsking(id, prompt, maxNew, Logprobs{}, NoPooling)
}

// addAsking adds a request that wants to know of its prompt too, and of nothing else where maxNew is 0.
func (w *world) addAsking(id string, prompt, maxNew int, logprobs Logprobs, pooling Pooling) {
	w.addRequest(&Request{
		ID: id, Prompt: make([]int32, prompt), Stop: Stopping{MaxTokens: maxNew}, Logprobs: logprobs, Pooling: pooling, PromptOnly: maxNew == 0,
	})
}

func (w *world) addRequest(r *Request) *sequence {
	r.Stop.StopTokens = []int32{stopToken}
	seq := newSequence(r, w.context)
	seq.prefix = w.s.blocks.prefixOf(r)
	w.byID[r.ID] = seq
	w.s.Add(seq)
	return seq
}

// addContinuations adds a request of several, which are named by their numbers behind its own name.
func (w *world) addContinuations(id string, prompt, maxNew, n int, logprobs Logprobs) {
	w.addGroup(&Request{ID: id, Prompt: make([]int32, prompt), Stop: Stopping{MaxTokens: maxNew}, Logprobs: logprobs}, n)
}

func (w *world) addGroup(r *Request, n int) []*sequence {
	g := &group{}
	for i := range n {
		one := *r
		one.ID = fmt.Sprint(r.ID, i)
		if i > 0 {
			one.Logprobs = Logprobs{}
		}
		one.Stop.StopTokens = []int32{stopToken}
		seq := newSequence(&one, w.context)
		seq.group, seq.prefix = g, w.s.blocks.prefixOf(&one)
		g.members = append(g.members, seq)
		w.byID[one.ID] = seq
		w.s.Add(seq)
	}
	return g.members
}

func (w *world) command(t *testing.T, words []string) string {
	args := map[string]string{}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		args[key] = value
	}
	number := func(key string) (n int) {
		if _, err := fmt.Sscan(args[key], &n); err != nil {
			t.Fatalf("%v: %s: %v", words, key, err)
		}
		return n
	}
	switch words[0] {
	case "new":
		rows := 1
		if args["max-rows"] != "" {
			rows = number("max-rows")
		}
		blocks := newBlockPool(number("blocks"), number("block-size"), args["cache"] != "")
		*w = *newWorldOn(blocks, number("max-batch"), number("max-tokens"), rows, number("context"))
		if args["target"] != "" {
			w.s.prompts.target = duration(t, args["target"])
		}
	case "add":
		var logprobs Logprobs
		if args["logprobs"] != "" {
			logprobs = Logprobs{Prompt: true, Start: number("logprobs")}
		}
		if args["n"] != "" {
			w.addContinuations(args["id"], number("prompt"), number("max"), number("n"), logprobs)
			break
		}
		r := &Request{
			ID: args["id"], Prompt: make([]int32, number("prompt")), Stop: Stopping{MaxTokens: number("max")}, Logprobs: logprobs,
			Pooling: map[string]Pooling{"mean": MeanPooling, "last": LastTokenPooling}[args["pool"]], PromptOnly: args["max"] == "0",
			Cache: Cache{Salt: args["salt"], Bypass: args["bypass"] != ""}, Tenant: args["tenant"],
		}
		if args["penalty"] != "" {
			r.Sampling.PresencePenalty = 1
		}
		if args["priority"] != "" {
			r.Priority = number("priority")
		}
		if args["tail"] != "" {
			tail := strings.Split(args["tail"], ",")
			for i, token := range tail {
				if _, err := fmt.Sscan(token, &r.Prompt[len(r.Prompt)-len(tail)+i]); err != nil {
					t.Fatalf("%v: tail: %v", words, err)
				}
			}
		}
		w.addRequest(r).hostBound = args["masked"] != ""
	case "now":
		w.s.now = duration(t, words[1])
	case "took":
		w.s.prompts.observe(number("decodes"), number("prompts"), duration(t, words[1]))
	case "cancel":
		w.s.Remove(w.byID[args["id"]])
	case "step":
		if launched := w.launch(); launched != nothing {
			return launched + w.commit(t, args)
		}
		return nothing
	case "launch":
		return w.launch()
	case "commit":
		return w.commit(t, args)
	case "state":
		return w.state()
	default:
		t.Fatalf("unknown command %v", words)
	}
	return ""
}

func duration(t *testing.T, text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// stopToken ends any output of a world.
const stopToken = 30

// nothing is what launch says when there is no batch.
const nothing = "nothing\n"

func (w *world) launch() string {
	var out strings.Builder
	preempted := w.s.preemptions
	b := w.s.Next()
	if b == nil {
		return nothing
	}
	if n := w.s.preemptions - preempted; n > 0 {
		fmt.Fprintf(&out, "preempted %d\n", n)
	}
	for _, item := range b.items {
		kind := "prefill"
		if item.decode {
			kind = "decode"
		}
		fmt.Fprintf(&out, "%s %s [%d,%d) blocks %v", kind, item.seq.request.ID, item.start, item.start+item.count, item.seq.table)
		if item.row >= 0 {
			fmt.Fprintf(&out, " row %d", item.row)
		}
		if q := item.asks; q.rows > 0 {
			fmt.Fprintf(&out, " tells [%d,%d)", q.position+1, q.position+q.rows+1)
		}
		if q := item.asks; q.vector >= 0 {
			fmt.Fprintf(&out, " pools [%d,%d)", item.start+q.from, item.start+q.to)
		}
		out.WriteString("\n")
	}
	return out.String()
}

// commit samples token 1 everywhere but where args say otherwise.
func (w *world) commit(t *testing.T, args map[string]string) string {
	var out strings.Builder
	b := w.s.oldest()
	ids := make([]int32, b.rows)
	for _, item := range b.items {
		if item.row < 0 {
			continue
		}
		ids[item.row] = 1
		if id, ok := args[item.seq.request.ID]; ok {
			if _, err := fmt.Sscan(id, &ids[item.row]); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.s.Commit(b, ids)
	for _, item := range b.items {
		switch {
		case item.dropped:
			fmt.Fprintf(&out, "%s had left\n", item.seq.request.ID)
		case item.seq.err != nil:
			fmt.Fprintf(&out, "%s ends: %v\n", item.seq.request.ID, item.seq.err)
		case item.seq.finish != 0:
			fmt.Fprintf(&out, "%s ends: %v\n", item.seq.request.ID, item.seq.finish)
		}
	}
	return out.String()
}

func (w *world) state() string {
	var out strings.Builder
	for _, seq := range w.s.running {
		fmt.Fprintf(&out, "running %s %d/%d blocks %v\n", seq.request.ID, seq.computed, len(seq.tokens), seq.table)
	}
	var waiting []*sequence
	w.s.waiting.each(func(seq *sequence) bool { waiting = append(waiting, seq); return true })
	slices.SortStableFunc(waiting[w.s.waiting.suspended.len:], func(a, b *sequence) int { return cmp.Compare(a.order, b.order) })
	for _, seq := range waiting {
		fmt.Fprintf(&out, "waiting %s %d tokens\n", seq.request.ID, len(seq.tokens))
	}
	fmt.Fprintf(&out, "%d of %d blocks free", w.s.blocks.numFree(), w.s.blocks.total())
	if n := w.s.blocks.cache.idle; n > 0 {
		fmt.Fprintf(&out, ", %d of them cached", n)
	}
	out.WriteString("\n")
	return out.String()
}

// TestAnyHistoryKeepsTheInvariantsAndEnds runs random arrivals, cancellations and steps, and then lets everything finish.
func TestAnyHistoryKeepsTheInvariantsAndEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		blockSize := rapid.IntRange(1, 5).Draw(t, "block size")
		blocks := rapid.IntRange(2, 24).Draw(t, "blocks")
		w := newWorld(blocks, blockSize, rapid.IntRange(1, 6).Draw(t, "max batch"), rapid.IntRange(1, 20).Draw(t, "max tokens"),
			rapid.IntRange(1, 5).Draw(t, "max rows"), rapid.IntRange(2, 40).Draw(t, "context"))
		live := map[string]*sequence{}
		work := 0                     // steps that all sequences need if each runs alone
		told := map[string][]string{} // of each sequence's prompt: log-probabilities, and pooled hidden states, by position
		commit := func() {
			b := w.s.oldest()
			ids := make([]int32, b.rows)
			for i := range ids {
				ids[i] = int32(rapid.IntRange(-1, stopToken).Draw(t, "id"))
			}
			w.s.Commit(b, ids)
			for _, item := range b.items {
				if id := item.seq.request.ID; !item.dropped {
					told[id] = append(told[id], answersOf(item)...)
				}
			}
			for id, seq := range live {
				if seq.state == ended {
					got, want := told[id], wantedBy(seq)
					slices.Sort(got)
					slices.Sort(want)
					if seq.err == nil && !slices.Equal(got, want) {
						t.Fatalf("%s was told %v, want %v", id, got, want)
					}
					delete(live, id)
				}
			}
		}
		launch := func() {
			oldest, before := oldestOf(w.s), 0
			if oldest != nil {
				before = oldest.computed
			}
			alone := w.s.underWay() == 0
			b := w.s.Next()
			if b != nil {
				checkBatch(t, w.s, b)
			}
			if alone && oldest != nil && oldest.computed <= before {
				t.Fatalf("the oldest sequence stands still at %d of %d tokens", before, len(oldest.tokens))
			}
		}
		step := func() {
			if w.s.underWay() < maxUnderWay {
				launch()
			}
			if w.s.underWay() > 0 {
				commit()
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if err := w.s.checkIntegrity(); err != nil {
					t.Fatal(err)
				}
			},
			"add": func(t *rapid.T) {
				id := fmt.Sprint(len(w.byID))
				n := rapid.IntRange(1, w.context-1).Draw(t, "prompt")
				most := rapid.IntRange(1, w.context-n).Draw(t, "max")
				logprobs, pooling := Logprobs{}, NoPooling
				if rapid.Bool().Draw(t, "logprobs") {
					logprobs = Logprobs{Prompt: true, Start: rapid.IntRange(0, n-1).Draw(t, "start")}
				}
				if rapid.IntRange(0, 3).Draw(t, "generates") == 0 {
					most = 0
					pooling = Pooling(rapid.IntRange(0, 2).Draw(t, "pooling"))
				}
				names := []string{id}
				if continuations := rapid.IntRange(1, 4).Draw(t, "continuations"); continuations > 1 && most > 0 {
					w.addContinuations(id+".", n, most, continuations, logprobs)
					names = names[:0]
					for i := range continuations {
						names = append(names, fmt.Sprint(id, ".", i))
					}
				} else {
					w.addAsking(id, n, most, logprobs, pooling)
				}
				masked := most > 0 && rapid.Bool().Draw(t, "masked")
				for _, name := range names {
					live[name] = w.byID[name]
					live[name].hostBound = masked
					work += n + most
				}
			},
			"step": func(*rapid.T) { step() },
			"launch": func(t *rapid.T) {
				if w.s.underWay() == maxUnderWay {
					t.Skip("no more may be under way")
				}
				launch()
			},
			"commit": func(t *rapid.T) {
				if w.s.underWay() == 0 {
					t.Skip("nothing is under way")
				}
				commit()
			},
			"cancel": func(t *rapid.T) {
				if len(live) == 0 {
					t.Skip("nothing lives")
				}
				id := rapid.SampledFrom(sortedKeys(live)).Draw(t, "id")
				w.s.Remove(live[id])
				delete(live, id)
			},
		})
		for ; len(live) > 0; work-- {
			if work < 0 {
				t.Fatalf("%d sequences never end:\n%s", len(live), w.state())
			}
			step()
		}
		for w.s.underWay() > 0 {
			commit()
		}
		if err := w.s.checkIntegrity(); err != nil || w.s.blocks.numFree() != blocks {
			t.Fatalf("%d of %d blocks free at the end: %v", w.s.blocks.numFree(), blocks, err)
		}
	})
}

// answersOf is what a committed item tells of its prompt.
func answersOf(item batchItem) (told []string) {
	q := item.asks
	for i := range q.rows {
		told = append(told, fmt.Sprint("logprob ", q.position+i+1))
	}
	if q.vector >= 0 {
		for i := q.from; i < q.to; i++ {
			told = append(told, fmt.Sprint("state ", item.start+i))
		}
	}
	return told
}

// wantedBy is all that a sequence is to be told of its prompt, each once.
func wantedBy(seq *sequence) (want []string) {
	r := seq.request
	for i := range seq.prompt {
		if r.Logprobs.Prompt && i >= max(r.Logprobs.Start, 1) {
			want = append(want, fmt.Sprint("logprob ", i))
		}
		if r.Pooling == MeanPooling || r.Pooling == LastTokenPooling && i == seq.prompt-1 {
			want = append(want, fmt.Sprint("state ", i))
		}
	}
	return want
}

func oldestOf(s *scheduler) *sequence {
	if len(s.running) > 0 {
		return s.running[0]
	}
	return s.waiting.next(s.now)
}

func sortedKeys(m map[string]*sequence) []string { return slices.Sorted(maps.Keys(m)) }

// checkBatch compares a batch with what it was made from.
func checkBatch(t *rapid.T, s *scheduler, b *batch) {
	tokens, rows, chunk := 0, 0, false
	for _, item := range b.items {
		seq := item.seq
		if chunk && item.decode {
			t.Fatalf("decode row of %s after a chunk", seq.request.ID)
		}
		chunk = chunk || !item.decode
		known := len(seq.tokens) + seq.pending // to this step
		if item.row >= 0 {
			known--
		}
		generates := !seq.request.PromptOnly
		if item.count < 1 || item.start+item.count != seq.computed || item.start+item.count > known || generates && known-seq.prompt >= seq.maxNew {
			t.Fatalf("%s: tokens [%d,%d) with %d of %d computed", seq.request.ID, item.start, item.start+item.count, seq.computed, known)
		}
		if len(seq.table)*s.blocks.blockSize < item.start+item.count {
			t.Fatalf("%s: %d blocks for %d tokens", seq.request.ID, len(seq.table), item.start+item.count)
		}
		if last := generates && item.start+item.count == known; last != (item.row >= 0) || last && item.row != rows {
			t.Fatalf("%s: row %d, is the last chunk: %v, %d rows before", seq.request.ID, item.row, last, rows)
		} else if last {
			rows++
		}
		tokens += item.count
	}
	if b.promptRows > s.maxRows || b.vectors > promptRows {
		t.Fatalf("%d logit rows and %d vectors of prompts, limits are %d and %d", b.promptRows, b.vectors, s.maxRows, promptRows)
	}
	if tokens != b.tokens || rows != b.rows || tokens > s.maxTokens || len(b.items) > s.maxSeqs {
		t.Fatalf("%d tokens, %d rows, %d sequences; the batch says %d and %d, limits are %d and %d",
			tokens, rows, len(b.items), b.tokens, b.rows, s.maxTokens, s.maxSeqs)
	}
}

func TestNextAllocatesNothing(t *testing.T) {
	w := newWorld(64, 4, 16, 64, 1, 256)
	for i := range 16 { // that will come to some 1200 tokens in 64 blocks of 4
		w.add(fmt.Sprint(i), 5+i, 64)
	}
	ids := make([]int32, 16)
	allocated := testing.AllocsPerRun(10, func() {
		for range 10 {
			b := w.s.Next()
			w.s.Commit(b, ids[:b.rows])
		}
	})
	if allocated != 0 || w.s.preemptions == 0 {
		t.Errorf("10 steps allocated %v times, with %d preemptions in all", allocated, w.s.preemptions)
	}
}
