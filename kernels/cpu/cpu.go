// Package cpu compiles the C of this folder, the CPU device, into the binary. All else about it is in cpu.h, and it is called through the
// table of kernels/inferno.h by internal/device/native alone.
package cpu

// -std=c11 rather than gnu11: gcc then leaves a·b+c as two roundings unless the source says fmaf, so that a function compiled for AVX2
// and its portable twin agree to the bit. (cpu.h tells clang the same.) -Wno-psabi: gcc's note on how vectors are passed is moot where
// every function that takes one is inlined.

// #cgo CFLAGS: -std=c11 -D_GNU_SOURCE -O3 -Wall -Wextra -Wno-psabi -fvisibility=hidden -pthread
// #cgo LDFLAGS: -lm -pthread
// #include "../inferno.h"
import "C"

import (
	"unsafe"

	_ "github.com/inferno-serve/inferno/kernels" // recompiles this package when inferno.h changes
)

// Table is the CPU's const inferno_table *.
func Table() unsafe.Pointer { return unsafe.Pointer(C.inferno_device_table()) }
