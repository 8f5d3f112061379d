// dense.cuh: what dense.cu works on, and how its blocks hand rows of x to each other.
#ifndef INFERNO_CUDA_DENSE_CUH
#define INFERNO_CUDA_DENSE_CUH

#include "kv_cache.cuh"
#include "matmul.cuh"
#include "wgmma.cuh"

enum dense_step { OUT, GATE_UP, DOWN, QKV, MAX_STEPS };

enum {
  DENSE_WARPS = 8,
  DENSE_THREADS = 32 * DENSE_WARPS,
  DENSE_ROWS = 8,      // of x at most: the columns of an MMA
  NORM_GROUPS = 4,     // groups of 8 columns of x that a thread normalises, all rows together
  NORM_WARPS = 16,     // of rms_norm's block at most: as many sums make up a row's
  MAX_NORMED = 4096,   // columns of x: one group a thread of rms_norm's block
  SLOT_BYTES = 2048,   // of the ring: 16 rows of weights by 64 columns
  MIN_SLOTS = 4,       // of a warp
  MAX_SLOTS = 12,
  EXCHANGED = 1 << 15, // elements of an exchange: rows of x times columns
};

// One of the products: tiles of 16 rows of w, dealt to the blocks in turn, the first one to block `offset`.
struct dense_product {
  const char *w[3];     // o; gate and up; down; q, k and v
  const float *bias[3]; // or NULL
  int32_t last_rows;    // rows of the weights, those of q and k excepted
  int32_t second, third; // the first tile of k and of v
  int32_t tiles;         // of gate: those of up belong to the same
  int32_t units;         // of K
  int32_t log_split;     // K is cut into so many parts
  int32_t offset;
};

struct dense_view {
  dense_product product[MAX_STEPS];
  int32_t steps; // 3 in the last layer
  int32_t n, d, f, queries; // h·k
  int32_t slots, pitch;     // of the ring of a warp; bytes between rows of x in shared memory
  int32_t norm_warps;       // of rms_norm's block
  float mlp_eps, next_eps;
  const float *mlp_norm, *next_norm;
  matrix_view<const bf16> attended;
  matrix_view<bf16> x, q;
  matrix_view<const float> angles; // [n, k]
  cache_view<bf16> cache;
  uint64_t *exchange[3];           // [n, columns / 2]: what is made by OUT, GATE_UP and DOWN
  unsigned long long *tickets;
};

// An exchange. A word is two neighbouring columns of a row of x and the number of the launch that made them, written and read as one: who
// finds the number of its own launch there has the columns, without a barrier.
__device__ __forceinline__ void send(uint64_t *word, uint32_t columns, uint32_t launch) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(word), "l"((uint64_t)launch << 32 | columns) : "memory");
}

// Eight columns, if all have been sent.
__device__ __forceinline__ bool receive(uint4 &columns, const uint64_t *words, uint32_t launch) {
  uint64_t a, b, c, d;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(a), "=l"(b) : "l"(words) : "memory");
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(c), "=l"(d) : "l"(words + 2) : "memory");
  columns = make_uint4((uint32_t)a, (uint32_t)b, (uint32_t)c, (uint32_t)d);
  return (uint32_t)(a >> 32) == launch && (uint32_t)(b >> 32) == launch && (uint32_t)(c >> 32) == launch && (uint32_t)(d >> 32) == launch;
}

// Four 8 × 8 matrices; lane i points to row i % 8 of matrix i / 8, and gets two elements of row lane / 4 of each.
__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(row)
               : "memory");
}

// c[16,8] += a[16,16] · b[16,8]: the bits of wgmma's m64n8k16.
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif // INFERNO_CUDA_DENSE_CUH
