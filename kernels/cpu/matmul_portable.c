// matmul_portable.c: the matrix products' inner loops in plain C.
#define SIMD_PORTABLE
#include "simd.h"

#include "matmul_body.h"

const cpu_matmul_kernels cpu_matmul_portable = {2, 2, float_tile, quant_tile, quantise, dequantise};
