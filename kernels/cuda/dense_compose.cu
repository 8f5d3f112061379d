// dense_compose.cu: dense in the ops that it stands for, where its fused form does not fit. Each is an op of the table, so that a profile
// times them by themselves.
#include "device.cuh"

static void norm(inferno_device *dev, const inferno_tensor &x, const inferno_tensor &w, const inferno_tensor &out, float eps) {
  inferno_rms_norm_args args = {sizeof args, eps, out, x, w};
  inferno_device_table()->rms_norm(dev, &args);
}

static void multiply(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) {
  inferno_matmul_args args = {};
  args.size = sizeof args, args.count = count, args.x = x;
  for (int i = 0; i < count; i++) args.product[i] = products[i];
  inferno_device_table()->matmul(dev, &args);
}

void cuda_dense_composed(inferno_device *dev, const inferno_dense_args *a) {
  const inferno_table *ops = inferno_device_table();
  const inferno_norm_gate_up_args &mlp = a->mlp;
  multiply(dev, a->attended, &a->o, 1);
  ops->norm_gate_up(dev, &mlp);
  multiply(dev, mlp.out, &a->down, 1);
  if (!a->has_next) return;
  const inferno_norm_qkv_args &next = a->next;
  norm(dev, next.x, next.norm, next.normed, next.eps);
  const inferno_product qkv[] = {next.q, next.k, next.v};
  multiply(dev, next.normed, qkv, 3);
  inferno_rope_store_kv_args store = {};
  store.size = sizeof store;
  store.heads = next.heads, store.kv_heads = next.kv_heads, store.head_dim = next.head_dim, store.block_size = next.block_size;
  store.q = next.q.out, store.key = next.k.out, store.value = next.v.out, store.table = next.table, store.slots = next.slots;
  store.k_cache = next.k_cache, store.v_cache = next.v_cache;
  ops->rope_store_kv(dev, &store);
}
