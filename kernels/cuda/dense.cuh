// dense.cuh: what dense.cu works on, and how its blocks hand rows of x to each other.
#ifndef INFERNO_CUDA_DENSE_CUH
#define INFERNO_CUDA_DENSE_CUH

#include "handover.cuh"
#include "kv_cache.cuh"
#include "matmul.cuh"
#include "wgmma.cuh"

enum dense_step { OUT, GATE_UP, DOWN, QKV, MAX_STEPS };

// Before this step a block waits for attention's end, where it does not do so before all. What attention sent has come by then, so that it
// hardly waits; but the next attention, which cannot start before, is to be ready when this kernel ends.
enum { SETTLED = GATE_UP };

enum {
  DENSE_WARPS = 8,
  DENSE_THREADS = 32 * DENSE_WARPS,
  DENSE_ROWS = 8,      // of x at most: the columns of an MMA
  MAX_CHAINS = 256,    // of a block, in all steps
  NORM_GROUPS = 2,     // groups of 8 columns of x that a thread normalises, all rows together
  NORM_WARPS = 16,     // of rms_norm's block at most: as many sums make up a row's
  MAX_NORMED = 4096,   // columns of x: one group a thread of rms_norm's block
  X_SLACK = 128,       // bytes behind x, which a chain of 8 rows may load in vain where it ends
  SLOT_BYTES = 2048,   // of the ring: 16 rows of weights by 64 columns, or 8 by 128
  EXCHANGED = 1 << 15, // elements of an exchange: rows of x times columns
};

// One of the products: tiles of 16 rows of w, dealt to the blocks in turn, the first one to block `offset`.
struct dense_product {
  const char *w[3];      // o; gate and up; down; q, k and v
  const float *bias[3];  // or NULL
  int32_t second, third; // the first tile of k and of v
  int32_t even, odd; // each block has `even` tiles (of gate: those of up belong to the same), the first `odd` from the offset on one more
  int32_t offset;
  int32_t units;     // of K
  int32_t log_split; // K is cut into so many parts
  int32_t log_half;  // 1: a chain is 8 rows, not 16
};

struct dense_view {
  dense_product product[MAX_STEPS];
  int32_t steps;            // 3 in the last layer
  int32_t n, d, f, queries; // h·k
  int32_t pitch;            // bytes between rows of x in shared memory
  int32_t norm_warps;       // of rms_norm's block
  float mlp_eps, next_eps;
  const float *mlp_norm, *next_norm;
  matrix_view<const bf16> attended;
  matrix_view<bf16> x, q;
  matrix_view<const float> angles; // [n, k]
  cache_view<bf16> cache;
  attended_words handed; // words NULL: attended is read instead, once attention has ended
  uint64_t *exchange[3]; // [n, columns / 2]: what is made by OUT, GATE_UP and DOWN, tagged by the number of the launch
  unsigned long long *tickets;
};

// A block's part of a product.
struct dense_share {
  int first;  // tile; the others follow at a distance of the grid
  int begin;  // of its chains among those of all steps: a chain is 16 rows by a part of K
  int chains; // tile by tile, of gate and of up, part by part, upper and lower half
};

// The weights of a chain: units of 64 columns, which lie UNIT_BYTES apart.
struct dense_chain {
  const char *w;
  int16_t from, length; // units
  int16_t half;         // 1: 8 rows, not 16
  int16_t place;        // in its units: the tile's of 4, or half a tile's of 8
};

// Where a warp is in its chains, every eighth of the block's.
struct dense_cursor {
  const char *w;
  int left, chain; // units of the chain that are left
  int half, place;

  // Goes on to the next slot's weights, unless there are none.
  __device__ __forceinline__ bool next(const dense_chain *chains, int total) {
    if (left <= 0) {
      if (chain + DENSE_WARPS >= total) return false;
      chain += DENSE_WARPS;
      w = chains[chain].w;
      left = chains[chain].length;
      half = chains[chain].half;
      place = chains[chain].place;
    } else {
      w += UNIT_BYTES << half;
    }
    left -= 1 << half;
    return true;
  }

  // A slot is four pieces of 512 bytes; the last two of 8 rows may lie beyond the chain.
  __device__ __forceinline__ const char *piece(int i) const {
    return w + (half ? i * (UNIT_BYTES / 2) : i / 2 * (UNIT_BYTES / 2) + i % 2 * 512);
  }
  __device__ __forceinline__ bool whole() const { return left >= 0; }
};

// Waits, asking little, until one group of 8 columns for each warp has been sent: then the others have, or will be soon.
__device__ __forceinline__ void await(const uint64_t *words, int groups, uint32_t launch) {
  uint4 columns;
  const uint64_t *sample = words + 4 * ((int64_t)groups * (threadIdx.x / 32) / DENSE_WARPS);
  if (threadIdx.x % 32 == 0) {
    while (!receive(columns, sample, launch)) {
    }
  }
  __syncwarp();
}

// Four 8 × 8 matrices; lane i points to row i % 8 of matrix i / 8, and gets two elements of row lane / 4 of each.
__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(row)
               : "memory");
}

// 16 bytes into shared memory.
__device__ __forceinline__ void copy_async(uint32_t to, const char *from, uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "l"(policy) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// c[16,8] += a[16,16] · b[16,8]: the bits of wgmma's m64n8k16.
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif // INFERNO_CUDA_DENSE_CUH
