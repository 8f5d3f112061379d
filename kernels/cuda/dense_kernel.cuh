// dense_kernel.cuh: the kernel of dense.cu, which says what it is.
#ifndef INFERNO_CUDA_DENSE_KERNEL_CUH
#define INFERNO_CUDA_DENSE_KERNEL_CUH

#include "dense_ring.cuh"
#include "dense_rows.cuh"

// Lists the block's chains of all steps, and returns how many there are.
__device__ __forceinline__ int deal(dense_share (&shares)[MAX_STEPS], dense_chain *chains, const dense_view &d) {
  int total = 0;
#pragma unroll
  for (int s = 0; s < MAX_STEPS; s++) {
    if (s == d.steps) break;
    const dense_product &p = d.product[s];
    int first = (int)blockIdx.x - p.offset;
    if (first < 0) first += gridDim.x;
    int count = p.even + (first < p.odd) << (p.log_split + p.log_half + (s == GATE_UP)), at = (int)threadIdx.x - total;
    if (threadIdx.x == 0) shares[s] = {first, total, count};
    total += count;
    if (at < 0 || at >= count) continue;
    int lower = at & p.log_half, part = at >> p.log_half & (1 << p.log_split) - 1, rest = at >> (p.log_half + p.log_split);
    const char *w = p.w[0];
    if (s == GATE_UP) {
      if (rest & 1) w = p.w[1];
      rest >>= 1;
    }
    int tile = first + rest * gridDim.x;
    if (s == QKV) {
      if (tile >= p.third) w = p.w[2], tile -= p.third;
      else if (tile >= p.second) w = p.w[1], tile -= p.second;
    }
    int from = p.units * part >> p.log_split, to = p.units * (part + 1) >> p.log_split;
    w += ((int64_t)(tile / 4) * p.units + from) * UNIT_BYTES + tile % 4 * 1024 + lower * 512;
    chains[threadIdx.x] = {w, (int16_t)from, (int16_t)(to - from), (int16_t)p.log_half, (int16_t)(tile % 4 << p.log_half | lower)};
  }
  return total;
}

// What a thread makes of the sums of a step: rows `row` and row + 1 of a weight, for row m of x.
struct dense_result {
  bool live;
  int m, row, which; // of the step's weights
  float2 bias, up_bias;
  float cosine, sine;
  bf16 *to;          // or NULL
  uint32_t residual; // x before it is added to; kept from OUT to DOWN

  __device__ __forceinline__ void begin(const dense_view &d, int step, int tile, bool has_tile, int pair) {
    const dense_product &p = d.product[step];
    int rows = step == GATE_UP ? d.f : step == QKV ? d.queries : d.d;
    which = 0;
    if (step == QKV && tile >= p.second) {
      which = tile >= p.third ? 2 : 1;
      tile -= which == 2 ? p.third : p.second;
      rows = d.cache.kv_heads * d.cache.head_dim;
    }
    row = tile * TILE_ROWS + 2 * pair;
    live = has_tile && row < rows;
    to = NULL;
    if (!live) return;
    if (p.bias[which]) bias = make_float2(p.bias[which][row], p.bias[which][row + 1]);
    if (step == GATE_UP && p.bias[1]) up_bias = make_float2(p.bias[1][row], p.bias[1][row + 1]);
    if (step == OUT) residual = __ldcg((const uint32_t *)(d.x.row(m) + row));
    if (step == DOWN) to = d.x.row(m) + row;
    if (step != QKV) return;
    int head = row / d.cache.head_dim, i = row - head * d.cache.head_dim;
    if (which < 2) cosine = d.angles.row(m)[i / 2], sine = d.angles.row(m)[i / 2 + d.cache.head_dim / 2];
    if (which == 0) {
      to = d.q.row(m) + row;
    } else {
      const matrix_view<bf16> &cache = which == 1 ? d.cache.k : d.cache.v;
      int64_t at = d.cache.at(d.cache.slots[m], head, cache.stride);
      if (at >= 0) to = cache.data + at + i;
    }
  }

  // v: the sums; up: those of up.
  __device__ __forceinline__ void end(const dense_view &d, int step, float2 v, float2 up, uint32_t launch) {
    const dense_product &p = d.product[step];
    if (p.bias[which]) v.x += bias.x, v.y += bias.y;
    uint32_t word;
    if (step == GATE_UP) {
      if (p.bias[1]) up.x += up_bias.x, up.y += up_bias.y;
      uint32_t g = pack_halves(v.x, v.y), u = pack_halves(up.x, up.y);
      word = pack_halves(swiglu(low_half(g), low_half(u)), swiglu(high_half(g), high_half(u)));
      send(d.exchange[1] + ((int64_t)m * d.f + row) / 2, word, launch);
    } else if (step == QKV) {
      word = pack_halves(v.x, v.y);
      if (which < 2) {
        v.x = low_half(word), v.y = high_half(word);
        rotate(v.x, v.y, cosine, sine);
        word = pack_halves(v.x, v.y);
      }
    } else {
      word = residual = pack_halves(v.x + low_half(residual), v.y + high_half(residual));
      if (step + 1 < d.steps) send(d.exchange[step == OUT ? 0 : 2] + ((int64_t)m * d.d + row) / 2, word, launch);
    }
    if (to) *(uint32_t *)to = word;
  }
};

// The launch bound leaves registers for a block of attention.
template <int SLOTS> __global__ void __launch_bounds__(DENSE_THREADS + 128, 1) dense_kernel(const __grid_constant__ dense_view d) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ dense_share shares[MAX_STEPS];
  __shared__ __align__(16) dense_chain chains[MAX_CHAINS];
  __shared__ float squares[NORM_GROUPS * DENSE_WARPS];
  __shared__ uint32_t launch_number;
  __shared__ __align__(16) uint4 nothing; // a row of x that is not there
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = d.n;
  staged_rows x = {shared + DENSE_WARPS * SLOTS * SLOT_BYTES, n, d.pitch};
  float *sums = (float *)(x.data + n * d.pitch + X_SLACK); // [chain of the step, halves as one][n][16]

  unsigned long long ticket = 0;
  if (threadIdx.x == 0) ticket = atomicAdd(d.tickets, 1), nothing = make_uint4(0, 0, 0, 0);
  int total = deal(shares, chains, d);
  __syncthreads();
  dense_ring<SLOTS> ring = {
      {NULL, 0, warp - DENSE_WARPS, 0, 0}, chains, total, 0, shared_address(shared) + warp * SLOTS * SLOT_BYTES, evict_first()};
#pragma unroll 1
  for (int i = 0; i < SLOTS; i++) ring.fill(i);
  for (int at = (blockIdx.x * DENSE_THREADS + threadIdx.x) * 32; at < d.d; at += gridDim.x * DENSE_THREADS * 32) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(d.mlp_norm + at));
    if (d.steps > QKV) asm volatile("prefetch.global.L2 [%0];" ::"l"(d.next_norm + at));
  }
  if (threadIdx.x == 0) launch_number = (uint32_t)(ticket / gridDim.x) + 1;
  __syncthreads();
  bool handed = d.handed.words != NULL;
  if (!handed) dependency_wait(), allow_dependents();
  uint32_t launch = launch_number;

  int pair = threadIdx.x % 8, mine = threadIdx.x / 8 / n; // the thread's rows of each tile, and which of the block's tiles
  dense_result result = {};
  result.m = threadIdx.x / 8 % n;
  uint32_t x_step = lane % 8 < n ? 64 : 0;
  uint32_t x_row = x_step ? shared_address(x.data) + lane % 8 * d.pitch + lane / 8 * 16 : shared_address(&nothing);
#pragma unroll 1
  for (int step = 0; step < d.steps; step++) {
    if (handed && step == SETTLED) dependency_wait(), allow_dependents();
    const dense_product &p = d.product[step];
    dense_share share = shares[step];
    if (share.chains == 0) continue;
    int log_half = p.log_half, parts = 1 << p.log_split, halves = step == GATE_UP ? 2 : 1;
    result.begin(d, step, share.first + mine * gridDim.x, mine * parts * halves << log_half < share.chains, pair);

    int groups = (step == OUT ? d.queries : step == DOWN ? d.f : d.d) / 8;
    x.clear(groups, p.units * (UNIT_COLS / 8));
    if (step == OUT && handed) x.take(d.handed.words, groups, d.handed.tag((launch - 1) * gridDim.x));
    else if (step == OUT) x.copy(d.attended, groups);
    else if (step == GATE_UP) x.take_normed(d.exchange[0], groups, launch, d.mlp_norm, d.mlp_eps, d.norm_warps, squares);
    else if (step == DOWN) x.take(d.exchange[1], groups, launch);
    else x.take_normed(d.exchange[2], groups, launch, d.next_norm, d.next_eps, d.norm_warps, squares);
    __syncthreads();

    int last = share.begin + share.chains;
#pragma unroll 1
    for (int chain = share.begin + ((warp - share.begin) & DENSE_WARPS - 1); chain < last; chain += DENSE_WARPS) {
      float acc[4] = {};
      uint32_t x_at = x_row + 2 * x_step * chains[chain].from;
      if (log_half) ring.template sum<true>(acc, chains[chain].length, x_at, x_step);
      else ring.template sum<false>(acc, chains[chain].length, x_at, x_step);
      int at = chain - share.begin, token = lane % 4 * 2;
      float *out = sums + (at >> log_half) * n * TILE_ROWS + (at & log_half) * 8 + lane / 4;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        if (token + i >= n) continue;
        out[(token + i) * TILE_ROWS] = acc[i];
        if (!log_half) out[(token + i) * TILE_ROWS + 8] = acc[2 + i];
      }
    }
    __syncthreads();

    if (!result.live) continue;
    // Parts are added in the order of K.
    auto sum_of = [&](int half) {
      const float *at = sums + ((mine * halves + half) * parts * n + result.m) * TILE_ROWS + 2 * pair;
      float2 v = {0, 0};
#pragma unroll 4
      for (int part = 0; part < parts; part++) {
        float2 s = *(const float2 *)(at + part * n * TILE_ROWS);
        v.x += s.x, v.y += s.y;
      }
      return v;
    };
    float2 v = sum_of(0), up = {};
    if (step == GATE_UP) up = sum_of(1);
    result.end(d, step, v, up, launch);
  }
#endif
}

#endif // INFERNO_CUDA_DENSE_KERNEL_CUH
