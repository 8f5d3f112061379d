// matmul_avx512vnni.c: the matrix products' inner loops in AVX-512 with VNNI.
#if defined(__x86_64__)

#define SIMD_AVX512VNNI
#include "simd.h"

#include "matmul_body.h"

const cpu_matmul_kernels cpu_matmul_avx512vnni = {8, 16, float_tile, quant_tile, quantise, dequantise};

#endif
