package backend

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/llama"
)

// card is the CPU in the guise of one with so much memory.
type card struct {
	device.Device
	total, free int64
}

func (c card) Info() device.Info {
	i := c.Device.Info()
	i.Kind, i.Name, i.TotalBytes, i.FreeBytes = "cuda", "card", c.total, c.free
	i.Activations, i.Cache, i.KVBlock = device.BF16, device.BF16, 64
	return i
}

const gib = int64(1) << 30

// planOn plans the 8B shape, whose weights are 15 GiB and whose token is 128 KiB of keys and values.
func planOn(t *testing.T, total, free, taken int64, later int, args ...string) (plan, error) {
	t.Helper()
	cpu, err := native.OpenCPU(native.CPUOptions{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer cpu.Close()
	c, err := config.Load(append([]string{"--model=m=x", "--device=cuda"}, args...), "test", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := model.OpenRandom("../model/testdata/shapes/llama-3.1-8b")
	if err != nil {
		t.Fatal(err)
	}
	defer checkpoint.Close()
	d := card{cpu, total, free}
	loader := &model.Loader{Architectures: map[string]model.Builder{"llama": llama.New}}
	return newPlan(t.Context(), loader, checkpoint, model.Options{Device: d}, c, room{info: d.Info(), taken: taken, later: later})
}

func TestPoolTakesWhatACardHasLeft(t *testing.T) {
	for _, c := range []struct {
		name               string
		total, free, taken int64
		later              int
		args               []string
		want               int64 // bytes of the pool
	}{
		{"the default", 100 * gib, 99 * gib, 0, 0, nil, 90*gib - cardReserve},
		{"another fraction", 100 * gib, 99 * gib, 0, 0, []string{"--gpu-memory-utilization=0.5"}, 50*gib - cardReserve},
		{"another process has the most", 100 * gib, 30 * gib, 0, 0, nil, 30*gib - cardReserve},
		{"beside another model", 100 * gib, 59 * gib, 40 * gib, 0, nil, 50*gib - cardReserve},
		{"before another model", 100 * gib, 99 * gib, 0, 1, nil, 45*gib - cardReserve/2},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := planOn(t, c.total, c.free, c.taken, c.later, c.args...)
			if err != nil {
				t.Fatal(err)
			}
			if block := p.kv.BlockBytes(p.blockSize); p.bytes > c.want || p.bytes <= c.want-2*block {
				t.Errorf("a pool of %d bytes, want %d or up to two blocks of %d less", p.bytes, c.want, block)
			}
		})
	}
	small, err := planOn(t, 100*gib, 30*gib, 0, 3)
	if err != nil || small.blocks != 1 {
		t.Errorf("where the share is smaller than the model: %d blocks, %v; want 1", small.blocks, err)
	}
	given, err := planOn(t, 100*gib, 99*gib, 0, 0, "--kv-memory=4GiB")
	if want := int(4 * gib / given.kv.BlockBytes(given.blockSize)); err != nil || given.blocks != want {
		t.Errorf("--kv-memory=4GiB gives %d blocks, %v; want %d", given.blocks, err, want)
	}
}

func TestBlocksAreAsLargeAsTheDeviceReadsThemBest(t *testing.T) {
	p, err := planOn(t, 100*gib, 99*gib, 0, 0, "--kv-memory=1GiB", "--max-batch=64", "--max-batch-tokens=80")
	if err != nil || p.blockSize != 64 || p.blocks != 128 { // 128 KiB a token
		t.Errorf("%d blocks of %d tokens, %v; want 128 of 64", p.blocks, p.blockSize, err)
	}
	if p.limits.MaxTokens != 80 {
		t.Errorf("a step of %d tokens, want the 80 that were asked for", p.limits.MaxTokens)
	}
}

func TestBatchFollowsTheDeviceWhereItIsLeftOpen(t *testing.T) {
	for _, c := range []struct {
		kind string
		args []string
		want int
	}{
		{"cpu", nil, 64}, {"cuda", nil, 256}, {"cuda", []string{"--max-batch=7"}, 7}, {"cpu", []string{"--max-batch=1000"}, 1000},
		{"cuda", []string{"--max-batch-tokens=100"}, 84}, {"cuda", []string{"--max-batch-tokens=4096"}, 256}, {"cpu", []string{"--max-batch-tokens=17"}, 1},
	} {
		o, err := config.Load(append([]string{"--model=m=x"}, c.args...), "test", os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		if got := maxBatch(o, device.Info{Kind: c.kind}); got != c.want {
			t.Errorf("%s with %v: %d sequences, want %d", c.kind, c.args, got, c.want)
		}
	}
}

func TestModelTooLargeForTheCardIsRefusedWithSizesAndFlags(t *testing.T) {
	for _, c := range []struct {
		name               string
		total, free, taken int64
		args               []string
		want               []string
	}{
		{"a small card", 16 * gib, 15 * gib, 0, nil, []string{
			"weights 14.96GiB", "keys and values of 64 tokens 8MiB", "card (", "has 15GiB free of 16GiB", "--gpu-memory-utilization 0.9 allows 14.4GiB",
			"--max-batch-tokens", "--gpu",
		}},
		{"another process", 140 * gib, 5 * gib, 0, nil, []string{"it needs ", "has 5GiB free of 140GiB;"}},
		{"another model", 40 * gib, 9 * gib, 30 * gib, nil, []string{"this server already holds 30GiB"}},
		{"a long context", 24 * gib, 23 * gib, 0, []string{"--context=131072"}, []string{"keys and values of 131072 tokens 16GiB"}},
		{"memory for keys and values", 24 * gib, 23 * gib, 0, []string{"--kv-memory=20GiB"}, []string{"keys and values of 163840 tokens 20GiB", "--kv-memory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := planOn(t, c.total, c.free, c.taken, 0, c.args...)
			if !errors.Is(err, errTooLarge) {
				t.Fatalf("%v, want %v", err, errTooLarge)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}
