package device

import "fmt"

// DType is an element type; the numbers are those of kernels/inferno.h.
type DType int32

// The quantised types are GGUF's blocks of 32 elements along a row.
const (
	F32  DType = 1
	F16  DType = 2
	BF16 DType = 3
	I32  DType = 4
	Q8_0 DType = 16 // f16 d, 32 int8 q: d·q
	Q4_0 DType = 17 // f16 d, 32 nibbles q: d·(q−8)
	Q4_1 DType = 18 // f16 d, f16 m, 32 nibbles q: d·q + m
)

// quantBlock is the number of elements that share a scale in each of the quantised types.
const quantBlock = 32

type dtypeLayout struct {
	name              string
	block, blockBytes int
}

// An array, not a map: the Check functions look types up some thousand times a step.
var dtypes = [...]dtypeLayout{
	F32:  {"F32", 1, 4},
	F16:  {"F16", 1, 2},
	BF16: {"BF16", 1, 2},
	I32:  {"I32", 1, 4},
	Q8_0: {"Q8_0", quantBlock, 34},
	Q4_0: {"Q4_0", quantBlock, 18},
	Q4_1: {"Q4_1", quantBlock, 20},
}

// layout is the zero layout for a number that is no type.
func (t DType) layout() *dtypeLayout {
	if uint32(t) >= uint32(len(dtypes)) {
		return &dtypes[0]
	}
	return &dtypes[t]
}

// Valid says whether t is one of the types above.
func (t DType) Valid() bool { return t.layout().block > 0 }

func (t DType) String() string {
	if !t.Valid() {
		return fmt.Sprintf("DType(%d)", int32(t))
	}
	return t.layout().name
}

// Block is the number of elements that are stored together: 1, or 32 for the quantised types; 0 for a number that is no type.
func (t DType) Block() int { return t.layout().block }

// Quantised says whether elements share a scale.
func (t DType) Quantised() bool { return t.layout().block > 1 }

// Size is the bytes of one element of a type that is not quantised.
func (t DType) Size() int {
	l := t.layout()
	if l.block != 1 {
		panic(fmt.Sprintf("device: Size of %v, which has no elements of their own", t))
	}
	return l.blockBytes
}

// RowBytes is the size of a row of cols elements as files hold it; cols must be a multiple of Block.
func (t DType) RowBytes(cols int) int64 {
	l := t.layout()
	if l.block == 0 || cols%l.block != 0 {
		panic(fmt.Sprintf("device: RowBytes of %d columns of %v, whose blocks hold %d", cols, t, l.block))
	}
	return int64(cols/l.block) * int64(l.blockBytes)
}
