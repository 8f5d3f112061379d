// matmul_skinny.cu: the plain products of few rows of x on Hopper.
#include <type_traits>

#include "matmul_skinny.cuh"

template <auto VALUE> using constant = std::integral_constant<decltype(VALUE), VALUE>;

// out_i = x · w_iᵀ + bias_i (+ out_i); x is wide where it has more rows than SKINNY_STAGED_ROWS.
void cuda_matmul_skinny(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count) {
  plain_end end = {};
  for (int i = 0; i < count; i++) end.products.add(products[i], GROUP_ROWS);
  int tiles = end.products.blocks;
  auto run = [&](auto n, auto staged) { launch_skinny<n, 1, staged>(dev, x, tiles, split_of(tiles, x.cols), end); };
  if (!is_wide(x)) return x.rows <= 8 ? run(constant<8>(), constant<true>()) : run(constant<16>(), constant<true>());
  if (x.rows <= 8) return run(constant<8>(), constant<false>());
  if (x.rows <= 16) return run(constant<16>(), constant<false>());
  if (split_of(tiles, x.cols) == 0) return cuda_matmul_large(dev, x, products, count); // the same sums, without an exchange
  if (x.rows <= 32) return run(constant<32>(), constant<false>());
  run(constant<64>(), constant<false>());
}
