// dense.cu
#include <atomic>
#include <stdlib.h>

#include "dense.cuh"

// What the blocks of a launch share: exchanges, and the count of blocks that ever began, which numbers the launches.
struct dense_space {
  uint64_t *words; // [3][EXCHANGED / 2]
  unsigned long long *tickets;
  bool granted;
};

// A block's part of a product.
struct dense_share {
  int first;  // tile; the others follow at a distance of the grid
  int chains; // each 16 rows by a part of K
  int before; // chains of the products before: the warps take them in turn
};

__global__ void __launch_bounds__(DENSE_THREADS, 1) dense_kernel(const __grid_constant__ dense_view d) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ dense_share shares[MAX_STEPS];
  __shared__ __align__(8) uint64_t full[DENSE_WARPS * MAX_SLOTS];
  __shared__ float squares[DENSE_ROWS * NORM_WARPS];
  __shared__ uint32_t launch_number;
  __shared__ __align__(16) uint4 nothing;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = d.n;
  unsigned char *staged = shared + DENSE_WARPS * d.slots * SLOT_BYTES;      // x: [n][pitch]
  float *sums = (float *)(staged + n * d.pitch);                            // [chain][n][16]
  uint32_t ring = shared_address(shared) + warp * d.slots * SLOT_BYTES, barriers = shared_address(full + warp * MAX_SLOTS);

  if (threadIdx.x == 0) {
    int chains = 0;
    for (int s = 0; s < d.steps; s++) {
      const dense_product &p = d.product[s];
      int first = blockIdx.x - p.offset + (blockIdx.x < p.offset ? gridDim.x : 0);
      int tiles = first < p.tiles ? (p.tiles - first + gridDim.x - 1) / gridDim.x : 0;
      shares[s] = {first, tiles << (p.log_split + (s == GATE_UP)), chains};
      chains += shares[s].chains;
    }
    nothing = make_uint4(0, 0, 0, 0);
  }
  if (lane == 0) {
    for (int i = 0; i < d.slots; i++) barrier_init(barriers + 8 * i, 1);
    barrier_init_done();
    fence_async();
  }
  __syncthreads();

  // The weights of a chain: its first unit, where it begins and how long it is.
  auto chain_of = [&](int step, int chain, int &from, int &length) {
    const dense_product &p = d.product[step];
    int part = chain & (1 << p.log_split) - 1, rest = chain >> p.log_split, which = 0, tile;
    if (step == GATE_UP) which = rest & 1, rest >>= 1;
    tile = shares[step].first + rest * gridDim.x;
    if (step == QKV) {
      if (tile >= p.third) which = 2, tile -= p.third;
      else if (tile >= p.second) which = 1, tile -= p.second;
    }
    from = p.units * part >> p.log_split;
    length = (p.units * (part + 1) >> p.log_split) - from;
    return p.w[which] + ((int64_t)(tile / 4) * p.units + from) * UNIT_BYTES + tile % 4 * 1024;
  };
  auto first_chain = [&](int step) { return (warp - shares[step].before) & (DENSE_WARPS - 1); };

  // What the warp's ring is filled with next. It runs ahead of the sums, through all of the products.
  const char *next = NULL;
  int next_left = 0, next_step = 0, next_chain = first_chain(0) - DENSE_WARPS;
  uint64_t policy = evict_first();
  auto refill = [&](int slot) {
    if (next_left == 0) {
      next_chain += DENSE_WARPS;
      while (next_step < d.steps && next_chain >= shares[next_step].chains) {
        if (++next_step < d.steps) next_chain = first_chain(next_step);
      }
      if (next_step == d.steps) return;
      int from;
      next = chain_of(next_step, next_chain, from, next_left);
    }
    if (lane == 0) {
      barrier_expect(barriers + 8 * slot, SLOT_BYTES);
      copy_bytes(ring + slot * SLOT_BYTES, next, SLOT_BYTES / 2, barriers + 8 * slot, policy);
      copy_bytes(ring + slot * SLOT_BYTES + SLOT_BYTES / 2, next + UNIT_BYTES / 2, SLOT_BYTES / 2, barriers + 8 * slot, policy);
    }
    next += UNIT_BYTES;
    next_left--;
  };
  unsigned long long ticket = 0;
  if (threadIdx.x == 0) ticket = atomicAdd(d.tickets, 1);
  for (int i = 0; i < d.slots; i++) refill(i);
  if (threadIdx.x == 0) launch_number = (uint32_t)(ticket / gridDim.x) + 1;
  for (int at = (blockIdx.x * DENSE_THREADS + threadIdx.x) * 32; at < d.d; at += gridDim.x * DENSE_THREADS * 32) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(d.mlp_norm + at));
    if (d.steps > QKV) asm volatile("prefetch.global.L2 [%0];" ::"l"(d.next_norm + at));
  }
  __syncthreads();
  dependency_wait();
  allow_dependents();
  uint32_t launch = launch_number;

  // The thread's result of a product: rows 2·pair and 2·pair + 1 of its mine-th tile, of row m of x.
  int pair = threadIdx.x % 8, m = threadIdx.x / 8 % n, mine = threadIdx.x / 8 / n;
  uint32_t residual = 0;
  {
    int row = (shares[OUT].first + mine * (int)gridDim.x) * TILE_ROWS + 2 * pair;
    if (mine < shares[OUT].chains >> d.product[OUT].log_split && row < d.d) residual = *(const uint32_t *)(d.x.row(m) + row);
  }

  int slot = 0;
  uint32_t parity = 0;
  for (int step = 0; step < d.steps; step++) {
    const dense_product &p = d.product[step];
    int chains = shares[step].chains;
    if (chains == 0) continue;

    // x, row after row, filled up with zeros to whole units.
    int cols = step == OUT ? d.queries : step == DOWN ? d.f : d.d;
    for (int i = cols / 8 + threadIdx.x; i < p.units * 8; i += DENSE_THREADS) {
      for (int r = 0; r < n; r++) *(uint4 *)(staged + r * d.pitch + 16 * i) = make_uint4(0, 0, 0, 0);
    }
    if (step == OUT) {
      for (int r = 0; r < n; r++) {
        for (int i = threadIdx.x; i < cols / 8; i += DENSE_THREADS) {
          *(uint4 *)(staged + r * d.pitch + 16 * i) = __ldcg((const uint4 *)(d.attended.row(r) + 8 * i));
        }
      }
    } else if (step == DOWN) {
      constexpr int AT_ONCE = 4;
      for (int r = 0; r < n; r++) {
        const uint64_t *words = d.exchange[1] + (int64_t)r * (cols / 2);
        for (int i = threadIdx.x; i < cols / 8; i += AT_ONCE * DENSE_THREADS) {
          uint4 v[AT_ONCE];
          bool ready;
          do {
            ready = true;
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++) {
              int at = i + q * DENSE_THREADS;
              if (at < cols / 8) ready &= receive(v[q], words + 4 * at, launch);
            }
          } while (!ready);
#pragma unroll
          for (int q = 0; q < AT_ONCE; q++) {
            int at = i + q * DENSE_THREADS;
            if (at < cols / 8) *(uint4 *)(staged + r * d.pitch + 16 * at) = v[q];
          }
        }
      }
    } else {
      // rms_norm: its threads' groups and the order of its sums.
      const uint64_t *words = d.exchange[step == GATE_UP ? 0 : 2];
      const float *w = step == GATE_UP ? d.mlp_norm : d.next_norm;
      uint4 raw[NORM_GROUPS];
      float4 g[NORM_GROUPS][2];
      int row[NORM_GROUPS], group[NORM_GROUPS];
      bool some[NORM_GROUPS], ready;
#pragma unroll
      for (int q = 0; q < NORM_GROUPS; q++) {
        int at = warp + q * DENSE_WARPS;
        row[q] = at / d.norm_warps;
        group[q] = at % d.norm_warps * 32 + lane;
        some[q] = row[q] < n && 8 * group[q] < cols;
        raw[q] = make_uint4(0, 0, 0, 0);
        if (some[q]) g[q][0] = __ldg((const float4 *)(w + 8 * group[q])), g[q][1] = __ldg((const float4 *)(w + 8 * group[q] + 4));
      }
      do {
        ready = true;
#pragma unroll
        for (int q = 0; q < NORM_GROUPS; q++) {
          if (some[q]) ready &= receive(raw[q], words + row[q] * (cols / 2) + 4 * group[q], launch);
        }
      } while (!ready);
#pragma unroll
      for (int q = 0; q < NORM_GROUPS; q++) {
        if (row[q] >= n) continue;
        const uint32_t *v = (const uint32_t *)&raw[q];
        float sum = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
          sum = fmaf(low_half(v[j]), low_half(v[j]), sum);
          sum = fmaf(high_half(v[j]), high_half(v[j]), sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) squares[row[q] * NORM_WARPS + group[q] / 32] = sum;
      }
      __syncthreads();
#pragma unroll
      for (int q = 0; q < NORM_GROUPS; q++) {
        if (!some[q]) continue;
        float sum = 0;
        for (int i = 0; i < d.norm_warps; i++) sum += squares[row[q] * NORM_WARPS + i];
        float scale = 1.0f / sqrtf(sum / (float)cols + (step == GATE_UP ? d.mlp_eps : d.next_eps));
        const uint32_t *v = (const uint32_t *)&raw[q];
        const float *gain = (const float *)g[q];
        uint32_t out[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          out[j] = pack_halves(low_half(v[j]) * scale * gain[2 * j], high_half(v[j]) * scale * gain[2 * j + 1]);
        }
        *(uint4 *)(staged + row[q] * d.pitch + 16 * group[q]) = make_uint4(out[0], out[1], out[2], out[3]);
      }
    }
    __syncthreads();

    // Sums of 16 rows over a part of K.
    uint32_t w_row = lane % 16 * 64 + (lane / 16 ^ lane % 16 / 2 % 4) * 16;
    bool live = lane % 8 < n;
    uint32_t x_row = live ? shared_address(staged) + lane % 8 * d.pitch + lane / 8 * 16 : shared_address(&nothing);
    for (int chain = first_chain(step); chain < chains; chain += DENSE_WARPS) {
      int from, length;
      chain_of(step, chain, from, length);
      uint32_t x_at = live ? x_row + from * 128 : x_row, x_step = live ? 64 : 0;
      float acc[4] = {};
      for (int i = 0; i < length; i++) {
        uint32_t a[4][4], b[2][4], w_at = ring + slot * SLOT_BYTES + w_row;
        load_matrices(b[0], x_at);
        load_matrices(b[1], x_at + x_step);
        x_at += 2 * x_step;
        barrier_wait(barriers + 8 * slot, parity);
        load_matrices(a[0], w_at);
        load_matrices(a[1], w_at ^ 32);
        load_matrices(a[2], w_at + 1024);
        load_matrices(a[3], w_at + 1024 ^ 32);
        mma(acc, a[0], b[0][0], b[0][1]);
        mma(acc, a[1], b[0][2], b[0][3]);
        __syncwarp();
        refill(slot);
        mma(acc, a[2], b[1][0], b[1][1]);
        mma(acc, a[3], b[1][2], b[1][3]);
        if (++slot == d.slots) slot = 0, parity ^= 1;
      }
      float *to = sums + chain * n * TILE_ROWS + lane / 4;
      int token = lane % 4 * 2;
      if (token < n) to[token * TILE_ROWS] = acc[0], to[token * TILE_ROWS + 8] = acc[2];
      if (token + 1 < n) to[(token + 1) * TILE_ROWS] = acc[1], to[(token + 1) * TILE_ROWS + 8] = acc[3];
    }
    __syncthreads();

    // What becomes of the sums.
    int parts = 1 << p.log_split, halves = step == GATE_UP ? 2 : 1;
    if (mine * parts * halves >= chains) continue;
    int tile = shares[step].first + mine * gridDim.x, which = 0;
    auto sum_of = [&](int half) {
      const float *at = sums + ((mine * halves + half) * parts * n + m) * TILE_ROWS + 2 * pair;
      float2 v = {0, 0};
      for (int part = 0; part < parts; part++) {
        float2 s = *(const float2 *)(at + part * n * TILE_ROWS);
        v.x += s.x, v.y += s.y;
      }
      return v;
    };
    if (step == QKV) {
      if (tile >= p.third) which = 2, tile -= p.third;
      else if (tile >= p.second) which = 1, tile -= p.second;
    }
    int row = tile * TILE_ROWS + 2 * pair;
    auto with_bias = [&](float2 v, const float *bias) {
      if (bias) v.x += bias[row], v.y += bias[row + 1];
      return v;
    };
    if (step == GATE_UP) {
      if (row >= d.f) continue;
      float2 gate = with_bias(sum_of(0), p.bias[0]), up = with_bias(sum_of(1), p.bias[1]);
      uint32_t g = pack_halves(gate.x, gate.y), u = pack_halves(up.x, up.y);
      send(d.exchange[1] + ((int64_t)m * d.f + row) / 2, pack_halves(swiglu(low_half(g), low_half(u)), swiglu(high_half(g), high_half(u))),
           launch);
    } else if (step == QKV) {
      int rows = which == 0 ? d.queries : d.cache.kv_heads * d.cache.head_dim;
      if (row >= rows) continue;
      float2 v = with_bias(sum_of(0), p.bias[which]);
      uint32_t word = pack_halves(v.x, v.y);
      int head = row / d.cache.head_dim, i = row % d.cache.head_dim;
      if (which < 2) {
        const float *angles = d.angles.row(m) + i / 2;
        v.x = low_half(word), v.y = high_half(word);
        rotate(v.x, v.y, angles[0], angles[d.cache.head_dim / 2]);
        word = pack_halves(v.x, v.y);
      }
      if (which == 0) {
        *(uint32_t *)(d.q.row(m) + row) = word;
      } else {
        const matrix_view<bf16> &cache = which == 1 ? d.cache.k : d.cache.v;
        int64_t at = d.cache.at(d.cache.slots[m], head, cache.stride);
        if (at >= 0) *(uint32_t *)(cache.data + at + i) = word;
      }
    } else {
      if (row >= d.d) continue;
      float2 v = with_bias(sum_of(0), p.bias[0]);
      residual = pack_halves(v.x + low_half(residual), v.y + high_half(residual));
      if (step == DOWN) *(uint32_t *)(d.x.row(m) + row) = residual;
      if (step + 1 < d.steps) send(d.exchange[step == OUT ? 0 : 2] + ((int64_t)m * d.d + row) / 2, residual, launch);
    }
  }
#endif
}

bool dense_open(inferno_device *dev) {
  dense_space *s = (dense_space *)calloc(1, sizeof *s);
  dev->dense = s;
  if (!s || !dev->encode_tensor_map) return s;
  size_t bytes = 3 * EXCHANGED / 2 * sizeof(uint64_t);
  return !cudaMalloc((void **)&s->words, bytes) && !cudaMalloc((void **)&s->tickets, sizeof *s->tickets) &&
         !cudaMemset(s->words, 0, bytes) && !cudaMemset(s->tickets, 0, sizeof *s->tickets);
}

void dense_close(inferno_device *dev) {
  if (!dev->dense) return;
  cudaFree(dev->dense->words);
  cudaFree(dev->dense->tickets);
  free(dev->dense);
}

// Weights of every other type are BF16 once packed.
static bool is_bf16(const inferno_weight &w) { return w.dtype != INFERNO_F32; }

// Whether rows of t may be written two columns at a time.
static bool pairs(const inferno_tensor &t) { return t.dtype == INFERNO_BF16 && (uintptr_t)t.data % 4 == 0 && t.stride % 2 == 0; }

#ifndef DENSE_BESIDE
#define DENSE_BESIDE(k) ((k) > 64 ? 75 << 10 : 56 << 10)
#endif

// Fills in d, and returns the shared memory that it takes; 0: composed.
static size_t plan(inferno_device *dev, const inferno_dense_args *a, dense_view &d) {
  const inferno_norm_gate_up_args &mlp = a->mlp;
  const inferno_norm_qkv_args &next = a->next;
  int64_t n = a->attended.rows, queries = a->attended.cols, dim = a->o.w.rows, ffn = a->down.w.cols;
  int blocks = dev->properties.multiProcessorCount;
  if (!dev->dense->words || dev->exact || n > DENSE_ROWS) return 0;
  if (a->attended.dtype != INFERNO_BF16 || !is_wide(a->attended) || !pairs(a->o.out)) return 0;
  if (!is_bf16(a->o.w) || !is_bf16(mlp.gate) || !is_bf16(mlp.up) || !is_bf16(a->down.w)) return 0;
  if (dim % 8 || ffn % 8 || queries % 8 || dim > MAX_NORMED || n * dim > EXCHANGED || n * ffn > EXCHANGED) return 0;
  if ((uintptr_t)mlp.norm.data % 16) return 0;
  auto groups = [](const inferno_weight &w) { return (int)weight_groups(w.rows); };
  auto tiles = [](const inferno_weight &w) { return (int32_t)div_up(w.rows, TILE_ROWS); };
  auto bias = [](const inferno_tensor &t) { return (const float *)t.data; };

  d.steps = a->has_next ? 4 : 3;
  d.n = (int)n, d.d = (int)dim, d.f = (int)ffn, d.queries = (int)queries;
  d.norm_warps = (int)div_up(dim, 256);
  if (n * d.norm_warps > NORM_GROUPS * DENSE_WARPS) return 0;
  d.mlp_eps = mlp.eps, d.mlp_norm = (const float *)mlp.norm.data;
  d.attended = view<const bf16>(a->attended), d.x = view<bf16>(a->o.out);
  for (int i = 0; i < 3; i++) d.exchange[i] = dev->dense->words + i * EXCHANGED / 2;
  d.tickets = dev->dense->tickets;

  dense_product *p = d.product;
  p[OUT].w[0] = (const char *)a->o.w.data, p[OUT].bias[0] = bias(a->o.bias), p[OUT].tiles = tiles(a->o.w);
  p[OUT].units = (int32_t)weight_units(queries), p[OUT].log_split = split_of(groups(a->o.w), queries);
  p[GATE_UP].w[0] = (const char *)mlp.gate.data, p[GATE_UP].bias[0] = bias(mlp.gate_bias), p[GATE_UP].tiles = tiles(mlp.gate);
  p[GATE_UP].w[1] = (const char *)mlp.up.data, p[GATE_UP].bias[1] = bias(mlp.up_bias);
  p[GATE_UP].units = (int32_t)weight_units(dim), p[GATE_UP].log_split = split_of(groups(mlp.gate) + groups(mlp.up), dim);
  p[DOWN].w[0] = (const char *)a->down.w.data, p[DOWN].bias[0] = bias(a->down.bias), p[DOWN].tiles = tiles(a->down.w);
  p[DOWN].units = (int32_t)weight_units(ffn), p[DOWN].log_split = split_of(groups(a->down.w), ffn);
  p[GATE_UP].offset = p[OUT].tiles % blocks;
  p[QKV].offset = (p[GATE_UP].offset + p[GATE_UP].tiles) % blocks;
  int64_t head_dim = 0;
  if (a->has_next) {
    const inferno_product *of[3] = {&next.q, &next.k, &next.v};
    head_dim = next.head_dim;
    if (!pairs(next.q.out) || !pairs(next.k_cache) || !pairs(next.v_cache) || head_dim % 2 || (uintptr_t)next.norm.data % 16) return 0;
    d.next_eps = next.eps, d.next_norm = (const float *)next.norm.data;
    d.q = view<bf16>(next.q.out), d.angles = view<const float>(next.table), d.cache = caches_of<bf16>(&next);
    p[QKV].second = tiles(next.q.w), p[QKV].third = p[QKV].second + tiles(next.k.w), p[QKV].tiles = p[QKV].third + tiles(next.v.w);
    p[QKV].units = (int32_t)weight_units(dim);
    p[QKV].log_split = split_of(groups(next.q.w) + groups(next.k.w) + groups(next.v.w), dim);
    for (int i = 0; i < 3; i++) {
      if (!is_bf16(of[i]->w)) return 0;
      p[QKV].w[i] = (const char *)of[i]->w.data, p[QKV].bias[i] = bias(of[i]->bias);
    }
  }
  int64_t units = 0, chains = 0;
  for (int i = 0; i < d.steps; i++) {
    int64_t most = div_up(p[i].tiles, blocks);
    if (most * 8 * n > DENSE_THREADS) return 0; // a pair of rows a thread
    if (p[i].units > units) units = p[i].units;
    if (most << (p[i].log_split + (i == GATE_UP)) > chains) chains = most << (p[i].log_split + (i == GATE_UP));
  }
  d.pitch = (int)units * UNIT_COLS * 2 + 16;
  int64_t rest = n * d.pitch + chains * n * TILE_ROWS * 4, fixed = 2048; // of the kernel's own
  int64_t room = (int64_t)dev->properties.sharedMemPerMultiprocessor - DENSE_BESIDE(head_dim) - fixed - rest;
  int64_t most = (int64_t)dev->properties.sharedMemPerBlockOptin - fixed - rest;
  int64_t slots = (room < most ? room : most) / (DENSE_WARPS * SLOT_BYTES);
  if (slots < MIN_SLOTS) return 0;
  d.slots = (int)(slots < MAX_SLOTS ? slots : MAX_SLOTS);
  return (size_t)(DENSE_WARPS * d.slots * SLOT_BYTES + rest);
}

static void composed(inferno_device *dev, const inferno_dense_args *a) {
  auto product = [&](const inferno_tensor &x, const inferno_product &p) {
    inferno_matmul_args args = {sizeof args, 1, x, {p}};
    cuda_matmul(dev, &args);
  };
  auto normed = [&](const inferno_tensor &x, const inferno_tensor &w, const inferno_tensor &out, float eps) {
    inferno_rms_norm_args args = {sizeof args, eps, out, x, w};
    cuda_rms_norm(dev, &args);
  };
  const inferno_norm_gate_up_args &mlp = a->mlp;
  product(a->attended, a->o);
  normed(mlp.x, mlp.norm, mlp.normed, mlp.eps);
  inferno_matmul_args both = {sizeof both, 2, mlp.normed, {{mlp.gate, mlp.gate_bias, mlp.out, 0, 0}, {mlp.up, mlp.up_bias, mlp.scratch, 0, 0}}};
  cuda_matmul(dev, &both);
  inferno_swiglu_args gated = {sizeof gated, 0, mlp.out, mlp.out, mlp.scratch};
  cuda_swiglu(dev, &gated);
  product(mlp.out, a->down);
  if (!a->has_next) return;
  const inferno_norm_qkv_args &next = a->next;
  normed(next.x, next.norm, next.normed, next.eps);
  inferno_matmul_args qkv = {sizeof qkv, 3, next.normed, {next.q, next.k, next.v}};
  cuda_matmul(dev, &qkv);
  inferno_rope_store_kv_args store = {};
  store.size = sizeof store;
  store.heads = next.heads, store.kv_heads = next.kv_heads, store.head_dim = next.head_dim, store.block_size = next.block_size;
  store.q = next.q.out, store.key = next.k.out, store.value = next.v.out, store.table = next.table, store.slots = next.slots;
  store.k_cache = next.k_cache, store.v_cache = next.v_cache;
  cuda_rope_store_kv(dev, &store);
}

void cuda_dense(inferno_device *dev, const inferno_dense_args *a) {
  dense_view d = {};
  size_t shared = plan(dev, a, d);
  if (!shared) return composed(dev, a);
  cudaError_t error = cudaFuncSetAttribute(dense_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  if (error) return cuda_fail(dev, error, "dense");
  cuda_launch(dev, "dense", dense_kernel, dim3((unsigned)dev->properties.multiProcessorCount), DENSE_THREADS, shared, d);
}
