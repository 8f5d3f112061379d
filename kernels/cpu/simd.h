// simd.h: the few vector operations that the heavy kernels are written in. A .c file names an instruction set
// (SIMD_AVX512VNNI, SIMD_AVX512, SIMD_AVX2 or SIMD_PORTABLE) and includes this, then a kernel body; the functions it
// gets are static, so that every set has its own.
//
//   vf  LANES float32: 16 in AVX-512, 8 in AVX2, 4 in portable C. Every multiply whose sum is taken is a vf_fma, so
//       that no compiler decides about contraction.
//   vw  16 weights × 4 columns of packed bytes are 64 bytes; a vw is the LANES·4 of them that belong to one vf.
//   vq  what is left of 32 columns × LANES weights once unpacked: 8 vw.
#ifndef INFERNO_CPU_SIMD_H
#define INFERNO_CPU_SIMD_H

#include <stdint.h>
#include <string.h>

#include "cpu.h"
#include "matmul.h"

#define UNROLL _Pragma("GCC unroll 16")

#if defined(SIMD_AVX512VNNI) || defined(SIMD_AVX512)
#include "simd_avx512.h"
#elif defined(SIMD_AVX2)
#include "simd_avx2.h"
#else
#include "simd_portable.h"
#endif

#define SUBS (CPU_LANE_ROWS / LANES) // vectors that hold one row group

// Element i of a row of F32, F16 or BF16 values and the LANES − 1 after it, as float32.
SIMD vf vf_load_as(int32_t dtype, const void *row, int64_t i) {
  if (dtype == INFERNO_F16) return vf_load_f16((const uint16_t *)row + i);
  if (dtype == INFERNO_BF16) return vf_load_bf16((const uint16_t *)row + i);
  return vf_load((const float *)row + i);
}

// exp(x) for x ≤ 0, within 2 ulp; below −87 it stays at exp(−87), about 1.6e-38. NaN stays NaN.
// x = n·ln 2 + r, |r| ≤ ln 2 / 2, and exp(r) by its Taylor series to degree 7, whose remainder there is 6e-9 relative.
SIMD vf vf_exp(vf x) {
  x = vf_max(vf_set1(-87.0f), x);
  vf shifted = vf_fma(x, vf_set1(1.44269504f), vf_set1(12582912.0f)); // 1.5·2²³: the low bits are now round(x/ln 2)
  vf n = vf_sub(shifted, vf_set1(12582912.0f));
  vf r = vf_fma(n, vf_set1(-0.693145752f), x); // ln 2 in two parts, the first with few bits so that n times it is exact
  r = vf_fma(n, vf_set1(-1.42860677e-6f), r);
  vf p = vf_set1(1.0f / 5040);
  p = vf_fma(p, r, vf_set1(1.0f / 720));
  p = vf_fma(p, r, vf_set1(1.0f / 120));
  p = vf_fma(p, r, vf_set1(1.0f / 24));
  p = vf_fma(p, r, vf_set1(1.0f / 6));
  p = vf_fma(p, r, vf_set1(0.5f));
  p = vf_fma(p, r, vf_set1(1.0f));
  p = vf_fma(p, r, vf_set1(1.0f));
  return vf_scale_exponent(p, shifted);
}

#endif // INFERNO_CPU_SIMD_H
