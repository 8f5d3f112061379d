// matmul_avx2.c: the matrix products' inner loops in AVX2.
#if defined(__x86_64__)

#define SIMD_AVX2
#include "simd.h"

#include "matmul_body.h"

const cpu_matmul_kernels cpu_matmul_avx2 = {4, 4, float_tile, quant_tile, quantise, dequantise};

#endif
