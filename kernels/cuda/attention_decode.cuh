// attention_decode.cuh: a chunk of 64 keys for a row of attention_decode.cu: scores, softmax and sum of values.
#ifndef INFERNO_CUDA_ATTENTION_DECODE_CUH
#define INFERNO_CUDA_ATTENTION_DECODE_CUH

#include "attention_merge.cuh"

// q as the column operand: words 2s and 2s + 1 of lane 4·j + t are columns 16s + 2t and 16s + 2t + 8 of head j.
template <int K> __device__ __forceinline__ void load_query(uint32_t (&q)[K / 8], const bf16 *heads, int num_heads, bool wide) {
  int j = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const bf16 *head = heads + j * K + 2 * t;
  if (wide) { // the loads of each branch are on their way together
#pragma unroll
    for (int i = 0; i < K / 8; i++) q[i] = j < num_heads ? load_pair(head + 8 * i, true) : 0;
  } else {
#pragma unroll
    for (int i = 0; i < K / 8; i++) q[i] = j < num_heads ? load_pair(head + 8 * i, false) : 0;
  }
}

// The raw scores of 16 keys of a warp, into scores[head][key].
template <int K> __device__ __forceinline__ void score_keys(float *scores, const bf16 *keys, const uint32_t (&q)[K / 8]) {
  int warp = threadIdx.x % THREADS / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float even[4] = {}, odd[4] = {}; // two chains: half the latency
#pragma unroll
  for (int s = 0; s < K / 16; s += 2) {
    uint32_t a[4];
    load_matrices(a, keys + tile_at<CHUNK>(16 * warp + lane % 16, 2 * s + lane / 16));
    mma_bf16(even, a, q[2 * s], q[2 * s + 1]);
    load_matrices(a, keys + tile_at<CHUNK>(16 * warp + lane % 16, 2 * s + 2 + lane / 16));
    mma_bf16(odd, a, q[2 * s + 2], q[2 * s + 3]);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) scores[(2 * t + i % 2) * SCORE_PITCH + 16 * warp + g + i / 2 * 8] = even[i] + odd[i];
}

// The softmax of a chunk and its sum of values, of which `left` keys are seen. Every warp weighs all keys, a head in four lanes.
template <int K>
__device__ __forceinline__ void sum_values(partial<4 * decode_shape<K>::VALUE_TILES> &x, const float *scores, const bf16 *values, int left,
                                           float scale) {
  constexpr int STEPS = CHUNK / 16;
  int warp = threadIdx.x % THREADS / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float w[STEPS][4]; // keys 16s + 2t + {0, 1, 8, 9} of head g
  x.largest = -INFINITY;
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      int key = 16 * s + 2 * t + 4 * i;
      float2 pair = *(const float2 *)(scores + g * SCORE_PITCH + key);
      w[s][i] = key < left ? __fmul_rn(pair.x, scale) : -INFINITY;
      w[s][i + 1] = key + 1 < left ? __fmul_rn(pair.y, scale) : -INFINITY;
      x.largest = fmaxf(x.largest, fmaxf(w[s][i], w[s][i + 1]));
    }
  }
  x.largest = fmaxf(x.largest, __shfl_xor_sync(~0u, x.largest, 1));
  x.largest = fmaxf(x.largest, __shfl_xor_sync(~0u, x.largest, 2));
  x.weights = 0;
  uint32_t packed[STEPS][2];
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
#pragma unroll
    for (int i = 0; i < 4; i++) w[s][i] = exp2_fast(__fsub_rn(w[s][i], x.largest));
    x.weights += (w[s][0] + w[s][1]) + (w[s][2] + w[s][3]);
    packed[s][0] = pack_halves(w[s][0], w[s][1]);
    packed[s][1] = pack_halves(w[s][2], w[s][3]);
  }
  x.weights += __shfl_xor_sync(~0u, x.weights, 1);
  x.weights += __shfl_xor_sync(~0u, x.weights, 2);
#pragma unroll
  for (int m = 0; m < decode_shape<K>::VALUE_TILES; m++) {
    float sum[4] = {};
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      uint32_t a[4]; // 16 columns of the values by 16 keys
      int piece = (warp * decode_shape<K>::VALUE_TILES + m) * 2 + lane / 8 % 2;
      load_matrices_transposed(a, values + tile_at<CHUNK>(16 * s + lane % 8 + lane / 16 * 8, piece));
      mma_bf16(sum, a, packed[s][0], packed[s][1]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) x.values[4 * m + i] = sum[i];
  }
}

// Calls do(head, column, value) for what the thread holds of a result.
template <int K, typename F>
__device__ __forceinline__ void each_value(const partial<4 * decode_shape<K>::VALUE_TILES> &x, int num_heads, F visit) {
  int warp = threadIdx.x % THREADS / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4 * decode_shape<K>::VALUE_TILES; i++) {
    int head = 2 * t + i % 2, column = (warp * decode_shape<K>::VALUE_TILES + i / 4) * 16 + i / 2 % 2 * 8 + g;
    if (head < num_heads) visit(head, column, x.values[i], i % 2);
  }
}

// Puts a result, times its heads' shares, into out: neighbouring columns are four lanes apart.
template <int K>
__device__ __forceinline__ void put_values(const row_writer &out, const partial<4 * decode_shape<K>::VALUE_TILES> &x,
                                           const float (&share)[2], int num_heads) {
  int warp = threadIdx.x % THREADS / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4 * decode_shape<K>::VALUE_TILES; i++) {
    int head = 2 * t + i % 2, column = (warp * decode_shape<K>::VALUE_TILES + i / 4) * 16 + i / 2 % 2 * 8 + g;
    float v = x.values[i] * share[i % 2], next = __shfl_down_sync(~0u, v, 4);
    if (head < num_heads && g % 2 == 0) out.put(head * K + column, v, next);
  }
}

#endif // INFERNO_CUDA_ATTENTION_DECODE_CUH
