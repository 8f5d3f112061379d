// matmul_prefill.cu: out[n,m] = x[n,c] · w[m,c]ᵀ for more than 256 rows of x on Hopper, BF16 operands, float32 sums; and the same of gate
// and up together with swiglu. Bound by the matrix units: 656 to 780 TFLOP/s on an H200 at the 8B shapes and 1,024 rows, 615 to 707 in
// long runs of 8,192.
//
// A tile is 256 rows of w by N tokens. Two blocks make a cluster and share it: each of their two warpgroups holds a group of 64 rows of w,
// the 64-row operand of wgmma, and all N tokens. In a block one warp copies its own rows of w and half of the tokens, these into both
// blocks, through a ring of stages of 64 columns; it goes on into the next tile while a warpgroup ends the one before: results go through
// shared memory, from where the copy engine stores them. A card's worth of blocks stays for all tiles, in an order that keeps what
// neighbours read in the L2.
//
// GATED: a warpgroup holds 32 rows of gate and the same of up, by eights in turn, so that both products of a result meet in a thread.
#include <cudaTypedefs.h>

#include "matmul_prefill.cuh"

// Where a tile lies: neighbouring tiles share rows of w or tokens.
__device__ __forceinline__ void place(const prefill_view &s, int tile, int &row, int &token) {
  int band = tile / (BAND * s.token_tiles), in = tile % (BAND * s.token_tiles), width = min((int)BAND, s.row_tiles - band * BAND);
  row = band * BAND + in % width;
  token = in / width;
}

template <int N, bool GATED>
__global__ void __launch_bounds__(THREADS, 1)
    prefill_kernel(const __grid_constant__ prefill_view s, const __grid_constant__ product_list products) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using shape = prefill_shape<N>;
  constexpr int STAGES = shape::STAGES, STAGE = shape::STAGE, W_BYTES = shape::W_BYTES;
  extern __shared__ __align__(1024) unsigned char shared[];
  uint32_t ring = shared_address(shared), boxes = ring + STAGES * STAGE, full = boxes + shape::BOXES * BOX_BYTES, empty = full + 8 * STAGES;
  int group = threadIdx.x / GROUP_THREADS, lane = threadIdx.x % 32, rank = cluster_rank();
  int from = blockIdx.x / CLUSTER, step = gridDim.x / CLUSTER, tiles = s.row_tiles * s.token_tiles;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, CLUSTER * 8); // the cluster's warps
    barrier_init_done();
  }
  cluster_sync();
  dependency_wait();
  allow_dependents();
  if (group == 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x / 32 == 2 * GROUP_THREADS / 32) { // lanes 0 and 1 have a group of 64 rows of w each
      int stage = 0;
      uint32_t parity = 1; // of the phase that ends when a stage is free
      for (int tile = from; tile < tiles; tile += step) {
        int row, token;
        place(s, tile, row, token);
        int of = min(GATED ? row * CLUSTER + rank : (row * CLUSTER + rank) * 2 + lane % 2, s.groups - 1);
        const product_view &p = products.of(of);
        const char *w = (const char *)p.w + (int64_t)(of - p.first_block) * s.units * UNIT_BYTES;
        for (int unit = 0; unit < s.units; unit++, w += UNIT_BYTES) {
          uint32_t at = ring + stage * STAGE, done = full + 8 * stage, mine = rank * (N / CLUSTER); // tokens
          barrier_wait(empty + 8 * stage, parity);
          if (lane == 0) {
            barrier_expect(done, STAGE);
            copy_box_to_all(at + W_BYTES + mine * 128, s.x, unit * UNIT_COLS, token * N + mine, done, (1 << CLUSTER) - 1);
          }
          __syncwarp();
          if (GATED && lane < 2) copy_gated(at + lane * UNIT_BYTES, s.gated, 2 * unit + lane, of, done);
          else if (lane < 2) copy_bytes(at + lane * UNIT_BYTES, w, UNIT_BYTES, done);
          if (++stage == STAGES) stage = 0, parity ^= 1;
        }
      }
    }
    __syncwarp();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
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
          uint32_t at = ring + stage * STAGE, w = at + (GATED ? group * 4096 + k / 2 * 8192 : group * 8192 + k / 2 * 4096) + k % 2 * 32;
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
      int of = GATED ? row * CLUSTER + rank : (row * CLUSTER + rank) * 2 + group, i = GATED ? 0 : products.index(of);
      const product_view &p = products.product[i];
      bool boxed = s.boxed >> i & 1, live = of < s.groups;
      of = (of - p.first_block) * GROUP_ROWS;
      addends<N> added;
      if (!GATED && p.accumulate && boxed && live) added.load(p, of + threadIdx.x % GROUP_THREADS / 32 * 16, token * N, s.n);
      wgmma_wait<0>();
      settle(acc);
      release(before);
      if (!live) continue;
      if constexpr (GATED) end_gated<N>(s, products, acc, of + 32 * group, token * N, boxes + group * 2 * BOX_BYTES, turn);
      else end_rows<N>(s, p, s.out[i], boxed, acc, added, of, token * N, boxes + group * 2 * BOX_BYTES, turn);
    }
    if (threadIdx.x % GROUP_THREADS == 0) stores_wait();
    __syncwarp();
  }
  cluster_sync(); // a block's shared memory stays until no other copies into it or arrives at its barriers
#endif
}

template <int N, bool GATED> static void go(inferno_device *dev, const inferno_tensor &x, prefill_view &s, const product_list &list) {
  s.row_tiles = (int)div_up(s.groups, GATED ? CLUSTER : 2 * CLUSTER);
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
  int64_t rows = div_up(s.groups, 2 * CLUSTER), at_once = dev->properties.multiProcessorCount / CLUSTER;
  int64_t wide = div_up(rows * div_up(s.n, 256), at_once), narrow = div_up(rows * div_up(s.n, 128), at_once);
  if (100 * wide <= 56 * narrow) go<256, false>(dev, x, s, list);
  else go<128, false>(dev, x, s, list);
}

// Gate and up of one shape, as packed, in boxes of half a unit of each, by eights of their rows in turn, `first` before `second`.
static bool gated_map(inferno_device *dev, CUtensorMap *map, const char *first, const char *second, int groups, int units) {
  cuuint64_t dims[5] = {256, 2, GROUP_ROWS / 8, 2 * (cuuint64_t)units, (cuuint64_t)groups}; // 512 bytes: eight rows of 32 columns
  cuuint64_t strides[4] = {(cuuint64_t)(second - first), 512, UNIT_BYTES / 2, (cuuint64_t)units * UNIT_BYTES};
  cuuint32_t box[5] = {256, 2, GROUP_ROWS / 8, 1, 1}, steps[5] = {1, 1, 1, 1, 1};
  return !((PFN_cuTensorMapEncodeTiled_v12000)dev->encode_tensor_map)(
      map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, (void *)first, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

// out = swiglu of x · gateᵀ + gate_bias and x · upᵀ + up_bias, both rounded to BF16 first.
bool cuda_matmul_gated(inferno_device *dev, const inferno_tensor &x, const inferno_product &gate, const inferno_product &up) {
  if (!is_wide(x) || !is_boxed(gate.out)) return false;
  prefill_view s = view_of(x);
  product_list list = {};
  list.add(gate, GROUP_ROWS);
  list.add(up, GROUP_ROWS);
  s.out[0] = box_map(dev, gate.out, 32, BOX_BYTES / 64);
  s.groups = list.blocks / 2;
  const char *g = (const char *)gate.w.data, *u = (const char *)up.w.data;
  s.up_first = u < g;
  if (!gated_map(dev, &s.gated, u < g ? u : g, u < g ? g : u, s.groups, s.units)) return false;
  go<256, true>(dev, x, s, list);
  return true;
}
