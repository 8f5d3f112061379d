// matmul_prefill.cuh: what matmul_prefill.cu asks of Hopper beyond wgmma.cuh (copies into every block of a cluster, stores by the copy
// engine), and how it ends a tile.
#ifndef INFERNO_CUDA_MATMUL_PREFILL_CUH
#define INFERNO_CUDA_MATMUL_PREFILL_CUH

#include "matmul.cuh"
#include "wgmma.cuh"

// Copies a map's box from those coordinates on to the same place of each block of the cluster that `blocks` has a bit for, counted there on
// the barrier at the same place.
__device__ __forceinline__ void copy_box_to_all(uint32_t to, const CUtensorMap &map, int x, int y, uint32_t barrier, uint16_t blocks) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], "
               "[%4], %5;" ::"r"(to),
               "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"(blocks)
               : "memory");
}

// A box of 256 elements by all of a map's next two dimensions.
__device__ __forceinline__ void copy_gated(uint32_t to, const CUtensorMap &map, int chunk, int group, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %2, %2, %3, %4}], [%5];" ::"r"(to),
      "l"(&map), "r"(0), "r"(chunk), "r"(group), "r"(barrier)
      : "memory");
}

// Arrives at a barrier of the cluster. What the thread stored before is not ordered for other blocks: that would take a fence of the card.
__device__ __forceinline__ void cluster_arrive_at(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Stores a map's box from those coordinates on; what lies outside the map is left out. The issuing thread's stores make groups.
__device__ __forceinline__ void store_box(const CUtensorMap &map, int x, int y, uint32_t from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(x), "r"(y), "r"(from)
               : "memory");
}
__device__ __forceinline__ void stores_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until all but the thread's last PENDING groups have read their shared memory.
template <int PENDING> __device__ __forceinline__ void stores_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

// Waits until all of the thread's stores can be seen.
__device__ __forceinline__ void stores_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// The transposes of four 8×8 matrices of 16-bit elements, of each of which lane 4i + j holds elements 2j and 2j + 1 of row i. Lane i points to
// what becomes of column i % 8 of matrix i / 8.
__device__ __forceinline__ void store_transposed(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

// The transpose of an 8×8 matrix of 16-bit elements that lies as above.
__device__ __forceinline__ uint32_t transposed(uint32_t word) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(word));
  return out;
}

// Barrier `id` of the block, for so many threads.
__device__ __forceinline__ void block_meet(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Tiles -------------------------------------------------------------------------------------------------------------------------------

enum {
  CLUSTER = 2, // blocks
  GROUP_THREADS = 128,
  THREADS = 3 * GROUP_THREADS, // two warpgroups that multiply, and one whose first warp copies
  BAND = 8,                    // tiles of w's rows that neighbouring clusters work on
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
  CUtensorMap gated; // GATED: w, as gated_map() says
  int n, units;
  int groups;                 // of 64 rows of w, all products together; GATED: of gate
  int row_tiles, token_tiles; // of 256 rows of w, of N tokens
  uint32_t boxed;             // products that the copy engine stores, a bit each
  int up_first;               // GATED: up lies before gate
};

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

// Ends a warpgroup's 64 rows of a product, from `of` on, by N tokens from `first` on, through its two boxes in turn.
template <int N>
__device__ __forceinline__ void end_rows(const prefill_view &s, const product_view &p, const CUtensorMap &map, bool boxed,
                                         float (&acc)[N / 2], const addends<N> &added, int of, int first, uint32_t boxes, int &turn) {
  int thread = threadIdx.x % GROUP_THREADS, lane = thread % 32, row = of + thread / 32 * 16 + lane / 4;
  int alone = 1 + threadIdx.x / GROUP_THREADS; // the barrier of a warpgroup by itself
  if (!boxed) {
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      int m = first + i / 4 * 8 + lane % 4 * 2 + i % 2, at = row + i / 2 % 2 * 8;
      if (m < s.n && at < p.rows) finish(p, m, at, acc[i]);
    }
    return;
  }
  float bias[2] = {};
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (p.bias && row + 8 * h < p.rows) bias[h] = p.bias[row + 8 * h];
  }
#pragma unroll
  for (int c = 0; c < N / BOX; c++) {
    uint32_t w[16], box = boxes + (turn++ & 1) * BOX_BYTES;
    float *sum = acc + 32 * c;
#pragma unroll
    for (int i = 0; i < 32; i++) sum[i] += bias[i / 2 % 2]; // also where there is none: then no result is −0
    if (p.accumulate) {
#pragma unroll
      for (int i = 0; i < 16; i++) {
        uint32_t old = transposed(added.old[16 * c + i]);
        sum[2 * i] += low_half(old), sum[2 * i + 1] += high_half(old);
      }
    }
#pragma unroll
    for (int i = 0; i < 16; i++) w[i] = pack_halves(sum[2 * i], sum[2 * i + 1]);
    if (thread == 0) stores_wait_read<1>();
    block_meet(alone, GROUP_THREADS);
    fill_box(box, w);
    fence_async();
    block_meet(alone, GROUP_THREADS);
    if (thread == 0) store_box(map, of, first + BOX * c, box), stores_commit();
  }
}

// Ends a warpgroup's 32 rows of gate and of up, from `of` on: row g of each warp's first and second eight.
template <int N>
__device__ __forceinline__ void end_gated(const prefill_view &s, const product_list &products, const float (&acc)[N / 2], int of, int first,
                                          uint32_t boxes, int &turn) {
  constexpr int TOKENS = BOX_BYTES / 64; // of a box of 32 columns
  int thread = threadIdx.x % GROUP_THREADS, lane = thread % 32, row = of + thread / 32 * 8 + lane / 4;
  int alone = 1 + threadIdx.x / GROUP_THREADS;
  float bias[2]; // of what lies first, and of the other
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const product_view &p = products.product[h ^ s.up_first];
    bias[h] = p.bias && row < p.rows ? p.bias[row] : 0.0f;
  }
#pragma unroll
  for (int from = 0; from < N; from += TOKENS) {
    uint32_t box = boxes + (turn++ & 1) * BOX_BYTES;
    if (thread == 0) stores_wait_read<1>();
    block_meet(alone, GROUP_THREADS);
#pragma unroll
    for (int j = 0; j < TOKENS / 8; j += 4) {
      uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float *sum = acc + from / 2 + 4 * (j + i);
        uint32_t a = pack_halves(sum[0] + bias[0], sum[1] + bias[0]), b = pack_halves(sum[2] + bias[1], sum[3] + bias[1]);
        uint32_t gate = s.up_first ? b : a, up = s.up_first ? a : b;
        w[i] = pack_halves(swiglu(low_half(gate), low_half(up)), swiglu(high_half(gate), high_half(up)));
      }
      int token = 8 * j + lane;
      store_transposed(box + token * 64 + ((thread / 32) ^ (token / 2 % 4)) * 16, w[0], w[1], w[2], w[3]);
    }
    fence_async();
    block_meet(alone, GROUP_THREADS);
    if (thread == 0) store_box(s.out[0], of, first + from, box), stores_commit();
  }
}

#endif // INFERNO_CUDA_MATMUL_PREFILL_CUH
