package model

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/inferno-serve/inferno/internal/device"
)

const (
	// chunkBytes are read and then hashed while they are in a core's cache.
	chunkBytes = 256 << 10
	// stagingBytes bounds the host memory of tensors between file and device; a tensor that is larger goes alone.
	stagingBytes = 256 << 20
)

// reading is one Load's passage of tensors from files to the device.
type reading struct {
	weights *Weights
	staging *semaphore.Weighted
	next    atomic.Int64 // index of the next job
	digests []digest     // of jobs[i]

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

// read fills matrices on the device and constants here, and hashes what it reads.
func (w *Weights) read(ctx context.Context) ([]digest, error) {
	jobs := w.jobs()
	r := &reading{weights: w, staging: semaphore.NewWeighted(stagingBytes), digests: make([]digest, len(jobs))}
	for _, j := range jobs {
		r.total += j.tensor.Bytes
	}
	group, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), len(jobs)) {
		group.Go(func() error {
			s := &staging{}
			defer s.free()
			for {
				i := int(r.next.Add(1)) - 1
				if i >= len(jobs) {
					return nil
				}
				if err := r.do(ctx, s, jobs[i], &r.digests[i]); err != nil {
					return fmt.Errorf("tensor %s: %w", jobs[i].tensor.Stored, err)
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(r.digests, func(a, b digest) int { return strings.Compare(a.tensor.Name, b.tensor.Name) })
	return r.digests, nil
}

// jobs are in the order of size, so that cores finish together.
func (w *Weights) jobs() (jobs []job) {
	for i := range w.matrices {
		jobs = append(jobs, job{tensor: w.matrices[i].tensor, matrix: &w.matrices[i]})
	}
	for i := range w.vectors {
		if v := &w.vectors[i]; v.tensor != nil {
			jobs = append(jobs, job{tensor: v.tensor, vector: v})
		}
	}
	slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(b.tensor.Bytes, a.tensor.Bytes) })
	return jobs
}

func (r *reading) do(ctx context.Context, s *staging, j job, d *digest) error {
	bytes := j.tensor.Bytes
	convertedAt := (bytes + 63) / 64 * 64
	if j.matrix != nil && j.matrix.dtype != j.tensor.DType {
		bytes = convertedAt + int64(j.tensor.Shape[0])*j.matrix.dtype.RowBytes(j.tensor.Shape[1])
	}
	weight := min(bytes, stagingBytes)
	if err := r.staging.Acquire(ctx, weight); err != nil {
		return err
	}
	defer r.staging.Release(weight)
	buffer, err := s.take(int(bytes))
	if err != nil {
		return fmt.Errorf("%d bytes of host memory: %w", bytes, err)
	}
	raw := buffer[:j.tensor.Bytes]
	d.tensor = j.tensor
	if d.sum, err = readAndHash(ctx, raw, j.tensor); err != nil {
		return err
	}
	switch {
	case j.vector != nil:
		j.vector.fill(raw)
	case j.matrix.dtype != j.tensor.DType:
		converted := buffer[convertedAt:]
		convert(converted, j.matrix.dtype, raw, j.tensor.DType)
		err = r.pack(j.matrix, converted)
	default:
		err = r.pack(j.matrix, raw)
	}
	if err != nil {
		return err
	}
	r.progress(j.tensor.Bytes)
	return nil
}

func readAndHash(ctx context.Context, raw []byte, t *Tensor) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for at := 0; at < len(raw); at += chunkBytes {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		chunk := raw[at:min(at+chunkBytes, len(raw))]
		if _, err := t.Data.ReadAt(chunk, int64(at)); err != nil {
			return sum, err
		}
		h.Write(chunk)
	}
	h.Sum(sum[:0])
	return sum, nil
}

func (r *reading) pack(m *matrix, rows []byte) error {
	return r.weights.options.Device.Pack(*m.packed, rows, m.order)
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
