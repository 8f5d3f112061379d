// matmul_skinny.cu: out[n,m] = x[n,c] · w[m,c]ᵀ for few rows of x on Hopper, BF16 operands, float32 sums.
// Bound by the weights' bytes, 2·m·c, each read once: an H200 reads the layers of the
// 8B shape at 3.3 (o) to 4.4 TB/s (head) for up to 16 rows, at 1.9 to 3.2 TB/s for 64, where x and the exchange of sums count.
//
// Weights are the 64-row operand of wgmma, tokens its N columns. The blocks of a cluster share a tile of 64 rows and cut K into parts,
// whose sums meet in the memory of the block that ends a token, and are added in the order of K. Where K is cut depends on the layer's
// shape alone, so that a row of x gives the same bits alone and among 63 others. In a block one warp copies weights, one run of memory,
// into a ring of stages of 64 columns, the first of them before it waits for the kernel that makes x, and goes on into the next tile while
// a warpgroup multiplies and ends the one before. x comes with the stages, or, STAGED, lies in shared memory as a whole: copied by threads,
// where its rows do not begin at multiples of 16 bytes.
#include <type_traits>

#include "matmul.cuh"
#include "wgmma.cuh"

enum { CONSUMERS = 128, THREADS = CONSUMERS + 32 }; // a warpgroup, and the warp that copies

// What a launch works on. K is cut into units of 64 columns; block r of a cluster sums the r-th part of them.
struct skinny_shape {
  int n, cols;
  int units;  // of K
  int tiles;  // of 64 rows of w
  int stages; // of the ring
  int staged; // bytes of x in shared memory
  int log_split;
  bool wide;
};

// What rows 2·pair and 2·pair + 1 of a tile become for token m, given the sum of any row of the tile.
template <typename Sum> __device__ __forceinline__ float2 pair_of(const product_list &products, int tile, int64_t m, int pair, Sum sum) {
  const product_view &p = products.of(tile);
  int row = (tile - p.first_block) * GROUP_ROWS + 2 * pair;
  float2 v = {};
  if (row < p.rows) v.x = with_bias(p, m, row, sum(2 * pair));
  if (row + 1 < p.rows) v.y = with_bias(p, m, row + 1, sum(2 * pair + 1));
  return v;
}

template <int N, bool STAGED>
__global__ void __launch_bounds__(THREADS) skinny_kernel(const __grid_constant__ CUtensorMap x_map, const skinny_shape s,
                                                         const matrix_view<const bf16> x, const __grid_constant__ product_list products) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int LOG_N = N == 8 ? 3 : N == 16 ? 4 : N == 32 ? 5 : 6;
  static_assert(1 << LOG_N == N);
  constexpr int W_BYTES = UNIT_BYTES, X_BYTES = STAGED ? 0 : N * 128, STAGE = W_BYTES + X_BYTES, ROWS = GROUP_ROWS, PITCH = ROWS + 4;
  extern __shared__ __align__(1024) unsigned char shared[];
  float *sums = (float *)(shared + s.stages * STAGE + s.staged); // [2][block of the cluster][its tokens][PITCH]
  uint32_t ring = shared_address(shared), staged = ring + s.stages * STAGE, full = shared_address(sums) + 2 * N * PITCH * 4;
  uint32_t empty = full + 8 * s.stages, summed = empty + 8 * s.stages;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = cluster_rank(), split = 1 << s.log_split;
  int from = s.units * rank / split, to = s.units * (rank + 1) / split, first = blockIdx.x >> s.log_split, step = gridDim.x >> s.log_split;
  int length = to - from;
  allow_dependents();
  if (warp == 4) {
    uint64_t policy = evict_first();
    int early = min(s.stages, length);
    auto load_w = [&](int tile, int unit, int stage) {
      uint32_t at = ring + stage * STAGE;
      barrier_expect(full + 8 * stage, STAGE);
      copy_bytes(at, products.weight(tile, 1, 0, s.units) + (int64_t)unit * UNIT_BYTES, UNIT_BYTES, full + 8 * stage, policy);
    };
    auto load_x_box = [&](int unit, int stage) {
      if (!STAGED) copy_box(ring + stage * STAGE + W_BYTES, x_map, unit * UNIT_COLS, 0, full + 8 * stage);
    };
    if (lane == 0) {
      for (int i = 0; i < s.stages; i++) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, 4);
      barrier_init(summed, 1), barrier_init(summed + 8, 1);
      barrier_init_done();
      fence_async();
      for (int i = 0; i < early; i++) load_w(first, from + i, i);
    }
    __syncwarp();
    cluster_meet();
    if (lane == 0) {
      if (!STAGED) {
        dependency_wait();
        for (int i = 0; i < early; i++) load_x_box(from + i, i);
      }
      int stage = early == s.stages ? 0 : early;
      uint32_t parity = early == s.stages ? 0 : 1; // of the phase that ends when the stage is free
      for (int tile = first, i = early; tile < s.tiles; tile += step, i = 0) {
        for (; i < length; i++) {
          barrier_wait(empty + 8 * stage, parity);
          load_w(tile, from + i, stage);
          load_x_box(from + i, stage);
          if (++stage == s.stages) stage = 0, parity ^= 1;
        }
      }
    }
    __syncwarp();
    return;
  }
  cluster_meet();
  if (STAGED) {
    int pieces = length * UNIT_COLS / 8;
    auto place = [&](int m, int piece) {
      return (uint4 *)(shared + s.stages * STAGE + piece / 4 * N * 64 + m * 64 + ((piece % 4) ^ (m / 2 % 4)) * 16);
    };
    for (int i = threadIdx.x; i < (N - s.n) * pieces; i += CONSUMERS) *place(s.n + i / pieces, i % pieces) = make_uint4(0, 0, 0, 0);
    dependency_wait();
    for (int i = threadIdx.x; i < s.n * pieces; i += CONSUMERS) {
      int m = i / pieces, piece = i % pieces, col = from * UNIT_COLS + 8 * piece;
      *place(m, piece) = load_x(x.row(m) + col, s.cols - col, s.wide);
    }
    fence_async();
    asm volatile("bar.sync 1, %0;" ::"n"((int)CONSUMERS) : "memory");
  } else {
    dependency_wait();
  }
  constexpr int MOST = N / 2;
  float acc[MOST];
  int stage = 0, log_tokens = LOG_N - s.log_split, tokens = 1 << log_tokens; // whose sums a block ends
  uint32_t parity = 0, turn = 0, expected = N * ROWS * 4;
  for (int tile = first; tile < s.tiles; tile += step, turn++) {
    if (split > 1 && threadIdx.x == 0) barrier_expect(summed + 8 * (turn & 1), expected);
    int before = 0;
    for (int i = 0; i < length; i++) {
      barrier_wait(full + 8 * stage, parity);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; k++) {
        uint32_t w = ring + stage * STAGE + k / 2 * 4096 + k % 2 * 32;
        uint64_t b =
            STAGED ? operand64(staged + (2 * i + k / 2) * N * 64 + k % 2 * 32) : operand128(ring + stage * STAGE + W_BYTES + k * 32);
        wgmma<N>(acc, operand64(w), b, i > 0 || k > 0);
      }
      wgmma_commit();
      if (i > 0) {
        wgmma_wait<1>();
        if (lane == 0) barrier_arrive(empty + 8 * before);
      }
      before = stage;
      if (++stage == s.stages) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    settle(acc);
    if (lane == 0) barrier_arrive(empty + 8 * before);

    // Each block of the cluster gets all partial sums of its tokens, and adds them in the order of K.
    float *mine = sums + (turn & 1) * N * PITCH;
    uint32_t row = 16 * warp + lane / 4, arrived = summed + 8 * (turn & 1);
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        int m = 8 * j + lane % 4 * 2 + e, owner = m >> log_tokens;
        float *at = mine + (rank * tokens + (m & tokens - 1)) * PITCH + row;
        if (split == 1) {
          at[0] = acc[4 * j + e], at[8] = acc[4 * j + 2 + e];
        } else {
          uint32_t to = cluster_address(shared_address(at), owner), barrier = cluster_address(arrived, owner);
          cluster_store(to, acc[4 * j + e], barrier);
          cluster_store(to + 32, acc[4 * j + 2 + e], barrier);
        }
      }
    }
    if (split == 1) asm volatile("bar.sync 1, %0;" ::"n"((int)CONSUMERS) : "memory");
    else barrier_wait(arrived, turn >> 1 & 1);
    constexpr int PAIRS = ROWS / 2, AT_ONCE = 4, STEP = CONSUMERS; // several at once, to wait for memory once
    int live = min(tokens, s.n - rank * tokens) * PAIRS;
    for (int from_pair = threadIdx.x; from_pair < live; from_pair += AT_ONCE * STEP) {
      float2 v[AT_ONCE];
#pragma unroll
      for (int q = 0; q < AT_ONCE; q++) {
        int i = from_pair + q * STEP, token = i / PAIRS;
        if (i >= live) continue;
        v[q] = pair_of(products, tile, rank * tokens + token, i % PAIRS, [&](int row) {
          float sum = 0;
          for (int part = 0; part < split; part++) sum += mine[(part * tokens + token) * PITCH + row];
          return sum;
        });
      }
#pragma unroll
      for (int q = 0; q < AT_ONCE; q++) {
        int i = from_pair + q * STEP;
        if (i >= live) continue;
        const product_view &p = products.of(tile);
        store_pair(p, rank * tokens + i / PAIRS, (tile - p.first_block) * ROWS + 2 * (i % PAIRS), v[q]);
      }
    }
  }
#endif
}

enum {
  MULTIPROCESSOR_BYTES = 227 << 10, // of shared memory; a block takes 1 KiB more than it asks for
  MOST_STAGES = 16,
};

// Into 2 to the power of what K is cut: so that the blocks fill the card, and where many small rounds remain, that they end together.
// Of the layer's shape alone; `tiles` counts its groups of 64 rows.
int split_of(int tiles, int64_t cols) {
  int log_split = 0, units = (int)weight_units(cols);
  while (log_split < 3 && tiles << log_split < 128 && units >> (log_split + 1) >= 1) log_split++;
  return log_split == 0 && tiles < 512 && units > 1 ? 1 : log_split;
}

template <int N, bool STAGED>
static void go(inferno_device *dev, const inferno_tensor &x, int tiles, int log_split, const product_list &products) {
  constexpr int STAGE = UNIT_BYTES + (STAGED ? 0 : N * 128), SUMS = 2 * N * (GROUP_ROWS + 4) * 4;
  constexpr int EXTRA = 16 + MOST_STAGES * 16;
  int units = (int)weight_units(x.cols);
  skinny_shape s = {(int)x.rows, (int)x.cols, units, tiles, 0, 0, log_split, is_wide(x)};
  if (STAGED) s.staged = (int)div_up(units, 1 << log_split) * N * 128;
  // Two blocks on a multiprocessor, unless one has all the work or their rings would be short.
  int rest = SUMS + EXTRA + s.staged;
  int two = ((MULTIPROCESSOR_BYTES - 1024) / 2 - rest) / STAGE, one = (MULTIPROCESSOR_BYTES - rest) / STAGE;
  bool alone = log_split <= 1 && tiles << log_split <= dev->properties.multiProcessorCount; // larger clusters leave gaps
  s.stages = !alone && two * STAGE >= (48 << 10) ? two : one;
  if (s.stages > MOST_STAGES) s.stages = MOST_STAGES;
  if (s.stages < 2) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "matmul: a row of x is too long for shared memory");
  CUtensorMap x_map = {};
  if (!STAGED) x_map = activation_map(dev, x, N);
  auto kernel = skinny_kernel<N, STAGED>;
  size_t shared = (size_t)(s.stages * STAGE + rest);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, MULTIPROCESSOR_BYTES);
  int clusters = 0;
  if (!error) error = cuda_clusters(&clusters, kernel, THREADS, shared, 1 << log_split);
  if (error) return cuda_fail(dev, error, "matmul");
  if (clusters > tiles) clusters = tiles;
  // No more of shared memory than the block's work fills: what is left lets the next kernel begin.
  int64_t work = div_up(units, 1 << log_split) * div_up(tiles, clusters);
  if (s.stages > work) s.stages = work > 2 ? (int)work : 2;
  shared = (size_t)(s.stages * STAGE + rest);
  cuda_launch_clusters(dev, "matmul", kernel, dim3((unsigned)clusters << log_split), THREADS, shared, 1 << log_split, x_map, s,
                       view<const bf16>(x), products);
}

template <auto VALUE> using constant = std::integral_constant<decltype(VALUE), VALUE>;

// out_i = x · w_iᵀ + bias_i (+ out_i); x is wide where it has more rows than SKINNY_STAGED_ROWS.
void cuda_matmul_skinny(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) {
  product_list list = {};
  for (int i = 0; i < count; i++) list.add(products[i], GROUP_ROWS);
  int tiles = list.blocks, split = split_of(tiles, x.cols);
  auto run = [&](auto n, auto staged) { go<n, staged>(dev, x, tiles, split, list); };
  if (!is_wide(x)) return x.rows <= 8 ? run(constant<8>(), constant<true>()) : run(constant<16>(), constant<true>());
  if (x.rows <= 8) return run(constant<8>(), constant<false>());
  if (x.rows <= 16) return run(constant<16>(), constant<false>());
  if (split == 0) return cuda_matmul_large(dev, x, products, count); // the same sums, without an exchange
  if (x.rows <= 32) return run(constant<32>(), constant<false>());
  run(constant<64>(), constant<false>());
}
