// matmul_batch.cuh: how matmul_batch.cu ends a tile: what leaves the registers of wgmma, and where it goes.
#ifndef INFERNO_CUDA_MATMUL_BATCH_CUH
#define INFERNO_CUDA_MATMUL_BATCH_CUH

#include "matmul.cuh"

// A transposed 8×8 matrix of 16-bit elements over a warp: lane 4i + j holds elements 2j and 2j + 1 of row i.
__device__ __forceinline__ uint32_t transpose(uint32_t word) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(word));
  return out;
}

// Where a warp's sums of 16 rows of w by tokens go. They lie as wgmma leaves them, in pieces of 8 rows by 8 tokens: of piece 2j + h, rows
// 8h on and tokens 8j on, lane 4g + t holds tokens 2t and 2t + 1 of row g.
struct batch_target {
  const product_view &p;
  int row, n;
  bool paired; // out takes two rows at a time: those that a lane has of its token once a piece is transposed
  char *base;  // the lane's two of piece 0

  __device__ __forceinline__ batch_target(const product_view &p, int row, int n) : p(p), row(row), n(n) {
    int lane = threadIdx.x % 32;
    paired = ((uintptr_t)p.out | (uintptr_t)(2 * p.stride)) % 4 == 0 && !p.is_f32 && row + 16 <= p.rows;
    base = (char *)((bf16 *)p.out + lane / 4 * p.stride + row + lane % 4 * 2);
  }
  __device__ __forceinline__ uint32_t *pair(int piece) const { return (uint32_t *)(base + piece / 2 * p.stride * 16 + piece % 2 * 16); }
  __device__ __forceinline__ bool has_pair(int piece) const { return paired && (int)(piece / 2 * 8 + threadIdx.x % 32 / 4) < n; }
  __device__ __forceinline__ void forget() { asm("" : "+l"(base), "+r"(n)); } // addresses, rather than to keep them through a tile

  // What out holds of COUNT pieces, where it is paired and accumulated.
  template <int COUNT> __device__ __forceinline__ void load(uint32_t (&old)[COUNT], int first) const {
#pragma unroll
    for (int q = 0; q < COUNT; q++) old[q] = p.accumulate && has_pair(first + q) ? *pair(first + q) : 0;
  }

  // Ends COUNT pieces from `first` on; `old` is what load gave. Loops without branches, so that pieces do not wait for each other.
  template <int COUNT> __device__ __forceinline__ void put(float *sums, const uint32_t *old, int first) const {
    if (paired) return put_pairs<COUNT>(sums, old, first);
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    bool plain = p.is_f32 && !p.bias && !p.accumulate;
    float *out = (float *)p.out + 2 * t * p.stride + row + g;
#pragma unroll
    for (int q = 0; q < COUNT && plain; q++) {
      int of = (first + q) % 2 * 8, m = (first + q) / 2 * 8;
      if (row + of + g < p.rows && m + 2 * t < n) out[m * p.stride + of] = sums[2 * q];
      if (row + of + g < p.rows && m + 2 * t + 1 < n) out[(m + 1) * p.stride + of] = sums[2 * q + 1];
    }
#pragma unroll
    for (int q = 0; q < COUNT && !plain; q++) {
      int of = row + (first + q) % 2 * 8 + g, m = (first + q) / 2 * 8 + 2 * t;
      if (of < p.rows && m < n) finish(p, m, of, sums[2 * q]);
      if (of < p.rows && m + 1 < n) finish(p, m + 1, of, sums[2 * q + 1]);
    }
  }

  template <int COUNT> __device__ __forceinline__ void put_pairs(float *sums, const uint32_t *old, int first) const {
    if (p.bias) {
      float bias[2]; // of both halves
#pragma unroll
      for (int h = 0; h < 2; h++) bias[h] = p.bias[row + (first + h) % 2 * 8 + threadIdx.x % 32 / 4];
#pragma unroll
      for (int q = 0; q < COUNT; q++) sums[2 * q] += bias[q % 2], sums[2 * q + 1] += bias[q % 2];
    }
    if (p.accumulate) {
#pragma unroll
      for (int q = 0; q < COUNT; q++) {
        uint32_t was = transpose(old[q]);
        sums[2 * q] += low_half(was), sums[2 * q + 1] += high_half(was);
      }
    }
    uint32_t word[COUNT];
#pragma unroll
    for (int q = 0; q < COUNT; q++) word[q] = transpose(pack_halves(sums[2 * q], sums[2 * q + 1]));
#pragma unroll
    for (int q = 0; q < COUNT; q++) {
      if (has_pair(first + q)) *pair(first + q) = word[q];
    }
  }
};

#endif // INFERNO_CUDA_MATMUL_BATCH_CUH
