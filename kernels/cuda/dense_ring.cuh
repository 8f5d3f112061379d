// dense_ring.cuh: the weights of dense.cu on their way into a warp, and what is summed of them.
#ifndef INFERNO_CUDA_DENSE_RING_CUH
#define INFERNO_CUDA_DENSE_RING_CUH

#include "dense.cuh"

// A warp's ring of weights in shared memory. It runs ahead of the sums, through all of the steps.
template <int SLOTS> struct dense_ring {
  dense_cursor cursor; // of what is copied next
  const dense_chain *chains;
  int total, slot;
  uint32_t base;
  uint64_t policy;

  __device__ __forceinline__ void fill(int into) {
    if (cursor.next(chains, total)) {
      int lane = threadIdx.x % 32;
      uint32_t to = base + into * SLOT_BYTES + 16 * lane;
      copy_async(to, cursor.piece(0) + 16 * lane, policy);
      copy_async(to + 512, cursor.piece(1) + 16 * lane, policy);
      if (cursor.whole()) {
        copy_async(to + 1024, cursor.piece(2) + 16 * lane, policy);
        copy_async(to + 1536, cursor.piece(3) + 16 * lane, policy);
      }
    }
    copies_commit();
  }

  // acc += w · xᵀ of a chain: 16 rows of w, or HALF: 8, by `length` units of K; x_at is the lane's row of x as load_matrices wants it, and
  // x_step what lies between 32 columns.
  template <bool HALF> __device__ __forceinline__ void sum(float (&acc)[4], int length, uint32_t x_at, uint32_t x_step) {
    constexpr int PIECES = HALF ? 4 : 2; // of 32 columns in a slot
    struct fragments {
      uint32_t w[4][4], x[PIECES][4];
    } even, odd;
    int lane = threadIdx.x % 32, row = HALF ? lane % 8 : lane % 16, piece = lane / (HALF ? 8 : 16);
    uint32_t w_at = base + row * 64 + (piece ^ row / 2 % 4) * 16;
    auto load = [&](fragments &f) {
      copies_wait<SLOTS - 1>();
      __syncwarp();
      uint32_t at = w_at + slot * SLOT_BYTES;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        load_matrices(f.w[i], HALF ? at + i * 512 : at + i / 2 * 1024 ^ i % 2 * 32);
        if (i < PIECES) load_matrices(f.x[i], x_at + i * x_step);
      }
      x_at += PIECES * x_step;
      __syncwarp();
      fill(slot);
      if (++slot == SLOTS) slot = 0;
    };
    // Multiplies what is loaded, after it asked for what follows it.
    auto advance = [&](fragments &f, fragments &following, int left) {
      if (left > PIECES / 2) load(following);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (HALF) {
          if (i >= 2 && left == 1) break;
          const uint32_t first[4] = {f.w[i][0], 0, f.w[i][1], 0}, second[4] = {f.w[i][2], 0, f.w[i][3], 0};
          mma(acc, first, f.x[i % PIECES][0], f.x[i % PIECES][1]);
          mma(acc, second, f.x[i % PIECES][2], f.x[i % PIECES][3]);
        } else {
          mma(acc, f.w[i], f.x[i / 2][i % 2 * 2], f.x[i / 2][i % 2 * 2 + 1]);
        }
      }
    };
    load(even);
#pragma unroll 1
    for (int left = length; left > 0; left -= PIECES) {
      advance(even, odd, left);
      if (left > PIECES / 2) advance(odd, even, left - PIECES / 2);
    }
  }
};

#endif // INFERNO_CUDA_DENSE_RING_CUH
