package device

import (
	"fmt"
	"math"
)

// A device calls the Check function of an op before it enqueues it: a wrong shape, type, stride or address is a bug of the caller and
// panics here, with the op, the argument and both values, before native code reads past a buffer. They run some 400 times a step, so
// that the good path allocates nothing and only compares; what is built for the message is built after the decision to panic.
//
// No tensor may be empty: a batch without rows that want logits skips the ops on them.
//
// Activations are F32, F16 or BF16, all of one type within an op; what a device computes in is its own business. KV caches have those
// types too, whatever the activations have. Weights have every type but I32.

// CheckEmbed panics unless out is [n, d] for table [v, d] and ids I32 [n].
func CheckEmbed(out Tensor, table Weight, ids Tensor) {
	const op = "Embed"
	checkActivation(op, "out", &out)
	checkWeight(op, "table", &table, out.Cols)
	checkVector(op, "ids", &ids, I32, out.Rows)
}

// CheckRMSNorm panics unless out and x are [n, d], w is F32 [d], and eps is finite and not negative.
func CheckRMSNorm(out, x, w Tensor, eps float32) {
	const op = "RMSNorm"
	checkActivation(op, "x", &x)
	checkLike(op, "out", &out, "x", &x)
	checkVector(op, "w", &w, F32, x.Cols)
	checkEps(op, eps)
}

// CheckMatMul panics unless x is [n, c] and each of the 1 to MaxProducts products has W [m, c], Bias F32 [m] or none, and Out [n, m]
// in x's type or in F32 (logits are F32 on every device).
func CheckMatMul(x Tensor, products []Product) {
	const op = "MatMul"
	checkActivation(op, "x", &x)
	checkProducts(op, &x, products)
}

// CheckRopeTable panics unless table is F32 [n, k] for an even k, pos I32 [n], freq F32 [k/2], and scale is positive and finite.
func CheckRopeTable(table, pos, freq Tensor, scale float32) {
	const op = "RopeTable"
	checkMatrix(op, "table", &table, F32, table.Rows, table.Cols)
	checkEven(op, "head dim", table.Cols)
	checkVector(op, "pos", &pos, I32, table.Rows)
	checkVector(op, "freq", &freq, F32, table.Cols/2)
	checkScale(op, scale)
}

// CheckRope panics unless x is [n, heads·k] for table F32 [n, k] with an even k.
func CheckRope(x, table Tensor, heads int) {
	checkRope("Rope", "x", &x, &table, heads, table.Cols)
}

// CheckStoreKV panics unless Key and Value are [n, g·k], Slots is I32 [n], and both caches are [B, g·p·k] of one type.
func CheckStoreKV(a StoreKVArgs) { checkStoreKV("StoreKV", &a) }

// CheckRopeStoreKV panics unless CheckRope and CheckStoreKV pass with q, Key and Value of one type and as many rows each.
func CheckRopeStoreKV(q, table Tensor, heads int, a StoreKVArgs) {
	checkRopeStoreKV("RopeStoreKV", &q, &table, heads, &a)
}

// CheckAttention panics unless Q and Out are [n, h·k], the caches [B, g·p·k] of one type, BlockTable I32 [b, max blocks], QueryStart
// I32 [b+1], KVLen I32 [b], h a multiple of g, and Scale is positive and finite.
func CheckAttention(a AttentionArgs) {
	const op = "Attention"
	checkShape(op, &a.Shape)
	checkGroups(op, a.Heads, a.Shape.Heads)
	checkActivation(op, "Q", &a.Q)
	checkMatrix(op, "Q", &a.Q, a.Q.DType, a.Q.Rows, a.Heads*a.Shape.HeadDim)
	checkLike(op, "Out", &a.Out, "Q", &a.Q)
	checkCaches(op, &a.KCache, &a.VCache, &a.Shape)
	checkMatrix(op, "BlockTable", &a.BlockTable, I32, a.BlockTable.Rows, a.BlockTable.Cols)
	checkVector(op, "QueryStart", &a.QueryStart, I32, a.BlockTable.Rows+1)
	checkVector(op, "KVLen", &a.KVLen, I32, a.BlockTable.Rows)
	checkScale(op, a.Scale)
}

// CheckSwiGLU panics unless all three are [n, f] of one type.
func CheckSwiGLU(out, gate, up Tensor) {
	const op = "SwiGLU"
	checkActivation(op, "gate", &gate)
	checkLike(op, "up", &up, "gate", &gate)
	checkLike(op, "out", &out, "gate", &gate)
}

// CheckAdd panics unless all three have one shape and type.
func CheckAdd(out, a, b Tensor) {
	const op = "Add"
	checkActivation(op, "a", &a)
	checkLike(op, "b", &b, "a", &a)
	checkLike(op, "out", &out, "a", &a)
}

// CheckGatherRows panics unless out is [r, d] for x [n, d] and rows I32 [r].
func CheckGatherRows(out, x, rows Tensor) {
	const op = "GatherRows"
	checkActivation(op, "x", &x)
	checkMatrix(op, "out", &out, x.DType, out.Rows, x.Cols)
	checkVector(op, "rows", &rows, I32, out.Rows)
}

// CheckSample panics unless Logits is F32 [r, v], Params contiguous I32 [r, 12], Banned I32 [r, max banned] or none, IDs I32 [r], and
// Adjustments and History contiguous I32 and BlockTable I32, or none.
func CheckSample(a SampleArgs) {
	const op = "Sample"
	const paramsCols = SampleParamsBytes / 4
	checkMatrix(op, "Logits", &a.Logits, F32, a.Logits.Rows, a.Logits.Cols)
	checkMatrix(op, "Params", &a.Params, I32, a.Logits.Rows, paramsCols)
	if a.Params.Stride != paramsCols {
		badCount(op, "stride of Params", a.Params.Stride, paramsCols, paramsCols)
	}
	if a.Params.Data%8 != 0 {
		badAddress(op, "Params", a.Params.Data, 8)
	}
	if a.Banned.Data != 0 {
		checkMatrix(op, "Banned", &a.Banned, I32, a.Logits.Rows, a.Banned.Cols)
	}
	checkVector(op, "IDs", &a.IDs, I32, a.Logits.Rows)
	if a.Adjustments.Data != 0 {
		checkVector(op, "Adjustments", &a.Adjustments, I32, a.Adjustments.Cols)
	}
	if a.History.Data != 0 {
		checkMatrix(op, "History", &a.History, I32, a.History.Rows, a.History.Cols)
		if a.History.Stride != a.History.Cols {
			badCount(op, "stride of History", a.History.Stride, a.History.Cols, a.History.Cols)
		}
		checkMatrix(op, "BlockTable", &a.BlockTable, I32, a.BlockTable.Rows, a.BlockTable.Cols)
	}
}

// CheckLogProbs panics unless Logits is F32 [r, v], Rows and Chosen are I32 [q], IDs I32 [q, m] or none, Top is 0 to MaxTopLogProbs, and Out
// is I32 [q, 2 + m + 2·Top].
func CheckLogProbs(a LogProbsArgs) {
	const op = "LogProbs"
	checkMatrix(op, "Logits", &a.Logits, F32, a.Logits.Rows, a.Logits.Cols)
	if a.Top < 0 || a.Top > MaxTopLogProbs {
		badCount(op, "Top", a.Top, 0, MaxTopLogProbs)
	}
	cols := 2 + 2*a.Top
	if a.IDs.Data != 0 {
		checkMatrix(op, "IDs", &a.IDs, I32, a.Out.Rows, a.IDs.Cols)
		cols += a.IDs.Cols
	}
	checkMatrix(op, "Out", &a.Out, I32, a.Out.Rows, cols)
	checkVector(op, "Rows", &a.Rows, I32, a.Out.Rows)
	checkVector(op, "Chosen", &a.Chosen, I32, a.Out.Rows)
}

// CheckPool panics unless out is F32 [e, d] for x [n, d], and from and to are I32 [e].
func CheckPool(out, x, from, to Tensor) {
	const op = "Pool"
	checkActivation(op, "x", &x)
	checkMatrix(op, "out", &out, F32, out.Rows, x.Cols)
	checkVector(op, "from", &from, I32, out.Rows)
	checkVector(op, "to", &to, I32, out.Rows)
}

// CheckNormMatMul panics unless CheckRMSNorm and CheckMatMul pass, and neither Normed nor any Out is X.
func CheckNormMatMul(a Norm, products []Product) {
	const op = "NormMatMul"
	checkNorm(op, &a)
	checkProducts(op, &a.X, products)
	for i := range products {
		checkApart(op, "Out", &products[i].Out, &a.X)
	}
}

// CheckNormGateUp panics unless Gate and Up are [f, d], their biases F32 [f] or none, Out and Scratch [n, f] in X's type, and none of
// Normed, Out and Scratch is X.
func CheckNormGateUp(a NormGateUpArgs) { checkNormGateUp("NormGateUp", &a) }

func checkNormGateUp(op string, a *NormGateUpArgs) {
	x := &a.Norm.X
	checkNorm(op, &a.Norm)
	checkWeight(op, "Gate", &a.Gate, x.Cols)
	checkWeight(op, "Up", &a.Up, x.Cols)
	if a.Up.Rows != a.Gate.Rows {
		panic(fmt.Sprintf("device: %s: Up is %v, want as many rows as Gate, %v", op, a.Up, a.Gate))
	}
	checkBias(op, "GateBias", &a.GateBias, a.Gate.Rows)
	checkBias(op, "UpBias", &a.UpBias, a.Up.Rows)
	checkMatrix(op, "Out", &a.Out, x.DType, x.Rows, a.Gate.Rows)
	checkLike(op, "Scratch", &a.Scratch, "Out", &a.Out)
	checkApart(op, "Out", &a.Out, x)
	checkApart(op, "Scratch", &a.Scratch, x)
}

// CheckNormQKV panics unless CheckRopeStoreKV passes for the outputs of the three products of X, which do not accumulate, have X's type,
// and are not X.
func CheckNormQKV(a NormQKVArgs) { checkNormQKV("NormQKV", &a) }

func checkNormQKV(op string, a *NormQKVArgs) {
	x := &a.Norm.X
	checkNorm(op, &a.Norm)
	for _, p := range [...]*Product{&a.Q, &a.K, &a.V} {
		checkProduct(op, x, p)
		checkMatrix(op, "Out", &p.Out, x.DType, x.Rows, p.W.Rows)
		checkApart(op, "Out", &p.Out, x)
		if p.Accumulate {
			panic(fmt.Sprintf("device: %s: the product of %v accumulates", op, p.W))
		}
	}
	store := a.Store()
	checkRopeStoreKV(op, &a.Q.Out, &a.Table, a.Heads, &store)
}

// CheckDense panics unless CheckNormGateUp passes, and CheckNormQKV for what is next, and O and Down add to what both normalise.
func CheckDense(a DenseArgs) {
	const op = "Dense"
	x := &a.MLP.Norm.X
	checkNormGateUp(op, &a.MLP)
	checkMatrix(op, "Attended", &a.Attended, x.DType, x.Rows, a.Attended.Cols)
	checkApart(op, "Attended", &a.Attended, x)
	checkAddTo(op, "O", &a.O, &a.Attended, x)
	checkAddTo(op, "Down", &a.Down, &a.MLP.Out, x)
	if a.Next == nil {
		return
	}
	checkNormQKV(op, a.Next)
	if a.Next.Norm.X != *x {
		panic(fmt.Sprintf("device: %s: Next normalises %v, want %v as MLP does", op, a.Next.Norm.X, *x))
	}
}

// checkAddTo is for a product of `of` that is added to x.
func checkAddTo(op, arg string, p *Product, of, x *Tensor) {
	checkProduct(op, of, p)
	if p.Out != *x || !p.Accumulate {
		panic(fmt.Sprintf("device: %s: %s is not added to the X of MLP", op, arg))
	}
}

func checkNorm(op string, a *Norm) {
	checkActivation(op, "X", &a.X)
	checkVector(op, "W", &a.W, F32, a.X.Cols)
	checkLike(op, "Normed", &a.Normed, "X", &a.X)
	checkApart(op, "Normed", &a.Normed, &a.X)
	checkEps(op, a.Eps)
}

func checkApart(op, arg string, t, x *Tensor) {
	if t.Data == x.Data {
		panic(fmt.Sprintf("device: %s: %s is X (address %#x), want memory of its own", op, arg, uintptr(t.Data)))
	}
}

func checkEps(op string, eps float32) {
	if !(eps >= 0) || eps > math.MaxFloat32 {
		badNumber(op, "eps", eps, "at least 0 and finite")
	}
}

func checkProducts(op string, x *Tensor, products []Product) {
	if len(products) < 1 || len(products) > MaxProducts {
		badCount(op, "number of products", len(products), 1, MaxProducts)
	}
	for i := range products {
		checkProduct(op, x, &products[i])
	}
}

func checkProduct(op string, x *Tensor, p *Product) {
	checkWeight(op, "W", &p.W, x.Cols)
	t := x.DType
	if p.Out.DType == F32 {
		t = F32
	}
	checkMatrix(op, "Out", &p.Out, t, x.Rows, p.W.Rows)
	checkBias(op, "Bias", &p.Bias, p.W.Rows)
}

func checkBias(op, arg string, t *Tensor, n int) {
	if t.Data != 0 {
		checkVector(op, arg, t, F32, n)
	}
}

// CheckPull panics unless src is I32 [slots, w] and dst I32 [w].
func CheckPull(dst, src Tensor) {
	const op = "Pull"
	checkMatrix(op, "src", &src, I32, src.Rows, src.Cols)
	checkVector(op, "dst", &dst, I32, src.Cols)
}

// CheckScatter panics unless index and values are I32 [n] and dst is I32 and contiguous.
func CheckScatter(dst, index, values Tensor) {
	const op = "Scatter"
	checkVector(op, "dst", &dst, I32, dst.Len())
	checkVector(op, "index", &index, I32, index.Len())
	checkVector(op, "values", &values, I32, index.Len())
}

// CheckFeed panics unless tokens and from are I32 [n] and ids is an I32 vector.
func CheckFeed(tokens, from, ids Tensor) {
	const op = "Feed"
	checkVector(op, "tokens", &tokens, I32, tokens.Len())
	checkVector(op, "from", &from, I32, tokens.Len())
	checkVector(op, "ids", &ids, I32, ids.Len())
}

// CheckMark panics unless out is I32 [slots, r] and values I32 [r], or neither is there.
func CheckMark(values, out Tensor) {
	const op = "Mark"
	if values.Data == 0 && out.Data == 0 {
		return
	}
	checkMatrix(op, "out", &out, I32, out.Rows, out.Cols)
	checkVector(op, "values", &values, I32, out.Cols)
}

func checkRope(op, arg string, x, table *Tensor, heads, headDim int) {
	if heads < 1 {
		badCount(op, "heads", heads, 1, math.MaxInt32)
	}
	checkEven(op, "head dim", headDim)
	checkActivation(op, arg, x)
	checkMatrix(op, arg, x, x.DType, x.Rows, heads*headDim)
	checkMatrix(op, "table", table, F32, x.Rows, headDim)
}

func checkStoreKV(op string, a *StoreKVArgs) {
	checkShape(op, &a.Shape)
	checkActivation(op, "Key", &a.Key)
	checkMatrix(op, "Key", &a.Key, a.Key.DType, a.Key.Rows, a.Shape.Heads*a.Shape.HeadDim)
	checkLike(op, "Value", &a.Value, "Key", &a.Key)
	checkVector(op, "Slots", &a.Slots, I32, a.Key.Rows)
	checkCaches(op, &a.KCache, &a.VCache, &a.Shape)
}

func checkRopeStoreKV(op string, q, table *Tensor, heads int, a *StoreKVArgs) {
	checkStoreKV(op, a)
	checkGroups(op, heads, a.Shape.Heads)
	checkRope(op, "q", q, table, heads, a.Shape.HeadDim)
	checkMatrix(op, "Key", &a.Key, q.DType, q.Rows, a.Key.Cols)
}

func checkCaches(op string, k, v *Tensor, s *KVShape) {
	checkActivation(op, "KCache", k)
	checkMatrix(op, "KCache", k, k.DType, k.Rows, s.Elements())
	checkLike(op, "VCache", v, "KCache", k)
}

func checkShape(op string, s *KVShape) {
	if s.Heads < 1 {
		badCount(op, "Shape.Heads", s.Heads, 1, math.MaxInt32)
	}
	if s.BlockSize < 1 {
		badCount(op, "Shape.BlockSize", s.BlockSize, 1, math.MaxInt32)
	}
	checkEven(op, "Shape.HeadDim", s.HeadDim)
}

func checkGroups(op string, heads, kvHeads int) {
	if heads < 1 || heads%kvHeads != 0 {
		panic(fmt.Sprintf("device: %s: %d heads, want a positive multiple of the %d KV heads", op, heads, kvHeads))
	}
}

func checkEven(op, what string, n int) {
	if n < 2 || n%2 != 0 {
		panic(fmt.Sprintf("device: %s: %s is %d, want a positive even number", op, what, n))
	}
}

func checkScale(op string, scale float32) {
	if !(scale > 0) || scale > math.MaxFloat32 {
		badNumber(op, "scale", scale, "positive and finite")
	}
}

// checkActivation is for the tensor that gives an op its type and shape; the others are checked against it.
func checkActivation(op, arg string, t *Tensor) {
	if t.DType != F32 && t.DType != F16 && t.DType != BF16 {
		panic(fmt.Sprintf("device: %s: %s is %v, want F32, F16 or BF16", op, arg, *t))
	}
	if !t.laidOut() {
		badLayout(op, arg, t)
	}
}

func checkLike(op, arg string, t *Tensor, likeArg string, like *Tensor) {
	if t.is(like.DType, like.Rows, like.Cols) && t.laidOut() {
		return
	}
	if !t.is(like.DType, like.Rows, like.Cols) {
		panic(fmt.Sprintf("device: %s: %s is %v, want %v as %s is", op, arg, *t, *like, likeArg))
	}
	badLayout(op, arg, t)
}

func checkMatrix(op, arg string, t *Tensor, dt DType, rows, cols int) {
	if t.is(dt, rows, cols) && t.laidOut() {
		return
	}
	if !t.is(dt, rows, cols) {
		panic(fmt.Sprintf("device: %s: %s is %v, want %v[%d %d]", op, arg, *t, dt, rows, cols))
	}
	badLayout(op, arg, t)
}

// checkVector takes n contiguous elements, as a row or as a column.
func checkVector(op, arg string, t *Tensor, dt DType, n int) {
	row := t.Rows == 1 && t.Cols == n
	column := t.Cols == 1 && t.Rows == n
	if t.DType != dt || !row && !column {
		panic(fmt.Sprintf("device: %s: %s is %v, want a vector of %d %v", op, arg, *t, n, dt))
	}
	if !row && t.Stride != 1 {
		panic(fmt.Sprintf("device: %s: %s is a column of stride %d, want contiguous elements (stride 1)", op, arg, t.Stride))
	}
	if !t.laidOut() {
		badLayout(op, arg, t)
	}
}

// is and laidOut are small enough to be compiled into their callers.
func (t *Tensor) is(dt DType, rows, cols int) bool {
	return t.DType == dt && t.Rows == rows && t.Cols == cols
}

// laidOut says whether t is not empty, its rows do not overlap, and it has an address that suits its type.
func (t *Tensor) laidOut() bool {
	return t.Rows > 0 && t.Cols > 0 && t.Stride >= t.Cols && t.Data != 0 && t.Data&t.DType.addressMask() == 0
}

// addressMask has the bits that are clear in the address of an element of t.
func (t DType) addressMask() Ptr {
	if t == F16 || t == BF16 {
		return 1
	}
	return 3
}

// badLayout panics with what laidOut found.
func badLayout(op, arg string, t *Tensor) {
	if t.Rows < 1 || t.Cols < 1 {
		panic(fmt.Sprintf("device: %s: %s is %v, want at least 1 row and 1 column", op, arg, *t))
	}
	if t.Stride < t.Cols {
		panic(fmt.Sprintf("device: %s: %s has stride %d, want at least its %d columns", op, arg, t.Stride, t.Cols))
	}
	badAddress(op, arg, t.Data, t.DType.addressMask()+1)
}

func checkWeight(op, arg string, w *Weight, cols int) {
	if !w.DType.Valid() || w.DType == I32 {
		panic(fmt.Sprintf("device: %s: %s is %v, want F32, F16, BF16 or a quantised type", op, arg, *w))
	}
	if w.Rows < 1 || w.Cols != cols {
		panic(fmt.Sprintf("device: %s: %s is %v, want at least 1 row and %d columns", op, arg, *w, cols))
	}
	if w.DType.Quantised() && w.Cols%quantBlock != 0 { // a constant divisor: the division by a variable one would be half the cost
		panic(fmt.Sprintf("device: %s: %s is %v, want a multiple of %d columns", op, arg, *w, quantBlock))
	}
	if w.Data == 0 {
		badAddress(op, arg, w.Data, 1)
	}
}

func badAddress(op, arg string, p, align Ptr) {
	if p == 0 {
		panic(fmt.Sprintf("device: %s: %s has no data (address 0)", op, arg))
	}
	panic(fmt.Sprintf("device: %s: %s lies at %#x, want a multiple of %d", op, arg, uintptr(p), align))
}

func badCount(op, what string, got, low, high int) {
	if low == high {
		panic(fmt.Sprintf("device: %s: %s is %d, want %d", op, what, got, low))
	}
	panic(fmt.Sprintf("device: %s: %s is %d, want %d to %d", op, what, got, low, high))
}

func badNumber(op, arg string, got float32, want string) {
	panic(fmt.Sprintf("device: %s: %s is %v, want it %s", op, arg, got, want))
}
