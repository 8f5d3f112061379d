package devicetest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/inferno-serve/inferno/internal/device"
)

// judgeStep walks through steps of pull, feed, scatter and mark, two of them enqueued before the first is looked at, op by op and as a
// graph, beside a model of what they should leave.
func judgeStep(r *rig) {
	for _, n := range []int{1, 5, 64, 1001} {
		for _, graph := range []bool{false, true} {
			r.run(fmt.Sprintf("%d graph=%v", n, graph), func(r *rig) { newStepCase(r, n).walk(graph) })
		}
	}
	r.run("nothing to tell", func(r *rig) {
		before := r.dev.Passed()
		r.dev.Mark(device.Tensor{}, device.Tensor{})
		r.sync()
		if got := r.dev.Passed(); got != before+1 {
			r.Errorf("%d steps passed, want %d", got, before+1)
		}
		if err := r.dev.Poll(); err != nil {
			r.Error(err)
		}
	})
}

// stepSlots is how many steps may be under way.
const stepSlots = 2

// stepCase is steps of n tokens. The input block holds tokens, where they come from, and an index and a value of the state each.
type stepCase struct {
	*rig
	n          int
	in, out    device.Tensor // of the host
	host, told device.HostBlock
	input, ids *buffer // on the device
	state      *buffer

	wantIDs, wantState []int32
}

const stepParts = 4 // of the input block

func newStepCase(r *rig, n int) *stepCase {
	c := &stepCase{rig: r, n: n, wantIDs: make([]int32, n), wantState: make([]int32, 3*n)}
	host := func(cols int) (device.HostBlock, device.Tensor) {
		stride := cols + 24
		b, err := r.dev.AllocMapped(4 * stepSlots * stride)
		if err != nil {
			r.Fatal(err)
		}
		if slices.ContainsFunc(b.Bytes, func(b byte) bool { return b != 0 }) {
			r.Error("host memory is not zero at first")
		}
		return b, device.Tensor{Data: b.Data, DType: device.I32, Rows: stepSlots, Cols: cols, Stride: stride}
	}
	c.host, c.in = host(stepParts * n)
	c.told, c.out = host(n)
	c.input = r.output(device.I32, 1, stepParts*n, contiguous)
	c.ids = r.inout(device.I32, intMatrix(1, c.wantIDs), contiguous)
	c.state = r.inout(device.I32, intMatrix(1, c.wantState), contiguous)
	r.sync()
	return c
}

// piece i of the input block on the device.
func (c *stepCase) piece(i int) device.Tensor { return c.input.Columns(i*c.n, (i+1)*c.n) }

func (c *stepCase) enqueue() {
	c.dev.Pull(c.input.Tensor, c.in)
	c.dev.Feed(c.piece(0), c.piece(1), c.ids.Tensor)
	c.dev.Scatter(c.state.Tensor, c.piece(2), c.piece(3))
	c.dev.Mark(c.piece(0), c.out)
	c.dev.GatherRows(device.Matrix(c.ids.Data, device.F32, 1, c.n), device.Matrix(c.input.Data, device.F32, 1, c.n), c.zero())
}

// zero is the index of the first row: the state's first element stays 0.
func (c *stepCase) zero() device.Tensor { return device.Vector(c.state.Data, device.I32, 1) }

func (c *stepCase) walk(graph bool) {
	launch := c.enqueue
	if graph {
		g, err := c.dev.Capture(c.enqueue)
		if err != nil {
			c.Fatal(err)
		}
		defer g.Close()
		launch = func() { c.dev.Launch(g) }
		if d, ok := c.dev.(device.Expecter); ok { // it changes nothing, also while steps run
			launch = func() { d.Expect(g); c.dev.Launch(g); d.Expect(g) }
		}
	}
	first := c.dev.Passed()
	for k := first; k < first+8; k += stepSlots {
		var want [stepSlots][]int32
		for i := range int64(stepSlots) {
			want[i] = c.prepare(int((k + i) % stepSlots))
			launch()
		}
		c.sync()
		if got := c.dev.Passed(); got != k+stepSlots {
			c.Fatalf("%d steps passed, want %d", got, k+stepSlots)
		}
		for i := range int64(stepSlots) {
			at := int((k+i)%stepSlots) * c.out.Stride
			if got := readInts(c.told.Bytes[4*at:], c.n); !slices.Equal(got, want[i]) {
				c.Errorf("step %d: told %v, want %v", k+i-first, clip(got), clip(want[i]))
			}
		}
	}
	c.results()
	c.compare("state", c.state.matrix(), intMatrix(1, c.wantState), matrix{})
	c.compare("ids", c.ids.matrix(), intMatrix(1, c.wantIDs), matrix{})
}

// prepare writes the input of a step and returns the tokens that it should tell.
func (c *stepCase) prepare(slot int) []int32 {
	n := c.n
	tokens, from, index, values := make([]int32, n), make([]int32, n), make([]int32, n), make([]int32, n)
	places := c.rng.Perm(3*n - 1)
	for i := range n {
		tokens[i], from[i], values[i] = c.rng.Int32N(1<<20), c.rng.Int32N(int32(n)+2)-1, c.rng.Int32N(1<<20)
		index[i] = outside(c.rng, int32(places[i])+1, int32(3*n))
	}
	var raw []byte
	for _, v := range slices.Concat(tokens, from, index, values) {
		raw = binary.LittleEndian.AppendUint32(raw, uint32(v))
	}
	copy(c.host.Bytes[4*slot*c.in.Stride:], raw)
	for i, at := range from {
		if at >= 0 && int(at) < n {
			tokens[i] = c.wantIDs[at]
		}
		if at := index[i]; at >= 0 && int(at) < len(c.wantState) {
			c.wantState[at] = values[i]
		}
	}
	c.wantIDs = slices.Clone(tokens)
	return tokens
}

// outside is at, or now and then an index that is none.
func outside(rng *rand.Rand, at, size int32) int32 {
	switch rng.IntN(4) {
	case 0:
		return -1
	case 1:
		return size
	}
	return at
}

func readInts(b []byte, n int) []int32 {
	v := make([]int32, n)
	for i := range v {
		v[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

func clip(v []int32) []int32 { return v[:min(len(v), 8)] }
