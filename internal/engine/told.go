package engine

import (
	"fmt"
	"math"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

// What a step tells beside its tokens lies behind the sampled ids and goes to the host together with them: a row of words for each query, as
// device.LogProbsArgs has it, then the vectors. A step without questions has none of it, and copies the ids alone.

// toldLayout places the parts of what a step is asked, in bytes from the start of its input block, and of its answers, in words from
// the start of the row that goes to the host.
type toldLayout struct {
	rows, chosen, from int // I32 [q]: rows of logits, ids, and where in the ids sampled by this step an id is; −1: it is in chosen
	ids                int // I32 [q, m]
	poolFrom, poolTo   int // I32 [e]
	bytes              int // up to the end of all

	answers, width int // [q, width]
	vectors, dim   int // F32 [e, dim]
	words          int // up to the end of all
}

// toldLayoutFor is the layout of q queries of m ids and `top` likeliest ones, and e vectors, behind an input block of `bytes` and
// so many ids that may be sampled.
func toldLayoutFor(bytes, ids, q, m, top, e, dim int) (l toldLayout) {
	l.bytes, l.answers, l.width, l.dim = bytes, ids, 2+m+2*top, dim
	place := func(n int) (at int) {
		at = l.bytes
		l.bytes += aligned(4 * n)
		return at
	}
	l.rows, l.chosen, l.from = place(q), place(q), place(q)
	l.ids = place(q * m)
	l.poolFrom, l.poolTo = place(e), place(e)
	l.vectors = l.answers + q*l.width
	l.words = l.vectors + e*dim
	return l
}

// mostTold is the largest layout behind an input block of `bytes`.
func mostTold(l model.Limits, bytes, dim int) toldLayout {
	return toldLayoutFor(bytes, l.MaxRows, l.MaxRows, MaxLogprobIDs, MaxTopLogprobs, min(promptRows, l.MaxSeqs), dim)
}

// asksNothing says that a step is asked for tokens alone.
func (b *batch) asksNothing() bool { return b.queries == 0 && b.vectors == 0 }

// told is the layout of a step behind an input block of `bytes`.
func (r *runner) told(b *batch, bytes int) toldLayout {
	return toldLayoutFor(bytes, r.sampled.Cols, b.queries, b.ids, b.top, b.vectors, r.dim)
}

// writeAsked fills what the step of b is asked in. Logit rows of prompts come behind those that tokens are sampled from.
func (r *runner) writeAsked(b *batch, l *toldLayout, logitRows []int32) {
	host := r.slot()
	rows, chosen, from := part[int32](host, l.rows, b.queries), part[int32](host, l.chosen, b.queries), part[int32](host, l.from, b.queries)
	ids := part[int32](host, l.ids, b.queries*b.ids)
	poolFrom, poolTo := part[int32](host, l.poolFrom, b.vectors), part[int32](host, l.poolTo, b.vectors)
	fill(from, -1)
	fill(ids, -1)
	n := 0
	for i := range b.items {
		item := &b.items[i]
		q, seq := item.asks, item.seq
		at := q.query
		if q.output {
			rows[at], from[at] = int32(item.at), int32(item.at)
			if q.raw >= 0 {
				rows[at] = int32(b.rows + q.raw)
				logitRows[rows[at]] = int32(n + item.count - 1)
			}
			copy(ids[at*b.ids:], seq.request.Logprobs.IDs)
			at++
		}
		for j := range q.rows {
			row := b.rows + q.row + j
			logitRows[row] = int32(n + q.position + j - item.start)
			rows[at], chosen[at] = int32(row), seq.tokens[q.position+j+1]
			copy(ids[at*b.ids:], seq.request.Logprobs.IDs)
			at++
		}
		if q.vector >= 0 {
			poolFrom[q.vector], poolTo[q.vector] = int32(n+q.from), int32(n+q.to)
		}
		n += item.count
	}
}

// pooling adds the vectors of b to the step of the model.
func (r *runner) pooling(b *batch, l *toldLayout) {
	if b.vectors == 0 {
		return
	}
	r.step.PoolFrom = device.Vector(r.at(l.poolFrom), device.I32, b.vectors)
	r.step.PoolTo = device.Vector(r.at(l.poolTo), device.I32, b.vectors)
	r.step.Pooled = device.Matrix(r.answers.Data+device.Ptr(4*l.vectors), device.F32, b.vectors, l.dim)
}

// tell enqueues the log-probabilities of b's queries.
func (r *runner) tell(b *batch, l *toldLayout) {
	if b.queries == 0 {
		return
	}
	vector := func(offset int) device.Tensor { return device.Vector(r.at(offset), device.I32, b.queries) }
	r.device.Feed(vector(l.chosen), vector(l.from), r.sampled)
	args := device.LogProbsArgs{
		Logits: r.step.Logits, Rows: vector(l.rows), Chosen: vector(l.chosen), Top: b.top,
		Out: device.Matrix(r.answers.Data+device.Ptr(4*l.answers), device.I32, b.queries, l.width),
	}
	if b.ids > 0 {
		args.IDs = device.Matrix(r.at(l.ids), device.I32, b.queries, b.ids)
	}
	r.device.LogProbs(args)
}

// allocateAnswers makes room for sampled ids and what is told beside them.
func (b *buffers) allocateAnswers(a memory.Allocator, maxRows, words int) (err error) {
	if b.answers, err = memory.NewTensor(a, memory.Input, device.I32, 1, words); err != nil {
		return fmt.Errorf("sampled ids and what is told beside them: %w", err)
	}
	b.sampled = b.answers.Columns(0, maxRows)
	return nil
}

// check marks the items of the step collected last whose answers are not finite: the rank of a row without log-probabilities is 0.
func (r *runner) check(b *batch) {
	if b.asksNothing() {
		return
	}
	l := r.told(b, 0)
	for i := range b.questions {
		q := &b.questions[i]
		n := q.rows
		if q.output {
			n++
		}
		for j := range n {
			q.broken = q.broken || r.told32(l.answers+(q.query+j)*l.width, 2)[1] == 0
		}
		if q.vector >= 0 {
			for _, v := range r.told32(l.vectors+q.vector*l.dim, l.dim) {
				x := float64(math.Float32frombits(uint32(v)))
				q.broken = q.broken || math.IsNaN(x) || math.IsInf(x, 0)
			}
		}
	}
}

// told32 is n words of what the step collected last tells.
func (r *runner) told32(at, n int) []int32 {
	slot := int((r.collected - 1) % maxUnderWay)
	return part[int32](r.host.sampled.Bytes, 4*(slot*r.answers.Cols+at), n)
}

// Logprobs reads the log-probabilities that the step collected last tells of an item: of its token, if it asked for that, and of its prompt.
func (r *runner) Logprobs(b *batch, item *batchItem) (output TokenLogprob, prompt []TokenLogprob) {
	q, seq := item.asks, item.seq
	l := r.told(b, 0)
	at := q.query
	read := func(id int32) TokenLogprob {
		words := r.told32(l.answers+at*l.width, l.width)
		at++
		return newTokenLogprob(id, words, b, &seq.request.Logprobs)
	}
	if q.output {
		output = read(item.token)
	}
	for j := range q.rows {
		prompt = append(prompt, read(seq.tokens[q.position+j+1]))
	}
	return output, prompt
}

// newTokenLogprob reads a query's row of words. Others of the step may have asked for more: of more likely ones, or of more ids.
func newTokenLogprob(id int32, words []int32, b *batch, asked *Logprobs) TokenLogprob {
	number := func(word int32) float32 { return math.Float32frombits(uint32(word)) }
	t := TokenLogprob{ID: id, Logprob: number(words[0]), Rank: int(words[1])}
	top := words[2+b.ids:]
	for i := range asked.Top {
		if top[i] >= 0 { // a small vocabulary may have fewer
			t.Alternatives = append(t.Alternatives, Alternative{top[i], number(top[b.top+i])})
		}
	}
	for i, other := range asked.IDs {
		t.Alternatives = append(t.Alternatives, Alternative{other, number(words[2+i])})
	}
	return t
}

// Pool adds the vector that the step collected last tells of an item to its sequence's.
func (r *runner) Pool(b *batch, item *batchItem) {
	if item.asks.vector < 0 {
		return
	}
	l := r.told(b, 0)
	seq := item.seq
	if seq.pooled == nil {
		seq.pooled = make([]float64, l.dim)
	}
	for i, v := range r.told32(l.vectors+item.asks.vector*l.dim, l.dim) {
		seq.pooled[i] += float64(math.Float32frombits(uint32(v)))
	}
}

// vector is the pooled hidden state of a prompt that has been computed.
func (s *sequence) vector() []float32 {
	if s.asked.pooling == NoPooling || s.pooled == nil {
		return nil
	}
	n := 1.0
	if s.asked.pooling == MeanPooling {
		n = float64(s.prompt)
	}
	out := make([]float32, len(s.pooled))
	for i, sum := range s.pooled {
		out[i] = float32(sum / n)
	}
	return out
}
