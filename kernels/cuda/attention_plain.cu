// attention_plain.cu: out[n, h·k] = softmax(scale · q kᵀ) v over paged caches, in float32 arithmetic whatever the caches' type: for float32
// models and for shapes that the matrix units' kernels do not take. A block a row and head; keys and values are read once for each row and
// query head, so that it is far from any bound.
//
// Each of four warps takes every fourth group of 32 keys: a lane scores a key, then holds columns of the sum. What the warps found is
// merged in their order. All depends on the row's own position alone.
#include "attention.cuh"

enum { WARPS = 4, COLUMNS = MAX_HEAD_DIM / 32 };

// Running softmax of a warp: the largest score, the sum of weights relative to it, and their sum of values (column 32·i + lane).
struct partial {
  float largest, weights, values[COLUMNS];
};

template <typename T> __device__ __forceinline__ float score(const attention_view<T> &a, const float *q, const T *key) {
  float sum = 0, v[8];
  for (int c = 0; c < a.head_dim; c += 8) {
    load8(v, key + c, a.head_dim - c, a.wide_cache);
#pragma unroll
    for (int i = 0; i < 8; i++) sum = fmaf(c + i < a.head_dim ? q[c + i] : 0.0f, v[i], sum);
  }
  return sum * a.scale;
}

template <typename T> __global__ void __launch_bounds__(32 * WARPS) attention_plain_kernel(attention_view<T> a) {
  __shared__ float q[MAX_HEAD_DIM], values[WARPS][MAX_HEAD_DIM], largest[WARPS], weights[WARPS];
  dependency_wait();
  allow_dependents();
  int row = blockIdx.x, head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32, keys = 0;
  int sequence = a.sequence_of(row, keys);
  if (sequence < 0) return;
  const T *query = a.q.row(row) + (int64_t)head * a.head_dim;
  for (int c = threadIdx.x; c < a.head_dim; c += 32 * WARPS) q[c] = to_float(query[c]);
  __syncthreads();

  const int32_t *table = a.block_table.row(sequence);
  int kv_head = head / (a.heads / a.kv_heads);
  partial mine = {-INFINITY, 0, {}};
  for (int base = 32 * warp; base < keys; base += 32 * WARPS) {
    int j = base + lane, group = min(32, keys - base);
    float s = -INFINITY;
    if (j < keys) s = score(a, q, a.k_cache.data + a.at(table, j, kv_head, a.k_cache.stride));
    float most = fmaxf(mine.largest, warp_max(s)), shrink = expf(mine.largest - most), weight = expf(s - most);
    mine.largest = most;
    mine.weights = mine.weights * shrink + warp_sum(weight);
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) mine.values[i] *= shrink;
    for (int i = 0; i < group; i++) {
      const T *value = a.v_cache.data + a.at(table, base + i, kv_head, a.v_cache.stride);
      float w = __shfl_sync(~0u, weight, i);
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) {
        if (32 * c + lane < a.head_dim) mine.values[c] = fmaf(w, to_float(value[32 * c + lane]), mine.values[c]);
      }
    }
  }
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) values[warp][32 * c + lane] = mine.values[c];
  if (lane == 0) largest[warp] = mine.largest, weights[warp] = mine.weights;
  __syncthreads();

  float most = -INFINITY, total = 0, share[WARPS];
  for (int w = 0; w < WARPS; w++) most = fmaxf(most, largest[w]);
  for (int w = 0; w < WARPS; w++) {
    share[w] = expf(largest[w] - most);
    total += share[w] * weights[w];
  }
  T *out = a.out.row(row) + (int64_t)head * a.head_dim;
  for (int c = threadIdx.x; c < a.head_dim; c += 32 * WARPS) {
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += share[w] * values[w][c];
    out[c] = from_float<T>(sum / total);
  }
}

void cuda_attention_plain(inferno_device *dev, const inferno_attention_args *a) {
  dim3 grid((unsigned)a->q.rows, (unsigned)a->heads);
  if (a->q.dtype == INFERNO_F32) cuda_launch(dev, "attention", attention_plain_kernel<float>, grid, 32 * WARPS, 0, view_of<float>(a));
  else cuda_launch(dev, "attention", attention_plain_kernel<bf16>, grid, 32 * WARPS, 0, view_of<bf16>(a));
}
