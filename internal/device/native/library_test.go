package native_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/devicetest"
	"github.com/inferno-serve/inferno/internal/device/native"
)

// libraries builds device libraries out of the CPU's sources, so that opening one is tested without a card. Each has main.c's
// inferno_device_table over the CPU's own table.
type libraries struct {
	folder  string
	objects []string
}

func newLibraries(t *testing.T) *libraries {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc to build a device library with")
	}
	sources, err := filepath.Glob("../../../kernels/cpu/*.c")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no sources of the CPU device: %v", err)
	}
	l := &libraries{folder: t.TempDir()}
	for _, source := range sources {
		object := filepath.Join(l.folder, strings.TrimSuffix(filepath.Base(source), ".c")+".o")
		l.gcc(t, "-O0", "-Dinferno_device_table=cpu_device_table", "-c", source, "-o", object)
		l.objects = append(l.objects, object)
	}
	return l
}

func (l *libraries) gcc(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"-std=c11", "-D_GNU_SOURCE", "-Wno-psabi", "-fPIC", "-fvisibility=hidden", "-pthread", "-I../../../kernels"}, args...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// fusedOps are the optional ops that the CPU device lacks, in C, out of the primitives; fuse puts them into t.
const fusedOps = `
static void norm_matmul(inferno_device *dev, const inferno_norm_matmul_args *a) {
  inferno_rms_norm_args norm = {.size = sizeof norm, .eps = a->eps, .out = a->normed, .x = a->x, .w = a->norm};
  inferno_matmul_args matmul = {.size = sizeof matmul, .count = a->count, .x = a->normed};
  for (int i = 0; i < a->count; i++) matmul.product[i] = a->product[i];
  t.rms_norm(dev, &norm);
  t.matmul(dev, &matmul);
}
static void norm_gate_up(inferno_device *dev, const inferno_norm_gate_up_args *a) {
  inferno_norm_matmul_args products = {.size = sizeof products, .eps = a->eps, .x = a->x, .norm = a->norm, .normed = a->normed, .count = 2,
    .product = {{.w = a->gate, .bias = a->gate_bias, .out = a->out}, {.w = a->up, .bias = a->up_bias, .out = a->scratch}}};
  inferno_swiglu_args swiglu = {.size = sizeof swiglu, .out = a->out, .gate = a->out, .up = a->scratch};
  norm_matmul(dev, &products);
  t.swiglu(dev, &swiglu);
}
static void norm_qkv(inferno_device *dev, const inferno_norm_qkv_args *a) {
  inferno_norm_matmul_args products = {.size = sizeof products, .eps = a->eps, .x = a->x, .norm = a->norm, .normed = a->normed, .count = 3,
    .product = {a->q, a->k, a->v}};
  inferno_rope_store_kv_args store = {.size = sizeof store, .heads = a->heads, .kv_heads = a->kv_heads, .head_dim = a->head_dim,
    .block_size = a->block_size, .q = a->q.out, .key = a->k.out, .value = a->v.out, .table = a->table, .slots = a->slots,
    .k_cache = a->k_cache, .v_cache = a->v_cache};
  norm_matmul(dev, &products);
  t.rope_store_kv(dev, &store);
}
void fuse(void) { t.norm_matmul = norm_matmul, t.norm_gate_up = norm_gate_up, t.norm_qkv = norm_qkv; }
`

// build makes a library of the CPU device whose inferno_device_table is body, after `inferno_table t = *cpu_device_table();`.
func (l *libraries) build(t *testing.T, name, body string) string {
	t.Helper()
	source, library := filepath.Join(l.folder, name+".c"), filepath.Join(l.folder, name+".so")
	code := `#include <stdio.h>
#include "inferno.h"
const inferno_table *cpu_device_table(void);
static inferno_table t;
int32_t refuse(const inferno_open_args *args, inferno_device **dev, char *reason, size_t bytes) {
  *dev = NULL;
  snprintf(reason, bytes, "card %d is on fire", (int)args->ordinal);
  return INFERNO_UNAVAILABLE;
}
` + fusedOps + `__attribute__((visibility("default"))) const inferno_table *inferno_device_table(void) {
  t = *cpu_device_table();
  ` + body + `
}
`
	if err := os.WriteFile(source, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	l.gcc(t, append([]string{"-shared", "-o", library, source}, append(l.objects, "-lm")...)...)
	return library
}

func TestOpenLibrary(t *testing.T) {
	l := newLibraries(t)
	want := devicetest.Bits(t, openCPU(t, native.CPUOptions{}), devicetest.Options{})
	for name, body := range map[string]string{
		"complete":            "return &t;",
		"without a fused op":  "t.rope_store_kv = NULL; return &t;",
		"with all fused ops":  "fuse(); return &t;",
		"with one on another": "fuse(); t.norm_gate_up = NULL, t.norm_qkv = NULL, t.rope_store_kv = NULL; return &t;",
		"longer than known":   "t.size += 64; return &t;",
	} {
		t.Run(name, func(t *testing.T) {
			dev, err := native.OpenCUDA(native.CUDAOptions{Library: l.build(t, strings.ReplaceAll(name, " ", "_"), body)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { dev.Close() })
			if kind := dev.Info().Kind; kind != "cuda" {
				t.Errorf("kind: got %q, want cuda", kind)
			}
			if got := devicetest.Bits(t, dev, devicetest.Options{}); !bytes.Equal(got, want) {
				t.Error("the library writes other bytes than the same code in the binary")
			}
		})
	}
	for name, c := range map[string]struct{ body, reason string }{
		"other_version": {"t.version = 77; return &t;", "its table has version 77, want 6"},
		"short":         {"t.size = 16; return &t;", "its table has 16 bytes, want at least"},
		"incomplete":    {"t.add = NULL; return &t;", "its table lacks a mandatory entry"},
		"no_end":        {"t.poll = NULL; return &t;", "its table lacks a mandatory entry"},
		"no_table":      {"return NULL;", "inferno_device_table returns nothing"},
		"refusing":      {"t.open = refuse; return &t;", "card 3 is on fire"},
	} {
		t.Run(name, func(t *testing.T) {
			checkUnavailable(t, native.CUDAOptions{Library: l.build(t, name, c.body), Ordinal: 3}, c.reason)
		})
	}
	t.Run("without the symbol", func(t *testing.T) {
		library := filepath.Join(l.folder, "empty.so")
		l.gcc(t, "-shared", "-o", library, "-x", "c", os.DevNull)
		checkUnavailable(t, native.CUDAOptions{Library: library}, "it has no inferno_device_table")
	})
}

func TestOpenCUDAWithoutLibrary(t *testing.T) {
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(executable)
	if _, err := os.Stat(filepath.Join(folder, "libinferno_cuda.so")); err == nil {
		t.Skip("the library lies beside this program")
	}
	text := filepath.Join(t.TempDir(), "text.so")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	checkUnavailable(t, native.CUDAOptions{}, filepath.Join(folder, "libinferno_cuda.so"))
	checkUnavailable(t, native.CUDAOptions{}, filepath.Join(folder, "../lib/inferno/libinferno_cuda.so"))
	checkUnavailable(t, native.CUDAOptions{Library: "/nowhere/lib.so"}, "/nowhere/lib.so")
	checkUnavailable(t, native.CUDAOptions{Library: text}, text)
}

func checkUnavailable(t *testing.T, o native.CUDAOptions, reason string) {
	t.Helper()
	_, err := native.OpenCUDA(o)
	if !errors.Is(err, device.ErrUnavailable) {
		t.Fatalf("got %v, want ErrUnavailable", err)
	}
	if !strings.Contains(err.Error(), reason) {
		t.Errorf("got %q, want it to say %q", err, reason)
	}
}
