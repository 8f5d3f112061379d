// attention_tile.cuh: what the attention kernels on matrix units share: tiles of paged keys and values in shared memory, filled by 16-byte
// asynchronous copies, and the instructions that read them.
//
// A tile [TOKENS][K] lies in panels of 64 columns, a panel in rows of 128 bytes, one a token: piece i (8 columns) of a token's row at place
// i ^ (token % 8). So the eight rows that a matrix load takes lie in different banks, and a panel is what wgmma takes with 128-byte swizzle.
#ifndef INFERNO_CUDA_ATTENTION_TILE_CUH
#define INFERNO_CUDA_ATTENTION_TILE_CUH

#include "attention.cuh"

enum { PANEL = 64 }; // columns

// Where, in elements, piece `piece` of a token lies in a tile of TOKENS tokens.
template <int TOKENS> __device__ __forceinline__ int tile_at(int token, int piece) {
  return (piece / 8 * TOKENS + token) * PANEL + ((piece % 8) ^ (token % 8)) * 8;
}

__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

// 16 bytes into shared memory, or zeros unless `valid`.
__device__ __forceinline__ void copy_async(bf16 *to, const bf16 *from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last PENDING groups of the thread's copies have landed.
template <int PENDING> __device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// Four 8 × 8 matrices; lane i points to row i % 8 of matrix i / 8, and gets two elements of row lane / 4 of each.
__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], const bf16 *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same, of their transposes.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&m)[4], const bf16 *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row))
               : "memory");
}

// c[16,8] += a[16,16] · b[16,8].
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2ˣ, right to 2 ulp; 0 for −∞.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two neighbouring elements as a word; `wide`: p lies at a multiple of 4 bytes.
__device__ __forceinline__ uint32_t load_pair(const bf16 *p, bool wide) {
  if (wide) return *(const uint32_t *)p;
  return *(const uint16_t *)p | (uint32_t)*(const uint16_t *)(p + 1) << 16;
}

__device__ __forceinline__ void store_pair(bf16 *p, float low, float high, bool wide) {
  if (wide) *(uint32_t *)p = pack_halves(low, high);
  else p[0] = from_float<bf16>(low), p[1] = from_float<bf16>(high);
}

// The keys or values of one KV head of a sequence. Blocks of the cache hold a multiple of 8 tokens, so that each eight of a tile lie
// together.
template <int K> struct paged_head {
  const int32_t *table;    // [blocks of the sequence]
  int64_t stride;          // elements between blocks of the cache
  int32_t block_size, end; // tokens from `end` on are zeros, and their blocks are not looked up

  __device__ paged_head(const attention_view<bf16> &a, int sequence, int end)
      : table(a.block_table.row(sequence)), stride(a.k_cache.stride), block_size(a.block_size), end(end) {}

  // Element offset, from the head's place in block 0, of the eight tokens of this lane among the TOKENS of a tile.
  template <int TOKENS> __device__ int64_t place(int tile) const {
    int token = TOKENS * tile + 8 * (threadIdx.x % (TOKENS / 8));
    return token < end ? __ldcg(table + token / block_size) * stride + token % block_size * K : 0;
  }

  // Starts the copies of a tile by THREADS threads, of which the caller is number `thread`; `head` is the head's place in block 0 of a
  // cache, `place` what place() gave each lane for this tile.
  template <int TOKENS, int THREADS> __device__ void load(bf16 *to, const bf16 *head, int tile, int64_t place, int thread) const {
    constexpr int PIECES = K / 8, STEP = THREADS / PIECES; // pieces a token, tokens a pass
    static_assert(THREADS % PIECES == 0 && TOKENS % STEP == 0 && STEP % 8 == 0 && TOKENS <= 256, "a pass copies whole eights of tokens");
    int piece = thread % PIECES, from = thread / PIECES;
    to += tile_at<TOKENS>(from, piece);
    head += from % 8 * K + piece * 8;
#pragma unroll
    for (int i = 0; i < TOKENS; i += STEP) {
      copy_async(to + i * PANEL, head + __shfl_sync(~0u, place, i / 8 + from / 8), TOKENS * tile + i + from < end);
    }
  }
};

#endif // INFERNO_CUDA_ATTENTION_TILE_CUH
