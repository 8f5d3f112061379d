// matmul.cu: sends each product to its kernel, those of one kind together.
#include "matmul.cuh"

void cuda_matmul(inferno_device *dev, const inferno_matmul_args *a) {
  if (!is_activation(a->x.dtype)) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "matmul: activations are BF16 or F32 on CUDA");
  product_list f32 = {}, halves = {};
  for (int i = 0; i < a->count; i++) {
    const inferno_product &p = a->product[i];
    if (dev->exact || p.w.dtype == INFERNO_F32) f32.add(p, F32_BLOCK_ROWS);
    else halves.add(p, TILE_ROWS);
  }
  if (halves.count && a->x.dtype != INFERNO_BF16) {
    return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "matmul: F32 activations meet weights that are not F32; open the device exact");
  }
  if (f32.count) cuda_matmul_f32(dev, a->x, f32);
  if (halves.count) cuda_matmul_small(dev, a->x, halves);
}
