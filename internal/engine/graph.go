package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model"
)

// stepGraph is a captured step of up to `rows` sequences of one token each. Row i belongs to the sequence at place i of the block tables;
// where there is none it is padding: its key is stored nowhere, it sees the one key at the start of block 0 or of its last sequence's
// first block, and its id is read by nobody.
type stepGraph struct {
	rows   int
	graph  device.Graph
	asking device.Graph // the same without its end, for steps with log-probabilities behind it
	graphLayout
	expected time.Duration // of a step, smoothed; 0: none has run
	lates    int           // steps, up to the last one, that had ended when the loop woke up for them
}

// graphLayout places the parts of a graph's input block, in bytes from its start.
type graphLayout struct {
	tokens, positions, slots, from, kvLen int // I32 [rows]
	params                                int // SampleParams [rows]
	index, values                         int // I32 [rows] changes of the state; index −1: none
	bytes                                 int
}

func graphLayoutFor(rows int) (l graphLayout) {
	for _, at := range []*int{&l.tokens, &l.positions, &l.slots, &l.from, &l.kvLen, &l.index, &l.values} {
		*at = l.bytes
		l.bytes += aligned(4 * rows)
	}
	l.params = l.bytes
	l.bytes += aligned(device.SampleParamsBytes * rows)
	return l
}

// graphRows are the sizes of graphs up to most: eight rows apart, which is what products on a card compute at a time, and further apart
// where a row of padding costs less.
func graphRows(most int) (sizes []int) {
	for n := 1; n < most; {
		sizes = append(sizes, n)
		switch {
		case n < 8:
			n *= 2
		case n < 64:
			n += 8
		case n < 128:
			n += 16
		default:
			n += n / 4 / 32 * 32
		}
	}
	return append(sizes, most)
}

// capture makes the graphs, largest first; none is made later, where it would take time and memory in a step. Nothing may be under way.
func (r *runner) capture(ctx context.Context) error {
	for _, rows := range slices.Backward(graphRows(r.mostRows)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		g := stepGraph{rows: rows, graphLayout: graphLayoutFor(rows)}
		if r.padded { // what a card does the first time that it sees an op is not for a capture
			if err := r.rehearse(&g); err != nil {
				return fmt.Errorf("step of %d rows: %w", rows, err)
			}
		}
		var err error
		if g.graph, err = r.device.Capture(func() { r.record(&g, true) }); err != nil {
			return fmt.Errorf("capture a step of %d rows: %w", rows, err)
		}
		if g.asking, err = r.device.Capture(func() { r.record(&g, false) }); err != nil {
			return fmt.Errorf("capture a step of %d rows without its end: %w", rows, err)
		}
		r.graphs = append(r.graphs, g)
	}
	slices.Reverse(r.graphs)
	for i := range r.graphs {
		for len(r.graphOf) <= r.graphs[i].rows {
			r.graphOf = append(r.graphOf, uint8(i))
		}
	}
	return nil
}

// rehearse computes a step of padding alone.
func (r *runner) rehearse(g *stepGraph) error {
	r.writePadding(g, &batch{})
	r.record(g, true)
	r.device.Flush()
	r.launched++
	r.collected++
	return r.device.Sync()
}

// record enqueues the step of a graph, and where it is whole, its end.
func (r *runner) record(g *stepGraph, whole bool) {
	m := g.rows
	vector := func(offset int) device.Tensor { return device.Vector(r.at(offset), device.I32, m) }
	r.pull(0, g.bytes)
	r.device.Scatter(device.Vector(r.state.Data, device.I32, r.state.Len()), vector(g.index), vector(g.values))
	r.device.Feed(vector(g.tokens), vector(g.from), r.sampled)
	width := r.state.Cols - maxBanned
	state := r.state.Top(m)
	r.step = model.Batch{
		Tokens: vector(g.tokens), Positions: vector(g.positions), Slots: vector(g.slots), KVLen: vector(g.kvLen),
		QueryStart: device.Vector(r.numbers.Data, device.I32, m+1),
		BlockTable: state.Columns(0, width),
		LogitRows:  device.Vector(r.numbers.Data, device.I32, m),
		AllRows:    true,
		Logits:     r.logits.Top(m),
	}
	args := device.SampleArgs{
		Params: device.Matrix(r.at(g.params), device.I32, m, device.SampleParamsBytes/4),
		Banned: state.Columns(width, width+maxBanned),
	}
	r.adjustmentArgs(&args, r.step.BlockTable)
	r.model.Forward(&r.step, &r.kv)
	r.sample(args, m)
	if whole {
		r.mark(m)
	}
}

// graphFor is the graph that computes b, with its sequences in their places, or nil.
func (r *runner) graphFor(b *batch) *stepGraph {
	if len(r.graphs) == 0 || len(b.items) > r.graphs[len(r.graphs)-1].rows || b.promptRows > 0 || b.vectors > 0 ||
		b.tokens != len(b.items) || b.rows != len(b.items) { // each sequence computes a token, and samples one
		return nil
	}
	if !r.padded && r.graph(len(b.items)).rows != len(b.items) {
		return nil
	}
	used := r.tables.seat(b, r.graph)
	if used > r.graphs[len(r.graphs)-1].rows {
		return nil
	}
	g := r.graph(used)
	if !r.padded && g.rows != len(b.items) {
		return nil
	}
	return g
}

// graph is the smallest of at least that many rows; the largest if there is none.
func (r *runner) graph(rows int) *stepGraph { return &r.graphs[r.graphOf[min(rows, len(r.graphOf)-1)]] }

// replay starts g for a batch that is seated.
func (r *runner) replay(g *stepGraph, b *batch) {
	r.writePadding(g, b)
	host := r.slot()
	tokens, from := part[int32](host, g.tokens, g.rows), part[int32](host, g.from, g.rows)
	positions, slots := part[int32](host, g.positions, g.rows), part[int32](host, g.slots, g.rows)
	kvLen := part[int32](host, g.kvLen, g.rows)
	params := part[device.SampleParams](host, g.params, g.rows)
	r.tables.changed = r.tables.changed[:0]
	pool := r.adjusting()
	for i := range b.items {
		item := &b.items[i]
		seq := item.seq
		at := seq.place
		tokens[at], from[at] = seq.input(item.start)
		positions[at] = int32(item.start)
		last := len(seq.table) - 1 // the block of the token, which is the last one that is computed
		slots[at] = seq.table[last]*int32(r.kv.BlockSize) + int32(item.start-last*r.kv.BlockSize)
		kvLen[at] = int32(item.start + 1)
		params[at] = seq.sampleParams(item.start + 1)
		params[at].Adjustment = pool.add(seq, at, r.vocabulary())
		r.tables.update(seq, item.start+1)
		item.at, seq.sampled = at, at
	}
	r.writeChanges(g)
	r.pullAdjustments(&pool)
	if b.penalized { // the graph pulls and feeds once more, to the same end
		r.pull(0, g.kvLen)
		tokens := device.Vector(r.at(g.tokens), device.I32, g.rows)
		r.device.Feed(tokens, device.Vector(r.at(g.from), device.I32, g.rows), r.sampled)
		r.remember(tokens, device.Vector(r.at(g.slots), device.I32, g.rows))
	}
	r.rows[r.launched%maxUnderWay] = g.rows
	if b.asksNothing() {
		r.start(g.graph)
		return
	}
	told := r.told(b, g.bytes)
	r.writeAsked(b, &told, nil)
	r.step.Logits = r.logits.Top(g.rows)
	r.start(g.asking)
	r.pull(g.bytes, told.bytes-g.bytes)
	r.tell(b, &told)
	r.mark(told.words)
	r.start(nil)
}

// writePadding fills the input block of g, but for rows that b, which is seated, has sequences for.
func (r *runner) writePadding(g *stepGraph, b *batch) {
	host := r.slot()
	fill(part[int32](host, g.index, g.rows), -1)
	first := len(b.items)
	if r.tables.rows > first { // there are gaps between them
		first = 0
	}
	rows := func(offset int) []int32 { return part[int32](host, offset, g.rows)[first:] }
	for _, offset := range []int{g.tokens, g.positions} {
		clear(rows(offset))
	}
	for _, offset := range []int{g.slots, g.from} {
		fill(rows(offset), -1)
	}
	fill(rows(g.kvLen), 1)
	clear(part[device.SampleParams](host, g.params, g.rows)[first:])
}

func fill(v []int32, value int32) {
	for i := range v {
		v[i] = value
	}
}

// writeChanges hands the changes of the state over: in the graph's own input where they fit, as they nearly always do, and otherwise by a
// scatter in front of it.
func (r *runner) writeChanges(g *stepGraph) {
	changed, host := r.tables.changed, r.slot()
	n := len(changed)
	if n <= g.rows {
		index, values := part[int32](host, g.index, g.rows), part[int32](host, g.values, g.rows)
		for i, c := range changed {
			index[i], values[i] = c.index, c.value
		}
		return
	}
	at, bytes := r.changes, aligned(4*n)
	index, values := part[int32](host, at, n), part[int32](host, at+bytes, n)
	for i, c := range changed {
		index[i], values[i] = c.index, c.value
	}
	r.pull(at, 2*bytes)
	r.device.Scatter(device.Vector(r.state.Data, device.I32, r.state.Len()),
		device.Vector(r.at(at), device.I32, n), device.Vector(r.at(at+bytes), device.I32, n))
}
