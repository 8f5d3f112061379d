// attention_prefill.cu: out[n, h·k] = softmax(scale · q kᵀ) v over paged BF16 caches for many rows of a sequence together, k 64 or 128,
// float32 sums, in the form of FlashAttention-2. Bound by the matrix units: 4·k operations a row, query head and key. On cards with
// wgmma the form of attention_wgmma.cu takes its place.
//
// A block takes 64 rows of a sequence for one head; each of its four warps holds sixteen of them, their scores of 64 keys and their sum of
// values in registers. The next 64 keys and values are on their way meanwhile. Blocks with the most keys come first.
#include "attention_prefill.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * WARPS, KEYS = 64, STAGES = 2 };

template <int K> struct prefill_shape {
  static constexpr int TILE = KEYS * K; // elements
  static constexpr size_t SHARED = (size_t)(ROWS * K + STAGES * 2 * TILE) * sizeof(bf16);
};

// s[16, 64] = q kᵀ.
template <int K> __device__ __forceinline__ void score_tile(float (&s)[KEYS / 2], const uint32_t (&q)[K / 16][4], const bf16 *keys) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < KEYS; j += 16) {
    float c[2][4] = {}; // keys j .. j+7, j+8 .. j+15
#pragma unroll
    for (int step = 0; step < K / 16; step++) {
      uint32_t b[4];
      load_matrices(b, keys + tile_at<KEYS>(j + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
      mma_bf16(c[0], q[step], b[0], b[1]);
      mma_bf16(c[1], q[step], b[2], b[3]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) s[j / 2 + i] = c[i / 4][i % 4];
  }
}

// o[16, K] += w[16, 64] v.
template <int K> __device__ __forceinline__ void add_values(float (&o)[K / 2], const float (&w)[KEYS / 2], const bf16 *values) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < KEYS / 16; step++) {
    const float *e = w + 8 * step;
    uint32_t a[4] = {pack_halves(e[0], e[1]), pack_halves(e[2], e[3]), pack_halves(e[4], e[5]), pack_halves(e[6], e[7])};
#pragma unroll
    for (int j = 0; j < K; j += 16) {
      uint32_t b[4];
      load_matrices_transposed(b, values + tile_at<KEYS>(16 * step + lane % 16, j / 8 + lane / 16));
      mma_bf16(*(float (*)[4])(o + j / 2), a, b[0], b[1]);
      mma_bf16(*(float (*)[4])(o + j / 2 + 4), a, b[2], b[3]);
    }
  }
}

// A block a head (x) and tile of rows (y), the last tiles first.
template <int K>
__global__ void __launch_bounds__(THREADS, K == 128 ? 2 : 3) attention_prefill_kernel(attention_view<bf16> a, prefill_sequences which) {
  constexpr int TILE = prefill_shape<K>::TILE;
  extern __shared__ __align__(128) unsigned char shared[];
  bf16 *queries = (bf16 *)shared, *stages = queries + ROWS * K; // [ROWS · K], [STAGES][keys, values][TILE]
  dependency_wait();
  allow_dependents();
  query_tile t = tile_of<ROWS>(a, which, gridDim.y - 1 - blockIdx.y);
  if (t.rows == 0) return;

  int head = blockIdx.x, end = t.position + t.rows, tiles = (end + KEYS - 1) / KEYS;
  int64_t at = (int64_t)(head / (a.heads / a.kv_heads)) * a.block_size * K;
  paged_head<K> cache(a, t.sequence, end);
  auto load = [&](int tile, int64_t place) {
    bf16 *to = stages + tile % STAGES * 2 * TILE;
    cache.template load<KEYS, THREADS>(to, a.k_cache.data + at, tile, place, threadIdx.x);
    cache.template load<KEYS, THREADS>(to + TILE, a.v_cache.data + at, tile, place, threadIdx.x);
    copies_commit();
  };
  load(0, cache.template place<KEYS>(0));
  int64_t place = cache.template place<KEYS>(1); // of the tile that is asked for next
  load_queries<ROWS, K, THREADS>(queries, a, t, head, threadIdx.x);
  __syncthreads();
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint32_t q[K / 16][4];
#pragma unroll
  for (int step = 0; step < K / 16; step++) load_matrices(q[step], queries + tile_at<ROWS>(16 * warp + lane % 16, 2 * step + lane / 16));

  float o[K / 2] = {}, scale = a.scale * 1.44269504f; // softmax in powers of 2
  running_softmax softmax = {{-INFINITY, -INFINITY}, {0, 0}};
  for (int tile = 0; tile < tiles; tile++) {
    copies_wait<0>();
    __syncthreads(); // the tile has landed, and the one before is used up
    if (tile + 1 < tiles) load(tile + 1, place);
    place = cache.template place<KEYS>(tile + 2);
    const bf16 *keys = stages + tile % STAGES * 2 * TILE;
    float s[KEYS / 2], shrink[2];
    score_tile<K>(s, q, keys);
    if (KEYS * (tile + 1) > t.position + 16 * warp) mask_future(s, KEYS * tile, t.position + 16 * warp);
    softmax.weigh(s, scale, shrink);
#pragma unroll
    for (int i = 0; i < K / 2; i++) o[i] *= shrink[i / 2 % 2];
    add_values<K>(o, s, keys + TILE);
  }
  store_rows(a, t, 16 * warp, head, o, softmax);
}

template <int K> static void go(inferno_device *dev, const inferno_attention_args *a, prefill_sequences which) {
  constexpr size_t SHARED = prefill_shape<K>::SHARED;
  cudaError_t error = cudaFuncSetAttribute(attention_prefill_kernel<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)SHARED);
  if (error) return cuda_fail(dev, error, "attention");
  cuda_launch(dev, "attention", attention_prefill_kernel<K>, dim3((unsigned)a->heads, num_tiles<ROWS>(a)), THREADS, SHARED,
              view_of<bf16>(a), which);
}

void cuda_attention_prefill(inferno_device *dev, const inferno_attention_args *a, prefill_sequences which) {
  if (a->head_dim == 128) go<128>(dev, a, which);
  else go<64>(dev, a, which);
}
