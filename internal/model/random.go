package model

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model/modeldir"
)

// OpenRandom makes a checkpoint of a config.json, or of a directory that holds one, alone: Load fills the weights that the architecture
// declares with random numbers, always the same, so that a model of a real shape can be measured without its files. Weights have the
// config's type, BF16 where it names none. It has no tokenizer.
func OpenRandom(path string) (*Checkpoint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	dir, name := path, "config.json"
	if !info.IsDir() {
		dir, name = filepath.Split(path)
	}
	folder, err := modeldir.Open(filepath.Clean(dir))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	c := &Checkpoint{path: path, tensors: map[string]*Tensor{}, random: true}
	if c.settings, err = folder.ReadFile(name, maxConfigBytes); err != nil {
		return nil, err
	}
	if c.Config, err = ParseConfig(c.settings); err != nil {
		return nil, fmt.Errorf("%s: %w", folder.Path(name), err)
	}
	c.settings = append(c.settings, "\nrandom weights"...)
	return c, nil
}

// declare makes the tensor that an architecture asks for.
func (c *Checkpoint) declare(name string, shape []int) *Tensor {
	t := &Tensor{Name: name, Stored: name, DType: c.Config.DType, Shape: shape}
	if t.DType == 0 {
		t.DType = device.BF16
	}
	t.Type, t.Bytes = t.DType.String(), int64(t.DType.Size())
	for _, n := range shape {
		t.Bytes *= int64(n)
	}
	c.tensors[name] = t
	return t
}

// randomise fills matrices on the device with numbers of variance 1/columns, so that products keep the size of what they multiply, and
// constants here: biases with 0, norms with 1.
func (w *Weights) randomise(ctx context.Context) error {
	r := &reading{weights: w}
	for _, m := range w.matrices {
		r.total += m.tensor.Bytes
	}
	for i := range w.matrices {
		m := &w.matrices[i]
		seed := uint64(i+1) * 0xd1342543de82ef95
		scale := float32(math.Sqrt(3 / float64(m.tensor.Shape[1])))
		if err := ctx.Err(); err != nil {
			return err
		}
		err := w.options.Device.Random(*m.packed, seed, scale)
		if errors.Is(err, errors.ErrUnsupported) {
			err = w.packRandom(ctx, m, seed, scale)
		}
		if err != nil {
			return fmt.Errorf("tensor %s: %w", m.tensor.Stored, err)
		}
		r.progress(m.tensor.Bytes)
	}
	for _, v := range w.vectors {
		if v.tensor == nil || strings.HasSuffix(v.tensor.Name, ".bias") {
			continue
		}
		for i := range v.values {
			v.values[i] = 1
		}
	}
	return nil
}

// packRandom makes the numbers here and packs them.
func (w *Weights) packRandom(ctx context.Context, m *matrix, seed uint64, scale float32) error {
	packed, cols := *m.packed, int64(m.tensor.Shape[1])
	pieces := job{tensor: m.tensor, matrix: &matrix{tensor: m.tensor}}.pieces()
	return inParallel(ctx, len(pieces), func(_ context.Context, next func() (int, bool)) error {
		s := &staging{device: w.options.Device}
		defer s.free()
		for i, ok := next(); ok; i, ok = next() {
			p := &pieces[i]
			rows, err := s.take(int64(p.rows) * packed.DType.RowBytes(packed.Cols))
			if err != nil {
				return err
			}
			randomRows(rows, packed.DType, seed, int64(p.first)*cols, scale)
			if err := w.options.Device.PackRows(packed, p.first, p.rows, rows, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// randomRows fills dst with the elements of a matrix from the given one on.
func randomRows(dst []byte, t device.DType, seed uint64, from int64, scale float32) {
	var run [1024]float32
	for len(dst) > 0 {
		n := min(len(run), len(dst)/t.Size())
		for i := range n {
			run[i] = device.RandomElement(seed, from+int64(i), scale)
		}
		encodeFloats(dst, run[:n], t)
		dst, from = dst[n*t.Size():], from+int64(n)
	}
}
