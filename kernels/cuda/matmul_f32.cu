// matmul_f32.cu: out[n,m] = x[n,c] · w[m,c]ᵀ with float32 weights and float32 arithmetic throughout, for float32 checkpoints and exact
// devices: right to the last bits rather than fast. One warp a row of w and eight rows of x; w is read once for each eight rows of x, so
// that batches up to 8 are bound by memory.
//
// A lane sums every 32nd group of 4 columns, the lanes are added as a tree: the order depends on c alone.
#include "matmul.cuh"

enum { BATCH = 8, THREADS = 32 * F32_BLOCK_ROWS };

template <typename T>
__global__ void __launch_bounds__(THREADS) matmul_f32_kernel(product_list products, matrix_view<const T> x, int64_t n, int64_t cols) {
  dependency_wait();
  allow_dependents();
  const product_view &p = products.of(blockIdx.x);
  int row = (blockIdx.x - p.first_block) * F32_BLOCK_ROWS + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= p.rows) return;
  const float *w = (const float *)p.w + row * weight_f32_stride(cols);
  int64_t first = (int64_t)blockIdx.y * BATCH;
  float sum[BATCH] = {};
  for (int64_t c = 4 * lane; c < cols; c += 4 * 32) {
    float4 v = *(const float4 *)(w + c);
    float weights[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int m = 0; m < BATCH; m++) {
      if (first + m >= n) break;
      const T *in = x.row(first + m) + c;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (c + i < cols) sum[m] = fmaf(to_float(in[i]), weights[i], sum[m]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < BATCH; m++) {
    float total = warp_sum(sum[m]);
    if (lane == 0 && first + m < n) finish(p, first + m, row, total);
  }
}

void cuda_matmul_f32(inferno_device *dev, const inferno_tensor &x, const product_list &products) {
  dim3 grid((unsigned)products.blocks, (unsigned)div_up(x.rows, BATCH));
  if (x.dtype == INFERNO_F32) {
    cuda_launch(dev, "matmul", matmul_f32_kernel<float>, grid, THREADS, 0, products, view<const float>(x), x.rows, x.cols);
  } else {
    cuda_launch(dev, "matmul", matmul_f32_kernel<bf16>, grid, THREADS, 0, products, view<const bf16>(x), x.rows, x.cols);
  }
}
