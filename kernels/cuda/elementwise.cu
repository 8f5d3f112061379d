// elementwise.cu: fill, rms_norm, swiglu, add, gather_rows on BF16 or F32, arithmetic in float32. Bound by memory (a step's rows lie in
// L2) or, for few rows, by the latency of a launch. On an H200, in a graph, at 1, 64, 256 and 8192 rows: rms_norm of 4096 columns 1.2,
// 1.4, 2.1 and 42 µs (3.2 TB/s), swiglu of 14336 columns 1.3, 2.3, 4.8 and 184 µs (3.8 TB/s).
//
// A thread takes groups of 8 columns, so that rows at multiples of 16 bytes move 16 bytes at a time; sums run in the same order whether
// they do or not.
#include "device.cuh"
#include "numeric.cuh"

enum { THREADS = 256 };

__global__ void __launch_bounds__(THREADS) fill_kernel(uint8_t *dst, uint8_t byte, int64_t bytes) {
  dependency_wait();
  allow_dependents();
  int64_t step = (int64_t)gridDim.x * THREADS;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < bytes; i += step) dst[i] = byte;
}

__global__ void __launch_bounds__(THREADS) fill_words_kernel(uint4 *dst, uint32_t word, int64_t n) {
  dependency_wait();
  allow_dependents();
  int64_t step = (int64_t)gridDim.x * THREADS;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) dst[i] = make_uint4(word, word, word, word);
}

// Sets bytes; 3.3 TB/s where dst lies at a multiple of 16 bytes.
void cuda_fill(inferno_device *dev, void *dst, int32_t byte, int64_t bytes) {
  int64_t most = 16 * (int64_t)dev->properties.multiProcessorCount;
  int64_t words = (uintptr_t)dst % 16 == 0 ? bytes / 16 : 0, rest = bytes - 16 * words;
  auto blocks = [&](int64_t n) { return dim3((unsigned)(div_up(n, THREADS) < most ? div_up(n, THREADS) : most)); };
  uint32_t word = 0x01010101u * (uint8_t)byte;
  if (words) cuda_launch(dev, "fill", fill_words_kernel, blocks(words), THREADS, 0, (uint4 *)dst, word, words);
  if (rest) cuda_launch(dev, "fill", fill_kernel, blocks(rest), THREADS, 0, (uint8_t *)dst + 16 * words, (uint8_t)byte, rest);
}

enum { NORM_WARPS = 16 }; // of a block at most

// A block a row. Its number of threads depends on d alone, and so does the order of the sum. A thread's first group stays in registers: up
// to 4096 columns are read once.
template <typename T>
__global__ void __launch_bounds__(32 * NORM_WARPS)
    rms_norm_kernel(matrix_view<T> out, matrix_view<const T> x, const float *w, int64_t d, float eps, bool wide, bool wide_w) {
  __shared__ __align__(16) float sums[NORM_WARPS];
  const T *in = x.row(blockIdx.x);
  T *to = out.row(blockIdx.x);
  int64_t first = 8 * threadIdx.x, step = 8 * blockDim.x;
  float sum = 0, v[8], g[8], more[8];
  load8(g, w + first, d - first, wide_w);
  unsigned warps = blockDim.x / 32;
  if (threadIdx.x >= warps && threadIdx.x < NORM_WARPS) sums[threadIdx.x] = 0;
  dependency_wait();
  allow_dependents();
  load8(v, in + first, d - first, wide);
#pragma unroll
  for (int j = 0; j < 8; j++) sum = fmaf(v[j], v[j], sum);
  for (int64_t i = first + step; i < d; i += step) {
    load8(more, in + i, d - i, wide);
#pragma unroll
    for (int j = 0; j < 8; j++) sum = fmaf(more[j], more[j], sum);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll
  for (int i = 0; i < NORM_WARPS; i++) sum += sums[i];
  float scale = 1.0f / sqrtf(sum / (float)d + eps);
  for (int64_t i = first; i < d; i += step) {
    if (i > first) load8(v, in + i, d - i, wide), load8(g, w + i, d - i, wide_w);
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = v[j] * scale * g[j];
    store8(to + i, v, d - i, wide);
  }
}

// The same sums in the same order by four warps a row, each of which does what four of the warps above do: for many rows of up to
// 256·NORM_WARPS columns, a multiple of 8, of BF16 at multiples of 16 bytes.
enum { ROW_WARPS = 4, TURNS = NORM_WARPS / ROW_WARPS, MANY_ROWS = 512 }; // from MANY_ROWS on it is the faster one

__global__ void __launch_bounds__(32 * ROW_WARPS, 10)
    rms_norm_rows_kernel(matrix_view<bf16> out, matrix_view<const bf16> x, const float *w, int d, float eps) {
  __shared__ float sums[NORM_WARPS];
  int warp = threadIdx.x / 32, first = 256 * TURNS * warp + 8 * (threadIdx.x % 32);
  dependency_wait();
  allow_dependents();
  const bf16 *in = x.row(blockIdx.x) + first;
  uint4 words[TURNS];
#pragma unroll
  for (int i = 0; i < TURNS; i++) words[i] = first + 256 * i < d ? *(const uint4 *)(in + 256 * i) : make_uint4(0, 0, 0, 0);
  float v[8], g[8];
#pragma unroll
  for (int i = 0; i < TURNS; i++) {
    float sum = 0;
    load8(v, (const bf16 *)&words[i], 8, true);
#pragma unroll
    for (int j = 0; j < 8; j++) sum = fmaf(v[j], v[j], sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[TURNS * warp + i] = sum;
  }
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < NORM_WARPS; i++) sum += sums[i];
  float scale = 1.0f / sqrtf(sum / (float)d + eps);
#pragma unroll
  for (int i = 0; i < TURNS; i++) {
    if (first + 256 * i >= d) break;
    load8(v, (const bf16 *)&words[i], 8, true);
    load8(g, w + first + 256 * i, 8, true);
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = v[j] * scale * g[j];
    store8(out.row(blockIdx.x) + first + 256 * i, v, 8, true);
  }
}

// out[n,d] = x[n,d] / sqrt(mean_d(x²) + eps) · w[d].
void cuda_rms_norm(inferno_device *dev, const inferno_rms_norm_args *a) {
  int64_t d = a->x.cols, threads = div_up(div_up(d, 8), 32) * 32;
  threads = threads < 32 * NORM_WARPS ? threads : 32 * NORM_WARPS;
  bool wide = is_wide(a->x) && is_wide(a->out), wide_w = (uintptr_t)a->w.data % 16 == 0;
  if (a->x.dtype == INFERNO_BF16 && a->x.rows >= MANY_ROWS && wide && wide_w && d % 8 == 0 && d <= 256 * NORM_WARPS) {
    return cuda_launch(dev, "rms_norm", rms_norm_rows_kernel, dim3((unsigned)a->x.rows), 32 * ROW_WARPS, 0, view<bf16>(a->out),
                       view<const bf16>(a->x), (const float *)a->w.data, (int)d, a->eps);
  }
  auto go = [&](auto zero) {
    using T = decltype(zero);
    cuda_launch(dev, "rms_norm", rms_norm_kernel<T>, dim3((unsigned)a->x.rows), (unsigned)threads, 0, view<T>(a->out), view<const T>(a->x),
                (const float *)a->w.data, d, a->eps, wide, wide_w);
  };
  if (a->x.dtype == INFERNO_BF16) return go(bf16());
  if (a->x.dtype == INFERNO_F32) return go(0.0f);
  cuda_fail(dev, INFERNO_BAD_ARGUMENT, "rms_norm: activations are BF16 or F32 on CUDA");
}

// What a binary op computes of a column.
struct swiglu_op {
  static __device__ float apply(float gate, float up) { return swiglu(gate, up); }
};
struct add_op {
  static __device__ float apply(float a, float b) { return a + b; }
};

// Blocks split columns (x) and rows (y).
template <typename T, typename Op>
__global__ void __launch_bounds__(THREADS)
    binary_kernel(matrix_view<T> out, matrix_view<const T> a, matrix_view<const T> b, int64_t rows, int64_t cols, bool wide) {
  int64_t i = 8 * ((int64_t)blockIdx.x * THREADS + threadIdx.x);
  dependency_wait();
  allow_dependents();
  if (i >= cols) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float u[8], v[8];
    load8(u, a.row(row) + i, cols - i, wide);
    load8(v, b.row(row) + i, cols - i, wide);
#pragma unroll
    for (int j = 0; j < 8; j++) u[j] = Op::apply(u[j], v[j]);
    store8(out.row(row) + i, u, cols - i, wide);
  }
}

static dim3 grid_of(const inferno_tensor &t) {
  return dim3((unsigned)div_up(t.cols, 8 * THREADS), (unsigned)(t.rows < 65535 ? t.rows : 65535));
}

template <typename Op>
static void launch_binary(inferno_device *dev, const char *what, const inferno_tensor &out, const inferno_tensor &a,
                          const inferno_tensor &b) {
  bool wide = is_wide(out) && is_wide(a) && is_wide(b);
  auto go = [&](auto zero) {
    using T = decltype(zero);
    cuda_launch(dev, what, binary_kernel<T, Op>, grid_of(out), THREADS, 0, view<T>(out), view<const T>(a), view<const T>(b), out.rows,
                out.cols, wide);
  };
  if (out.dtype == INFERNO_BF16) return go(bf16());
  if (out.dtype == INFERNO_F32) return go(0.0f);
  cuda_fail(dev, INFERNO_BAD_ARGUMENT, "activations are BF16 or F32 on CUDA");
}

// out[n,f] = gate/(1+exp(−gate)) · up.
void cuda_swiglu(inferno_device *dev, const inferno_swiglu_args *a) { launch_binary<swiglu_op>(dev, "swiglu", a->out, a->gate, a->up); }

// out = a + b.
void cuda_add(inferno_device *dev, const inferno_add_args *a) { launch_binary<add_op>(dev, "add", a->out, a->a, a->b); }

template <typename T>
__global__ void __launch_bounds__(THREADS) gather_rows_kernel(matrix_view<T> out, matrix_view<const T> x, const int32_t *rows, int64_t n,
                                                              int64_t x_rows, int64_t cols, bool wide) {
  dependency_wait();
  allow_dependents();
  int64_t i = 8 * ((int64_t)blockIdx.x * THREADS + threadIdx.x);
  if (i >= cols) return;
  for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
    int32_t from = rows[row];
    float v[8] = {};
    if (from >= 0 && from < x_rows) load8(v, x.row(from) + i, cols - i, wide);
    store8(out.row(row) + i, v, cols - i, wide);
  }
}

// out[i,:] = x[rows[i],:]; zeros for a row that x does not have.
void cuda_gather_rows(inferno_device *dev, const inferno_gather_rows_args *a) {
  bool wide = is_wide(a->out) && is_wide(a->x);
  auto go = [&](auto zero) {
    using T = decltype(zero);
    cuda_launch(dev, "gather_rows", gather_rows_kernel<T>, grid_of(a->out), THREADS, 0, view<T>(a->out), view<const T>(a->x),
                (const int32_t *)a->rows.data, a->out.rows, a->x.rows, a->out.cols, wide);
  };
  if (a->x.dtype == INFERNO_BF16) return go(bf16());
  if (a->x.dtype == INFERNO_F32) return go(0.0f);
  cuda_fail(dev, INFERNO_BAD_ARGUMENT, "gather_rows: activations are BF16 or F32 on CUDA");
}
