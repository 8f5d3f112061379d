// matmul.cuh: what the files of the products share.
#ifndef INFERNO_CUDA_MATMUL_CUH
#define INFERNO_CUDA_MATMUL_CUH

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
  __device__ const product_view &of(int block) const {
    int i = 0;
    while (i + 1 < count && block >= product[i + 1].first_block) i++;
    return product[i];
  }
};

// Writes out[m, row], rounded once.
__device__ __forceinline__ void finish(const product_view &p, int64_t m, int row, float sum) {
  int64_t at = m * p.stride + row;
  if (p.bias) sum += p.bias[row];
  if (p.is_f32) {
    float *out = (float *)p.out + at;
    *out = p.accumulate ? sum + *out : sum;
  } else {
    bf16 *out = (bf16 *)p.out + at;
    *out = __float2bfloat16_rn(p.accumulate ? sum + __bfloat162float(*out) : sum);
  }
}

// x BF16 or F32, weights F32: matmul_f32.cu.
void cuda_matmul_f32(inferno_device *dev, const inferno_tensor &x, const product_list &products);
enum { F32_BLOCK_ROWS = 8 };

// x BF16, weights BF16, any number of rows of x: matmul_small.cu.
void cuda_matmul_small(inferno_device *dev, const inferno_tensor &x, const product_list &products);

#endif // INFERNO_CUDA_MATMUL_CUH
