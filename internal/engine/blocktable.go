package engine

// blockTables says which sequence has which row of the block tables on the device. A sequence keeps its row as long as it keeps its blocks,
// so that a step uploads only what changed: a new sequence's row once, and the blocks that it grows by.
//
// A row belongs to the sequence whose place it is, which the scheduler takes away with the blocks.
type blockTables struct {
	seated  []*sequence // [max b] by row; stale where the sequence's place is another one
	stride  int         // elements from row to row
	width   int         // of them blocks; then banned ids
	rows    int         // up to the last one of the batch seated last
	changed []change    // reused: what a step uploads
	banned  [maxBanned]int32
}

// change is one element of the state on the device.
type change struct{ index, value int32 }

// maxChanges bounds those of a step: every block of every sequence, and the banned ids.
func maxChanges(numBlocks, maxSeqs int) int { return numBlocks + maxSeqs*maxBanned }

func newBlockTables(b *buffers, numBlocks int) blockTables {
	rows := b.state.Rows
	return blockTables{
		seated: make([]*sequence, rows), stride: b.state.Cols, width: b.state.Cols - maxBanned,
		changed: make([]change, 0, maxChanges(numBlocks, rows)),
	}
}

// seat gives every sequence of b a row, the lowest that are free, and returns how many rows there are up to the last one of b. Where a
// smaller graph would do without the gaps that others left, it closes them.
func (t *blockTables) seat(b *batch, graph func(rows int) *stepGraph) (used int) {
	used, all := t.used(b)
	if !all || graph(used).rows > graph(len(b.items)).rows {
		t.reseat(b, graph)
		used, _ = t.used(b)
	}
	t.rows = used
	return used
}

func (t *blockTables) reseat(b *batch, graph func(rows int) *stepGraph) {
	seated := 0
	for i, seq := range t.seated {
		switch {
		case seq == nil:
		case seq.place != i:
			t.seated[i] = nil
		default:
			seated++
		}
	}
	free := 0
	take := func(seq *sequence) {
		for t.seated[free] != nil {
			free++
		}
		t.seated[free] = seq
		seq.place, seq.placed = free, 0
	}
	for i := range b.items {
		if seq := b.items[i].seq; seq.place == nowhere {
			take(seq)
			seated++
		}
	}
	if used, _ := t.used(b); graph(used).rows > graph(seated).rows {
		most := graph(seated).rows
		for i := most; i < len(t.seated); i++ {
			if seq := t.seated[i]; seq != nil {
				t.seated[i] = nil
				take(seq)
			}
		}
	}
}

// used is one more than the highest row of b, and whether all have one.
func (t *blockTables) used(b *batch) (rows int, all bool) {
	all = true
	for i := range b.items {
		place := b.items[i].seq.place
		rows, all = max(rows, place+1), all && place != nowhere
	}
	return rows, all
}

// update notes what the device lacks of a sequence's row. position is that of the token that the step samples.
func (t *blockTables) update(seq *sequence, position int) {
	if seq.placed == len(seq.table) {
		return
	}
	row := int32(seq.place * t.stride)
	if seq.placed == 0 { // bans only end
		if n := seq.numBanned(position); n > 0 {
			seq.writeBanned(t.banned[:])
			for i, id := range t.banned[:n] {
				t.changed = append(t.changed, change{row + int32(t.width+i), id})
			}
		}
	}
	for i := seq.placed; i < len(seq.table); i++ {
		t.changed = append(t.changed, change{row + int32(i), seq.table[i]})
	}
	seq.placed = len(seq.table)
}
