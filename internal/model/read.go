package model

import (
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/inferno-serve/inferno/internal/device"
)

const (
	// pieceBytes are what a goroutine reads and packs at a time: enough that a call costs nothing beside it, little enough that it is cheap
	// to page-lock and that a tensor of a gigabyte keeps all goroutines busy.
	pieceBytes = 4 << 20
	// chunkBytes are read and then hashed while they are in a core's cache.
	chunkBytes = 256 << 10
	// maxReaders is where reads from the page cache stop to gain.
	maxReaders = 12
)

// reading is one Load's passage of tensors from files to the device.
type reading struct {
	weights *Weights
	pieces  []piece
	sums    []uint32 // CRC-32C of each piece
	most    int64    // bytes of host memory that a piece takes

	mu     sync.Mutex // guards loaded, and keeps calls of Progress apart
	loaded int64
	total  int64
}

// job is the matrix or the vector that a tensor becomes.
type job struct {
	tensor *Tensor
	matrix *matrix
	vector *vector
}

// piece is a run of whole rows of a job that is read at once; a vector is one piece.
type piece struct {
	job
	first, rows int     // of the matrix, and of the file: where the order mixes rows, it does so within a piece
	order       []int32 // [rows] which row of the piece each row is; nil: itself
	from, bytes int64   // of the tensor
}

// read fills matrices on the device and constants here, and hashes what it reads.
func (w *Weights) read(ctx context.Context) ([]digest, error) {
	r := &reading{weights: w}
	for _, j := range w.jobs() {
		r.pieces = append(r.pieces, j.pieces()...)
		r.total += j.tensor.Bytes
	}
	for i := range r.pieces {
		r.most = max(r.most, r.pieces[i].hostBytes())
	}
	r.sums = make([]uint32, len(r.pieces))
	err := inParallel(ctx, len(r.pieces), func(ctx context.Context, next func() (int, bool)) error {
		s := &staging{device: w.options.Device}
		defer s.free()
		for i, ok := next(); ok; i, ok = next() {
			if err := r.do(ctx, s, &r.pieces[i], &r.sums[i]); err != nil {
				return fmt.Errorf("tensor %s: %w", r.pieces[i].tensor.Stored, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r.digests(), nil
}

// inParallel runs work on several goroutines that share the numbers 0 to n−1 by next; the first error ends them all.
func inParallel(ctx context.Context, n int, work func(ctx context.Context, next func() (int, bool)) error) error {
	var taken atomic.Int64
	group, shared := errgroup.WithContext(ctx)
	next := func() (int, bool) {
		i := int(taken.Add(1)) - 1
		return i, i < n && shared.Err() == nil
	}
	for range min(runtime.GOMAXPROCS(0), maxReaders, n) {
		group.Go(func() error { return work(shared, next) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// jobs are in the order of the files, so that a disk reads ahead.
func (w *Weights) jobs() (jobs []job) {
	for i := range w.matrices {
		jobs = append(jobs, job{tensor: w.matrices[i].tensor, matrix: &w.matrices[i]})
	}
	for i := range w.vectors {
		if v := &w.vectors[i]; v.tensor != nil {
			jobs = append(jobs, job{tensor: v.tensor, vector: v})
		}
	}
	slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(a.tensor.place, b.tensor.place) })
	return jobs
}

// pieces cuts a job into runs of rows: at multiples of the device's alignment, and where no row comes from the other side of the cut.
func (j job) pieces() (all []piece) {
	if j.vector != nil {
		return []piece{{job: j, bytes: j.tensor.Bytes}}
	}
	rows := j.tensor.Shape[0]
	rowBytes := j.tensor.DType.RowBytes(j.tensor.Shape[1])
	first := 0
	for _, cut := range cuts(rows, j.matrix.order) {
		if cut < rows && int64(cut-first)*rowBytes < pieceBytes {
			continue
		}
		p := piece{job: j, first: first, rows: cut - first, from: int64(first) * rowBytes, bytes: int64(cut-first) * rowBytes}
		if j.matrix.order != nil {
			p.order = make([]int32, p.rows)
			for i := range p.order {
				p.order[i] = j.matrix.order[first+i] - int32(first)
			}
		}
		all = append(all, p)
		first = cut
	}
	return all
}

// cuts are the places where an order of rows may be cut, the end included.
func cuts(rows int, order []int32) (all []int) {
	lowest := make([]int32, len(order)+1) // [i] of order[i:]
	lowest[len(order)] = math.MaxInt32
	for i := len(order) - 1; i >= 0; i-- {
		lowest[i] = min(lowest[i+1], order[i])
	}
	highest := int32(-1) // of order[:at]
	for at := device.PackAlignment; at < rows; at += device.PackAlignment {
		if order != nil {
			highest = max(highest, slices.Max(order[at-device.PackAlignment:at]))
			if int(highest) >= at || int(lowest[at]) < at {
				continue
			}
		}
		all = append(all, at)
	}
	return append(all, rows)
}

func (r *reading) do(ctx context.Context, s *staging, p *piece, sum *uint32) error {
	buffer, err := s.take(r.most) // at once: memory that is locked is not grown cheaply
	if err != nil {
		return err
	}
	raw := buffer[:p.bytes]
	if *sum, err = readAndHash(ctx, raw, p.tensor, p.from); err != nil {
		return err
	}
	switch {
	case p.vector != nil:
		p.vector.fill(raw)
	case p.converts():
		converted := buffer[p.convertedAt():p.hostBytes()]
		convert(converted, p.matrix.dtype, raw, p.tensor.DType)
		err = r.pack(p, converted)
	default:
		err = r.pack(p, raw)
	}
	if err != nil {
		return err
	}
	r.progress(p.bytes)
	return nil
}

func (p *piece) converts() bool { return p.matrix != nil && p.matrix.dtype != p.tensor.DType }

// convertedAt is where, behind the rows as stored, converted ones go.
func (p *piece) convertedAt() int64 { return (p.bytes + 63) / 64 * 64 }

func (p *piece) hostBytes() int64 {
	if !p.converts() {
		return p.bytes
	}
	return p.convertedAt() + int64(p.rows)*p.matrix.dtype.RowBytes(p.tensor.Shape[1])
}

func readAndHash(ctx context.Context, raw []byte, t *Tensor, from int64) (sum uint32, err error) {
	for at := 0; at < len(raw); at += chunkBytes {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		chunk := raw[at:min(at+chunkBytes, len(raw))]
		if _, err := t.Data.ReadAt(chunk, from+int64(at)); err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, castagnoli, chunk)
	}
	return sum, nil
}

func (r *reading) pack(p *piece, rows []byte) error {
	return r.weights.options.Device.PackRows(*p.matrix.packed, p.first, p.rows, rows, p.order)
}

// digests puts the sums of the pieces of each tensor together, by name.
func (r *reading) digests() (all []digest) {
	for i, p := range r.pieces {
		if p.from == 0 {
			all = append(all, digest{tensor: p.tensor})
		}
		d := &all[len(all)-1]
		d.sum = joinCRC(d.sum, r.sums[i], p.bytes)
	}
	slices.SortFunc(all, func(a, b digest) int { return cmp.Compare(a.tensor.Name, b.tensor.Name) })
	return all
}

// convert goes through float32 by pieces that stay in cache.
func convert(dst []byte, to device.DType, src []byte, from device.DType) {
	var piece [1024]float32
	for len(src) > 0 {
		n := min(len(piece), len(src)/from.Size())
		decodeFloats(piece[:n], src, from)
		encodeFloats(dst, piece[:n], to)
		src, dst = src[n*from.Size():], dst[n*to.Size():]
	}
}

func (v *vector) fill(raw []byte) {
	if v.order == nil {
		decodeFloats(v.values, raw, v.tensor.DType)
		return
	}
	stored := make([]float32, v.n)
	decodeFloats(stored, raw, v.tensor.DType)
	for i, from := range v.order {
		v.values[i] = stored[from]
	}
}

func (r *reading) progress(bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loaded += bytes
	if r.weights.options.Progress != nil {
		r.weights.options.Progress(r.loaded, r.total)
	}
}
