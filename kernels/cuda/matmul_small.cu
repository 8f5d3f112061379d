// matmul_small.cu: out[n,m] = x[n,c] · w[m,c]ᵀ for few rows of x, BF16 operands, float32 sums. Bound by the weights' bytes, 2·m·c, each read
// once for up to 64 rows of x.
//
// The weights are the 16-row operand of mma.m16n8k16, tokens the 8 columns, so that one token costs as much as eight. A block owns a tile
// of 16 rows of w; its 16 warps split c into runs of whole chunks, which depend on c alone, and the runs' sums are added in their order:
// a row of x gives the same bits in any batch. Each warp keeps two chunks of 1 KiB in flight, and requests the first two before it waits
// for the kernel that makes x.
#include "matmul.cuh"

static_assert(GROUP_ROWS / TILE_ROWS == 4 && UNIT_COLS / CHUNK_COLS == 2, "a chunk of 4 tiles lies in 256 pieces of 16 bytes");

enum {
  WARPS = 16,
  THREADS = 32 * WARPS,
  IN_FLIGHT = 2,
  STAGED_BYTES = 96 << 10, // of x in shared memory, so that two blocks fit on a multiprocessor
  PADDING = 8,             // elements between rows of x in shared memory, against bank conflicts
};

__device__ __forceinline__ uint4 load_weights(const uint4 *p) { return __ldcs(p); }

__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// TILES of 8 tokens a block; STAGED: x lies in shared memory, else each warp reads its own from L2.
template <int TILES, bool STAGED>
__global__ void __launch_bounds__(THREADS, TILES <= 2 ? 2 : 1)
    matmul_small_kernel(product_list products, matrix_view<const bf16> x, int n, int cols, int chunks, bool wide) {
  extern __shared__ __align__(16) unsigned char shared[];
  float *sums = (float *)shared;                             // [WARPS][TILES · 128]: row of w · 8 + token
  bf16 *staged = (bf16 *)(shared + WARPS * TILES * 128 * 4); // [tokens][32 · chunks + PADDING]
  const product_view &p = products.of(blockIdx.x);
  int tile = blockIdx.x - p.first_block, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int run = (chunks + WARPS - 1) / WARPS, from = min(chunks, warp * run), to = min(chunks, from + run);
  const uint4 *w = (const uint4 *)p.w + ((int64_t)(tile / 4) * chunks * 4 + tile % 4) * 64 + 4 * g + (t ^ (g / 2));
  uint4 upper[IN_FLIGHT], lower[IN_FLIGHT]; // rows g and g + 8 of a chunk
#pragma unroll
  for (int i = 0; i < IN_FLIGHT; i++) {
    if (from + i < to) upper[i] = load_weights(w + (int64_t)(from + i) * 256), lower[i] = load_weights(w + (int64_t)(from + i) * 256 + 32);
  }
  dependency_wait();
  allow_dependents();
  int first = blockIdx.y * TILES * 8, tokens = min(n - first, TILES * 8), pitch = CHUNK_COLS * chunks + PADDING;
  if (STAGED) {
    for (int m = 0; m < tokens; m++) {
      for (int c = 8 * threadIdx.x; c < CHUNK_COLS * chunks; c += 8 * THREADS) {
        *(uint4 *)(staged + m * pitch + c) = load_x(x.row(first + m) + c, cols - c, wide);
      }
    }
    __syncthreads();
  }
  float acc[TILES][4] = {};
  for (int c = from; c < to; c += IN_FLIGHT) {
#pragma unroll
    for (int i = 0; i < IN_FLIGHT; i++) {
      if (c + i >= to) continue;
      uint4 a = upper[i], b = lower[i];
      int next = c + IN_FLIGHT + i;
      if (next < to) upper[i] = load_weights(w + (int64_t)next * 256), lower[i] = load_weights(w + (int64_t)next * 256 + 32);
#pragma unroll
      for (int j = 0; j < TILES; j++) {
        int m = j * 8 + g, col = (c + i) * CHUNK_COLS + 8 * t;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (m < tokens) v = STAGED ? *(const uint4 *)(staged + m * pitch + col) : load_x(x.row(first + m) + col, cols - col, wide);
        mma(acc[j], a.x, b.x, a.y, b.y, v.x, v.y);
        mma(acc[j], a.z, b.z, a.w, b.w, v.z, v.w);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < TILES; j++) {
    float *mine = sums + (warp * TILES + j) * 128;
    *(float2 *)(mine + 8 * g + 2 * t) = make_float2(acc[j][0], acc[j][1]);
    *(float2 *)(mine + 8 * (g + 8) + 2 * t) = make_float2(acc[j][2], acc[j][3]);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < TILE_ROWS * tokens; i += THREADS) {
    int row = i % TILE_ROWS, m = i / TILE_ROWS;
    float sum = 0;
#pragma unroll
    for (int q = 0; q < WARPS; q++) sum += sums[(q * TILES + m / 8) * 128 + 8 * row + m % 8];
    if (tile * TILE_ROWS + row < p.rows) finish(p, first + m, tile * TILE_ROWS + row, sum);
  }
}

template <int TILES> static void go(inferno_device *dev, const inferno_tensor &x, const product_list &products) {
  int chunks = 2 * (int)weight_units(x.cols);
  int64_t tokens = x.rows < TILES * 8 ? x.rows : TILES * 8, staged = tokens * (CHUNK_COLS * chunks + PADDING) * 2;
  size_t sums = (size_t)WARPS * TILES * 128 * 4;
  bool fits = staged <= STAGED_BYTES;
  auto kernel = fits ? matmul_small_kernel<TILES, true> : matmul_small_kernel<TILES, false>;
  size_t shared = sums + (fits ? (size_t)staged : 0);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(sums + STAGED_BYTES));
  if (error) return cuda_fail(dev, error, "matmul");
  cuda_launch(dev, "matmul", kernel, dim3((unsigned)products.blocks, (unsigned)div_up(x.rows, TILES * 8)), THREADS, shared, products,
              view<const bf16>(x), (int)x.rows, (int)x.cols, chunks, is_wide(x));
}

void cuda_matmul_small(inferno_device *dev, const inferno_tensor &x, const product_list &products) {
  if (x.rows <= 8) return go<1>(dev, x, products);
  if (x.rows <= 16) return go<2>(dev, x, products);
  if (x.rows <= 32) return go<4>(dev, x, products);
  go<8>(dev, x, products);
}
