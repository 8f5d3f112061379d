// numeric.cuh: what the kernels share on the device: conversions, wide loads and stores, sums over a warp, and the two halves of
// programmatic dependent launch.
#ifndef INFERNO_CUDA_NUMERIC_CUH
#define INFERNO_CUDA_NUMERIC_CUH

#include <cuda_bf16.h>
#include <stdint.h>

#include "../inferno.h"

typedef __nv_bfloat16 bf16;

// A dense matrix as kernels take it.
template <typename T> struct matrix_view {
  T *data;
  int64_t stride; // elements between rows

  __device__ T *row(int64_t i) const { return data + i * stride; }
};

template <typename T> static matrix_view<T> view(const inferno_tensor &t) { return {(T *)t.data, t.stride}; }

// Lets the next kernel start, as far as this one leaves room on the card.
__device__ __forceinline__ void allow_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Waits until all that was launched before has ended and can be seen.
__device__ __forceinline__ void dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) { return __bfloat162float(v); }

template <typename T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v) { return v; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float v) { return __float2bfloat16_rn(v); }

// Two bfloat16 in a word, the first in the low half.
__device__ __forceinline__ float low_half(uint32_t word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float high_half(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }
__device__ __forceinline__ uint32_t pack_halves(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *(uint32_t *)&pair;
}

// Eight elements from p, of which `left` lie in the row (the others become 0); `wide`: p lies at a multiple of 16 bytes.
__device__ __forceinline__ void load8(float (&v)[8], const bf16 *p, int64_t left, bool wide) {
  if (wide && left >= 8) {
    uint4 w = *(const uint4 *)p;
    v[0] = low_half(w.x), v[1] = high_half(w.x), v[2] = low_half(w.y), v[3] = high_half(w.y);
    v[4] = low_half(w.z), v[5] = high_half(w.z), v[6] = low_half(w.w), v[7] = high_half(w.w);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = i < left ? to_float(p[i]) : 0.0f;
}

__device__ __forceinline__ void load8(float (&v)[8], const float *p, int64_t left, bool wide) {
  if (wide && left >= 8) {
    float4 a = *(const float4 *)p, b = *(const float4 *)(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = i < left ? p[i] : 0.0f;
}

// The same for a store: what lies beyond the row is left alone.
__device__ __forceinline__ void store8(bf16 *p, const float (&v)[8], int64_t left, bool wide) {
  if (wide && left >= 8) {
    *(uint4 *)p = make_uint4(pack_halves(v[0], v[1]), pack_halves(v[2], v[3]), pack_halves(v[4], v[5]), pack_halves(v[6], v[7]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (i < left) p[i] = from_float<bf16>(v[i]);
  }
}

__device__ __forceinline__ void store8(float *p, const float (&v)[8], int64_t left, bool wide) {
  if (wide && left >= 8) {
    *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
    *(float4 *)(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (i < left) p[i] = v[i];
  }
}

// gate/(1+exp(−gate)) · up, as swiglu and whatever is fused with it compute it: right to 2⁻²⁰, where expf and a division would take longer
// than memory does. The exponent of 2 is −gate·log2(e) in two floats; from 88 on the inverse of the sum is flushed to 0, as it may be.
__device__ __forceinline__ float swiglu(float gate, float up) {
  const float log2e = 1.44269502f, log2e_low = 1.92596299e-8f, ln2 = 0.693147182f;
  float x = fminf(fmaxf(-gate, -88.0f), 88.0f), high = __fmul_rn(x, log2e);
  float low = __fmaf_rn(x, log2e_low, __fmaf_rn(x, log2e, -high)), e, inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(high));
  e = __fmaf_rn(e, __fmul_rn(low, ln2), e);
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(__fadd_rn(1.0f, e)));
  return __fmul_rn(__fmul_rn(gate, inverse), up);
}

// Turns (even, odd) by an angle. The rounding is spelled out: rope and whatever is fused with it leave the same bits.
__device__ __forceinline__ void rotate(float &even, float &odd, float cosine, float sine) {
  float x = even, y = odd;
  even = __fmaf_rn(x, cosine, -__fmul_rn(y, sine));
  odd = __fmaf_rn(x, sine, __fmul_rn(y, cosine));
}

// The sum over a warp, in every lane: a tree of one shape.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) v += __shfl_xor_sync(~0u, v, width);
  return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, width));
  return v;
}

// Packed weights ----------------------------------------------------------------------------------------------------------------------
//
// BF16 [rows, cols] lies in units of 64 rows by 64 columns, 8 KiB each: those of a group of 64 rows one after another, group after group,
// filled up with zeros. A unit is two chunks of 32 columns, a chunk four tiles of 16 rows, 1 KiB each. In a tile lies row after row, and in a
// row four pieces of 8 columns, piece p of row r at place p ^ (r/2 % 4).
// So a block reads its part of K in one run; a warp reads the operand of two mma.m16n8k16 (k in the order 8t..8t+7 of lane t) as 2 × 512
// contiguous bytes; and a unit copied as it is into shared memory is what wgmma takes with 64-byte swizzle.
//
// F32 lies row after row, each filled up with zeros to a multiple of 4 columns.
enum { GROUP_ROWS = 64, TILE_ROWS = 16, UNIT_COLS = 64, CHUNK_COLS = 32, UNIT_BYTES = 8192 };

__host__ __device__ __forceinline__ int64_t weight_units(int64_t cols) { return (cols + UNIT_COLS - 1) / UNIT_COLS; }
__host__ __device__ __forceinline__ int64_t weight_groups(int64_t rows) { return (rows + GROUP_ROWS - 1) / GROUP_ROWS; }
__host__ __device__ __forceinline__ int64_t weight_f32_stride(int64_t cols) { return (cols + 3) / 4 * 4; }

// Where, in elements, piece `piece` (8 columns) of a row lies.
__device__ __forceinline__ int64_t weight_piece(int64_t row, int64_t piece, int64_t units) {
  int64_t tile = ((row / GROUP_ROWS * units + piece / 8) * 2 + piece / 4 % 2) * (GROUP_ROWS / TILE_ROWS) + row % GROUP_ROWS / TILE_ROWS;
  int64_t r = row % TILE_ROWS, place = (piece % 4) ^ (r / 2 % 4);
  return (tile * TILE_ROWS + r) * CHUNK_COLS + place * 8;
}

#endif // INFERNO_CUDA_NUMERIC_CUH
