// dense.cu
#include <stdlib.h>

#include <atomic>
#include <type_traits>

#include "dense.cuh"

// What the blocks of a launch share: exchanges, and the count of blocks that ever began, which numbers the launches.
struct dense_space {
  uint64_t *words; // [3][EXCHANGED / 2]; NULL: all is composed
  unsigned long long *tickets;
};

// The device of each card whose blocks may wait for each other. Those of two would each hold a part of the card, and wait for ever.
static std::atomic<inferno_device *> waiting[64];

// A slot's weights, and as many columns of x: two pieces of 32 columns, or four where the weights are 8 rows.
struct dense_fragments {
  uint32_t w[4][4], x[4][4];
};

template <int SLOTS> __global__ void __launch_bounds__(DENSE_THREADS + 128, 1) dense_kernel(const __grid_constant__ dense_view d) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ dense_share shares[MAX_STEPS];
  __shared__ __align__(16) dense_chain chains[MAX_CHAINS];
  __shared__ float squares[DENSE_ROWS * NORM_WARPS];
  __shared__ uint32_t launch_number;
  __shared__ __align__(16) uint4 nothing;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = d.n;
  unsigned char *staged = shared + DENSE_WARPS * SLOTS * SLOT_BYTES; // x: [n][pitch]
  float *sums = (float *)(staged + n * d.pitch);                     // [chain of the step][n][16]
  uint32_t ring = shared_address(shared) + warp * SLOTS * SLOT_BYTES;

  unsigned long long ticket = 0;
  if (threadIdx.x == 0) ticket = atomicAdd(d.tickets, 1), nothing = make_uint4(0, 0, 0, 0);
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
  __syncthreads();

  // The warp's ring runs ahead of the sums, through all of the steps.
  dense_cursor filled = {NULL, 0, warp - DENSE_WARPS, 0, 0}, asked;
  uint64_t policy = evict_first();
  // Whole units, which four blocks share: one of them asks for each.
  auto ask = [&] {
    if (!asked.next(chains, total)) return;
    int siblings = 4 << asked.half;
    if (lane == 0 && ((asked.left >> asked.half) + asked.place) % siblings == 0) {
      const char *unit = asked.w - asked.place * (1024 >> asked.half);
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(unit), "r"(asked.whole() ? UNIT_BYTES << asked.half : UNIT_BYTES));
    }
  };
  auto refill = [&](int slot) {
    if (filled.next(chains, total)) {
      uint32_t to = ring + slot * SLOT_BYTES + 16 * lane;
      copy_async(to, filled.piece(0) + 16 * lane, policy);
      copy_async(to + 512, filled.piece(1) + 16 * lane, policy);
      if (filled.whole()) {
        copy_async(to + 1024, filled.piece(2) + 16 * lane, policy);
        copy_async(to + 1536, filled.piece(3) + 16 * lane, policy);
      }
    }
    copies_commit();
  };
#pragma unroll 1
  for (int i = 0; i < SLOTS; i++) refill(i);
  asked = filled;
#pragma unroll 1
  for (int i = 0; i < d.ahead; i++) ask();
  for (int at = (blockIdx.x * DENSE_THREADS + threadIdx.x) * 32; at < d.d; at += gridDim.x * DENSE_THREADS * 32) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(d.mlp_norm + at));
    if (d.steps > QKV) asm volatile("prefetch.global.L2 [%0];" ::"l"(d.next_norm + at));
  }
  if (threadIdx.x == 0) launch_number = (uint32_t)(ticket / gridDim.x) + 1;
  __syncthreads();
  dependency_wait();
  allow_dependents();
  uint32_t launch = launch_number;

  // The thread's result of each product: rows 2·pair and 2·pair + 1 of its mine-th tile, of row m of x.
  int pair = threadIdx.x % 8, m = threadIdx.x / 8 % n, mine = threadIdx.x / 8 / n;
  uint32_t residual = 0;
  int slot = 0;
#pragma unroll 1
  for (int step = 0; step < d.steps; step++) {
    const dense_product &p = d.product[step];
    dense_share share = shares[step];
    if (share.chains == 0) continue;

    // What becomes of the thread's sums, as far as it can be known now.
    int parts = 1 << p.log_split, halves = step == GATE_UP ? 2 : 1, which = 0;
    int tile = share.first + mine * gridDim.x, rows = step == GATE_UP ? d.f : step == QKV ? d.queries : d.d;
    bool live = mine * parts * halves << p.log_half < share.chains;
    if (step == QKV && tile >= p.second) {
      which = tile >= p.third ? 2 : 1;
      tile -= which == 2 ? p.third : p.second;
      rows = d.cache.kv_heads * d.cache.head_dim;
    }
    int row = tile * TILE_ROWS + 2 * pair;
    live = live && row < rows;
    float2 bias = {0, 0}, up_bias = {0, 0};
    float cosine = 1, sine = 0;
    bf16 *to = NULL; // in memory
    if (live) {
      if (p.bias[which]) bias = make_float2(p.bias[which][row], p.bias[which][row + 1]);
      if (step == GATE_UP && p.bias[1]) up_bias = make_float2(p.bias[1][row], p.bias[1][row + 1]);
      if (step == OUT) residual = *(const uint32_t *)(d.x.row(m) + row);
      if (step == DOWN) to = d.x.row(m) + row;
      if (step == QKV) {
        int head = row / d.cache.head_dim, i = row % d.cache.head_dim;
        if (which < 2) {
          const float *angles = d.angles.row(m) + i / 2;
          cosine = angles[0], sine = angles[d.cache.head_dim / 2];
        }
        if (which == 0) {
          to = d.q.row(m) + row;
        } else {
          const matrix_view<bf16> &cache = which == 1 ? d.cache.k : d.cache.v;
          int64_t at = d.cache.at(d.cache.slots[m], head, cache.stride);
          if (at >= 0) to = cache.data + at + i;
        }
      }
    }

    // x, row after row, filled up with zeros to whole units.
    int cols = step == OUT ? d.queries : step == DOWN ? d.f : d.d, groups = cols / 8;
    for (int i = groups + threadIdx.x; i < p.units * 8; i += DENSE_THREADS) {
      for (int r = 0; r < n; r++) *(uint4 *)(staged + r * d.pitch + 16 * i) = make_uint4(0, 0, 0, 0);
    }
    if (step == OUT) {
      for (int r = 0; r < n; r++) {
        for (int i = threadIdx.x; i < groups; i += DENSE_THREADS) {
          *(uint4 *)(staged + r * d.pitch + 16 * i) = __ldcg((const uint4 *)(d.attended.row(r) + 8 * i));
        }
      }
    } else if (step == DOWN) {
      constexpr int AT_ONCE = 4;
      if (groups > DENSE_THREADS) await(d.exchange[1], groups * n, launch);
#pragma unroll 1
      for (int r = 0; r < n; r++) {
        const uint64_t *words = d.exchange[1] + (int64_t)r * (cols / 2);
#pragma unroll 1
        for (int i = threadIdx.x; i < groups; i += AT_ONCE * DENSE_THREADS) {
          uint4 v[AT_ONCE];
          bool ready;
          do {
            ready = true;
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++) ready &= receive(v[q], words + 4 * min(i + q * DENSE_THREADS, groups - 1), launch);
          } while (!ready);
#pragma unroll
          for (int q = 0; q < AT_ONCE; q++) {
            if (i + q * DENSE_THREADS < groups) *(uint4 *)(staged + r * d.pitch + 16 * (i + q * DENSE_THREADS)) = v[q];
          }
        }
      }
    } else {
      // rms_norm: its threads' groups and the order of its sums.
      const uint64_t *words = d.exchange[step == GATE_UP ? 0 : 2];
      const float *w = step == GATE_UP ? d.mlp_norm : d.next_norm, eps = step == GATE_UP ? d.mlp_eps : d.next_eps;
      uint4 v[NORM_GROUPS];
      float4 gain[NORM_GROUPS][2];
      int of_row[NORM_GROUPS], group[NORM_GROUPS];
#pragma unroll
      for (int q = 0; q < NORM_GROUPS; q++) {
        int at = warp + q * DENSE_WARPS;
        of_row[q] = at / d.norm_warps;
        group[q] = of_row[q] < n ? (at - of_row[q] * d.norm_warps) * 32 + lane : groups;
        v[q] = make_uint4(0, 0, 0, 0);
        if (group[q] < groups) gain[q][0] = __ldg((const float4 *)w + 2 * group[q]), gain[q][1] = __ldg((const float4 *)w + 2 * group[q] + 1);
      }
#pragma unroll
      for (int q = 0; q < NORM_GROUPS; q++) {
        if (group[q] < groups) {
          while (!receive(v[q], words + of_row[q] * (cols / 2) + 4 * group[q], launch)) {}
        }
      }
#pragma unroll
      for (int q = 0; q < NORM_GROUPS; q++) {
        if (of_row[q] >= n) continue;
        const uint32_t *word = (const uint32_t *)&v[q];
        float sum = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
          sum = fmaf(low_half(word[j]), low_half(word[j]), sum);
          sum = fmaf(high_half(word[j]), high_half(word[j]), sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) squares[warp + q * DENSE_WARPS] = sum;
      }
      __syncthreads();
#pragma unroll
      for (int q = 0; q < NORM_GROUPS; q++) {
        if (group[q] >= groups) continue;
        float sum = 0;
#pragma unroll 4
        for (int i = 0; i < d.norm_warps; i++) sum += squares[of_row[q] * d.norm_warps + i];
        float scale = 1.0f / sqrtf(sum / (float)cols + eps);
        const float *g = (const float *)gain[q];
        uint32_t *word = (uint32_t *)&v[q];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          word[j] = pack_halves(low_half(word[j]) * scale * g[2 * j], high_half(word[j]) * scale * g[2 * j + 1]);
        }
        *(uint4 *)(staged + of_row[q] * d.pitch + 16 * group[q]) = v[q];
      }
    }
    __syncthreads();

    // Sums of a chain's rows over its part of K.
    uint32_t x_step = lane % 8 < n ? 64 : 0;
    uint32_t x_row = x_step ? shared_address(staged) + lane % 8 * d.pitch + lane / 8 * 16 : shared_address(&nothing);
    uint32_t w_row = ring + lane % 16 * 64 + (lane / 16 ^ lane % 16 / 2 % 4) * 16, w_half = ring + lane % 8 * 64 + (lane / 8 ^ lane % 8 / 2) * 16;
#pragma unroll 1
    for (int chain = share.begin + ((warp - share.begin) & DENSE_WARPS - 1); chain < share.begin + share.chains; chain += DENSE_WARPS) {
      int length = chains[chain].length;
      uint32_t x_at = x_row + 2 * x_step * chains[chain].from;
      float acc[4] = {};
      auto sum_chain = [&](auto is_half) {
        constexpr bool HALF = decltype(is_half)::value;
        constexpr int PIECES = HALF ? 4 : 2; // of 32 columns
        dense_fragments even, odd;
        auto load = [&](dense_fragments &f) {
          copies_wait<SLOTS - 1>();
          __syncwarp();
          uint32_t at = (HALF ? w_half : w_row) + slot * SLOT_BYTES;
#pragma unroll
          for (int i = 0; i < 4; i++) {
            load_matrices(f.w[i], HALF ? at + i * 512 : at + i / 2 * 1024 ^ i % 2 * 32);
            if (i < PIECES) load_matrices(f.x[i], x_at + i * x_step);
          }
          x_at += PIECES * x_step;
          __syncwarp();
          refill(slot);
          if (d.ahead) ask();
          if (++slot == SLOTS) slot = 0;
        };
        // Multiplies what is loaded, after it asked for what follows it.
        auto advance = [&](dense_fragments &f, dense_fragments &following, int left) {
          if (left > PIECES / 2) load(following);
#pragma unroll
          for (int i = 0; i < 4; i++) {
            if (HALF) {
              if (i >= 2 && left == 1) break;
              const uint32_t first[4] = {f.w[i][0], 0, f.w[i][1], 0}, second[4] = {f.w[i][2], 0, f.w[i][3], 0};
              mma(acc, first, f.x[i][0], f.x[i][1]);
              mma(acc, second, f.x[i][2], f.x[i][3]);
            } else {
              mma(acc, f.w[i], f.x[i / 2][i % 2 * 2], f.x[i / 2][i % 2 * 2 + 1]);
            }
          }
        };
        load(even);
#pragma unroll 1
        for (int left = length; left > 0; left -= PIECES) {
          advance(even, odd, left);
          if (left > PIECES / 2) advance(odd, even, left - PIECES / 2);
        }
      };
      if (p.log_half) sum_chain(std::true_type());
      else sum_chain(std::false_type());
      int at = chain - share.begin, token = lane % 4 * 2;
      float *out = sums + (at >> p.log_half) * n * TILE_ROWS + (at & p.log_half) * 8 + lane / 4;
      if (token < n) {
        out[token * TILE_ROWS] = acc[0];
        if (!p.log_half) out[token * TILE_ROWS + 8] = acc[2];
      }
      if (token + 1 < n) {
        out[(token + 1) * TILE_ROWS] = acc[1];
        if (!p.log_half) out[(token + 1) * TILE_ROWS + 8] = acc[3];
      }
    }
    __syncthreads();

    if (!live) continue;
    auto sum_of = [&](int half, bool biased, float2 b) {
      const float *at = sums + ((mine * halves + half) * parts * n + m) * TILE_ROWS + 2 * pair;
      float2 v = {0, 0};
#pragma unroll 4
      for (int part = 0; part < parts; part++) {
        float2 s = *(const float2 *)(at + part * n * TILE_ROWS);
        v.x += s.x, v.y += s.y;
      }
      if (biased) v.x += b.x, v.y += b.y;
      return v;
    };
    float2 v = sum_of(0, p.bias[which], bias);
    if (step == GATE_UP) {
      float2 up = sum_of(1, p.bias[1], up_bias);
      uint32_t g = pack_halves(v.x, v.y), u = pack_halves(up.x, up.y);
      uint32_t word = pack_halves(swiglu(low_half(g), low_half(u)), swiglu(high_half(g), high_half(u)));
      send(d.exchange[1] + ((int64_t)m * d.f + row) / 2, word, launch);
    } else if (step == QKV) {
      uint32_t word = pack_halves(v.x, v.y);
      if (which < 2) {
        v.x = low_half(word), v.y = high_half(word);
        rotate(v.x, v.y, cosine, sine);
        word = pack_halves(v.x, v.y);
      }
      if (to) *(uint32_t *)to = word;
    } else {
      residual = pack_halves(v.x + low_half(residual), v.y + high_half(residual));
      if (step + 1 < d.steps) send(d.exchange[step == OUT ? 0 : 2] + ((int64_t)m * d.d + row) / 2, residual, launch);
      if (to) *(uint32_t *)to = residual;
    }
  }
#endif
}

bool dense_open(inferno_device *dev) {
  dense_space *s = (dense_space *)calloc(1, sizeof *s);
  dev->dense = s;
  if (!s || !dev->encode_tensor_map || dev->exact || dev->ordinal >= 64) return s;
  inferno_device *none = NULL;
  if (!waiting[dev->ordinal].compare_exchange_strong(none, dev)) return true;
  size_t bytes = 3 * EXCHANGED / 2 * sizeof(uint64_t);
  return !cudaMalloc((void **)&s->words, bytes) && !cudaMalloc((void **)&s->tickets, sizeof *s->tickets) &&
         !cudaMemset(s->words, 0, bytes) && !cudaMemset(s->tickets, 0, sizeof *s->tickets);
}

void dense_close(inferno_device *dev) {
  if (!dev->dense) return;
  cudaFree(dev->dense->words);
  cudaFree(dev->dense->tickets);
  free(dev->dense);
  inferno_device *own = dev;
  if (dev->ordinal < 64) waiting[dev->ordinal].compare_exchange_strong(own, NULL);
}

// Weights of every other type are BF16 once packed.
static bool is_bf16(const inferno_weight &w) { return w.dtype != INFERNO_F32; }

// Whether rows of t may be written two columns at a time.
static bool pairs(const inferno_tensor &t) { return t.dtype == INFERNO_BF16 && (uintptr_t)t.data % 4 == 0 && t.stride % 2 == 0; }

#ifndef DENSE_HALF
#define DENSE_HALF (of_them % DENSE_WARPS != 0)
#endif
#ifndef DENSE_AHEAD
#define DENSE_AHEAD 8
#endif
#ifndef DENSE_BESIDE
#define DENSE_BESIDE(k) ((k) > 64 ? 75 << 10 : 56 << 10)
#endif

struct dense_plan {
  size_t rest;   // shared memory besides the rings
  int64_t slots; // of a ring that there is room for
};

// Whether the fused form is for these arguments; then fills in d.
static bool plan_of(inferno_device *dev, const inferno_dense_args *a, dense_view &d, dense_plan &plan) {
  const inferno_norm_gate_up_args &mlp = a->mlp;
  const inferno_norm_qkv_args &next = a->next;
  int64_t n = a->attended.rows, queries = a->attended.cols, dim = a->o.w.rows, ffn = a->down.w.cols;
  int blocks = dev->properties.multiProcessorCount;
  if (!dev->dense->words || n > DENSE_ROWS) return false;
  if (a->attended.dtype != INFERNO_BF16 || !is_wide(a->attended) || !pairs(a->o.out)) return false;
  if (!is_bf16(a->o.w) || !is_bf16(mlp.gate) || !is_bf16(mlp.up) || !is_bf16(a->down.w)) return false;
  if (dim % 8 || ffn % 8 || queries % 8 || dim > MAX_NORMED || n * dim > EXCHANGED || n * ffn > EXCHANGED) return false;
  if ((uintptr_t)mlp.norm.data % 16) return false;
  auto groups = [](const inferno_weight &w) { return (int)weight_groups(w.rows); };
  auto tiles = [](const inferno_weight &w) { return (int32_t)div_up(w.rows, TILE_ROWS); };
  auto bias = [](const inferno_tensor &t) { return (const float *)t.data; };

  d.steps = a->has_next ? 4 : 3;
  d.n = (int)n, d.d = (int)dim, d.f = (int)ffn, d.queries = (int)queries;
  d.norm_warps = (int)div_up(dim, 256);
  if (n * d.norm_warps > NORM_GROUPS * DENSE_WARPS) return false;
  d.mlp_eps = mlp.eps, d.mlp_norm = (const float *)mlp.norm.data;
  d.attended = view<const bf16>(a->attended), d.x = view<bf16>(a->o.out);
  for (int i = 0; i < 3; i++) d.exchange[i] = dev->dense->words + i * EXCHANGED / 2;
  d.tickets = dev->dense->tickets, d.ahead = DENSE_AHEAD;

  dense_product *p = d.product;
  int offset = 0;
  int64_t units = 0, chains = 0, total = 0;
  bool fits = true;
  // Those of the next step begin where those of this one end, but for DOWN, whose residuals are OUT's results.
  auto deal = [&](int step, int64_t tiles, int64_t cols, int groups) {
    p[step].units = (int32_t)weight_units(cols), p[step].log_split = split_of(groups, cols);
    p[step].even = (int32_t)(tiles / blocks), p[step].odd = (int32_t)(tiles % blocks), p[step].offset = step == DOWN ? 0 : offset;
    if (step != DOWN) offset = (int)((offset + tiles) % blocks);
    int64_t most = div_up(tiles, blocks), of_them = most << (p[step].log_split + (step == GATE_UP));
    fits = fits && most * 8 * n <= DENSE_THREADS; // a pair of rows a thread
    if (p[step].units > units) units = p[step].units;
    if (of_them > chains) chains = of_them;
    p[step].log_half = DENSE_HALF;
    total += of_them << p[step].log_half;
  };
  p[OUT].w[0] = (const char *)a->o.w.data, p[OUT].bias[0] = bias(a->o.bias);
  deal(OUT, tiles(a->o.w), queries, groups(a->o.w));
  p[GATE_UP].w[0] = (const char *)mlp.gate.data, p[GATE_UP].bias[0] = bias(mlp.gate_bias);
  p[GATE_UP].w[1] = (const char *)mlp.up.data, p[GATE_UP].bias[1] = bias(mlp.up_bias);
  deal(GATE_UP, tiles(mlp.gate), dim, groups(mlp.gate) + groups(mlp.up));
  p[DOWN].w[0] = (const char *)a->down.w.data, p[DOWN].bias[0] = bias(a->down.bias);
  deal(DOWN, tiles(a->down.w), ffn, groups(a->down.w));
  int64_t head_dim = 0;
  if (a->has_next) {
    const inferno_product *of[3] = {&next.q, &next.k, &next.v};
    head_dim = next.head_dim;
    if (!pairs(next.q.out) || !pairs(next.k_cache) || !pairs(next.v_cache) || head_dim % 2 || (uintptr_t)next.norm.data % 16) return false;
    d.next_eps = next.eps, d.next_norm = (const float *)next.norm.data;
    d.q = view<bf16>(next.q.out), d.angles = view<const float>(next.table), d.cache = caches_of<bf16>(&next);
    p[QKV].second = tiles(next.q.w), p[QKV].third = p[QKV].second + tiles(next.k.w);
    deal(QKV, p[QKV].third + tiles(next.v.w), dim, groups(next.q.w) + groups(next.k.w) + groups(next.v.w));
    for (int i = 0; i < 3; i++) {
      if (!is_bf16(of[i]->w)) return false;
      p[QKV].w[i] = (const char *)of[i]->w.data, p[QKV].bias[i] = bias(of[i]->bias);
    }
  }
  if (!fits || total > MAX_CHAINS) return false;
  d.pitch = (int)units * UNIT_COLS * 2 + 16;
  plan.rest = (size_t)(n * d.pitch + chains * n * TILE_ROWS * 4);
  const int64_t own = 6 << 10; // what the kernel declares, and the card's share
  int64_t room = (int64_t)dev->properties.sharedMemPerMultiprocessor - DENSE_BESIDE(head_dim);
  int64_t most = (int64_t)dev->properties.sharedMemPerBlockOptin;
  plan.slots = ((room < most ? room : most) - own - (int64_t)plan.rest) / (DENSE_WARPS * SLOT_BYTES);
  return plan.slots >= 4;
}

bool cuda_dense_fits(inferno_device *dev, const inferno_dense_args *a) {
  dense_view d = {};
  dense_plan plan = {};
  return plan_of(dev, a, d, plan);
}

template <int SLOTS> static void go(inferno_device *dev, const dense_view &d, const dense_plan &plan) {
  size_t shared = DENSE_WARPS * SLOTS * SLOT_BYTES + plan.rest;
  auto kernel = dense_kernel<SLOTS>;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  if (error) return cuda_fail(dev, error, "dense");
  cuda_launch(dev, "dense", kernel, dim3((unsigned)dev->properties.multiProcessorCount), DENSE_THREADS, shared, d);
}

void cuda_dense(inferno_device *dev, const inferno_dense_args *a) {
  dense_view d = {};
  dense_plan plan = {};
  if (!plan_of(dev, a, d, plan)) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "dense: no fused form");
  if (plan.slots >= 9) return go<9>(dev, d, plan);
  if (plan.slots >= 7) return go<7>(dev, d, plan);
  if (plan.slots >= 5) return go<5>(dev, d, plan);
  go<4>(dev, d, plan);
}
