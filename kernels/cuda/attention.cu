// attention.cu: sends a batch to its kernel.
#include "attention.cuh"

void cuda_attention(inferno_device *dev, const inferno_attention_args *a) {
  if (!is_activation(a->q.dtype)) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "attention: activations are BF16 or F32 on CUDA");
  if (a->k_cache.dtype != a->q.dtype) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "attention: on CUDA caches have the activations' type");
  if (a->head_dim > MAX_HEAD_DIM) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "attention: heads are at most 256 wide on CUDA");
  cuda_attention_plain(dev, a);
}
