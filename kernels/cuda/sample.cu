// sample.cu: chooses a token id a row as inferno_sample_args defines it, without a sort. A block a row; the logits (4·v bytes) are read a
// few times, from L2 after the first.
//
//   - top_k and top_p find the smallest key that is kept, a key being a logit (larger first) and its id (lower first), by a radix selection
//     from the top digit down: a histogram of counts for top_k, of probabilities for top_p. Probabilities are fixed-point numbers of 2⁻⁴⁰,
//     so that their sums are exact and no order of additions matters.
//   - The draw is in two passes: scores in float32 find who can win, and those few are compared in double.
#include "device.cuh"
#include "numeric.cuh"

enum {
  THREADS = 1024,
  DIGIT = 11, // bits of a key that one pass of the selection settles
  BINS = 1 << DIGIT,
  MAX_BAN_BYTES = 160 << 10, // of the bit set of banned ids: 1.3 million ids
};

typedef unsigned long long u64;

constexpr float one = 0x1p40f; // a probability of 1, relative to the likeliest token's

struct sample_row {
  const float *logits;
  const uint32_t *banned; // a bit an id
  const inferno_sample_params *params;
  int v;
  bool wide;
  float largest; // of the logits that are not banned

  __device__ bool is_banned(int id) const { return banned[id / 32] >> (id % 32) & 1; }

  // Four logits; those that are banned or beyond the row are NaN.
  __device__ float4 load(int id) const {
    float l[4];
    if (wide && id + 4 <= v) {
      float4 w = *(const float4 *)(logits + id);
      l[0] = w.x, l[1] = w.y, l[2] = w.z, l[3] = w.w;
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) l[i] = id + i < v ? logits[id + i] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (id + i >= v || is_banned(id + i)) l[i] = NAN;
    }
    return make_float4(l[0], l[1], l[2], l[3]);
  }

  // logit/temperature relative to the largest.
  __device__ double relative(float logit) const { return ((double)logit - (double)largest) / (double)params->temperature; }
  __device__ float weight(float logit) const { return expf((float)relative(logit)); }
};

// Larger for larger logits (−0 equals 0), then for lower ids; a NaN has none.
__device__ __forceinline__ u64 key_of(float logit, int id) {
  uint32_t bits = __float_as_uint(logit + 0.0f);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return (u64)bits << 32 | (0xffffffffu - (uint32_t)id);
}

// Calls f(id, logit) of this thread's share of the tokens that are not banned.
template <typename F> __device__ __forceinline__ void for_each(const sample_row &r, F f) {
  for (int id = 4 * threadIdx.x; id < r.v; id += 4 * THREADS) {
    float4 l = r.load(id);
    if (l.x == l.x) f(id, l.x);
    if (l.y == l.y) f(id + 1, l.y);
    if (l.z == l.z) f(id + 2, l.z);
    if (l.w == l.w) f(id + 3, l.w);
  }
}

// Sums and maxima over the block, in every thread.
template <typename T, typename F> __device__ T reduce(T v, F combine) {
  __shared__ T parts[THREADS / 32];
#pragma unroll
  for (int width = 16; width > 0; width /= 2) v = combine(v, __shfl_xor_sync(~0u, v, width));
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  v = parts[threadIdx.x % 32];
#pragma unroll
  for (int width = 16; width > 0; width /= 2) v = combine(v, __shfl_xor_sync(~0u, v, width));
  return v;
}

__device__ u64 reduce_sum(u64 v) {
  return reduce(v, [](u64 a, u64 b) { return a + b; });
}
__device__ u64 reduce_max(u64 v) {
  return reduce(v, [](u64 a, u64 b) { return a > b ? a : b; });
}
__device__ float reduce_max(float v) {
  return reduce(v, [](float a, float b) { return fmaxf(a, b); });
}
__device__ double reduce_max(double v) {
  return reduce(v, [](double a, double b) { return fmax(a, b); });
}

// Selection ---------------------------------------------------------------------------------------------------------------------------

struct histogram {
  uint32_t count[BINS];
  u64 mass[BINS];
  int digit;
  u64 above; // of the bins above digit
};

// The highest digit at which the bins from the top on hold at least `wanted`, by warp 0: a lane adds up 64 bins.
template <typename T> __device__ void find_digit(histogram *h, const T *bins, u64 wanted) {
  if (threadIdx.x >= 32) return;
  const int share = BINS / 32, top = BINS - 1 - (int)threadIdx.x * share; // lane 0 has the highest
  u64 sum = 0;
  for (int i = 0; i < share; i++) sum += bins[top - i];
  u64 before = sum; // inclusive prefix over lanes, then exclusive
  for (int width = 1; width < 32; width *= 2) {
    u64 other = __shfl_up_sync(~0u, before, width);
    if (threadIdx.x >= width) before += other;
  }
  before -= sum;
  if (before < wanted && before + sum >= wanted) {
    int i = 0;
    while (before + bins[top - i] < wanted) before += bins[top - i++];
    h->digit = top - i;
    h->above = before;
  }
}

// The smallest key of the shortest list of the largest keys, from `lowest` up, that holds `wanted`: tokens where `by_mass` is not set, else
// probability. Tokens lighter than `cutoff` are known not to be in it. 1 <= wanted <= what there is.
__device__ u64 select_key(const sample_row &r, histogram *h, u64 lowest, u64 wanted, bool by_mass, u64 cutoff) {
  u64 prefix = 0;
  for (int shift = 64 - DIGIT, width = DIGIT;; width = min(DIGIT, shift), shift -= width) {
    __syncthreads();
    for (int i = threadIdx.x; i < BINS; i += THREADS) h->count[i] = 0, h->mass[i] = 0;
    __syncthreads();
    bool first = shift == 64 - DIGIT;
    for_each(r, [&](int id, float logit) {
      u64 key = key_of(logit, id);
      if (key < lowest || (!first && (key ^ prefix) >> (shift + width))) return;
      int digit = (int)(key >> shift) & ((1 << width) - 1);
      atomicAdd(&h->count[digit], 1u);
      if (!by_mass) return;
      u64 mass = (u64)(r.weight(logit) * one);
      if (mass >= cutoff) atomicAdd(&h->mass[digit], mass);
    });
    __syncthreads();
    if (by_mass) find_digit(h, h->mass, wanted);
    else find_digit(h, h->count, wanted);
    __syncthreads();
    int digit = h->digit;
    prefix |= (u64)digit << shift;
    wanted -= h->above;
    // All of the bin, or its only key.
    if (shift == 0 || h->count[digit] == 1 || (!by_mass && h->count[digit] == wanted)) return prefix;
  }
}

// The smallest key that top_k and top_p keep.
__device__ u64 lowest_kept(const sample_row &r, histogram *h) {
  const inferno_sample_params *p = r.params;
  u64 lowest = 0;
  if (p->top_k > 0 && p->top_k < r.v) {
    u64 open = 0;
    for_each(r, [&](int, float) { open++; });
    if ((u64)p->top_k < reduce_sum(open)) lowest = select_key(r, h, 0, (u64)p->top_k, false, 0);
  }
  if (!(p->top_p < 1)) return lowest;
  u64 total = 0;
  for_each(r, [&](int id, float logit) {
    if (key_of(logit, id) >= lowest) total += (u64)(r.weight(logit) * one);
  });
  total = reduce_sum(total);
  double wanted = ceil((double)p->top_p * (double)total);
  // Tokens lighter than this have less than 1 − top_p of the total all together, so the list that reaches top_p needs none of them.
  double cutoff = 0.5 * (1 - (double)p->top_p) * (double)total / r.v;
  return select_key(r, h, lowest, wanted > 1 ? (u64)wanted : 1, true, (u64)cutoff);
}

// Noise -------------------------------------------------------------------------------------------------------------------------------

// Philox4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011) for the counter
// (block, position, 0, 0).
__device__ __forceinline__ uint4 philox(u64 seed, uint32_t position, uint32_t block) {
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  uint4 c = make_uint4(block, position, 0, 0);
#pragma unroll
  for (int round = 0; round < 10; round++, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
    uint32_t high0 = __umulhi(0xd2511f53u, c.x), low0 = 0xd2511f53u * c.x;
    uint32_t high1 = __umulhi(0xcd9e8d57u, c.z), low1 = 0xcd9e8d57u * c.z;
    c = make_uint4(high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0);
  }
  return c;
}

// −ln(−ln(u)) for u = (word + 0.5)·2⁻³²; near u = 1 from 1 − u, which float32 can hold.
__device__ __forceinline__ float noise(uint32_t word) {
  float u = ((float)word + 0.5f) * 0x1p-32f, rest = ((float)~word + 0.5f) * 0x1p-32f;
  return -logf(word < 0x80000000u ? -logf(u) : -log1pf(-rest));
}

__device__ __forceinline__ double exact_noise(uint32_t word) { return -log(-log(((double)word + 0.5) * 0x1p-32)); }

// Calls f(id, logit, word) of this thread's share of the tokens that are kept.
template <typename F> __device__ __forceinline__ void for_each_kept(const sample_row &r, u64 lowest, F f) {
  float min_p = r.params->min_p;
  for (int id = 4 * threadIdx.x; id < r.v; id += 4 * THREADS) {
    float4 l = r.load(id);
    float logit[4] = {l.x, l.y, l.z, l.w};
    uint32_t kept = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      bool is_kept = logit[i] == logit[i] && key_of(logit[i], id + i) >= lowest;
      if (is_kept && min_p > 0) is_kept = logit[i] == r.largest || r.weight(logit[i]) >= min_p;
      kept |= (uint32_t)is_kept << i;
    }
    if (!kept) continue;
    uint4 w = philox(r.params->seed, r.params->position, (uint32_t)(id / 4));
    if (kept & 1) f(id, logit[0], w.x);
    if (kept & 2) f(id + 1, logit[1], w.y);
    if (kept & 4) f(id + 2, logit[2], w.z);
    if (kept & 8) f(id + 3, logit[3], w.w);
  }
}

// The kept token of the largest score, the lowest id among equals.
__device__ int draw(const sample_row &r, u64 lowest) {
  // Off by less than 10⁻⁵ for any token that can win: its logit lies at most 27 temperatures below the largest.
  const float slack = 1e-4f;
  float best = -INFINITY;
  for_each_kept(r, lowest, [&](int, float logit, uint32_t word) { best = fmaxf(best, (float)r.relative(logit) + noise(word)); });
  best = reduce_max(best) - slack;
  double score = -INFINITY;
  u64 chosen = 0; // ids counted down from the largest number, so that the lowest id is the largest
  for_each_kept(r, lowest, [&](int id, float logit, uint32_t word) {
    if ((float)r.relative(logit) + noise(word) < best) return;
    double s = (double)logit / (double)r.params->temperature + exact_noise(word);
    if (s > score || chosen == 0) score = s, chosen = 0xffffffffu - (uint32_t)id; // ids rise: the first of equals stays
  });
  double most = reduce_max(score);
  u64 winner = reduce_max(chosen != 0 && score == most ? chosen : 0);
  return (int)(0xffffffffu - (uint32_t)winner);
}

// Rows --------------------------------------------------------------------------------------------------------------------------------

__device__ int choose(sample_row &r, histogram *h) {
  bool finite = true;
  for (int id = threadIdx.x; id < r.v; id += THREADS) finite = finite && r.logits[id] < INFINITY; // false for a NaN
  if (!__syncthreads_and(finite)) return -1;
  u64 top = 0;
  for_each(r, [&](int id, float logit) {
    u64 key = key_of(logit, id);
    top = key > top ? key : top;
  });
  top = reduce_max(top);
  if (top == 0) return -1; // all are banned
  int likeliest = (int)(0xffffffffu - (uint32_t)top);
  r.largest = r.logits[likeliest];
  if (!(r.params->temperature > 0) || r.largest == -INFINITY) return likeliest;
  return draw(r, lowest_kept(r, h));
}

__global__ void __launch_bounds__(THREADS)
    sample_kernel(matrix_view<const float> logits, const inferno_sample_params *params, matrix_view<const int32_t> banned, int max_banned,
                  int32_t *ids, int v, bool wide) {
  extern __shared__ uint32_t bans[];
  __shared__ histogram h;
  allow_dependents();
  for (int i = threadIdx.x; i < (v + 31) / 32; i += THREADS) bans[i] = 0;
  dependency_wait();
  __syncthreads();
  const inferno_sample_params *p = params + blockIdx.x;
  int num_banned = banned.data ? min(p->num_banned, max_banned) : 0;
  for (int i = threadIdx.x; i < num_banned; i += THREADS) {
    int32_t id = banned.row(blockIdx.x)[i];
    if (id >= 0 && id < v) atomicOr(&bans[id / 32], 1u << (id % 32));
  }
  __syncthreads();
  sample_row r = {logits.row(blockIdx.x), bans, p, v, wide, 0};
  int id = choose(r, &h);
  if (threadIdx.x == 0) ids[blockIdx.x] = id;
}

void cuda_sample(inferno_device *dev, const inferno_sample_args *a) {
  int64_t v = a->logits.cols, shared = div_up(v, 32) * 4;
  if (shared > MAX_BAN_BYTES) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "sample: a vocabulary of more than 1310720 on CUDA");
  cudaError_t error = cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, MAX_BAN_BYTES);
  if (error) return cuda_fail(dev, error, "sample");
  cuda_launch(dev, "sample", sample_kernel, dim3((unsigned)a->logits.rows), THREADS, (size_t)shared, view<const float>(a->logits),
              (const inferno_sample_params *)a->params.data, view<const int32_t>(a->banned), (int)a->banned.cols, (int32_t *)a->ids.data,
              (int)v, is_wide(a->logits));
}
