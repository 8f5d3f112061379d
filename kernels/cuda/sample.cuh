// sample.cuh: what the files of sampling share: a block's view of a row of logits, keys, and sums over a block.
#ifndef INFERNO_CUDA_SAMPLE_CUH
#define INFERNO_CUDA_SAMPLE_CUH

#include "device.cuh"
#include "numeric.cuh"

enum {
  SAMPLE_THREADS = 1024,
  SAMPLE_SWEEP = 4 * SAMPLE_THREADS, // logits that a block looks at in one go
};

typedef unsigned long long u64;

// The tokens [from, to) of a row.
struct sample_row {
  const float *logits;
  const uint32_t *banned; // a bit an id; NULL: none
  inferno_sample_params params;
  int v, from, to; // from is a multiple of 4, and so is `to` unless it is v
  bool wide;
  float largest; // of the logits that are not banned
  double coldness;

  // Four logits, 0 beyond the row.
  __device__ void load(float (&l)[4], int id) const {
    if (wide && id + 4 <= v) {
      float4 w = *(const float4 *)(logits + id);
      l[0] = w.x, l[1] = w.y, l[2] = w.z, l[3] = w.w;
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) l[i] = id + i < v ? logits[id + i] : 0.0f;
  }

  // A bit for each of the four ids that is in the row and not banned.
  __device__ uint32_t open(int id) const {
    uint32_t in = id + 4 <= v ? 15 : (1u << (v - id)) - 1;
    return banned ? in & ~(banned[id / 32] >> (id % 32)) : in;
  }

  // logit/temperature relative to the largest.
  __device__ double relative(float logit) const { return ((double)logit - (double)largest) * coldness; }
  __device__ float weight(float logit) const { return expf((float)relative(logit)); }
};

// Larger for larger logits (−0 equals 0), then for lower ids; no key is 0.
__device__ __forceinline__ u64 key_of(float logit, int id) {
  uint32_t bits = __float_as_uint(logit + 0.0f);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return (u64)bits << 32 | (0xffffffffu - (uint32_t)id);
}

__device__ __forceinline__ int key_id(u64 key) { return (int)(0xffffffffu - (uint32_t)key); }

__device__ __forceinline__ float key_logit(u64 key) {
  uint32_t bits = (uint32_t)(key >> 32);
  return __uint_as_float(bits ^ (bits >> 31 ? 0x80000000u : 0xffffffffu));
}

// Calls f(id, logit) of this thread's share of the tokens that are not banned.
template <typename F> __device__ __forceinline__ void for_each(const sample_row &r, F f) {
  for (int id = r.from + 4 * threadIdx.x; id < r.to; id += SAMPLE_SWEEP) {
    float l[4];
    r.load(l, id);
    uint32_t open = r.open(id);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (open >> i & 1) f(id + i, l[i]);
    }
  }
}

template <typename T, typename F> __device__ __forceinline__ T warp_reduce(T v, F combine) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) v = combine(v, __shfl_xor_sync(~0u, v, width));
  return v;
}

// Sums and maxima over the block, in every thread.
template <typename T, typename F> __device__ T block_reduce(T v, F combine) {
  __shared__ T parts[SAMPLE_THREADS / 32];
  v = warp_reduce(v, combine);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  return warp_reduce(parts[threadIdx.x % 32], combine);
}

struct larger {
  template <typename T> __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};

__device__ __forceinline__ u64 block_sum(u64 v) {
  return block_reduce(v, [](u64 a, u64 b) { return a + b; });
}
template <typename T> __device__ __forceinline__ T block_max(T v) { return block_reduce(v, larger()); }

#endif // INFERNO_CUDA_SAMPLE_CUH
