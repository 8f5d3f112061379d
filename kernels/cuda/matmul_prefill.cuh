// matmul_prefill.cuh: what matmul_prefill.cu asks of Hopper beyond wgmma.cuh: copies into every block of a cluster, stores by the copy engine,
// and results between registers and shared memory.
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

__device__ __forceinline__ void shared_store(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
__device__ __forceinline__ uint4 shared_load(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
  return v;
}

// Barrier `id` of the block, for so many threads.
__device__ __forceinline__ void block_meet(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

#endif // INFERNO_CUDA_MATMUL_PREFILL_CUH
