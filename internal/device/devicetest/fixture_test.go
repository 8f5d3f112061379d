package devicetest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
)

// TestPackedTypesMatchTheirFormat checks packed weights, and this package's own reading of the formats, against bytes and values that
// the formats' own library made.
func TestPackedTypesMatchTheirFormat(t *testing.T) {
	dir := os.Getenv("INFERNO_FIXTURES")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "fixtures")
	}
	dir = filepath.Join(dir, "gguf-types")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no reference data: %v", err)
	}
	forEachLevel(t, func(t *testing.T, o native.CPUOptions) {
		dev := openCPU(t, o)
		defer dev.Close()
		r := &rig{T: t, dev: dev, o: Options{}.withDefaults(), info: dev.Info()}
		for name, dt := range map[string]device.DType{
			"q8_0": device.Q8_0, "q4_0": device.Q4_0, "q4_1": device.Q4_1, "f16": device.F16, "bf16": device.BF16,
		} {
			r.run(name, func(r *rig) { r.judgeFixture(filepath.Join(dir, name+".safetensors"), dt) })
		}
	})
}

func (r *rig) judgeFixture(path string, dt device.DType) {
	tensors, err := readSafetensors(path)
	if err != nil {
		r.Fatal(err)
	}
	values := tensors["values"]
	rows, cols := values.shape[0], values.shape[1]
	want := newMatrix(rows, cols)
	for i := range want.v {
		want.v[i] = decode(device.F32, values.bytes[4*i:])
	}
	s := newSource(dt, tensors["packed"].bytes, rows, cols)
	r.compare("the judge's own reading", s.values, want, matrix{})
	s.values = want
	r.checkEmbed(s, nil, int32s(r.rng.Perm(rows)))
}

type fileTensor struct {
	shape []int
	bytes []byte
}

// readSafetensors reads a small file whole: the header's length (8 bytes), the header in JSON, the tensors' bytes.
func readSafetensors(path string) (map[string]fileTensor, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(data) < 8 {
		return nil, fmt.Errorf("read %s: %d bytes, want a header", path, len(data))
	}
	end := 8 + binary.LittleEndian.Uint64(data)
	if end > uint64(len(data)) {
		return nil, fmt.Errorf("read %s: header ends at %d of %d bytes", path, end, len(data))
	}
	var header map[string]json.RawMessage
	if err := json.Unmarshal(data[8:end], &header); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	tensors := map[string]fileTensor{}
	for name, raw := range header {
		if name == "__metadata__" {
			continue
		}
		var entry struct {
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}
		if err := json.Unmarshal(raw, &entry); err != nil {
			return nil, fmt.Errorf("read %s: tensor %s: %w", path, name, err)
		}
		tensors[name] = fileTensor{entry.Shape, data[end:][entry.Offsets[0]:entry.Offsets[1]]}
	}
	return tensors, nil
}
