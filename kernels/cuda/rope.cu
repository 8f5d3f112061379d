// rope.cu: rotary position embedding and the writing of keys and values. The angles' sines are computed once a step; the rest moves each
// row once. Bound by the latency of a launch for few rows, by memory for many. On an H200, in a graph, at 1, 64 and 256 rows: rope_table of
// 128 columns 0.7, 0.8 and 0.9 µs; rope_store_kv of 32 + 8 + 8 heads of 128 1.2, 1.4 and 2.4 µs.
#include "device.cuh"
#include "kv_cache.cuh"

enum { THREADS = 128, TABLE_THREADS = 64 };

// Blocks split rows (x) and angles (y).
__global__ void __launch_bounds__(TABLE_THREADS)
    rope_table_kernel(matrix_view<float> table, const int32_t *pos, const float *freq, int64_t half, float scale) {
  int64_t row = blockIdx.x, i = (int64_t)blockIdx.y * TABLE_THREADS + threadIdx.x;
  double f = i < half ? freq[i] : 0.0f, sine, cosine;
  dependency_wait();
  allow_dependents();
  if (i >= half) return;
  sincos((double)pos[row] * f, &sine, &cosine);
  table.row(row)[i] = (float)((double)scale * cosine);
  table.row(row)[half + i] = (float)((double)scale * sine);
}

// table[n, i] = scale · cos(pos[n] · freq[i]), table[n, k/2 + i] = scale · sin(pos[n] · freq[i]) for i < k/2; all in double.
void cuda_rope_table(inferno_device *dev, const inferno_rope_table_args *a) {
  int64_t n = a->table.rows, half = a->table.cols / 2;
  cuda_launch(dev, "rope_table", rope_table_kernel, dim3((unsigned)n, (unsigned)div_up(half, TABLE_THREADS)), TABLE_THREADS, 0,
              view<float>(a->table), (const int32_t *)a->pos.data, (const float *)a->freq.data, half, a->scale);
}

// A head's columns are rotated in groups of 8, four neighbours (2i, 2i+1), so that 16 bytes move at a time where all is aligned.
struct head_layout {
  int64_t dim;     // columns of a head
  unsigned groups; // of a head; the last one may be short
  bool wide;       // activations and caches
  bool wide_table;
};

static head_layout layout_of(int64_t dim, const inferno_tensor &table, bool wide) {
  bool wide_table = is_wide(table) && dim % 8 == 0;
  return {dim, (unsigned)div_up(dim, 8), wide && dim % 8 == 0, wide_table};
}

// Turns group g of a head, in v, by a row of table.
__device__ __forceinline__ void rotate_group(float (&v)[8], const float *table, int g, const head_layout &head) {
  float c[4] = {}, s[4] = {};
  const float *cosines = table + 4 * g, *sines = cosines + head.dim / 2;
  if (head.wide_table) {
    float4 a = *(const float4 *)cosines, b = *(const float4 *)sines;
    c[0] = a.x, c[1] = a.y, c[2] = a.z, c[3] = a.w, s[0] = b.x, s[1] = b.y, s[2] = b.z, s[3] = b.w;
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (8 * g + 2 * i < head.dim) c[i] = cosines[i], s[i] = sines[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) rotate(v[2 * i], v[2 * i + 1], c[i], s[i]);
}

// Blocks split rows (x) and groups (y).
template <typename T>
__global__ void __launch_bounds__(THREADS) rope_kernel(matrix_view<T> x, matrix_view<const float> table, int heads, head_layout layout) {
  unsigned group = blockIdx.y * THREADS + threadIdx.x;
  int head = group / layout.groups, g = group % layout.groups;
  T *at = x.row(blockIdx.x) + head * layout.dim + 8 * g;
  dependency_wait();
  allow_dependents();
  if (head >= heads) return;
  float v[8];
  load8(v, at, layout.dim - 8 * g, layout.wide);
  rotate_group(v, table.row(blockIdx.x), g, layout);
  store8(at, v, layout.dim - 8 * g, layout.wide);
}

static dim3 grid_of(int64_t rows, int64_t cols) { return dim3((unsigned)rows, (unsigned)div_up(cols, THREADS)); }

// Rotates, in place, the neighbours (2i, 2i+1) of each head of x[n, heads·k] by table's angle i.
void cuda_rope(inferno_device *dev, const inferno_rope_args *a) {
  head_layout layout = layout_of(a->table.cols, a->table, is_wide(a->x));
  auto go = [&](auto zero) {
    using T = decltype(zero);
    cuda_launch(dev, "rope", rope_kernel<T>, grid_of(a->x.rows, a->heads * layout.groups), THREADS, 0, view<T>(a->x),
                view<const float>(a->table), a->heads, layout);
  };
  if (a->x.dtype == INFERNO_BF16) return go(bf16());
  if (a->x.dtype == INFERNO_F32) return go(0.0f);
  cuda_fail(dev, INFERNO_BAD_ARGUMENT, "rope: activations are BF16 or F32 on CUDA");
}

// Blocks split rows (x) and columns (y).
template <typename T>
__global__ void __launch_bounds__(THREADS) store_kv_kernel(matrix_view<const T> key, matrix_view<const T> value, cache_view<T> cache) {
  int64_t row = blockIdx.x;
  int col = blockIdx.y * THREADS + threadIdx.x, head = col / cache.head_dim, i = col % cache.head_dim;
  dependency_wait();
  allow_dependents();
  int slot = cache.slots[row];
  int64_t to = cache.at(slot, head, cache.k.stride), value_to = cache.at(slot, head, cache.v.stride);
  if (head >= cache.kv_heads || to < 0) return;
  cache.k.data[to + i] = key.row(row)[col];
  cache.v.data[value_to + i] = value.row(row)[col];
}

// k_cache[slot/p, j, slot%p, :] = key[n, j, :] for KV head j, and the same for values; slot −1 is skipped.
void cuda_store_kv(inferno_device *dev, const inferno_store_kv_args *a) {
  if (a->k_cache.dtype != a->key.dtype) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "store_kv: on CUDA caches have the activations' type");
  dev->stored_rows = a->key.rows;
  auto go = [&](auto zero) {
    using T = decltype(zero);
    cuda_launch(dev, "store_kv", store_kv_kernel<T>, grid_of(a->key.rows, a->key.cols), THREADS, 0, view<const T>(a->key),
                view<const T>(a->value), caches_of<T>(a));
  };
  if (a->key.dtype == INFERNO_BF16) return go(bf16());
  if (a->key.dtype == INFERNO_F32) return go(0.0f);
  cuda_fail(dev, INFERNO_BAD_ARGUMENT, "store_kv: activations are BF16 or F32 on CUDA");
}

// The groups of q, of key and of value, one after another; key goes rotated to the cache alone.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    rope_store_kv_kernel(matrix_view<T> q, matrix_view<const T> key, matrix_view<const T> value, matrix_view<const float> table,
                         cache_view<T> cache, int heads, head_layout layout) {
  int64_t row = blockIdx.x;
  unsigned group = blockIdx.y * THREADS + threadIdx.x;
  int head = group / layout.groups, g = group % layout.groups, kv_head = head - heads;
  int64_t left = layout.dim - 8 * g;
  bool is_query = head < heads, is_value = kv_head >= cache.kv_heads;
  if (is_value) kv_head -= cache.kv_heads;
  T *to = is_query ? q.row(row) + head * layout.dim : is_value ? cache.v.data : cache.k.data;
  const T *from = is_query ? to : (is_value ? value.row(row) : key.row(row)) + kv_head * layout.dim;
  int64_t stride = is_value ? cache.v.stride : cache.k.stride;
  dependency_wait();
  allow_dependents();
  if (head >= heads + 2 * cache.kv_heads) return;
  float v[8];
  load8(v, from + 8 * g, left, layout.wide);
  int64_t at = is_query ? 0 : cache.at(cache.slots[row], kv_head, stride);
  if (!is_value) rotate_group(v, table.row(row), g, layout);
  if (at >= 0) store8(to + at + 8 * g, v, left, layout.wide);
}

void cuda_rope_store_kv(inferno_device *dev, const inferno_rope_store_kv_args *a) {
  if (a->k_cache.dtype != a->key.dtype) {
    return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "rope_store_kv: on CUDA caches have the activations' type");
  }
  bool wide = is_wide(a->q) && is_wide(a->key) && is_wide(a->value) && is_wide(a->k_cache) && is_wide(a->v_cache);
  head_layout layout = layout_of(a->head_dim, a->table, wide);
  int64_t groups = (a->heads + 2 * a->kv_heads) * (int64_t)layout.groups;
  dev->stored_rows = a->key.rows;
  auto go = [&](auto zero) {
    using T = decltype(zero);
    cuda_launch(dev, "rope_store_kv", rope_store_kv_kernel<T>, grid_of(a->q.rows, groups), THREADS, 0, view<T>(a->q), view<const T>(a->key),
                view<const T>(a->value), view<const float>(a->table), caches_of<T>(a), a->heads, layout);
  };
  if (a->q.dtype == INFERNO_BF16) return go(bf16());
  if (a->q.dtype == INFERNO_F32) return go(0.0f);
  cuda_fail(dev, INFERNO_BAD_ARGUMENT, "rope_store_kv: activations are BF16 or F32 on CUDA");
}
