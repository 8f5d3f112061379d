package engine

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

func TestGraphRows(t *testing.T) {
	for most, want := range map[int][]int{
		1:   {1},
		3:   {1, 2, 3},
		32:  {1, 2, 4, 8, 16, 24, 32},
		70:  {1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 70},
		256: {1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256},
	} {
		if got := graphRows(most); !slices.Equal(got, want) {
			t.Errorf("up to %d rows: got %v, want %v", most, got, want)
		}
	}
}

// seating is block tables of eight rows for sequences with names.
type seating struct {
	blockTables
	graphs  []stepGraph
	changes map[int32]int32 // what the device has been told
	byName  map[byte]*sequence
}

func newSeating() *seating {
	b := &buffers{state: device.Matrix(4096, device.I32, 8, 4+maxBanned)}
	s := &seating{blockTables: newBlockTables(b, 32), changes: map[int32]int32{}, byName: map[byte]*sequence{}}
	for _, rows := range graphRows(8) {
		s.graphs = append(s.graphs, stepGraph{rows: rows})
	}
	return s
}

func (s *seating) graph(rows int) *stepGraph {
	return &s.graphs[slices.IndexFunc(s.graphs, func(g stepGraph) bool { return g.rows >= rows })]
}

// step seats the sequences with those names, new ones with two blocks, and returns the rows of the graph and who sits where.
func (s *seating) step(names string) string {
	b := &batch{}
	for i := range names {
		seq := s.byName[names[i]]
		if seq == nil {
			seq = newSequence(&Request{Prompt: []int32{1}}, 64)
			seq.table = []int32{int32(names[i]), int32(i)}
			s.byName[names[i]] = seq
		}
		b.items = append(b.items, batchItem{seq: seq})
	}
	used := s.seat(b, s.graph)
	s.changed = s.changed[:0]
	places := []byte("........")[:s.graph(used).rows]
	for i := range names {
		seq := b.items[i].seq
		s.update(seq, 2)
		places[seq.place] = names[i]
	}
	for _, c := range s.changed {
		s.changes[c.index] = c.value
	}
	return fmt.Sprintf("%s %d", places, len(s.changed))
}

// leave is what the scheduler does to a sequence whose blocks are free.
func (s *seating) leave(names string) {
	for i := range names {
		s.byName[names[i]].place = nowhere
		delete(s.byName, names[i])
	}
}

// The row of a sequence stays as long as it may, only what changed is told, and gaps are closed as soon as a smaller graph does.
func TestRowsOfTheBlockTables(t *testing.T) {
	s := newSeating()
	for i, c := range []struct{ leave, names, want string }{
		{"", "a", "a 2"},
		{"", "abc", "abc. 4"},
		{"", "abc", "abc. 0"},
		{"b", "ac", "ac 2"},             // two rows do: c moves
		{"", "acdef", "acdef... 6"},     //
		{"", "ad", "a.d. 0"},            // the others live on
		{"a", "cdefg", "gcdef... 2"},    // g takes a's row
		{"gcd", "ef", "ef 4"},           // both move
		{"", "hijklmef", "efhijklm 12"}, //
		{"ef", "hijklm", "..hijklm 0"},  // eight rows it is, with gaps or without
		{"jklm", "hi", "hi 4"},          //
	} {
		s.leave(c.leave)
		if got := s.step(c.names); got != c.want {
			t.Errorf("step %d, %s: got %q, want %q", i, c.names, got, c.want)
		}
		for name, seq := range s.byName {
			row := int32(seq.place * s.stride)
			if seq.placed > 0 && (s.changes[row] != seq.table[0] || s.changes[row+1] != seq.table[1]) {
				t.Errorf("step %d: the device has blocks %d, %d for %c, want %v", i, s.changes[row], s.changes[row+1], name, seq.table)
			}
		}
	}
	seq := s.byName['h']
	seq.table = append(seq.table, 77)
	if got := s.step("hi"); got != "hi 1" || s.changes[int32(seq.place*s.stride+2)] != 77 {
		t.Errorf("a block more: %q, %v", got, s.changes)
	}
}

// emptyModel computes nothing.
type emptyModel struct{}

func (emptyModel) Config() *model.Config { return &model.Config{Vocab: fakeVocabulary} }
func (emptyModel) KVLayout() model.KVLayout {
	return model.KVLayout{Layers: 1, Heads: 1, HeadDim: 2, DType: device.F32}
}
func (emptyModel) Forward(*model.Batch, *model.KV) {}

func TestStepAllocatesNothing(t *testing.T) {
	for _, eager := range []bool{true, false} {
		t.Run(fmt.Sprintf("eager=%v", eager), func(t *testing.T) {
			d, err := native.OpenCPU(native.CPUOptions{Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			const n = 24
			e, err := New(Options{
				Model: emptyModel{}, Device: d, Memory: rawMemory{d}, NumBlocks: 1024, BlockSize: 4, Eager: eager,
				Limits: model.Limits{MaxTokens: 64, MaxSeqs: n, MaxRows: n, Context: 512},
			})
			if err != nil {
				t.Fatal(err)
			}
			if !eager {
				e.WorkAhead()
			}
			if err := e.Warmup(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if _, err := e.Submit(t.Context(), &Request{ID: fmt.Sprint(i), Prompt: []int32{int32(i)}}); err != nil {
					t.Fatal(err)
				}
			}
			step := func() {
				e.turnOnce(t.Context())
				if err := e.stepOnce(); err != nil {
					t.Fatal(err)
				}
			}
			for range 140 { // buffers of tokens grow at 128
				step()
			}
			if allocated := testing.AllocsPerRun(100, step); allocated != 0 {
				t.Errorf("a step allocates %v times", allocated)
			}
			if want := e.runner.depth - 1; e.scheduler.underWay() != want {
				t.Errorf("%d steps are under way, want %d", e.scheduler.underWay(), want)
			}
			e.Close()
		})
	}
}

// rawMemory is a device's without accounts.
type rawMemory struct{ device.Device }

func (m rawMemory) Alloc(_ memory.Purpose, bytes int64) (device.Ptr, error) {
	return m.Device.Alloc(bytes)
}

// slowDevice counts how often it is asked for a step that takes its time.
type slowDevice struct {
	device.Device
	until        time.Time
	asked, polls int
	failed       error
}

func (d *slowDevice) Passed() int64 {
	d.asked++
	if d.until.IsZero() || time.Now().Before(d.until) {
		return 7
	}
	return 8
}
func (d *slowDevice) Poll() error { d.polls++; return d.failed }
func (d *slowDevice) Sync() error { return d.failed }

func TestWaitingDoesNotHoldTheCore(t *testing.T) {
	const took = 40 * time.Millisecond
	for name, expected := range map[string]time.Duration{"unknown": 0, "known": took - took/8, "longer than ever": took / 8} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			d := &slowDevice{until: now.Add(took)}
			g := &stepGraph{expected: expected}
			r := &runner{device: d, info: device.Info{Overlap: true}}
			r.timings[7%maxUnderWay] = stepTiming{began: now, graph: g}
			if err := r.wait(7); err != nil {
				t.Fatal(err)
			}
			if most := int(took / minPause); d.asked > most {
				t.Errorf("asked %d times, want at most %d", d.asked, most)
			}
			if g.expected <= expected {
				t.Errorf("expects %v, as before a step of %v", g.expected, took)
			}
		})
	}
}

func TestWaitingNoticesADeadDevice(t *testing.T) {
	d := &slowDevice{failed: device.ErrLost}
	r := &runner{device: d, info: device.Info{Overlap: true}}
	r.timings[7%maxUnderWay].began = time.Now()
	if err := r.wait(7); !errors.Is(err, device.ErrLost) || d.polls != 1 {
		t.Errorf("got %v after %d polls", err, d.polls)
	}
}
