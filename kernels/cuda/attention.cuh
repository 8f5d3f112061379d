// attention.cuh: what the files of attention share: the ragged batch, and the paged cache.
#ifndef INFERNO_CUDA_ATTENTION_CUH
#define INFERNO_CUDA_ATTENTION_CUH

#include "device.cuh"
#include "numeric.cuh"

enum { MAX_HEAD_DIM = 256 };

// A batch as kernels take it.
template <typename T> struct attention_view {
  matrix_view<T> out;
  matrix_view<const T> q, k_cache, v_cache;
  matrix_view<const int32_t> block_table;
  const int32_t *query_start, *kv_len;
  int32_t rows, sequences, heads, kv_heads, head_dim, block_size;
  float scale;
  bool wide_rows, wide_cache; // heads' rows lie at multiples of 16 bytes: those of q and out, those of the caches

  // The sequence of a row of q, −1 for a row of none, and the number of keys that the row sees.
  __device__ int sequence_of(int row, int &keys) const {
    int low = 0, high = sequences; // the last sequence that begins at or before row
    if (row < sequences && __ldcg(query_start + row) == row && __ldcg(query_start + row + 1) == row + 1) {
      low = row; // each sequence asks for one row: a decode step
    } else {
      while (low + 1 < high) {
        int middle = (low + high) / 2;
        if (__ldcg(query_start + middle) <= row) low = middle;
        else high = middle;
      }
    }
    int end = __ldcg(query_start + low + 1);
    if (row < __ldcg(query_start + low) || row >= end) return -1;
    keys = __ldcg(kv_len + low) - (end - 1 - row);
    return low;
  }

  // Element offset, in a cache of that stride, of position j of a sequence.
  __device__ int64_t at(const int32_t *table, int j, int kv_head, int64_t stride) const {
    return table[j / block_size] * stride + ((int64_t)kv_head * block_size + j % block_size) * head_dim;
  }
};

template <typename T> static attention_view<T> view_of(const inferno_attention_args *a) {
  return {view<T>(a->out),
          view<const T>(a->q),
          view<const T>(a->k_cache),
          view<const T>(a->v_cache),
          view<const int32_t>(a->block_table),
          (const int32_t *)a->query_start.data,
          (const int32_t *)a->kv_len.data,
          (int32_t)a->q.rows,
          (int32_t)a->block_table.rows,
          a->heads,
          a->kv_heads,
          a->head_dim,
          a->block_size,
          a->scale,
          a->head_dim % 8 == 0 && is_wide(a->q) && is_wide(a->out),
          a->head_dim % 8 == 0 && is_wide(a->k_cache) && is_wide(a->v_cache)};
}

// Any shape, float32 arithmetic: attention_plain.cu.
void cuda_attention_plain(inferno_device *dev, const inferno_attention_args *a);

// BF16, heads of 64 or 128, blocks of a multiple of 8 tokens, caches at multiples of 16 bytes: attention_decode.cu. Each row on its own,
// its keys split over blocks; either every row, or the row of each sequence that asks for just one.
enum decode_rows { EVERY_ROW, SINGLE_ROWS };
void cuda_attention_decode(inferno_device *dev, const inferno_attention_args *a, decode_rows which);

// The same shapes, many rows of a sequence together: attention_prefill.cu. Either every sequence, or those that ask for more than one row.
enum prefill_sequences { EVERY_SEQUENCE, LONGER_SEQUENCES };
void cuda_attention_prefill(inferno_device *dev, const inferno_attention_args *a, prefill_sequences which);

// The same, on cards with wgmma: attention_wgmma.cu.
void cuda_attention_wgmma(inferno_device *dev, const inferno_attention_args *a, prefill_sequences which);

#endif // INFERNO_CUDA_ATTENTION_CUH
