// matmul_batch.cu: out[n,m] = x[n,c] · w[m,c]ᵀ for 17 to 256 rows of x on Hopper, BF16 operands, float32 sums.
// Weights are the 64-row operand of wgmma, tokens its N columns. The blocks of a cluster share a tile of 64·R rows of w and cut K into S
// parts, which they add in the order of K: each block ends a part of the tokens, whose sums all of them store into its shared memory as their
// registers hold them. In a block one warp copies weights into a ring of units, beginning before the kernel that makes x has ended, another x
// into a second ring, and both go on into the next tile while R warpgroups multiply and end the one before. The rings are apart because a
// multiprocessor gets no more than about 35 bytes a nanosecond out of memory, and only with many units asked for at once; x comes from the L2.
//
// Bound by the weights' bytes, 2·m·c, each read once, up to 128 rows, and by the matrix units at 256: the layers of the 8B
// shape, 15.0 GB, take 3.91 ms at 32 rows, 4.31 at 64, 4.87 at 128, 7.74 at 256 on an H200. By product (µs; TB/s):
//   rows       32          64          128         256, and its TFLOP/s
//   qkv        15.0; 3.4   16.0; 3.1   18.4; 2.7   25.0; 515
//   o          11.4; 2.9   12.1; 2.8   14.3; 2.3   18.4; 467
//   gate, up   55.6; 4.2   60.3; 3.9   63.2; 3.7   94.2; 639
//   down       30.0; 3.9   31.7; 3.7   34.3; 3.4   48.3; 622
//   head       250; 4.2    269; 3.9    292; 3.6    402; 668
#include "matmul_batch.cuh"
#include "wgmma.cuh"

// What a launch works on.
struct batch_shape {
  int n;
  int units;              // of K: 64 columns
  int tiles;              // of 64·R rows of w
  int w_stages, x_stages; // of the rings: a unit of a tile, and of x
  int sums;               // buffers in which the parts of K meet: 2, or 1 if a cluster has one tile, or 0: then they meet in the rings
};

// The warps that copy come after those that multiply: two, or with two warpgroups of these a third one, which hands its registers on.
constexpr int batch_threads(int R) { return R == 1 ? 192 : 128 * R + 128; }

template <int N, int R, int S>
__global__ void __launch_bounds__(batch_threads(R), 1)
    batch_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ product_list products, const batch_shape s) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int W_STAGE = R * UNIT_BYTES, X_STAGE = N * 128, CONSUMERS = 128 * R, PIECES = N / 4 / S; // that a block ends
  constexpr int SUMS = S * PIECES * CONSUMERS * 8;                                                    // bytes of all parts' sums of them
  extern __shared__ __align__(1024) unsigned char shared[];
  uint32_t w_ring = shared_address(shared), x_ring = w_ring + s.w_stages * W_STAGE, sums = x_ring + s.x_stages * X_STAGE;
  uint32_t w_full = sums + s.sums * SUMS, w_empty = w_full + 8 * s.w_stages, x_full = w_empty + 8 * s.w_stages;
  uint32_t x_empty = x_full + 8 * s.x_stages, summed = x_empty + 8 * s.x_stages;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = S > 1 ? cluster_rank() : 0;
  int from = s.units * part / S, length = s.units * (part + 1) / S - from, first = blockIdx.x / S, step = gridDim.x / S;
  if (warp == 4 * R) {
    for (int i = lane; i < s.w_stages; i += 32) barrier_init(w_full + 8 * i, 1), barrier_init(w_empty + 8 * i, 4 * R);
    for (int i = lane; i < s.x_stages; i += 32) barrier_init(x_full + 8 * i, 1), barrier_init(x_empty + 8 * i, 4 * R);
    if (lane < 2) barrier_init(summed + 8 * lane, 1);
    barrier_init_done();
    fence_async();
  }
  __syncthreads();
  if (S > 1 && s.sums) cluster_arrive();
  if (warp >= 4 * R) {
    if constexpr (R > 1) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp == 4 * R && lane == 0) {
      uint64_t policy = evict_first();
      int stage = 0;
      uint32_t parity = 1; // of the phase that ends when the stage is free
      for (int tile = first; tile < s.tiles; tile += step) {
        const char *w[R];
#pragma unroll
        for (int r = 0; r < R; r++) w[r] = products.weight(tile, R, r, s.units) + (int64_t)from * UNIT_BYTES;
        for (int i = 0; i < length; i++) {
          barrier_wait(w_empty + 8 * stage, parity);
          barrier_expect(w_full + 8 * stage, W_STAGE);
#pragma unroll
          for (int r = 0; r < R; r++) {
            copy_bytes(w_ring + stage * W_STAGE + r * UNIT_BYTES, w[r], UNIT_BYTES, w_full + 8 * stage, policy);
            w[r] += UNIT_BYTES;
          }
          if (++stage == s.w_stages) stage = 0, parity ^= 1;
        }
      }
    }
    if (warp == 4 * R + 1 && lane == 0) {
      int stage = 0;
      uint32_t parity = 1;
      dependency_wait();
      for (int tile = first; tile < s.tiles; tile += step) {
        for (int i = 0; i < length; i++) {
          barrier_wait(x_empty + 8 * stage, parity);
          barrier_expect(x_full + 8 * stage, X_STAGE);
          copy_box(x_ring + stage * X_STAGE, x_map, (from + i) * UNIT_COLS, 0, x_full + 8 * stage);
          if (++stage == s.x_stages) stage = 0, parity ^= 1;
        }
      }
    }
    __syncwarp();
    if (S > 1 && s.sums) cluster_wait();
    else if (S > 1) cluster_sync();
    return;
  }
  if constexpr (R > 1) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  dependency_wait();
  allow_dependents();
  float acc[N / 2];
  int w_stage = 0, x_stage = 0, ends = part * PIECES; // the first piece that the block ends
  uint32_t w_parity = 0, x_parity = 0, turn = 0;
  for (int tile = first; tile < s.tiles; tile += step, turn++) {
    const product_view &p = products.of(tile);
    batch_target to(p, (tile - p.first_block) * 64 * R + 16 * warp, s.n);
    constexpr int EARLY = PIECES < 32 ? PIECES : 32; // of whose `old` registers hold beside the sums
    uint32_t old[EARLY];
    to.load<EARLY>(old, ends);
    if (S > 1 && threadIdx.x == 0) barrier_expect(summed + 8 * (turn & 1), SUMS);
    int w_before = 0, x_before = 0;
    auto release = [&] {
      if (lane == 0) barrier_arrive(w_empty + 8 * w_before), barrier_arrive(x_empty + 8 * x_before);
    };
    for (int i = 0; i < length; i++) {
      barrier_wait(x_full + 8 * x_stage, x_parity);
      barrier_wait(w_full + 8 * w_stage, w_parity);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; k++) {
        uint32_t w = w_ring + w_stage * W_STAGE + warp / 4 * UNIT_BYTES + k / 2 * 4096 + k % 2 * 32;
        wgmma<N>(acc, operand64(w), operand128(x_ring + x_stage * X_STAGE + k * 32), i > 0 || k > 0);
      }
      wgmma_commit();
      if (i > 0) {
        wgmma_wait<1>();
        release();
      }
      w_before = w_stage, x_before = x_stage;
      if (++w_stage == s.w_stages) w_stage = 0, w_parity ^= 1;
      if (++x_stage == s.x_stages) x_stage = 0, x_parity ^= 1;
    }
    wgmma_wait<0>();
    settle(acc);
    release();
    to.forget();

    if constexpr (S == 1) {
#pragma unroll
      for (int i = 0; i < N / 2; i++) acc[i] = __fadd_rn(0.0f, acc[i]); // no −0, as where parts of K are added
      to.put<EARLY>(acc, old, 0);
      if constexpr (EARLY < PIECES) to.load<EARLY>(old, EARLY), to.put<EARLY>(acc + 2 * EARLY, old, EARLY);
    } else {
      if (!s.sums) cluster_sync(); // every block has read its operands
      else if (turn == 0) cluster_wait();
      // [S parts][PIECES of 8 bytes, two by two][thread]; a block's own part takes the same way.
      uint32_t mine = s.sums ? sums + (s.sums == 2 ? (turn & 1) * SUMS : 0) : w_ring, arrived = summed + 8 * (turn & 1);
      constexpr int TWO = PIECES % 2 == 0 ? 2 : 1;
#pragma unroll
      for (int owner = 0; owner < S; owner++) {
        const float *sum = acc + 2 * PIECES * owner;
        uint32_t at = cluster_address(mine + part * PIECES * CONSUMERS * 8 + threadIdx.x * 8 * TWO, owner);
        uint32_t barrier = cluster_address(arrived, owner);
#pragma unroll
        for (int q = 0; q < PIECES; q += TWO) cluster_store<2 * TWO>(at + q * CONSUMERS * 8, sum + 2 * q, barrier);
      }
      barrier_wait(arrived, turn >> 1 & 1);
      const unsigned char *parts = shared + (mine - w_ring) + threadIdx.x * 8 * TWO;
      constexpr int AT_ONCE = PIECES < 8 ? PIECES : 8; // that registers hold
#pragma unroll
      for (int q0 = 0; q0 < PIECES; q0 += AT_ONCE) {
        float sum[2 * AT_ONCE] = {};
#pragma unroll
        for (int k = 0; k < S; k++) {
#pragma unroll
          for (int q = 0; q < AT_ONCE; q += TWO) {
            const unsigned char *at = parts + (k * PIECES + q0 + q) * CONSUMERS * 8;
            if constexpr (TWO == 2) {
              float4 v = *(const float4 *)at;
              sum[2 * q] += v.x, sum[2 * q + 1] += v.y, sum[2 * q + 2] += v.z, sum[2 * q + 3] += v.w;
            } else {
              float2 v = *(const float2 *)at;
              sum[2 * q] += v.x, sum[2 * q + 1] += v.y;
            }
          }
        }
        to.put<AT_ONCE>(sum, old + q0, ends + q0);
        asm volatile("" ::: "memory"); // one batch after another
      }
    }
  }
#endif
}

enum { MULTIPROCESSOR_BYTES = 227 << 10, MOST_W_STAGES = 16 }; // of shared memory; a block takes 1 KiB more than it asks for

// Units of x that a ring holds where one or two blocks share a multiprocessor: with fewer, products wait for the L2.
constexpr int x_stages_of(int N, int S, int blocks) {
  if (blocks == 1) return N == 256 ? (S > 1 ? 5 : 4) : N == 128 ? 6 : 8;
  return N == 64 ? 5 : 6;
}

template <int N, int R, int S> struct batch_launch {
  inferno_device *dev;
  const inferno_tensor &x;
  product_list list = {};
  batch_shape s;
  int clusters = 0; // that the card holds at once
  cudaError_t error;

  batch_launch(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) : dev(dev), x(x) {
    for (int i = 0; i < count; i++) list.add(products[i], 64 * R);
    s = {(int)x.rows, (int)weight_units(x.cols), list.blocks, 0, 0, 0};
    error = cudaFuncSetAttribute(batch_kernel<N, R, S>, cudaFuncAttributeMaxDynamicSharedMemorySize, MULTIPROCESSOR_BYTES);
  }

  // Fills shared memory with rings where so many blocks share a multiprocessor. Whether all tiles then run at once.
  bool cut(int blocks, int sums) {
    s.sums = S == 1 ? 0 : sums, s.x_stages = x_stages_of(N, S, blocks);
    s.w_stages = MOST_W_STAGES;
    size_t room = MULTIPROCESSOR_BYTES / blocks - 1024 * (blocks - 1);
    while (s.w_stages > 2 && bytes() > room) s.w_stages--;
    if (!error) error = cuda_clusters(&clusters, batch_kernel<N, R, S>, batch_threads(R), bytes(), S);
    return clusters >= s.tiles;
  }

  size_t bytes() const {
    return s.w_stages * (R * UNIT_BYTES + 16) + s.x_stages * (N * 128 + 16) + s.sums * N * R * 64 * 4 + 16; // with the barriers
  }

  void start() {
    if (error) return cuda_fail(dev, error, "matmul");
    if (clusters > s.tiles) clusters = s.tiles;
    // No more of shared memory than the block's work fills: what is left lets the next kernel begin.
    int work = (int)(div_up(s.units, S) * div_up(s.tiles, clusters));
    if (work < 2) work = 2;
    if (s.w_stages > work) s.w_stages = work;
    if (s.x_stages > work) s.x_stages = work;
    cuda_launch_clusters(dev, "matmul", batch_kernel<N, R, S>, dim3((unsigned)(clusters * S)), batch_threads(R), bytes(), S,
                         activation_map(dev, x, N), list, s);
  }
};

// Up to 64 rows: K is cut as for a few.
template <int N, int S> static void go(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) {
  batch_launch<N, 1, S> launch(dev, x, products, count);
  int units = launch.s.units / S; // of a tile in a block
  // Two blocks on a multiprocessor where their work is short, so that one begins while another ends; one with deeper rings where it is long.
  if (S == 1) launch.cut(2, 0);
  else if (!(units <= 32 && launch.cut(2, 1)) && !launch.cut(1, 1) && !launch.cut(2, 1)) launch.cut(units < 32 ? 2 : 1, 2);
  launch.start();
}

template <int N> static void run(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count, int log_split) {
  if (log_split == 0) return go<N, 1>(dev, x, products, count);
  if (log_split == 1) return go<N, 2>(dev, x, products, count);
  log_split == 2 ? go<N, 4>(dev, x, products, count) : go<N, 8>(dev, x, products, count);
}

// More rows: K is cut where the card then works on all tiles at once. False: it would not.
template <int N, int R, int S>
static bool go_once(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) {
  batch_launch<N, R, S> launch(dev, x, products, count);
  bool once = launch.cut(1, N == 128 ? 1 : 0);
  if (once || S == 1) launch.start();
  return once || S == 1;
}

template <int N>
static void run_once(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count, int groups, int log_split) {
  if (log_split >= 3 && go_once<N, 1, 8>(dev, x, products, count)) return;
  if (log_split >= 2 && go_once<N, 1, 4>(dev, x, products, count)) return;
  if (log_split >= 1 && go_once<N, 1, 2>(dev, x, products, count)) return;
  // Tiles of 64 rows take 0.57 of the time of tiles of 128; fewer may be left over.
  int card = dev->properties.multiProcessorCount;
  int64_t rounds = div_up(div_up(groups, 2), card), halves = div_up(groups, card);
  57 * halves < 100 * rounds ? go_once<N, 1, 1>(dev, x, products, count) : go_once<N, 2, 1>(dev, x, products, count);
}

void cuda_matmul_batch(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) {
  int groups = 0;
  for (int i = 0; i < count; i++) groups += (int)weight_groups(products[i].w.rows);
  int log_split = split_of(groups, x.cols);
  if (x.rows <= 32) return run<32>(dev, x, products, count, log_split);
  if (x.rows <= 64) return run<64>(dev, x, products, count, log_split);
  if (x.rows <= 128) return run_once<128>(dev, x, products, count, groups, log_split);
  run_once<256>(dev, x, products, count, groups, log_split);
}
