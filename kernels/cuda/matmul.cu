// matmul.cu: sends each product to its kernel, those of one kind together.
#include "matmul.cuh"

static inferno_tensor rows_of(inferno_tensor t, int64_t from, int64_t rows) {
  t.data = (char *)t.data + from * t.stride * (t.dtype == INFERNO_F32 ? 4 : 2);
  t.rows = rows;
  return t;
}

static void matmul_bf16(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) {
  if (!dev->encode_tensor_map) {
    product_list list = {};
    for (int i = 0; i < count; i++) list.add(products[i], TILE_ROWS);
    return cuda_matmul_small(dev, x, list);
  }
  if (x.rows <= SKINNY_ROWS) return cuda_matmul_skinny(dev, x, products, count);
  if (is_wide(x)) return x.rows <= BATCH_ROWS ? cuda_matmul_batch(dev, x, products, count) : cuda_matmul_prefill(dev, x, products, count);
  for (int64_t from = 0, rows = SKINNY_ROWS; from < x.rows; from += rows) { // what the copy engine does not take
    if (rows > x.rows - from) rows = x.rows - from;
    inferno_product part[INFERNO_MAX_PRODUCTS];
    for (int i = 0; i < count; i++) {
      part[i] = products[i];
      part[i].out = rows_of(products[i].out, from, rows);
    }
    cuda_matmul_skinny(dev, rows_of(x, from, rows), part, count);
  }
}

void cuda_matmul(inferno_device *dev, const inferno_matmul_args *a) {
  if (!is_activation(a->x.dtype)) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "matmul: activations are BF16 or F32 on CUDA");
  product_list f32 = {};
  inferno_product halves[INFERNO_MAX_PRODUCTS];
  int count = 0;
  for (int i = 0; i < a->count; i++) {
    const inferno_product &p = a->product[i];
    if (dev->exact || p.w.dtype == INFERNO_F32) f32.add(p, F32_BLOCK_ROWS);
    else halves[count++] = p;
  }
  if (count && a->x.dtype != INFERNO_BF16) {
    return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "matmul: F32 activations meet weights that are not F32; open the device exact");
  }
  if (f32.count) cuda_matmul_f32(dev, a->x, f32);
  if (count) matmul_bf16(dev, a->x, halves, count);
}

// out = swiglu(rms_norm(x) · gateᵀ + gate_bias, rms_norm(x) · upᵀ + up_bias); many rows do the last two in one.
void cuda_norm_gate_up(inferno_device *dev, const inferno_norm_gate_up_args *a) {
  inferno_rms_norm_args norm = {sizeof norm, a->eps, a->normed, a->x, a->norm};
  cuda_rms_norm(dev, &norm);
  inferno_product gate = {a->gate, a->gate_bias, a->out, 0, 0}, up = {a->up, a->up_bias, a->scratch, 0, 0};
  bool halves = !dev->exact && a->x.dtype == INFERNO_BF16 && a->gate.dtype != INFERNO_F32 && a->up.dtype != INFERNO_F32;
  if (halves && dev->encode_tensor_map && a->x.rows > BATCH_ROWS && cuda_matmul_gated(dev, a->normed, gate, up)) return;
  inferno_matmul_args products = {sizeof products, 2, a->normed, {gate, up}};
  cuda_matmul(dev, &products);
  inferno_swiglu_args swiglu = {sizeof swiglu, 0, a->out, a->out, a->scratch};
  cuda_swiglu(dev, &swiglu);
}
