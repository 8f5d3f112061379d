// step.cu: pull, scatter, feed, mark: kernels that read a step's inputs out of the host's pinned memory and write its results into it, so that
// a step, also one of a captured graph, needs no copy by the driver. Some KiB; bound by one trip over the link (about 2 µs) and by launches.
//
// The device counts its own marks, so that the kernels of a graph find the slot of the step that they run for.
#include <stdlib.h>

#include "device.cuh"
#include "numeric.cuh"

enum { THREADS = 256, MAX_BLOCKS = 64 };

struct host_block {
  void *data;
  host_block *next;
};

struct step_marks {
  int64_t *count;  // on the device: steps that have ended
  int64_t *passed; // the same, pinned, as the host may see it
  host_block *blocks;
};

int32_t step_alloc_mapped(inferno_device *dev, int64_t bytes, void **data) {
  host_block *block = (host_block *)calloc(1, sizeof *block);
  if (!block) return INFERNO_OUT_OF_MEMORY;
  cudaError_t error = cudaHostAlloc(&block->data, bytes > 0 ? (size_t)bytes : 1, cudaHostAllocDefault);
  if (error) {
    if (error == cudaErrorMemoryAllocation) cudaGetLastError(); // no failure of the device
    free(block);
    return cuda_status(error);
  }
  block->next = dev->steps->blocks;
  dev->steps->blocks = block;
  *data = block->data;
  return INFERNO_OK;
}

bool step_open(inferno_device *dev) {
  dev->steps = (step_marks *)calloc(1, sizeof *dev->steps);
  if (!dev->steps) return false;
  if (step_alloc_mapped(dev, sizeof(int64_t), (void **)&dev->steps->passed) != INFERNO_OK) return false;
  *dev->steps->passed = 0;
  return !cudaMalloc((void **)&dev->steps->count, sizeof(int64_t)) && !cudaMemset(dev->steps->count, 0, sizeof(int64_t));
}

void step_close(inferno_device *dev) {
  if (!dev->steps) return;
  cudaFree(dev->steps->count);
  for (host_block *b = dev->steps->blocks, *next; b; b = next) {
    next = b->next;
    cudaFreeHost(b->data);
    free(b);
  }
  free(dev->steps);
}

int64_t step_passed(const inferno_device *dev) { return __atomic_load_n(dev->steps->passed, __ATOMIC_ACQUIRE); }

static unsigned blocks_for(int64_t n) {
  int64_t blocks = div_up(n, THREADS);
  return (unsigned)(blocks < 1 ? 1 : blocks > MAX_BLOCKS ? (int64_t)MAX_BLOCKS : blocks);
}

static int64_t length(const inferno_tensor &t) { return t.rows * t.cols; }

// n items of type T: 16 bytes where everything lies at multiples of that.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    pull_kernel(T *dst, const T *src, int64_t slots, int64_t stride, int64_t n, const int64_t *count) {
  dependency_wait();
  allow_dependents();
  src += __ldcg((const long long *)count) % slots * stride;
  int64_t step = (int64_t)gridDim.x * THREADS;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step)
    dst[i] = __ldcv(src + i); // the host's: never from a cache
}

void cuda_pull(inferno_device *dev, const inferno_pull_args *a) {
  cuda_unsettle(dev);
  int64_t n = a->src.cols, slots = a->src.rows, stride = a->src.stride;
  const int64_t *count = dev->steps->count;
  bool wide = (uintptr_t)a->dst.data % 16 == 0 && (uintptr_t)a->src.data % 16 == 0 && n % 4 == 0 && stride % 4 == 0;
  if (wide) {
    cuda_launch(dev, "pull", pull_kernel<int4>, blocks_for(n / 4), THREADS, 0, (int4 *)a->dst.data, (const int4 *)a->src.data, slots,
                stride / 4, n / 4, count);
  } else {
    cuda_launch(dev, "pull", pull_kernel<int>, blocks_for(n), THREADS, 0, (int *)a->dst.data, (const int *)a->src.data, slots, stride, n,
                count);
  }
}

__global__ void __launch_bounds__(THREADS)
    scatter_kernel(int32_t *dst, int64_t size, const int32_t *index, const int32_t *values, int64_t n) {
  dependency_wait();
  allow_dependents();
  int64_t step = (int64_t)gridDim.x * THREADS;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) {
    int32_t at = index[i];
    if (at >= 0 && at < size) dst[at] = values[i];
  }
}

void cuda_scatter(inferno_device *dev, const inferno_scatter_args *a) {
  cuda_unsettle(dev);
  int64_t n = length(a->index);
  cuda_launch(dev, "scatter", scatter_kernel, blocks_for(n), THREADS, 0, (int32_t *)a->dst.data, length(a->dst),
              (const int32_t *)a->index.data, (const int32_t *)a->values.data, n);
}

__global__ void __launch_bounds__(THREADS)
    feed_kernel(int32_t *tokens, const int32_t *from, int64_t n, const int32_t *ids, int64_t num_ids) {
  dependency_wait();
  allow_dependents();
  int64_t step = (int64_t)gridDim.x * THREADS;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) {
    int32_t at = from[i];
    if (at >= 0 && at < num_ids) tokens[i] = ids[at];
  }
}

void cuda_feed(inferno_device *dev, const inferno_feed_args *a) {
  cuda_unsettle(dev);
  int64_t n = length(a->tokens);
  cuda_launch(dev, "feed", feed_kernel, blocks_for(n), THREADS, 0, (int32_t *)a->tokens.data, (const int32_t *)a->from.data, n,
              (const int32_t *)a->ids.data, length(a->ids));
}

// One block: all values are out, in the whole system, before the count says so.
__global__ void __launch_bounds__(THREADS)
    mark_kernel(const int32_t *values, int64_t n, int32_t *out, int64_t slots, int64_t stride, int64_t *count, int64_t *passed) {
  dependency_wait();
  allow_dependents();
  int64_t k = __ldcg((const long long *)count);
  out += k % slots * stride;
  for (int64_t i = threadIdx.x; i < n; i += THREADS) out[i] = values[i];
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x != 0) return;
  *count = k + 1;
  *(volatile int64_t *)passed = k + 1;
}

void cuda_mark(inferno_device *dev, const inferno_mark_args *a) {
  bool any = a->values.data != NULL;
  cuda_launch(dev, "mark", mark_kernel, 1, THREADS, 0, (const int32_t *)a->values.data, any ? a->out.cols : (int64_t)0,
              (int32_t *)a->out.data, any ? a->out.rows : (int64_t)1, any ? a->out.stride : (int64_t)0, dev->steps->count,
              dev->steps->passed);
}
