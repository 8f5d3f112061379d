package safetensors

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/inferno-serve/inferno/internal/model/modeldir"
	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// Names that a directory is searched for, in this order.
const (
	SingleName = "model.safetensors"
	IndexName  = "model.safetensors.index.json"
)

// Limits on what an index may claim.
const (
	MaxIndexBytes = 32 << 20
	MaxShards     = 1000
)

// Set is the tensors of a model, from one file or several.
type Set struct {
	files   []*File
	tensors []*Tensor
}

// OpenDir opens model.safetensors of a directory or, where that is absent, the shards of model.safetensors.index.json. The directory may be
// closed afterwards.
func OpenDir(dir *modeldir.Dir) (*Set, error) {
	s := &Set{}
	err := s.openShard(dir, SingleName)
	if errors.Is(err, fs.ErrNotExist) {
		err = s.openIndex(dir)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Tensors lists the tensors file by file; the caller must not change them.
func (s *Set) Tensors() []*Tensor { return s.tensors }

// Close closes the files. Idempotent.
func (s *Set) Close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func (s *Set) openShard(dir *modeldir.Dir, name string) error {
	file, err := dir.Open(name)
	if err != nil {
		return err
	}
	f, err := newFile(dir.Path(name), file)
	if err != nil {
		return err
	}
	s.files = append(s.files, f)
	s.tensors = append(s.tensors, f.tensors...)
	return nil
}

// index is what IndexName holds.
type index struct {
	shardOf   map[string]string // by tensor
	totalSize string            // bytes of all tensors, a number; "" where the file does not say
}

func (s *Set) openIndex(dir *modeldir.Dir) error {
	path := dir.Path(IndexName)
	data, err := dir.ReadFile(IndexName, MaxIndexBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: no %s and no %s in it: %w", dir.Path(), SingleName, IndexName, err)
	}
	if err != nil {
		return err
	}
	ix, err := parseIndex(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, shard := range ix.shards() {
		if err := s.openShard(dir, shard); err != nil {
			return fmt.Errorf("%s: shard %q: %w", path, shard, err)
		}
	}
	if err := s.checkIndex(ix); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func parseIndex(data []byte) (*index, error) {
	r, err := strictjson.NewReader(data)
	if err != nil {
		return nil, err
	}
	ix := &index{}
	err = r.Object(func(key string) error {
		switch key {
		case "metadata":
			return ix.parseMetadata(r)
		case "weight_map":
			return ix.parseWeightMap(r)
		default:
			return errors.New("unknown key, want metadata and weight_map")
		}
	})
	if err != nil {
		return nil, err
	}
	if len(ix.shardOf) == 0 {
		return nil, errors.New("weight_map names no tensor")
	}
	return ix, r.End()
}

func (ix *index) parseMetadata(r *strictjson.Reader) error {
	return r.Object(func(key string) (err error) {
		if key != "total_size" {
			return r.Skip()
		}
		ix.totalSize, err = r.Number()
		return err
	})
}

func (ix *index) parseWeightMap(r *strictjson.Reader) error {
	ix.shardOf = map[string]string{}
	names := map[string]string{} // so that 100,000 tensors share the names of their shards
	return r.Object(func(tensor string) error {
		shard, err := r.String()
		if err != nil {
			return err
		}
		if _, ok := names[shard]; !ok {
			if err := checkShardName(shard); err != nil {
				return err
			}
			if len(names) == MaxShards {
				return fmt.Errorf("more than %d shards", MaxShards)
			}
			names[shard] = shard
		}
		if len(ix.shardOf) == MaxTensors {
			return fmt.Errorf("more than %d tensors", MaxTensors)
		}
		ix.shardOf[tensor] = names[shard]
		return nil
	})
}

func checkShardName(name string) error {
	if !filepath.IsLocal(name) || strings.ContainsAny(name, "/\\\x00") || !strings.HasSuffix(name, ".safetensors") {
		return fmt.Errorf("%.100q is no shard, want the name of a .safetensors file of the directory", name)
	}
	return nil
}

func (ix *index) shards() []string {
	var names []string
	for _, shard := range ix.shardOf {
		if !slices.Contains(names, shard) {
			names = append(names, shard)
		}
	}
	slices.Sort(names)
	return names
}

// checkIndex demands that the shards hold what the index says, and nothing else.
func (s *Set) checkIndex(ix *index) error {
	var bytes int64
	found := make(map[string]bool, len(ix.shardOf))
	for _, t := range s.tensors {
		shard := filepath.Base(t.File.path)
		switch want, ok := ix.shardOf[t.Name]; {
		case !ok:
			return fmt.Errorf("tensor %q of %s is not in weight_map", t.Name, shard)
		case want != shard:
			return fmt.Errorf("tensor %q is in %s, weight_map says %s", t.Name, shard, want)
		}
		found[t.Name] = true
		bytes += t.Bytes
	}
	for name, shard := range ix.shardOf {
		if !found[name] {
			return fmt.Errorf("tensor %q is not in %s", name, shard)
		}
	}
	if ix.totalSize == "" {
		return nil
	}
	// Some tools write the number with a fraction of 0.
	if want, err := strconv.ParseFloat(ix.totalSize, 64); err != nil || math.Abs(want-float64(bytes)) >= 1 {
		return fmt.Errorf("metadata: total_size is %s, the tensors have %d bytes", ix.totalSize, bytes)
	}
	return nil
}
