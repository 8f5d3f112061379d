// attention_wgmma.cu: attention_prefill.cu's op in the form of FlashAttention-3, for cards with wgmma. Bound by the matrix units: 4·k
// operations a row, query head and key; on an H200 with k 128, 32 query heads and 8 of keys, 600 TFLOP/s at 8,192 tokens, 310 at 1,024. A
// copy takes tokens of one block: with blocks of 32 and 16 instead of 64 it runs at 563 and 467.
//
// A block takes 128 rows of a sequence (192 where k is 64) for one head: each group of four warps holds 64 of them, their scores of 128
// keys and their sum of values in registers. A warp of its own has the copy engine bring keys and values through the block table. A group
// asks for the scores of the next keys before it adds the values of those before, and weighs the new scores while these products run;
// the groups take turns to issue, so that one weighs while the other multiplies. Tiles with the most keys come first.
//
// Bits. Keys are taken in tiles of 128 from position 0, and a row's sums see no other row: they depend on the row's position alone.
#include <cudaTypedefs.h>

#include "attention_wgmma.cuh"

enum {
  KEYS = 128,   // of a tile
  STAGES = 2,   // tiles of keys, and of values, in flight
  GROUP = 128,  // threads
  MAX_BOX = 64, // tokens
};

template <int K> struct wgmma_shape {
  static constexpr int GROUPS = K == 128 ? 2 : 3, ROWS = 64 * GROUPS, THREADS = (GROUPS + 1) * GROUP;
  static constexpr int TILE = KEYS * K, QUERIES = 64 * K; // elements: of keys or values; of a group's queries
  // Registers of a thread: the compiler shares them out evenly, the copying warps then leave theirs to the others.
  static constexpr int COPY_REGISTERS = K == 128 ? 40 : 32, REGISTERS = K == 128 ? 232 : 160;
  static constexpr size_t SHARED = (size_t)(GROUPS * QUERIES + 2 * STAGES * TILE) * sizeof(bf16) + 4 * STAGES * sizeof(uint64_t);
};

// A block's shared memory, from a multiple of 1 KiB on.
template <int K> struct shared_view {
  using shape = wgmma_shape<K>;
  bf16 *queries;                                               // [GROUPS][64 · K]
  bf16 *keys, *values;                                         // [STAGES][KEYS · K]
  uint64_t *keys_full, *keys_free, *values_full, *values_free; // [STAGES]

  __device__ shared_view(unsigned char *shared)
      : queries((bf16 *)shared), keys(queries + shape::GROUPS * shape::QUERIES), values(keys + STAGES * shape::TILE),
        keys_full((uint64_t *)(values + STAGES * shape::TILE)), keys_free(keys_full + STAGES), values_full(keys_free + STAGES),
        values_free(values_full + STAGES) {}
};

struct wgmma_view {
  attention_view<bf16> a;
  prefill_sequences which;
  int32_t box;        // tokens that the copy engine takes at a time: a divisor of the block size
  int32_t num_blocks; // of the cache
};

// How one warp brings the keys and values of a KV head: each lane has a box of 64 columns of a tile's, and looks up its block.
template <int K> struct copy_warp {
  static constexpr int PANELS = K / PANEL;
  const wgmma_view &d;
  const query_tile &t;
  int kv_head, end; // tokens from `end` on are zeros

  __device__ int token_of(int tile) const { return KEYS * tile + threadIdx.x % 32 / PANELS * d.box; }

  // The lane's block; one outside the cache reads as zeros.
  __device__ int block_of(int tile) const {
    int token = token_of(tile);
    return token < end ? __ldcg(d.a.block_table.row(t.sequence) + token / d.a.block_size) : d.num_blocks;
  }

  // Starts the copy of a tile, of which the lane's box lies in `block`. Slots that hold no token may hold anything: a score of them is
  // replaced by −∞, but zero times a value is zero only of a finite one. So of values, WHOLE, the box that `end` cuts is copied by hand.
  template <bool WHOLE>
  __device__ void copy(bf16 *to, const CUtensorMap *map, const matrix_view<const bf16> &cache, int tile, int block, uint64_t *full) const {
    int lane = threadIdx.x % 32, token = token_of(tile), offset = token - KEYS * tile, first = kv_head * d.a.block_size;
    int cut = end / d.box * d.box - KEYS * tile; // the offset of that box
    bool by_hand = WHOLE && cut < KEYS && end % d.box > 0, mine = offset < KEYS && !(by_hand && offset == cut);
    if (by_hand) {
      const bf16 *from = cache.row(__shfl_sync(~0u, block, cut / d.box * PANELS)) + (first + (KEYS * tile + cut) % d.a.block_size) * K;
#pragma unroll 4
      for (int i = lane; i < d.box * K / 8; i += 32) {
        int row = i / (K / 8), piece = i % (K / 8);
        uint4 v = make_uint4(0, 0, 0, 0);
        if (KEYS * tile + cut + row < end) v = __ldcg((const uint4 *)(from + row * K + piece * 8));
        *(uint4 *)(to + tile_at<KEYS>(cut + row, piece)) = v;
      }
      shared_written();
      __syncwarp();
    }
    if (lane == 0) arrive_expecting(full, (KEYS - (by_hand ? d.box : 0)) * K * (int)sizeof(bf16));
    __syncwarp();
    int panel = lane % PANELS;
    if (mine)
      copy_box(to + tile_at<KEYS>(offset, 0) + panel * KEYS * PANEL, map, panel * PANEL, first + token % d.a.block_size, block, full);
  }
};

// Brings all that a block needs: keys a tile ahead of values, as they are asked for.
template <int K>
__device__ __forceinline__ void copy_tiles(const wgmma_view &d, const query_tile &t, int kv_head, const shared_view<K> &shared,
                                           const CUtensorMap *keys, const CUtensorMap *values) {
  constexpr int TILE = wgmma_shape<K>::TILE;
  int end = t.position + t.rows, tiles = (end + KEYS - 1) / KEYS;
  copy_warp<K> copier = {d, t, kv_head, end};
  int before = 0, block = copier.block_of(0);
  for (int tile = 0; tile <= tiles; tile++) {
    int next = copier.block_of(tile + 1);
    if (tile < tiles) {
      int stage = tile % STAGES;
      wait_phase(shared.keys_free + stage, tile / STAGES % 2 ^ 1);
      copier.template copy<false>(shared.keys + stage * TILE, keys, d.a.k_cache, tile, block, shared.keys_full + stage);
    }
    if (tile > 0) {
      int last = tile - 1, stage = last % STAGES;
      wait_phase(shared.values_free + stage, last / STAGES % 2 ^ 1);
      copier.template copy<true>(shared.values + stage * TILE, values, d.a.v_cache, last, before, shared.values_full + stage);
    }
    before = block;
    block = next;
  }
}

// scores[64, 128] = q kᵀ.
template <int K> __device__ __forceinline__ void start_scores(float (&scores)[KEYS / 2], const bf16 *queries, const bf16 *keys) {
  uint32_t a = operand(queries, 16), b = operand(keys, 16);
  products_begin();
#pragma unroll
  for (int i = 0; i < K / 16; i++) {
    int panel = i / 4, column = i % 4 * 16;
    multiply_keys(scores, a + step(panel * 64 * PANEL + column), b + step(panel * KEYS * PANEL + column), i > 0);
  }
  products_commit();
}

// sums[64, K] += weights[64, 128] v.
template <int K>
__device__ __forceinline__ void start_values(float (&sums)[K / 2], const uint32_t (&weights)[KEYS / 4], const bf16 *values) {
  uint32_t b = operand(values, KEYS * PANEL * (int)sizeof(bf16));
  products_begin();
#pragma unroll
  for (int i = 0; i < KEYS / 16; i++) multiply_values(sums, weights + 4 * i, b + step(i * 16 * PANEL));
  products_commit();
}

__device__ __forceinline__ void round_weights(uint32_t (&to)[KEYS / 4], const float (&weights)[KEYS / 2]) {
#pragma unroll
  for (int i = 0; i < KEYS / 4; i++) to[i] = pack_halves(weights[2 * i], weights[2 * i + 1]);
}

// Group `group` of the block's rows.
template <int K>
__device__ __forceinline__ void attend_rows(const wgmma_view &d, const query_tile &t, int head, const shared_view<K> &shared, int group) {
  using shape = wgmma_shape<K>;
  // Barriers 1 .. GROUPS: a group may issue its products once the one before it has. Those that follow: a group by itself.
  constexpr int TURNS = 1, ALONE = TURNS + shape::GROUPS;
  int warp = threadIdx.x % GROUP / 32, lane = threadIdx.x % 32, after = group + 1 == shape::GROUPS ? 0 : group + 1;
  int tiles = (t.position + t.rows + KEYS - 1) / KEYS, first = 64 * group + 16 * warp;
  bf16 *queries = shared.queries + group * shape::QUERIES;
  query_tile mine = {t.sequence, t.row + 64 * group, t.rows - 64 * group, t.position + 64 * group};
  load_queries<64, K, GROUP>(queries, d.a, mine, head, threadIdx.x % GROUP);
  shared_written();
  meet(ALONE + group, GROUP);
  if (after == 0 && tiles > 1) announce(TURNS, 2 * GROUP);

  float sums[K / 2] = {}, scores[KEYS / 2], shrink[2], scale = d.a.scale * 1.44269504f; // softmax in powers of 2
  uint32_t weights[KEYS / 4];
  running_softmax softmax = {{-INFINITY, -INFINITY}, {0, 0}};
  wait_phase(shared.keys_full, 0);
  start_scores<K>(scores, queries, shared.keys);
  products_wait<0>(scores);
  if (lane == 0) arrive(shared.keys_free);
  if (KEYS > t.position + first) mask_future(scores, 0, t.position + first);
  softmax.weigh(scores, scale, shrink);
  round_weights(weights, scores);
  auto wait_keys = [&](int tile) {
    if (tile < tiles) wait_phase(shared.keys_full + tile % STAGES, tile / STAGES % 2);
  };
  wait_keys(1);
  for (int tile = 1; tile < tiles; tile++) {
    int stage = tile % STAGES, before = (tile - 1) % STAGES;
    meet(TURNS + group, 2 * GROUP);
    start_scores<K>(scores, queries, shared.keys + stage * shape::TILE);
    wait_phase(shared.values_full + before, (tile - 1) / STAGES % 2);
    start_values<K>(sums, weights, shared.values + before * shape::TILE);
    if (after > 0 || tile + 1 < tiles) announce(TURNS + after, 2 * GROUP);
    products_wait<1>(scores);
    if (lane == 0) arrive(shared.keys_free + stage);
    if (KEYS * (tile + 1) > t.position + first) mask_future(scores, KEYS * tile, t.position + first);
    softmax.weigh(scores, scale, shrink);
    wait_keys(tile + 1); // also keeps the compiler from waiting for the sums before it weighs
    products_wait<0>(sums);
    if (lane == 0) arrive(shared.values_free + before);
#pragma unroll
    for (int i = 0; i < K / 2; i++) sums[i] *= shrink[i / 2 % 2];
    round_weights(weights, scores);
  }
  int last = tiles - 1;
  wait_phase(shared.values_full + last % STAGES, last / STAGES % 2);
  start_values<K>(sums, weights, shared.values + last % STAGES * shape::TILE);
  products_wait<0>(sums);
  store_rows(d.a, t, first, head, sums, softmax);
}

// A block a head (x) and tile of rows (y), the last tiles first. The first group of warps copies.
template <int K>
__global__ void __launch_bounds__(wgmma_shape<K>::THREADS, 1)
    attention_wgmma_kernel(const __grid_constant__ wgmma_view d, const __grid_constant__ CUtensorMap keys,
                           const __grid_constant__ CUtensorMap values) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using shape = wgmma_shape<K>;
  extern __shared__ __align__(1024) unsigned char memory[];
  shared_view<K> shared(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      barrier_open(shared.keys_full + i, 1);
      barrier_open(shared.values_full + i, 1);
      barrier_open(shared.keys_free + i, shape::GROUPS * GROUP / 32);
      barrier_open(shared.values_free + i, shape::GROUPS * GROUP / 32);
    }
    barriers_opened();
  }
  __syncthreads();
  dependency_wait();
  allow_dependents();
  query_tile t = tile_of<shape::ROWS>(d.a, d.which, gridDim.y - 1 - blockIdx.y);
  if (t.rows == 0) return;
  int head = blockIdx.x;
  if (threadIdx.x < GROUP) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(shape::COPY_REGISTERS));
    if (threadIdx.x < 32) copy_tiles<K>(d, t, head / (d.a.heads / d.a.kv_heads), shared, &keys, &values);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(shape::REGISTERS));
    attend_rows<K>(d, t, head, shared, __shfl_sync(~0u, threadIdx.x / GROUP - 1, 0)); // known to be the same in a warp
  }
#endif
}

// A cache [B, g·p·k] as the copy engine sees it, in boxes of 64 columns of some tokens of a block.
static cudaError_t map_cache(inferno_device *dev, CUtensorMap *map, const inferno_tensor &cache, const inferno_attention_args *a, int box) {
  PFN_cuTensorMapEncodeTiled_v12000 encode = (PFN_cuTensorMapEncodeTiled_v12000)dev->encode_tensor_map;
  cuuint64_t sizes[3] = {(cuuint64_t)a->head_dim, (cuuint64_t)a->kv_heads * a->block_size, (cuuint64_t)cache.rows};
  cuuint64_t strides[2] = {sizes[0] * sizeof(bf16), (cuuint64_t)(cache.rows == 1 ? cache.cols : cache.stride) * sizeof(bf16)}; // bytes
  cuuint32_t boxes[3] = {PANEL, (cuuint32_t)box, 1}, steps[3] = {1, 1, 1};
  CUresult result =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, cache.data, sizes, strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result ? cudaErrorInvalidValue : cudaSuccess;
}

template <int K> static void go(inferno_device *dev, const inferno_attention_args *a, prefill_sequences which) {
  using shape = wgmma_shape<K>;
  int box = MAX_BOX;
  while (a->block_size % box) box /= 2;
  CUtensorMap keys, values;
  cudaError_t error = map_cache(dev, &keys, a->k_cache, a, box);
  if (!error) error = map_cache(dev, &values, a->v_cache, a, box);
  if (!error) error = cudaFuncSetAttribute(attention_wgmma_kernel<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shape::SHARED);
  if (error) return cuda_fail(dev, error, "attention");
  wgmma_view d = {view_of<bf16>(a), which, box, (int32_t)a->k_cache.rows};
  dim3 grid((unsigned)a->heads, num_tiles<shape::ROWS>(a));
  cuda_launch(dev, "attention", attention_wgmma_kernel<K>, grid, shape::THREADS, shape::SHARED, d, keys, values);
}

void cuda_attention_wgmma(inferno_device *dev, const inferno_attention_args *a, prefill_sequences which) {
  if (a->head_dim == 128) go<128>(dev, a, which);
  else go<64>(dev, a, which);
}
