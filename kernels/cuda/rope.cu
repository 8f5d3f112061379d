// rope.cu: rotary position embedding and the writing of keys and values. The angles' sines are computed once a step; the rest moves each
// row once. Bound by the latency of a launch for few rows, by memory for many.
#include "device.cuh"
#include "numeric.cuh"

enum { THREADS = 256 };

__global__ void __launch_bounds__(THREADS)
    rope_table_kernel(matrix_view<float> table, const int32_t *pos, const float *freq, int64_t n, int64_t half, float scale) {
  allow_dependents();
  dependency_wait();
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = at / half, i = at % half;
  if (row >= n) return;
  double sine, cosine;
  sincos((double)pos[row] * (double)freq[i], &sine, &cosine);
  table.row(row)[i] = (float)((double)scale * cosine);
  table.row(row)[half + i] = (float)((double)scale * sine);
}

// table[n, i] = scale · cos(pos[n] · freq[i]), table[n, k/2 + i] = scale · sin(pos[n] · freq[i]) for i < k/2; all in double.
void cuda_rope_table(inferno_device *dev, const inferno_rope_table_args *a) {
  int64_t n = a->table.rows, half = a->table.cols / 2;
  cuda_launch(dev, "rope_table", rope_table_kernel, dim3((unsigned)div_up(n * half, THREADS)), THREADS, 0, view<float>(a->table),
              (const int32_t *)a->pos.data, (const float *)a->freq.data, n, half, a->scale);
}

// The rounding is spelled out, so that rope and rope_store_kv leave the same bits.
template <typename T> __device__ __forceinline__ void rotate(T *x, const T *from, const float *table, int64_t i, int64_t half) {
  float c = table[i], s = table[half + i], even = to_float(from[2 * i]), odd = to_float(from[2 * i + 1]);
  x[2 * i] = from_float<T>(__fmaf_rn(even, c, -__fmul_rn(odd, s)));
  x[2 * i + 1] = from_float<T>(__fmaf_rn(even, s, __fmul_rn(odd, c)));
}

// Blocks split pairs (x) and rows (y).
template <typename T>
__global__ void __launch_bounds__(THREADS)
    rope_kernel(matrix_view<T> x, matrix_view<const float> table, int64_t n, int64_t heads, int64_t half) {
  allow_dependents();
  dependency_wait();
  int64_t pair = (int64_t)blockIdx.x * THREADS + threadIdx.x, head = pair / half, i = pair % half;
  if (head >= heads) return;
  for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
    T *at = x.row(row) + head * 2 * half;
    rotate(at, at, table.row(row), i, half);
  }
}

static dim3 grid_of(int64_t cols, int64_t rows) { return dim3((unsigned)div_up(cols, THREADS), (unsigned)(rows < 65535 ? rows : 65535)); }

// Rotates, in place, the neighbours (2i, 2i+1) of each head of x[n, heads·k] by table's angle i.
void cuda_rope(inferno_device *dev, const inferno_rope_args *a) {
  int64_t half = a->table.cols / 2, n = a->x.rows;
  auto go = [&](auto zero) {
    using T = decltype(zero);
    cuda_launch(dev, "rope", rope_kernel<T>, grid_of(a->heads * half, n), THREADS, 0, view<T>(a->x), view<const float>(a->table), n,
                (int64_t)a->heads, half);
  };
  if (a->x.dtype == INFERNO_BF16) return go(bf16());
  if (a->x.dtype == INFERNO_F32) return go(0.0f);
  cuda_fail(dev, INFERNO_BAD_ARGUMENT, "rope: activations are BF16 or F32 on CUDA");
}

// Caches [B, g, p, k], and the slots of n rows.
template <typename T> struct cache_view {
  matrix_view<T> k, v;
  const int32_t *slots;
  int64_t blocks, kv_heads, head_dim, block_size;

  // Element offset of a head of a slot, or −1 for a slot that is skipped: −1, or one that the cache does not have.
  __device__ int64_t at(int32_t slot, int64_t head, int64_t stride) const {
    if (slot < 0 || slot / block_size >= blocks) return -1;
    return slot / block_size * stride + (head * block_size + slot % block_size) * head_dim;
  }
};

template <typename T, typename Args> static cache_view<T> caches_of(const Args *a) {
  return {view<T>(a->k_cache),  view<T>(a->v_cache),  (const int32_t *)a->slots.data, a->k_cache.rows,
          (int64_t)a->kv_heads, (int64_t)a->head_dim, (int64_t)a->block_size};
}

// Blocks split columns (x) and rows (y).
template <typename T>
__global__ void __launch_bounds__(THREADS)
    store_kv_kernel(matrix_view<const T> key, matrix_view<const T> value, cache_view<T> cache, int64_t n) {
  allow_dependents();
  dependency_wait();
  int64_t col = (int64_t)blockIdx.x * THREADS + threadIdx.x, head = col / cache.head_dim, i = col % cache.head_dim;
  if (head >= cache.kv_heads) return;
  for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
    int64_t to = cache.at(cache.slots[row], head, cache.k.stride), value_to = cache.at(cache.slots[row], head, cache.v.stride);
    if (to < 0) continue;
    cache.k.data[to + i] = key.row(row)[col];
    cache.v.data[value_to + i] = value.row(row)[col];
  }
}

// k_cache[slot/p, j, slot%p, :] = key[n, j, :] for KV head j, and the same for values; slot −1 is skipped.
void cuda_store_kv(inferno_device *dev, const inferno_store_kv_args *a) {
  if (a->k_cache.dtype != a->key.dtype) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "store_kv: on CUDA caches have the activations' type");
  int64_t n = a->key.rows;
  auto go = [&](auto zero) {
    using T = decltype(zero);
    cuda_launch(dev, "store_kv", store_kv_kernel<T>, grid_of(a->key.cols, n), THREADS, 0, view<const T>(a->key), view<const T>(a->value),
                caches_of<T>(a), n);
  };
  if (a->key.dtype == INFERNO_BF16) return go(bf16());
  if (a->key.dtype == INFERNO_F32) return go(0.0f);
  cuda_fail(dev, INFERNO_BAD_ARGUMENT, "store_kv: activations are BF16 or F32 on CUDA");
}

// The pairs of q, of key and of value, one after another; key goes rotated to the cache alone.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    rope_store_kv_kernel(matrix_view<T> q, matrix_view<const T> key, matrix_view<const T> value, matrix_view<const float> table,
                         cache_view<T> cache, int64_t n, int64_t heads) {
  allow_dependents();
  dependency_wait();
  int64_t half = cache.head_dim / 2, pair = (int64_t)blockIdx.x * THREADS + threadIdx.x, head = pair / half, i = pair % half;
  if (head >= heads + 2 * cache.kv_heads) return;
  for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
    if (head < heads) {
      T *at = q.row(row) + head * cache.head_dim;
      rotate(at, at, table.row(row), i, half);
      continue;
    }
    bool is_key = head < heads + cache.kv_heads;
    int64_t j = head - heads - (is_key ? 0 : cache.kv_heads);
    int64_t to = cache.at(cache.slots[row], j, is_key ? cache.k.stride : cache.v.stride);
    if (to < 0) continue;
    if (is_key) {
      rotate(cache.k.data + to, key.row(row) + j * cache.head_dim, table.row(row), i, half);
    } else {
      const T *from = value.row(row) + j * cache.head_dim;
      cache.v.data[to + 2 * i] = from[2 * i];
      cache.v.data[to + 2 * i + 1] = from[2 * i + 1];
    }
  }
}

void cuda_rope_store_kv(inferno_device *dev, const inferno_rope_store_kv_args *a) {
  if (a->k_cache.dtype != a->key.dtype) {
    return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "rope_store_kv: on CUDA caches have the activations' type");
  }
  int64_t n = a->q.rows, pairs = (a->heads + 2 * a->kv_heads) * (int64_t)a->head_dim / 2;
  auto go = [&](auto zero) {
    using T = decltype(zero);
    cuda_launch(dev, "rope_store_kv", rope_store_kv_kernel<T>, grid_of(pairs, n), THREADS, 0, view<T>(a->q), view<const T>(a->key),
                view<const T>(a->value), view<const float>(a->table), caches_of<T>(a), n, (int64_t)a->heads);
  };
  if (a->q.dtype == INFERNO_BF16) return go(bf16());
  if (a->q.dtype == INFERNO_F32) return go(0.0f);
  cuda_fail(dev, INFERNO_BAD_ARGUMENT, "rope_store_kv: activations are BF16 or F32 on CUDA");
}
