// kv_cache.cuh: where the keys and values of a token lie.
#ifndef INFERNO_CUDA_KV_CACHE_CUH
#define INFERNO_CUDA_KV_CACHE_CUH

#include "numeric.cuh"

// Caches [B, g, p, k], and the slots of n rows.
template <typename T> struct cache_view {
  matrix_view<T> k, v;
  const int32_t *slots;
  int64_t blocks;
  int kv_heads, head_dim, block_size;

  // Element offset of a head of a slot, or −1 for a slot that is skipped: −1, or one that the cache does not have.
  __device__ int64_t at(int slot, int head, int64_t stride) const {
    int block = slot / block_size;
    if (slot < 0 || block >= blocks) return -1;
    return block * stride + (int64_t)(head * block_size + slot % block_size) * head_dim;
  }
};

template <typename T, typename Args> static cache_view<T> caches_of(const Args *a) {
  return {view<T>(a->k_cache), view<T>(a->v_cache), (const int32_t *)a->slots.data, a->k_cache.rows, a->kv_heads,
          a->head_dim,         a->block_size};
}

#endif // INFERNO_CUDA_KV_CACHE_CUH
