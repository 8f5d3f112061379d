// matmul_fused.cu: a layer's products of few rows of x together with what stands behind them: swiglu of gate and up, rope and the cache's
// store of q, k and v. rms_norm stays a kernel of its own, which runs while weights are on their way: in every block it would cost more
// than its launch. What bounds the rest is the weights' bytes, as in matmul_skinny.cuh. Bit-equal to the ops that they stand for, which run
// instead where x has more rows, is not wide, or meets weights of F32.
#include "matmul_skinny.cuh"

static bool is_fused(const inferno_device *dev, const inferno_tensor &x, const inferno_weight &w) {
  return dev->encode_tensor_map && !dev->exact && x.dtype == INFERNO_BF16 && w.dtype != INFERNO_F32 && x.rows <= SKINNY_STAGED_ROWS &&
         is_wide(x);
}

// Runs one kernel over tiles of 64·R rows; `split` is that of the composition's products.
template <int R, typename End> static void go(inferno_device *dev, const inferno_tensor &x, int tiles, int split, const End &end) {
  if (x.rows <= 8) return launch_skinny<8, R, false>(dev, x, tiles, split, end);
  launch_skinny<16, R, false>(dev, x, tiles, split, end);
}

// normed = rms_norm(x).
template <typename Args> static void norm(inferno_device *dev, const Args *a) {
  inferno_rms_norm_args norm = {sizeof norm, a->eps, a->normed, a->x, a->norm};
  cuda_rms_norm(dev, &norm);
}

void cuda_norm_matmul(inferno_device *dev, const inferno_norm_matmul_args *a) {
  inferno_matmul_args products = {sizeof products, a->count, a->normed, {a->product[0], a->product[1], a->product[2]}};
  norm(dev, a);
  cuda_matmul(dev, &products);
}

// A tile is 64 rows of gate and the same 64 of up.
struct swiglu_end {
  enum { PARTS = 2 };
  const void *w[2];
  matrix_view<bf16> out;
  const float *gate_bias, *up_bias; // or NULL
  int rows;

  __device__ const char *weight(int tile, int groups, int i, int units) const {
    return (const char *)w[i] + (int64_t)tile * units * UNIT_BYTES;
  }
  template <int ROWS, typename Sum> __device__ float2 value(int tile, int64_t m, int pair, Sum sum) const {
    float v[2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int of = 2 * pair + i, row = tile * ROWS / 2 + of;
      if (row >= rows) continue;
      float gate = sum(of), up = sum(ROWS / 2 + of);
      if (gate_bias) gate += gate_bias[row];
      if (up_bias) up += up_bias[row];
      gate = to_float(__float2bfloat16_rn(gate)), up = to_float(__float2bfloat16_rn(up));
      v[i] = swiglu(gate, up);
    }
    return make_float2(v[0], v[1]);
  }
  template <int ROWS> __device__ void put(int tile, int64_t m, int pair, float2 v) const {
    int row = tile * ROWS / 2 + 2 * pair;
    if (row < rows) out.row(m)[row] = __float2bfloat16_rn(v.x);
    if (row + 1 < rows) out.row(m)[row + 1] = __float2bfloat16_rn(v.y);
  }
};

void cuda_norm_gate_up(inferno_device *dev, const inferno_norm_gate_up_args *a) {
  norm(dev, a);
  if (!is_fused(dev, a->normed, a->gate) || !is_fused(dev, a->normed, a->up)) {
    inferno_product gate = {a->gate, a->gate_bias, a->out, 0, 0}, up = {a->up, a->up_bias, a->scratch, 0, 0};
    inferno_matmul_args products = {sizeof products, 2, a->normed, {gate, up, {}}};
    inferno_swiglu_args swiglu = {sizeof swiglu, 0, a->out, a->out, a->scratch};
    cuda_matmul(dev, &products);
    return cuda_swiglu(dev, &swiglu);
  }
  swiglu_end end = {
      {a->gate.data, a->up.data}, view<bf16>(a->out), (const float *)a->gate_bias.data, (const float *)a->up_bias.data, (int)a->gate.rows};
  int groups = (int)weight_groups(a->gate.rows);
  go<2>(dev, a->normed, groups, split_of(2 * groups, a->x.cols), end);
}

// q is rotated in place, keys on their way to the cache.
struct qkv_end {
  enum { PARTS = 1 };
  product_list products; // q, k, v
  matrix_view<const float> table;
  matrix_view<bf16> caches[2]; // of keys and values: [B, g, p, k]
  const int32_t *slots;
  int64_t blocks;
  int head_dim, block_size;

  __device__ const char *weight(int tile, int groups, int i, int units) const { return products.weight(tile, groups, i, units); }
  template <int ROWS, typename Sum> __device__ float2 value(int tile, int64_t m, int pair, Sum sum) const {
    int which = products.index(tile);
    const product_view &p = products.product[which];
    int row = (tile - p.first_block) * ROWS + 2 * pair, i = row % head_dim / 2;
    if (row >= p.rows) return {};
    float even = sum(2 * pair), odd = sum(2 * pair + 1);
    if (p.bias) even += p.bias[row], odd += p.bias[row + 1];
    if (which == 2) return make_float2(even, odd);
    even = to_float(__float2bfloat16_rn(even)), odd = to_float(__float2bfloat16_rn(odd));
    rotate(even, odd, table.row(m)[i], table.row(m)[head_dim / 2 + i]);
    return make_float2(even, odd);
  }
  template <int ROWS> __device__ void put(int tile, int64_t m, int pair, float2 v) const {
    int which = products.index(tile);
    const product_view &p = products.product[which];
    int row = (tile - p.first_block) * ROWS + 2 * pair, head = row / head_dim;
    if (row >= p.rows) return;
    bf16 *to = (bf16 *)p.out + m * p.stride + row;
    if (which > 0) {
      int slot = slots[m];
      if (slot < 0 || slot / block_size >= blocks) return;
      to = caches[which - 1].row(slot / block_size) + ((int64_t)head * block_size + slot % block_size) * head_dim + row % head_dim;
    }
    to[0] = __float2bfloat16_rn(v.x), to[1] = __float2bfloat16_rn(v.y);
  }
};

void cuda_norm_qkv(inferno_device *dev, const inferno_norm_qkv_args *a) {
  const inferno_product *products[3] = {&a->q, &a->k, &a->v};
  bool fused = a->k_cache.dtype == INFERNO_BF16 && a->head_dim % 2 == 0;
  for (const inferno_product *p : products) fused = fused && is_fused(dev, a->normed, p->w);
  norm(dev, a);
  if (!fused) {
    inferno_matmul_args product = {sizeof product, 3, a->normed, {a->q, a->k, a->v}};
    inferno_rope_store_kv_args store = {sizeof store, a->heads, a->kv_heads, a->head_dim, a->block_size, a->q.out,
                                        a->k.out,     a->v.out, a->table,    a->slots,    a->k_cache,    a->v_cache};
    cuda_matmul(dev, &product);
    return cuda_rope_store_kv(dev, &store);
  }
  qkv_end end = {};
  for (const inferno_product *p : products) end.products.add(*p, 64);
  end.table = view<const float>(a->table);
  end.caches[0] = view<bf16>(a->k_cache), end.caches[1] = view<bf16>(a->v_cache);
  end.slots = (const int32_t *)a->slots.data;
  end.blocks = a->k_cache.rows, end.head_dim = a->head_dim, end.block_size = a->block_size;
  go<1>(dev, a->normed, end.products.blocks, split_of(end.products.blocks, a->x.cols), end);
}
