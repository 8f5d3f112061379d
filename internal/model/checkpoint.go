package model

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model/gguf"
	"github.com/inferno-serve/inferno/internal/model/modeldir"
	"github.com/inferno-serve/inferno/internal/model/safetensors"
)

// Checkpoint is a model on disk: a Hugging Face directory or a GGUF file. It stays open until Close, so that weights can be read.
type Checkpoint struct {
	Config     *Config
	Generation GenerationDefaults

	// RopeInterleaved says that the rows of Q and K are stored so that rotation turns neighbours (2i, 2i+1), as devices want it and GGUF
	// files have it; otherwise it turns (i, i + k/2), and a builder orders the rows as RotaryOrder says.
	RopeInterleaved bool

	path     string
	settings []byte // what says how the weights are computed with, for the revision
	tensors  map[string]*Tensor
	gguf     *gguf.File       // nil for a directory
	shards   *safetensors.Set // nil for a GGUF file
	random   bool             // there are no files: a tensor is what a builder declares
	revision string
}

// Tensor is a tensor of a checkpoint.
type Tensor struct {
	Name   string       // as Hugging Face spells it
	Stored string       // as the file spells it
	Type   string       // as the file spells it
	DType  device.DType // 0 where weights cannot have the type
	Shape  []int        // outermost first
	Bytes  int64
	Data   io.ReaderAt // the tensor's bytes, from 0 on; from any goroutine
	place  int         // in the order of the files
}

// Open reads the headers of the checkpoint at path, a directory or a GGUF file, but no weights.
func Open(path string) (*Checkpoint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openDir(path)
	}
	return openGGUF(path)
}

// Close closes the files; Config and GGUF's metadata stay. Idempotent.
func (c *Checkpoint) Close() error {
	switch {
	case c.gguf != nil:
		return c.gguf.Close()
	case c.shards != nil:
		return c.shards.Close()
	}
	return nil
}

// Path is what Open was given.
func (c *Checkpoint) Path() string { return c.path }

// GGUF is the GGUF file, whose metadata may hold a tokenizer; nil for a directory.
func (c *Checkpoint) GGUF() *gguf.File { return c.gguf }

// Tensor finds a tensor by its Hugging Face name; nil where there is none.
func (c *Checkpoint) Tensor(name string) *Tensor { return c.tensors[name] }

// Revision is 16 hexadecimal digits that follow from the contents: config.json or the GGUF header, and every byte of every weight in use. It
// is the same wherever the same model is loaded, and "" until a load has read the weights: they are summed behind the reads, which
// costs a fraction of them, while times and sizes of files change with every copy and not with every edit. It tells models apart; it does
// not prove where they come from.
func (c *Checkpoint) Revision() string { return c.revision }

// setRevision hashes the settings and the digests of the weights, in a fixed order.
func (c *Checkpoint) setRevision(digests []digest) {
	h := sha256.New()
	settings := sha256.Sum256(c.settings)
	h.Write(settings[:])
	for _, d := range digests {
		fmt.Fprintf(h, "\n%q %s %v ", d.tensor.Name, d.tensor.Type, d.tensor.Shape)
		h.Write(binary.BigEndian.AppendUint32(nil, d.sum))
	}
	c.revision = hex.EncodeToString(h.Sum(nil)[:8])
}

func openDir(path string) (*Checkpoint, error) {
	dir, err := modeldir.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	c := &Checkpoint{path: path, tensors: map[string]*Tensor{}}
	if err := c.readConfigs(dir); err != nil {
		return nil, err
	}
	if c.shards, err = safetensors.OpenDir(dir); err != nil {
		return nil, err
	}
	for i, t := range c.shards.Tensors() {
		c.tensors[t.Name] = &Tensor{
			Name: t.Name, Stored: t.Name, Type: string(t.DType), DType: safetensorsTypes[t.DType], Shape: t.Shape, Bytes: t.Bytes, Data: t,
			place: i,
		}
	}
	return c, nil
}

var safetensorsTypes = map[safetensors.DType]device.DType{
	safetensors.F32: device.F32, safetensors.F16: device.F16, safetensors.BF16: device.BF16,
}

func (c *Checkpoint) readConfigs(dir *modeldir.Dir) (err error) {
	const configName, generationName = "config.json", "generation_config.json"
	if c.settings, err = dir.ReadFile(configName, maxConfigBytes); err != nil {
		return err
	}
	if c.Config, err = ParseConfig(c.settings); err != nil {
		return fmt.Errorf("%s: %w", dir.Path(configName), err)
	}
	data, err := dir.ReadFile(generationName, maxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.Generation, err = ParseGenerationConfig(data); err != nil {
		return fmt.Errorf("%s: %w", dir.Path(generationName), err)
	}
	for _, id := range c.Generation.EOS {
		if int(id) >= c.Config.Vocab {
			return fmt.Errorf("%s: eos_token_id: %d, want less than the vocabulary's %d", dir.Path(generationName), id, c.Config.Vocab)
		}
	}
	if c.Generation.EOS != nil {
		c.Config.EOS = c.Generation.EOS
	}
	return nil
}

func openGGUF(path string) (*Checkpoint, error) {
	file, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	config, err := ConfigFromGGUF(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	generation, err := GenerationFromGGUF(file.Metadata())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	c := &Checkpoint{
		Config: config, Generation: generation, RopeInterleaved: true, path: path, settings: file.Header(), gguf: file, tensors: map[string]*Tensor{},
	}
	for i, t := range file.Tensors() {
		x := &Tensor{
			Name: fromGGUFName(t.Name), Stored: t.Name, Type: t.DType.String(), DType: t.DType, Shape: t.Shape, Bytes: t.Bytes, Data: t,
			place: i,
		}
		if twin := c.tensors[x.Name]; twin != nil {
			return nil, errors.Join(fmt.Errorf("%s: tensors %s and %s are one", path, twin.Stored, x.Stored), file.Close())
		}
		c.tensors[x.Name] = x
	}
	return c, nil
}

// storedName is how this checkpoint's files would spell a Hugging Face name.
func (c *Checkpoint) storedName(name string) string {
	if c.gguf != nil {
		return toGGUFName(name)
	}
	return name
}

// Parameters is the number of weights, and the type that most of them are stored in, as the files spell it.
func (c *Checkpoint) Parameters() (count int64, mostType string) {
	byType := map[string]int64{}
	for _, t := range c.tensors {
		elements := int64(1)
		for _, n := range t.Shape {
			elements *= int64(n)
		}
		count += elements
		byType[t.Type] += elements
	}
	for name, n := range byType {
		if n > byType[mostType] || n == byType[mostType] && name < mostType {
			mostType = name
		}
	}
	return count, mostType
}
