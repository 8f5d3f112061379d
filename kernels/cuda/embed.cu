// embed.cu: out[n,d] = table[ids[n], :] from a packed weight; zeros for an id outside the table. Reads and writes n·d elements; bound by
// latency: 1.1 µs for a row of 4096 columns, 2.1 µs for 256, on an H200, in a graph.
#include "device.cuh"
#include "numeric.cuh"

enum { THREADS = 128 };

// W is the packed type: BF16 in units, or F32 in rows (numeric.cuh).
template <typename T, typename W>
__global__ void __launch_bounds__(THREADS)
    embed_kernel(matrix_view<T> out, const W *table, const int32_t *ids, int64_t n, int64_t vocab, int64_t d, bool wide) {
  dependency_wait();
  allow_dependents();
  int64_t piece = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = 8 * piece;
  if (i >= d) return;
  for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
    int32_t id = ids[row];
    float v[8] = {};
    if (id >= 0 && id < vocab) {
      if (sizeof(W) == sizeof(bf16)) load8(v, table + weight_piece(id, piece, weight_units(d)), 8, true);
      else load8(v, table + id * weight_f32_stride(d) + i, d - i, true);
    }
    store8(out.row(row) + i, v, d - i, wide);
  }
}

void cuda_embed(inferno_device *dev, const inferno_embed_args *a) {
  int64_t n = a->out.rows, d = a->out.cols;
  dim3 grid((unsigned)div_up(d, 8 * THREADS), (unsigned)(n < 65535 ? n : 65535));
  bool is_f32 = dev->exact || a->table.dtype == INFERNO_F32;
  auto go = [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    cuda_launch(dev, "embed", embed_kernel<T, W>, grid, THREADS, 0, view<T>(a->out), (const W *)a->table.data, (const int32_t *)a->ids.data,
                n, a->table.rows, d, is_wide(a->out));
  };
  if (!is_activation(a->out.dtype)) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "embed: activations are BF16 or F32 on CUDA");
  if (a->out.dtype == INFERNO_BF16) return is_f32 ? go(bf16(), 0.0f) : go(bf16(), bf16());
  is_f32 ? go(0.0f, 0.0f) : go(0.0f, bf16());
}
