// matmul_large.cu: out[n,m] = x[n,c] · w[m,c]ᵀ for more than 64 rows of x on Hopper, BF16 operands, float32 sums. Bound by the matrix units:
// 490 to 750 TFLOP/s on an H200 at the 8B shapes from 1,024 rows on, as its clocks allow; 260 to 580 at 256.
//
// Weights are the 64-row operand of wgmma, N tokens the other. A block has one warp that copies both into a ring of stages of 64 columns
// and R warpgroups that multiply; it stays for as many tiles as there are, and the copies of the next tile run while one ends. Which tile
// sizes run is decided by the shape and the number of rows of x alone.
#include "matmul.cuh"
#include "wgmma.cuh"

enum { GROUP = 16 }; // tiles of w's rows that neighbouring blocks work on, so that what they read stays in the L2

struct large_shape {
  int n, units;
  int row_tiles, token_tiles; // of 64·R rows of w, of N rows of x
};

// A transposed 8×8 matrix of 16-bit elements over a warp: lane 4i + j holds elements 2j and 2j + 1 of row i.
__device__ __forceinline__ uint32_t transpose(uint32_t word) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(word));
  return out;
}

// Ends 16 rows of w from `row` on by N tokens from `first` on, which a warp holds as wgmma leaves them.
template <int N> __device__ void put(const product_view &p, float (&acc)[N / 2], int row, int first, int n) {
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float bias[2] = {};
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (p.bias && row + g + 8 * h < p.rows) bias[h] = p.bias[row + g + 8 * h];
  }
  bool paired = ((uintptr_t)p.out | (uintptr_t)(2 * p.stride)) % 4 == 0 && !p.is_f32 && row + 16 <= p.rows;
  if (!paired) {
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      int m = first + i / 4 * 8 + 2 * t + i % 2, of = row + g + i / 2 % 2 * 8;
      if (m < n && of < p.rows) finish(p, m, of, acc[i]);
    }
    return;
  }
  constexpr int AT_ONCE = N / 8 < 8 ? N / 8 : 8;
  uint32_t *out = (uint32_t *)((bf16 *)p.out + row) + t;
#pragma unroll
  for (int from = 0; from < N / 8; from += AT_ONCE) {
    uint32_t old[AT_ONCE][2] = {};
    if (p.accumulate) {
#pragma unroll
      for (int q = 0; q < AT_ONCE; q++) {
        int64_t m = first + 8 * (from + q) + g;
        if (m < n) old[q][0] = out[m * p.stride / 2], old[q][1] = out[m * p.stride / 2 + 4];
      }
    }
#pragma unroll
    for (int q = 0; q < AT_ONCE; q++) {
      int64_t m = first + 8 * (from + q) + g;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float even = acc[4 * (from + q) + 2 * h] + bias[h], odd = acc[4 * (from + q) + 2 * h + 1] + bias[h];
        if (p.accumulate) {
          uint32_t was = transpose(old[q][h]);
          even += low_half(was), odd += high_half(was);
        }
        uint32_t word = transpose(pack_halves(even, odd));
        if (m < n) out[m * p.stride / 2 + 4 * h] = word;
      }
    }
  }
}

// A block owns 64·R rows of w by N tokens at a time. SPLIT > 1: a cluster owns them, for once, and each of its blocks a part of K; they add
// their sums in the order of K through the memory that held the operands.
template <int N, int R, int STAGES, int SPLIT>
__global__ void __launch_bounds__(128 * R + 32)
    large_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ product_list products, const large_shape s) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int W_BYTES = R * 8192, STAGE = W_BYTES + N * 128, ROWS = 64 * R, PITCH = ROWS + 4, TOKENS = N / SPLIT;
  static_assert(SPLIT == 1 || N * PITCH * 4 <= STAGES * STAGE);
  extern __shared__ __align__(1024) unsigned char shared[];
  uint32_t ring = shared_address(shared), full = ring + STAGES * STAGE, empty = full + 8 * STAGES;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = SPLIT > 1 ? cluster_rank() : 0;
  int first = blockIdx.x / SPLIT, step = gridDim.x / SPLIT, tiles = s.row_tiles * s.token_tiles;
  int from = s.units * rank / SPLIT, to = s.units * (rank + 1) / SPLIT;
  auto place = [&](int tile, int &row, int &token) {
    int group = tile / (GROUP * s.token_tiles), in = tile % (GROUP * s.token_tiles), rows = min((int)GROUP, s.row_tiles - group * GROUP);
    row = group * GROUP + in % rows;
    token = in / rows;
  };
  if (warp == 4 * R && lane == 0) {
    for (int i = 0; i < STAGES; i++) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, 4 * R);
    barrier_init_done();
    fence_async();
  }
  __syncthreads();
  if (warp == 4 * R) {
    auto load_w = [&](int row, int unit, int stage) {
      barrier_expect(full + 8 * stage, STAGE);
#pragma unroll
      for (int i = 0; i < R; i++) {
        const char *w = products.weight(row, R, i, s.units) + (int64_t)unit * UNIT_BYTES;
        copy_bytes(ring + stage * STAGE + i * UNIT_BYTES, w, UNIT_BYTES, full + 8 * stage);
      }
    };
    auto load_x = [&](int token, int unit, int stage) {
      copy_box(ring + stage * STAGE + W_BYTES, x_map, unit * UNIT_COLS, token * N, full + 8 * stage);
    };
    if (lane == 0) {
      int early = min(STAGES, to - from), row, token;
      place(first, row, token);
      for (int i = 0; i < early; i++) load_w(row, from + i, i);
      dependency_wait();
      for (int i = 0; i < early; i++) load_x(token, from + i, i);
      int stage = early == STAGES ? 0 : early;
      uint32_t parity = early == STAGES ? 0 : 1; // of the phase that ends when the stage is free
      for (int tile = first, unit = from + early; tile < tiles; tile += step, unit = from) {
        place(tile, row, token);
        for (; unit < to; unit++) {
          barrier_wait(empty + 8 * stage, parity);
          load_w(row, unit, stage);
          load_x(token, unit, stage);
          if (++stage == STAGES) stage = 0, parity ^= 1;
        }
      }
    }
    __syncwarp();
    if (SPLIT > 1) cluster_sync(), cluster_sync();
    return;
  }
  dependency_wait();
  allow_dependents();
  constexpr int SUMS = N / 2;
  float acc[SUMS];
  int stage = 0, row, token;
  uint32_t parity = 0;
  for (int tile = first; tile < tiles; tile += step) {
    int before = 0;
    for (int unit = from; unit < to; unit++) {
      barrier_wait(full + 8 * stage, parity);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; k++) {
        uint32_t at = ring + stage * STAGE, w = at + warp / 4 * UNIT_BYTES + k / 2 * 4096 + k % 2 * 32;
        wgmma<N>(acc, operand64(w), operand128(at + W_BYTES + k * 32), unit > from || k > 0);
      }
      wgmma_commit();
      if (unit > from) {
        wgmma_wait<1>();
        if (lane == 0) barrier_arrive(empty + 8 * before);
      }
      before = stage;
      if (++stage == STAGES) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    settle(acc);
    if (lane == 0) barrier_arrive(empty + 8 * before);
    place(tile, row, token);
    const product_view &p = products.of(row);
    int first_row = (row - p.first_block) * ROWS;
    if (SPLIT == 1) {
#pragma unroll
      for (int i = 0; i < SUMS; i++) acc[i] = __fadd_rn(0.0f, acc[i]); // no −0, as where parts of K are added
      put<N>(p, acc, first_row + 16 * warp, token * N, s.n);
      continue;
    }
    cluster_sync(); // every block has read its operands
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      int m = i / 4 * 8 + lane % 4 * 2 + i % 2, of = 16 * warp + lane / 4 + i / 2 % 2 * 8;
      cluster_store(cluster_address(ring + ((rank * TOKENS + m % TOKENS) * PITCH + of) * 4, m / TOKENS), acc[i]);
    }
    cluster_sync();
    const float *sums = (const float *)shared; // [SPLIT][TOKENS][PITCH]
    constexpr int AT_ONCE = 8, STEP = 128 * R;
    for (int at = threadIdx.x; at < TOKENS * ROWS; at += AT_ONCE * STEP) {
      float v[AT_ONCE];
#pragma unroll
      for (int pass = 0; pass < 2; pass++) { // reads, then writes, to wait for memory once
#pragma unroll
        for (int q = 0; q < AT_ONCE; q++) {
          int i = at + q * STEP, of = i % ROWS, mine = i / ROWS, m = token * N + rank * TOKENS + mine;
          if (i >= TOKENS * ROWS || m >= s.n || first_row + of >= p.rows) continue;
          if (pass == 0) {
            v[q] = 0;
#pragma unroll
            for (int part = 0; part < SPLIT; part++) v[q] += sums[(part * TOKENS + mine) * PITCH + of];
            v[q] = with_bias(p, m, first_row + of, v[q]);
          } else {
            store(p, m, first_row + of, v[q]);
          }
        }
      }
    }
  }
#endif
}

template <int N, int R, int STAGES, int SPLIT>
static void go(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) {
  product_list list = {};
  for (int i = 0; i < count; i++) list.add(products[i], 64 * R);
  large_shape s = {(int)x.rows, (int)weight_units(x.cols), list.blocks, (int)div_up(x.rows, N)};
  auto kernel = large_kernel<N, R, STAGES, SPLIT>;
  constexpr int SHARED = STAGES * (R * 8192 + N * 128 + 16), BLOCKS = SHARED <= 113 << 10 ? 2 : 1; // on a multiprocessor
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED);
  if (error) return cuda_fail(dev, error, "matmul");
  int most = BLOCKS * dev->properties.multiProcessorCount, clusters = s.row_tiles * s.token_tiles;
  if (SPLIT == 1 && clusters > most) clusters = most;
  cuda_launch_clusters(dev, "matmul", kernel, dim3((unsigned)(clusters * SPLIT)), 128 * R + 32, SHARED, SPLIT, activation_map(dev, x, N),
                       list, s);
}

void cuda_matmul_large(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) {
  int groups = 0, units = (int)weight_units(x.cols), card = dev->properties.multiProcessorCount;
  for (int i = 0; i < count; i++) groups += (int)weight_groups(products[i].w.rows);
  if (x.rows <= 32) return go<32, 1, 9, 1>(dev, x, products, count);
  if (x.rows <= 64) return go<64, 1, 7, 1>(dev, x, products, count);
  if (x.rows <= 128) {
    // K is cut where the card has room and a part of it outlasts the exchange of the sums.
    return groups <= card && groups * units >= 6000 ? go<128, 1, 4, 2>(dev, x, products, count) : go<128, 1, 4, 1>(dev, x, products, count);
  }
  // Tiles of 64 rows take 0.57 of the time of tiles of 128; fewer may be left over.
  int64_t tokens = div_up(x.rows, 256), rounds = div_up(div_up(groups, 2) * tokens, card), halves = div_up(groups * tokens, card);
  return 57 * halves < 100 * rounds ? go<256, 1, 5, 1>(dev, x, products, count) : go<256, 2, 4, 1>(dev, x, products, count);
}
