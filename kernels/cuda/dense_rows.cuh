// dense_rows.cuh: rows of x on their way into a block of dense.cu: as attention left them, or from other blocks, normalised or not.
#ifndef INFERNO_CUDA_DENSE_ROWS_CUH
#define INFERNO_CUDA_DENSE_ROWS_CUH

#include "dense.cuh"

// Rows of x in shared memory, `pitch` bytes apart, in groups of 8 columns.
struct staged_rows {
  unsigned char *data;
  int n, pitch;

  __device__ __forceinline__ uint4 &at(int row, int group) const { return *(uint4 *)(data + row * pitch + 16 * group); }

  __device__ __forceinline__ void clear(int from, int to) const {
    for (int i = from + threadIdx.x; i < to; i += DENSE_THREADS) {
      for (int r = 0; r < n; r++) at(r, i) = make_uint4(0, 0, 0, 0);
    }
  }

  __device__ __forceinline__ void copy(const matrix_view<const bf16> &x, int groups) const {
    for (int r = 0; r < n; r++) {
      for (int i = threadIdx.x; i < groups; i += DENSE_THREADS) at(r, i) = __ldcg((const uint4 *)x.row(r) + i);
    }
  }

  __device__ __forceinline__ void take(const uint64_t *words, int groups, uint32_t launch) const {
    constexpr int AT_ONCE = 4;
    if (groups > DENSE_THREADS / 2) await(words, groups * n, launch);
#pragma unroll 1
    for (int r = 0; r < n; r++, words += 4 * groups) {
#pragma unroll 1
      for (int i = threadIdx.x; i < groups; i += AT_ONCE * DENSE_THREADS) {
        uint4 v[AT_ONCE];
        bool ready;
        do {
          ready = true;
#pragma unroll
          for (int q = 0; q < AT_ONCE; q++) ready &= receive(v[q], words + 4 * min(i + q * DENSE_THREADS, groups - 1), launch);
        } while (!ready);
#pragma unroll
        for (int q = 0; q < AT_ONCE; q++) {
          if (i + q * DENSE_THREADS < groups) at(r, i + q * DENSE_THREADS) = v[q];
        }
      }
    }
  }

  // rms_norm's threads and their groups, the order of its sums, and its roundings.
  __device__ __forceinline__ void take_normed(const uint64_t *words, int groups, uint32_t launch, const float *w, float eps, int norm_warps,
                                              float *squares) const {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row[NORM_GROUPS], group[NORM_GROUPS];
    uint4 v[NORM_GROUPS];
    float4 gain[NORM_GROUPS][2];
#pragma unroll
    for (int q = 0; q < NORM_GROUPS; q++) {
      int at = warp + q * DENSE_WARPS;
      row[q] = at / norm_warps;
      group[q] = row[q] < n ? (at - row[q] * norm_warps) * 32 + lane : groups;
      v[q] = make_uint4(0, 0, 0, 0);
      if (group[q] < groups) gain[q][0] = __ldg((const float4 *)w + 2 * group[q]), gain[q][1] = __ldg((const float4 *)w + 2 * group[q] + 1);
    }
#pragma unroll
    for (int q = 0; q < NORM_GROUPS; q++) {
      if (group[q] < groups) {
        while (!receive(v[q], words + 4 * (row[q] * groups + group[q]), launch)) {
        }
      }
    }
#pragma unroll
    for (int q = 0; q < NORM_GROUPS; q++) {
      if (row[q] >= n) continue;
      const uint32_t *word = (const uint32_t *)&v[q];
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        sum = fmaf(low_half(word[j]), low_half(word[j]), sum);
        sum = fmaf(high_half(word[j]), high_half(word[j]), sum);
      }
      sum = warp_sum(sum);
      if (lane == 0) squares[warp + q * DENSE_WARPS] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int q = 0; q < NORM_GROUPS; q++) {
      if (group[q] >= groups) continue;
      float sum = 0;
#pragma unroll 4
      for (int i = 0; i < norm_warps; i++) sum += squares[row[q] * norm_warps + i];
      float scale = 1.0f / sqrtf(sum / (float)(8 * groups) + eps);
      const float *g = (const float *)gain[q];
      uint32_t *word = (uint32_t *)&v[q];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        word[j] = pack_halves(low_half(word[j]) * scale * g[2 * j], high_half(word[j]) * scale * g[2 * j + 1]);
      }
      at(row[q], group[q]) = v[q];
    }
  }
};

#endif // INFERNO_CUDA_DENSE_ROWS_CUH
