// pool.cu: out[i,:] = Σ x[j,:] over from[i] ≤ j < to[i], in double. A thread a column and range; bound by the latency of its loads, of which
// UNROLL are on their way at a time.
#include "device.cuh"
#include "numeric.cuh"

enum { THREADS = 64, UNROLL = 16 };

template <typename T>
__global__ void __launch_bounds__(THREADS)
    pool_kernel(matrix_view<float> out, matrix_view<const T> x, const int32_t *from, const int32_t *to, int64_t x_rows, int64_t cols) {
  dependency_wait();
  allow_dependents();
  int64_t column = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (column >= cols) return;
  int64_t first = from[blockIdx.y] > 0 ? from[blockIdx.y] : 0;
  int64_t end = to[blockIdx.y] < x_rows ? to[blockIdx.y] : x_rows;
  double sum = 0;
#pragma unroll UNROLL
  for (int64_t j = first; j < end; j++) sum += (double)to_float(x.row(j)[column]);
  out.row(blockIdx.y)[column] = (float)sum;
}

void cuda_pool(inferno_device *dev, const inferno_pool_args *a) {
  if (a->out.rows > 65535) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "pool: more than 65535 ranges on CUDA");
  auto go = [&](auto zero) {
    using T = decltype(zero);
    dim3 grid((unsigned)div_up(a->x.cols, THREADS), (unsigned)a->out.rows);
    cuda_launch(dev, "pool", pool_kernel<T>, grid, THREADS, 0, view<float>(a->out), view<const T>(a->x), (const int32_t *)a->from.data,
                (const int32_t *)a->to.data, a->x.rows, a->x.cols);
  };
  if (a->x.dtype == INFERNO_BF16) return go(bf16());
  if (a->x.dtype == INFERNO_F32) return go(0.0f);
  cuda_fail(dev, INFERNO_BAD_ARGUMENT, "pool: activations are BF16 or F32 on CUDA");
}
