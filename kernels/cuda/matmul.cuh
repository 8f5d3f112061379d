// matmul.cuh: what the files of the products share.
#ifndef INFERNO_CUDA_MATMUL_CUH
#define INFERNO_CUDA_MATMUL_CUH

#include <cuda.h>

#include "device.cuh"
#include "numeric.cuh"

// One product of a launch: out[n, rows] = x · wᵀ + bias (+ out). Its blocks are those from first_block on.
struct product_view {
  const void *w;     // packed, as numeric.cuh says
  const float *bias; // [rows], or NULL
  void *out;
  int64_t stride; // of out
  int32_t rows;
  int32_t first_block;
  int32_t is_f32; // out's type; else BF16
  int32_t accumulate;
};

struct product_list {
  product_view product[INFERNO_MAX_PRODUCTS];
  int32_t count, blocks;

  // Appends p, whose rows are split over blocks of `rows_per_block`.
  void add(const inferno_product &p, int rows_per_block) {
    product[count++] = {p.w.data, (const float *)p.bias.data, p.out.data,  p.out.stride, (int32_t)p.w.rows,
                        blocks,   p.out.dtype == INFERNO_F32, p.accumulate};
    blocks += (int32_t)div_up(p.w.rows, rows_per_block);
  }

  // The product of a block.
  __device__ int index(int block) const {
    int i = 0;
    while (i + 1 < count && block >= product[i + 1].first_block) i++;
    return i;
  }
  __device__ const product_view &of(int block) const { return product[index(block)]; }

  // The first unit of the i-th group of rows of block `block`, whose blocks have `groups` of them; beyond the weight the last group again.
  __device__ const char *weight(int block, int groups, int i, int units) const {
    const product_view &p = of(block);
    int64_t group = min((block - p.first_block) * groups + i, (p.rows - 1) / GROUP_ROWS);
    return (const char *)p.w + group * units * UNIT_BYTES;
  }
};

// Eight columns of x as they are, zeros beyond the row.
__device__ __forceinline__ uint4 load_x(const bf16 *p, int64_t left, bool wide) {
  if (wide && left >= 8) return *(const uint4 *)p;
  uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    uint32_t low = 2 * i < left ? *(const uint16_t *)(p + 2 * i) : 0, high = 2 * i + 1 < left ? *(const uint16_t *)(p + 2 * i + 1) : 0;
    word[i] = low | high << 16;
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

// What out[m, row] becomes before it is rounded.
__device__ __forceinline__ float with_bias(const product_view &p, int64_t m, int row, float sum) {
  int64_t at = m * p.stride + row;
  if (p.bias) sum += p.bias[row];
  if (p.accumulate) sum += p.is_f32 ? ((const float *)p.out)[at] : to_float(((const bf16 *)p.out)[at]);
  return sum;
}

// Writes out[m, row], rounded once.
__device__ __forceinline__ void store(const product_view &p, int64_t m, int row, float v) {
  int64_t at = m * p.stride + row;
  if (p.is_f32) ((float *)p.out)[at] = v;
  else ((bf16 *)p.out)[at] = __float2bfloat16_rn(v);
}

// Writes out[m, row] and out[m, row + 1], as far as the product has them.
__device__ __forceinline__ void store_pair(const product_view &p, int64_t m, int row, float2 v) {
  int64_t at = m * p.stride + row;
  bool both = row + 1 < p.rows && row % 2 == 0 && p.stride % 2 == 0;
  if (both && !p.is_f32 && (uintptr_t)p.out % 4 == 0) {
    *(uint32_t *)((bf16 *)p.out + at) = pack_halves(v.x, v.y);
  } else if (both && p.is_f32 && (uintptr_t)p.out % 8 == 0) {
    *(float2 *)((float *)p.out + at) = v;
  } else {
    if (row < p.rows) store(p, m, row, v.x);
    if (row + 1 < p.rows) store(p, m, row + 1, v.y);
  }
}

__device__ __forceinline__ void finish(const product_view &p, int64_t m, int row, float sum) {
  store(p, m, row, with_bias(p, m, row, sum));
}

// x BF16 or F32, weights F32: matmul_f32.cu.
void cuda_matmul_f32(inferno_device *dev, const inferno_tensor &x, const product_list &products);
enum { F32_BLOCK_ROWS = 8 };

// x BF16, weights BF16, any number of rows of x: matmul_small.cu.
void cuda_matmul_small(inferno_device *dev, const inferno_tensor &x, const product_list &products);

// On Hopper ---------------------------------------------------------------------------------------------------------------------------

// tensor_map.cu
CUtensorMap activation_map(inferno_device *dev, const inferno_tensor &x, int tokens);

// How many clusters of `size` blocks of a kernel the card holds at once.
template <typename K> cudaError_t cuda_clusters(int *clusters, K kernel, unsigned threads, size_t shared, unsigned size) {
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {size, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(size);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaOccupancyMaxActiveClusters(clusters, kernel, &config);
}

// x BF16, weights BF16, few rows of x; x is wide where it has more than the first of these: matmul_skinny.cu.
enum { SKINNY_STAGED_ROWS = 16, SKINNY_ROWS = 64 };
void cuda_matmul_skinny(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count);

// Into 2 to the power of what K is cut, for products of `tiles` groups of 64 rows together: part r of P is the units from units·r/P up to
// units·(r+1)/P, each summed in the order of K by steps of 16 columns; then the parts are added in their order.
int split_of(int tiles, int64_t cols);

// x BF16 and wide, weights BF16, many rows of x: matmul_large.cu.
void cuda_matmul_large(inferno_device *dev, const inferno_tensor &x, const inferno_product *products, int count);

#endif // INFERNO_CUDA_MATMUL_CUH
