// matmul_prefill.cu: out[n,m] = x[n,c] · w[m,c]ᵀ for more than 256 rows of x on Hopper, BF16 operands, float32 sums; and the same of gate
// and up together with swiglu. Bound by the matrix units.
//
// A tile is 256 rows of w by N tokens. Two blocks make a cluster and share it: each of their two warpgroups holds a group of 64 rows of w,
// the 64-row operand of wgmma, and all N tokens. In a block one warp copies its own rows of w and half of the tokens, these into both
// blocks, through a ring of stages of 64 columns; it goes on into the next tile while a warpgroup ends the one before: results go through
// shared memory, from where the copy engine stores them. A card's worth of blocks stays for all tiles, in an order that keeps what
// neighbours read in the L2.
//
// GATED: one warpgroup holds rows of gate, the other the same of up; each hands half of its tokens' results to the other.
#include "matmul_prefill.cuh"

#ifndef CLUSTER
#define CLUSTER 2
#endif
enum {
  GROUP_THREADS = 128,
  THREADS = 3 * GROUP_THREADS, // two warpgroups that multiply, and one whose first warp copies
  TILE_GROUPS = 2 * CLUSTER,   // of 64 rows of w
#ifndef BAND_
#define BAND_ 8
#endif
  BAND = BAND_,                    // tiles of w's rows that neighbouring clusters work on
  BOX = 64,                    // tokens of a store, and rows of w
  BOX_BYTES = BOX * 128,
};

template <int N> struct prefill_shape {
  static constexpr int W_BYTES = 2 * UNIT_BYTES, STAGES = N == 256 ? 4 : 6, STAGE = W_BYTES + N * 128, BOXES = 4;
  static constexpr int SHARED = STAGES * (STAGE + 16) + BOXES * BOX_BYTES;
  static_assert(SHARED <= 227 << 10);
};

struct prefill_view {
  CUtensorMap x, out[INFERNO_MAX_PRODUCTS];
  int n, units;
  int groups;                 // of 64 rows of w, all products together; GATED: of gate
  int row_tiles, token_tiles; // of 256 rows of w, of N tokens
  uint32_t boxed;             // products that the copy engine stores, a bit each
};

// Where a tile lies: neighbouring tiles share rows of w or tokens.
__device__ __forceinline__ void place(const prefill_view &s, int tile, int &row, int &token) {
  int band = tile / (BAND * s.token_tiles), in = tile % (BAND * s.token_tiles), width = min((int)BAND, s.row_tiles - band * BAND);
  row = band * BAND + in % width;
  token = in / width;
}

// The group of 64 rows of w that warpgroup i of a block takes, counted over all products; it may lie beyond the last one.
template <bool GATED> __device__ __forceinline__ int group_of(const prefill_view &s, int row, int rank, int i) {
  if (!GATED) return row * TILE_GROUPS + rank * 2 + i;
  int of = row * TILE_GROUPS / 2 + rank;
  return of < s.groups ? of + i * s.groups : 2 * s.groups;
}

// What a product is added to, of 16 rows of w by N tokens: word 2j + h of a lane is token 8j + g, rows 8h + 2t and the next.
template <int N> struct addends {
  uint32_t old[N / 4];

  __device__ __forceinline__ void load(const product_view &p, int row, int first, int n) {
    int lane = threadIdx.x % 32;
    const bf16 *from = (const bf16 *)p.out + row + 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
      int64_t m = first + 8 * j + lane / 4;
#pragma unroll
      for (int h = 0; h < 2; h++) old[2 * j + h] = m < n && row + 8 * h < p.rows ? *(const uint32_t *)(from + m * p.stride + 8 * h) : 0;
    }
  }
};

// A warp's 16 of 64 rows by 64 tokens into a box: word 2j + h of a lane is row 8h + g of the warp's, tokens 8j + 2t and the next.
__device__ __forceinline__ void fill_box(uint32_t box, const uint32_t (&w)[16]) {
  int lane = threadIdx.x % 32, piece = threadIdx.x % GROUP_THREADS / 32 * 2 + lane / 8 % 2;
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    int token = 8 * (j + lane / 16) + lane % 8;
    store_transposed(box + token * 128 + (piece ^ (token % 8)) * 16, w[2 * j], w[2 * j + 1], w[2 * j + 2], w[2 * j + 3]);
  }
}

__device__ __forceinline__ float2 row_bias(const product_view &p, int row) {
  float2 bias = {};
  if (p.bias && row < p.rows) bias.x = p.bias[row];
  if (p.bias && row + 8 < p.rows) bias.y = p.bias[row + 8];
  return bias;
}

// Chunk `c` of 64 tokens, rounded.
template <int N> __device__ __forceinline__ void round_chunk(uint32_t (&w)[16], const float (&acc)[N / 2], int c, float2 bias) {
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const float *sum = acc + 32 * c + 4 * j;
    w[2 * j] = pack_halves(sum[0] + bias.x, sum[1] + bias.x);
    w[2 * j + 1] = pack_halves(sum[2] + bias.y, sum[3] + bias.y);
  }
}

// Ends a warpgroup's 64 rows of a product, from `of` on, by N tokens from `first` on, through its two boxes in turn.
template <int N>
__device__ __forceinline__ void end_rows(const prefill_view &s, const product_view &p, const CUtensorMap &map, bool boxed, float (&acc)[N / 2],
                                         const addends<N> &added, int of, int first, uint32_t boxes, int &turn) {
  int thread = threadIdx.x % GROUP_THREADS, lane = thread % 32, row = of + thread / 32 * 16 + lane / 4, alone = 1 + threadIdx.x / GROUP_THREADS;
  if (!boxed) {
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      int m = first + i / 4 * 8 + lane % 4 * 2 + i % 2, at = row + i / 2 % 2 * 8;
      if (m < s.n && at < p.rows) finish(p, m, at, acc[i]);
    }
    return;
  }
  float2 bias = row_bias(p, row);
#pragma unroll
  for (int c = 0; c < N / BOX; c++) {
    if (p.accumulate) {
#pragma unroll
      for (int i = 0; i < 16; i++) {
        uint32_t old = transposed(added.old[16 * c + i]);
        acc[32 * c + 2 * i] += low_half(old), acc[32 * c + 2 * i + 1] += high_half(old);
      }
    }
    uint32_t w[16], box = boxes + (turn++ & 1) * BOX_BYTES;
    round_chunk<N>(w, acc, c, bias);
    if (thread == 0) stores_wait_read<1>();
    block_meet(alone, GROUP_THREADS);
    fill_box(box, w);
    fence_async();
    block_meet(alone, GROUP_THREADS);
    if (thread == 0) store_box(map, of, first + BOX * c, box), stores_commit();
  }
}

// Ends a block's 64 rows of gate, which warpgroup 0 holds, and of up. Each hands the other the half of the tokens that the other ends.
template <int N, int GROUP>
__device__ __forceinline__ void end_gated(const prefill_view &s, const product_list &products, float (&acc)[N / 2], int of, int first,
                                          uint32_t boxes) {
  constexpr int HALF = N / BOX / 2, BOTH = 3, ALONE = 1 + GROUP;
  static_assert(HALF == 2);
  int thread = threadIdx.x % GROUP_THREADS, row = of + thread / 32 * 16 + thread % 32 / 4;
  float2 bias = row_bias(products.product[GROUP], row);
  uint32_t mine = boxes + GROUP * 2 * BOX_BYTES, others = boxes + (1 - GROUP) * 2 * BOX_BYTES, w[16];
  if (thread == 0) stores_wait_read<0>();
  block_meet(BOTH, 2 * GROUP_THREADS);
#pragma unroll
  for (int c = 0; c < HALF; c++) {
    round_chunk<N>(w, acc, (1 - GROUP) * HALF + c, bias);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      shared_store(others + c * BOX_BYTES + (i * GROUP_THREADS + thread) * 16, w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
    }
  }
  block_meet(BOTH, 2 * GROUP_THREADS);
  uint4 their[HALF][4];
#pragma unroll
  for (int i = 0; i < 4 * HALF; i++) their[i / 4][i % 4] = shared_load(mine + i / 4 * BOX_BYTES + (i % 4 * GROUP_THREADS + thread) * 16);
  block_meet(ALONE, GROUP_THREADS);
#pragma unroll
  for (int c = 0; c < HALF; c++) {
    round_chunk<N>(w, acc, GROUP * HALF + c, bias);
    const uint32_t theirs[16] = {their[c][0].x, their[c][0].y, their[c][0].z, their[c][0].w, their[c][1].x, their[c][1].y,
                                 their[c][1].z, their[c][1].w, their[c][2].x, their[c][2].y, their[c][2].z, their[c][2].w,
                                 their[c][3].x, their[c][3].y, their[c][3].z, their[c][3].w};
#pragma unroll
    for (int i = 0; i < 16; i++) {
      uint32_t gate = GROUP ? theirs[i] : w[i], up = GROUP ? w[i] : theirs[i];
      w[i] = pack_halves(swiglu(low_half(gate), low_half(up)), swiglu(high_half(gate), high_half(up)));
    }
    fill_box(mine + c * BOX_BYTES, w);
  }
  fence_async();
  block_meet(ALONE, GROUP_THREADS);
  if (thread == 0) {
#pragma unroll
    for (int c = 0; c < HALF; c++) store_box(s.out[0], of, first + BOX * (GROUP * HALF + c), mine + c * BOX_BYTES);
    stores_commit();
  }
}

template <int N, bool GATED>
__global__ void __launch_bounds__(THREADS, 1)
    prefill_kernel(const __grid_constant__ prefill_view s, const __grid_constant__ product_list products) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using shape = prefill_shape<N>;
  constexpr int STAGES = shape::STAGES, STAGE = shape::STAGE, W_BYTES = shape::W_BYTES;
  extern __shared__ __align__(1024) unsigned char shared[];
  uint32_t ring = shared_address(shared), boxes = ring + STAGES * STAGE, full = boxes + shape::BOXES * BOX_BYTES, empty = full + 8 * STAGES;
  int group = threadIdx.x / GROUP_THREADS, lane = threadIdx.x % 32, rank = CLUSTER > 1 ? cluster_rank() : 0;
  int from = blockIdx.x / CLUSTER, step = gridDim.x / CLUSTER, tiles = s.row_tiles * s.token_tiles;
  allow_dependents();
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, CLUSTER * 8); // the cluster's warps
    barrier_init_done();
  }
  cluster_sync();
  if (group == 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x / 32 == 2 * GROUP_THREADS / 32) { // lanes 0 and 1 have a group of 64 rows of w each
      dependency_wait();
      int stage = 0;
      uint32_t parity = 1; // of the phase that ends when a stage is free
      for (int tile = from; tile < tiles; tile += step) {
        int row, token;
        place(s, tile, row, token);
        int of = min(group_of<GATED>(s, row, rank, lane % 2), (GATED ? 2 * s.groups : s.groups) - 1);
        const product_view &p = products.of(of);
        const char *w = (const char *)p.w + (int64_t)(of - p.first_block) * s.units * UNIT_BYTES;
        for (int unit = 0; unit < s.units; unit++, w += UNIT_BYTES) {
          uint32_t at = ring + stage * STAGE, done = full + 8 * stage, x = at + W_BYTES + rank * (N / CLUSTER) * 128;
          barrier_wait(empty + 8 * stage, parity);
          if (lane == 0) {
            barrier_expect(done, STAGE);
            if (CLUSTER > 1) copy_box_to_all(x, s.x, unit * UNIT_COLS, token * N + rank * (N / CLUSTER), done, (1 << CLUSTER) - 1);
            else copy_box(x, s.x, unit * UNIT_COLS, token * N, done);
          }
          __syncwarp();
          if (lane < 2) copy_bytes(at + lane * UNIT_BYTES, w, UNIT_BYTES, done);
          if (++stage == STAGES) stage = 0, parity ^= 1;
        }
      }
    }
    __syncwarp();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    dependency_wait();
    float acc[N / 2];
    int stage = 0, turn = 0;
    uint32_t parity = 0, peers = lane < CLUSTER ? cluster_address(empty, lane) : 0;
    auto release = [&](int of) {
      if (lane < CLUSTER) cluster_arrive_at(peers + 8 * of);
    };
    for (int tile = from; tile < tiles; tile += step) {
      int before = 0;
      for (int unit = 0; unit < s.units; unit++) {
        barrier_wait(full + 8 * stage, parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) {
          uint32_t at = ring + stage * STAGE, w = at + group * UNIT_BYTES + k / 2 * 4096 + k % 2 * 32;
          wgmma<N>(acc, operand64(w), operand128(at + W_BYTES + k * 32), unit > 0 || k > 0);
        }
        wgmma_commit();
        if (unit > 0) {
          wgmma_wait<1>();
          release(before);
        }
        before = stage;
        if (++stage == STAGES) stage = 0, parity ^= 1;
      }
      int row, token;
      place(s, tile, row, token);
      int of = group_of<GATED>(s, row, rank, group), i = products.index(min(of, (GATED ? 2 * s.groups : s.groups) - 1));
      const product_view &p = products.product[i];
      bool boxed = s.boxed >> i & 1, live = of < (GATED ? 2 * s.groups : s.groups);
      of = (of - p.first_block) * 64;
      addends<N> added;
      if (!GATED && p.accumulate && boxed && live) added.load(p, of + threadIdx.x % GROUP_THREADS / 32 * 16, token * N, s.n);
      wgmma_wait<0>();
      settle(acc);
      release(before);
      if (!live) continue;
      if constexpr (!GATED) end_rows<N>(s, p, s.out[i], boxed, acc, added, of, token * N, boxes + group * 2 * BOX_BYTES, turn);
      else if (group == 0) end_gated<N, 0>(s, products, acc, of, token * N, boxes);
      else end_gated<N, 1>(s, products, acc, of, token * N, boxes);
    }
    if (threadIdx.x % GROUP_THREADS == 0) stores_wait();
    __syncwarp();
  }
  cluster_sync(); // a block's shared memory stays until no other copies into it or arrives at its barriers
#endif
}

template <int N, bool GATED> static void go(inferno_device *dev, const inferno_tensor &x, prefill_view &s, const product_list &list) {
  s.row_tiles = (int)div_up(GATED ? 2 * s.groups : s.groups, TILE_GROUPS);
  s.token_tiles = (int)div_up(s.n, N);
  s.x = activation_map(dev, x, N / CLUSTER);
  auto kernel = prefill_kernel<N, GATED>;
  constexpr int SHARED = prefill_shape<N>::SHARED;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED);
  int clusters = 0;
  if (!error) error = cuda_clusters(&clusters, kernel, THREADS, SHARED, CLUSTER);
  if (error) return cuda_fail(dev, error, "matmul");
  if (clusters > s.row_tiles * s.token_tiles) clusters = s.row_tiles * s.token_tiles;
  cuda_launch_clusters(dev, "matmul", kernel, dim3(CLUSTER * (unsigned)clusters), THREADS, SHARED, CLUSTER, s, list);
}

// Whether the copy engine stores a result: BF16, rows at multiples of 16 bytes, whole eights of columns.
static bool is_boxed(const inferno_tensor &out) { return out.dtype == INFERNO_BF16 && is_wide(out) && out.cols % 8 == 0; }

static prefill_view view_of(const inferno_tensor &x) {
  prefill_view s = {};
  s.n = (int)x.rows;
  s.units = (int)weight_units(x.cols);
  return s;
}

// out_i = x · w_iᵀ + bias_i (+ out_i); x is wide.
void cuda_matmul_prefill(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) {
  prefill_view s = view_of(x);
  product_list list = {};
  for (int i = 0; i < count; i++) {
    list.add(products[i], GROUP_ROWS);
    if (!is_boxed(products[i].out)) continue;
    s.boxed |= 1u << i;
    s.out[i] = activation_map(dev, products[i].out, BOX);
  }
  s.groups = list.blocks;
  // Tiles of 128 tokens take 0.56 of the time of tiles of 256; fewer may be left over.
  int64_t rows = div_up(s.groups, TILE_GROUPS), at_once = dev->properties.multiProcessorCount / CLUSTER;
  int64_t wide = div_up(rows * div_up(s.n, 256), at_once), narrow = div_up(rows * div_up(s.n, 128), at_once);
  if (100 * wide <= 56 * narrow) go<256, false>(dev, x, s, list);
  else go<128, false>(dev, x, s, list);
}

// out = swiglu of x · gateᵀ + gate_bias and x · upᵀ + up_bias, both rounded to BF16 first.
bool cuda_matmul_gated(inferno_device *dev, const inferno_tensor &x, const inferno_product &gate, const inferno_product &up) {
  if (!is_wide(x) || !is_boxed(gate.out)) return false;
  prefill_view s = view_of(x);
  product_list list = {};
  list.add(gate, GROUP_ROWS);
  list.add(up, GROUP_ROWS);
  s.out[0] = activation_map(dev, gate.out, BOX);
  s.groups = list.blocks / 2;
  go<256, true>(dev, x, s, list);
  return true;
}
