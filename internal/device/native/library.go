package native

// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "library.h"
import "C"

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
)

// CUDAOptions says which card, and where its library is.
type CUDAOptions struct {
	Library string // path of libinferno_cuda.so; empty: beside the executable, then in ../lib/inferno from there
	Ordinal int    // which card
	Exact   bool   // all in float32: weights of every type, activations, cached keys and values
	Profile bool   // time each op by itself, for device.Profiler: slow, and nothing can be captured
}

const cudaLibrary = "libinferno_cuda.so"

// OpenCUDA opens the CUDA library and a card. Every failure wraps device.ErrUnavailable and says what is missing.
func OpenCUDA(o CUDAOptions) (device.Device, error) {
	d, err := openCUDA(o)
	switch {
	case err == nil:
		return d, nil
	case errors.Is(err, device.ErrUnavailable):
		return nil, fmt.Errorf("open CUDA device %d: %w", o.Ordinal, err)
	default:
		return nil, fmt.Errorf("open CUDA device %d: %w: %w", o.Ordinal, device.ErrUnavailable, err)
	}
}

func openCUDA(o CUDAOptions) (*native, error) {
	path, err := findLibrary(o.Library)
	if err != nil {
		return nil, err
	}
	table, err := loadTable(path)
	if err != nil {
		return nil, fmt.Errorf("library %s: %w", path, err)
	}
	args := C.inferno_open_args{ordinal: C.int32_t(o.Ordinal)}
	if o.Exact {
		args.flags |= C.INFERNO_EXACT
	}
	if o.Profile {
		args.flags |= C.INFERNO_PROFILE
	}
	d, err := open(table, "cuda", args)
	if err != nil {
		return nil, err
	}
	d.library = path
	return d, nil
}

// findLibrary returns the first path that exists, explicit's alone if that is given.
func findLibrary(explicit string) (string, error) {
	if explicit != "" {
		_, err := os.Stat(explicit)
		return explicit, err
	}
	executable, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the executable's folder: %w", err)
	}
	if real, err := filepath.EvalSymlinks(executable); err == nil {
		executable = real
	}
	folder := filepath.Dir(executable)
	candidates := []string{
		filepath.Join(folder, cudaLibrary),
		filepath.Join(folder, "..", "lib", "inferno", cudaLibrary),
	}
	for _, path := range candidates {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
	}
	return "", fmt.Errorf("library not found at %s", strings.Join(candidates, " or "))
}

// loadTable opens a library and checks that its table is of the version and size that this binary was compiled with.
func loadTable(path string) (*C.inferno_table, error) {
	absolute, err := filepath.Abs(path) // a name without a slash would be searched for elsewhere
	if err != nil {
		return nil, err
	}
	name := C.CString(absolute)
	defer C.free(unsafe.Pointer(name))
	reason := (*C.char)(C.calloc(1, reasonBytes))
	defer C.free(unsafe.Pointer(reason))
	table := C.open_library(name, reason, reasonBytes)
	if table == nil {
		return nil, errors.New(C.GoString(reason))
	}
	if table.version != C.INFERNO_ABI_VERSION {
		return nil, fmt.Errorf("its table has version %d, want %d", table.version, C.INFERNO_ABI_VERSION)
	}
	if table.size < C.sizeof_inferno_table {
		return nil, fmt.Errorf("its table has %d bytes, want at least %d", table.size, C.sizeof_inferno_table)
	}
	if C.is_complete(table) == 0 {
		return nil, errors.New("its table lacks a mandatory entry")
	}
	return table, nil
}
