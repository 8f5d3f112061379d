// attention.cu: sends a batch to its kernel.
#include "attention.cuh"

// Up to so many rows the order of a row's sums may not depend on the batch, nor on how its sequence was cut into steps: all rows go
// through the one kernel that takes each by itself.
enum { INVARIANT_ROWS = 64 };

// Whether the kernels on matrix units take this shape.
static bool is_tiled(const inferno_attention_args *a) {
  bool aligned = is_wide(a->k_cache) && is_wide(a->v_cache) && a->k_cache.stride == a->v_cache.stride;
  return a->q.dtype == INFERNO_BF16 && (a->head_dim == 64 || a->head_dim == 128) && a->block_size % 8 == 0 && aligned;
}

int32_t attention_max_head_dim() { return MAX_HEAD_DIM; }

static void attend_sequences(inferno_device *dev, const inferno_attention_args *a, prefill_sequences which) {
  if (dev->encode_tensor_map) cuda_attention_wgmma(dev, a, which);
  else cuda_attention_prefill(dev, a, which);
}

void cuda_attention(inferno_device *dev, const inferno_attention_args *a) {
  if (!is_activation(a->q.dtype)) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "attention: activations are BF16 or F32 on CUDA");
  if (a->k_cache.dtype != a->q.dtype) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "attention: on CUDA caches have the activations' type");
  if (a->head_dim > MAX_HEAD_DIM) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "attention: heads are at most 256 wide on CUDA");
  if (!is_tiled(a)) return cuda_attention_plain(dev, a);
  if (a->q.rows <= INVARIANT_ROWS || a->q.rows == a->block_table.rows) return cuda_attention_decode(dev, a, EVERY_ROW);
  if (a->block_table.rows == 1) return attend_sequences(dev, a, EVERY_SEQUENCE);
  attend_sequences(dev, a, LONGER_SEQUENCES);
  cuda_attention_decode(dev, a, SINGLE_ROWS);
}
