// sample.cu: chooses a token id a row as inferno_sample_args defines it, without a sort. The logits (4·v bytes a row) lie in L2: with few
// rows the time is that of a launch and of what depends on one another, with many that of reading the logits twice.
//
//   - Several blocks share a row. Each finds the largest logit of its part and, where nothing is cut off, its best draw; the block that
//     is done last compares what they found. All comparisons are exact, so that a choice does not depend on how many blocks there are.
//   - A draw is in two passes: scores in float32 find who can win, and those few are compared in double.
//   - Rows with top_k, typical_p, top_p or min_p are finished by the last block alone: sample_cut.cuh, sample_typical.cuh.
//   - Rows with an adjustment are changed first, each block its own part: sample_adjust.cuh. For others that is one look at their params.
#include <stdlib.h>

#include "sample_adjust.cuh"
#include "sample_typical.cuh"

enum {
  MAX_PARTS = 32,    // blocks of a row; a warp compares what they found
  MAX_SHARED = 1024, // blocks of a launch that shares rows
};

// What a block found in its part of a row.
struct alignas(16) sample_part {
  u64 top;         // the largest key; 0: all are banned
  u64 score;       // of the best draw, as score_bits has it; 0: none was made
  uint32_t winner; // that token's id, counted down from the largest number
  uint32_t broken; // 1: a NaN or +Inf
};

// What blocks of one row tell each other. Launches follow one another, so that one is enough.
struct sample_space {
  sample_part *parts; // [MAX_SHARED]
  uint32_t *arrived;  // [MAX_SHARED] blocks of each row that are done; 0 between launches
  int max_ban_bytes;  // of the bit set of banned ids in shared memory
};

// Draws -------------------------------------------------------------------------------------------------------------------------------

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

// At least noise(word): with rest = 1 − u it is at most −ln(rest), and rest at least the power of two below it.
__device__ __forceinline__ float noise_bound(uint32_t word) { return (float)(__clz(~word) + 1) * 0.6931472f; }

constexpr float most_noise = 22.9f, least_noise = -3.2f;

// Of a score in float32: it is off by less than 10⁻⁵ for any token that can win, as its logit lies at most 27 temperatures below the largest.
constexpr float slack = 1e-4f;

// A bit for each of the open tokens among the four that is kept.
__device__ __forceinline__ uint32_t kept(const sample_row &r, const float (&l)[4], int id, u64 lowest) {
  uint32_t bits = r.open(id);
  float min_p = r.params.min_p;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    bool out = key_of(l[i], id + i) < lowest || (min_p > 0 && l[i] != r.largest && r.weight(l[i]) < min_p);
    if (out) bits &= ~(1u << i);
  }
  return bits;
}

// The best scores that a thread saw, and whose the first is.
struct contender {
  float best, second, logit;
  int id;
  uint32_t word;
};

// Calls f(id, logit, word, score) of the tokens of this thread's share that may score `limit` or more; f may raise it. The warp stays together.
template <typename F> __device__ __forceinline__ void for_each_score(const sample_row &r, u64 lowest, float &limit, F f) {
  for (int base = r.from; base < r.to; base += SAMPLE_SWEEP) {
    int id = base + 4 * threadIdx.x;
    float l[4], relative[4], most = -INFINITY;
    uint32_t bits = 0;
    if (id < r.to) {
      r.load(l, id);
      bits = kept(r, l, id, lowest);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      relative[i] = bits >> i & 1 ? (float)r.relative(l[i]) : -INFINITY;
      most = fmaxf(most, relative[i]);
    }
    if (most + most_noise >= limit) {
      uint4 w = philox(r.params.seed, r.params.position, (uint32_t)(id / 4));
      uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (relative[i] + noise_bound(words[i]) >= limit) f(id + i, l[i], words[i], relative[i] + noise(words[i]));
      }
    }
    limit = warp_reduce(limit, larger());
  }
}

// Larger for larger scores; 0 for none.
__device__ __forceinline__ u64 score_bits(double score) {
  u64 bits = (u64)__double_as_longlong(score + 0.0);
  return bits ^ (bits >> 63 ? ~0ull : 1ull << 63);
}

__device__ __forceinline__ u64 exact_score(const sample_row &r, float logit, uint32_t word) {
  return score_bits((double)logit / (double)r.params.temperature + exact_noise(word));
}

// The kept token of the largest score, the lowest id among equals: its score, and its id counted down. At least the largest logit is kept,
// and finite.
__device__ void draw(const sample_row &r, u64 lowest, u64 &score, uint32_t &winner) {
  contender c = {-INFINITY, -INFINITY, 0, 0, 0};
  float limit = least_noise - slack; // the largest logit scores more
  for_each_score(r, lowest, limit, [&](int id, float logit, uint32_t word, float s) {
    if (s > c.best) c = {s, c.best, logit, id, word};
    else c.second = fmaxf(c.second, s);
    limit = fmaxf(limit, c.best - slack);
  });
  limit = block_max(c.best) - slack;
  score = 0, winner = 0;
  if (__any_sync(~0u, c.second >= limit)) { // two of a thread may win: once in thousands of draws
    float fixed = limit;
    for_each_score(r, lowest, fixed, [&](int id, float logit, uint32_t word, float s) {
      u64 exact = s >= limit ? exact_score(r, logit, word) : 0;
      if (exact > score) score = exact, winner = 0xffffffffu - (uint32_t)id; // ids rise: the first of equals stays
    });
  } else if (c.best >= limit) {
    score = exact_score(r, c.logit, c.word), winner = 0xffffffffu - (uint32_t)c.id;
  }
  u64 most = block_max(score);
  winner = block_max(score == most ? winner : 0u);
  score = most;
}

// Rows --------------------------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ bool is_cut(const inferno_sample_params &p, int v) {
  return (p.top_k > 0 && p.top_k < v) || p.top_p < 1 || p.min_p > 0 || is_typical(p);
}

// What there is in r's part of the row.
__device__ sample_part search(sample_row &r) {
  bool whole = true;
  u64 top = 0;
  for (int id = r.from + 4 * threadIdx.x; id < r.to; id += SAMPLE_SWEEP) {
    float l[4];
    r.load(l, id);
    uint32_t open = r.open(id);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      whole = whole && l[i] < INFINITY; // false for a NaN
      u64 key = open >> i & 1 ? key_of(l[i], id + i) : 0;
      top = key > top ? key : top;
    }
  }
  sample_part part = {block_max(top), 0, 0, 0};
  part.broken = !__syncthreads_and(whole);
  r.largest = part.top ? key_logit(part.top) : -INFINITY;
  if (part.broken || !(r.params.temperature > 0) || is_cut(r.params, r.v) || r.largest == -INFINITY) return part;
  draw(r, 0, part.score, part.winner);
  return part;
}

// Publishes a part. In the block that is the row's last it becomes what all have found, and the return value is true.
__device__ bool join(sample_part &part, sample_part *parts, uint32_t *arrived) {
  __shared__ sample_part all;
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = part;
    __threadfence();
    is_last = atomicAdd(arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return false;
  if (threadIdx.x < 32) {
    __threadfence();
    sample_part p = {0, 0, 0, 0};
    if (threadIdx.x < gridDim.x) {
      uint4 low = __ldcg((const uint4 *)&parts[threadIdx.x]);
      uint2 high = __ldcg((const uint2 *)&parts[threadIdx.x].winner);
      p = {(u64)low.y << 32 | low.x, (u64)low.w << 32 | low.z, high.x, high.y};
    }
    u64 score = warp_reduce(p.score, larger());
    p.winner = warp_reduce(p.score == score ? p.winner : 0u, larger());
    p = {warp_reduce(p.top, larger()), score, p.winner, warp_reduce(p.broken, larger())};
    if (threadIdx.x == 0) all = p, *arrived = 0;
  }
  __syncthreads();
  part = all;
  return true;
}

// The row's token, all of it having been searched.
__device__ int decide(sample_row &r, sample_part part, uint32_t *bans) {
  if (part.broken || part.top == 0) return -1;
  r.largest = key_logit(part.top);
  if (!(r.params.temperature > 0) || r.largest == -INFINITY) return key_id(part.top);
  if (is_cut(r.params, r.v)) {
    __shared__ histogram h;
    r.from = 0, r.to = r.v;
    u64 lowest = lowest_of_top_k(r, &h);
    if (is_typical(r.params)) {
      r.largest = keep_typical(r, &h, lowest, bans);
      r.banned = bans;
      lowest = 0; // what top_k left out is banned too
    }
    draw(r, lowest_of_top_p(r, &h, lowest), part.score, part.winner);
  }
  return (int)(0xffffffffu - part.winner);
}

// blockIdx.y is the row, blockIdx.x the part.
__global__ void __launch_bounds__(SAMPLE_THREADS)
    sample_kernel(matrix_view<float> logits, const inferno_sample_params *params, matrix_view<const int32_t> banned, int max_banned,
                  int32_t *ids, int v, int part_size, bool wide, sample_space space, adjust_view adjustments) {
  extern __shared__ uint32_t bans[];
  dependency_wait();
  allow_dependents();
  int row = blockIdx.y, from = blockIdx.x * part_size;
  sample_row r = {logits.row(row), NULL, params[row], v, from, min(v, from + part_size), wide, 0, 0};
  r.coldness = 1 / (double)r.params.temperature;
  const inferno_adjustment *adjustment = adjustments.of(r.params);
  if (adjustment) adjust(r, adjustments, adjustment, logits.row(row), bans);
  const uint32_t *mask = mask_of(adjustment);
  int num_banned = banned.data ? min(r.params.num_banned, max_banned) : 0;
  if (num_banned > 0 || mask) {
    for (int i = threadIdx.x; i < (v + 31) / 32; i += SAMPLE_THREADS) bans[i] = mask ? ~mask[i] : 0;
    __syncthreads();
    for (int i = threadIdx.x; i < num_banned; i += SAMPLE_THREADS) {
      int32_t id = banned.row(row)[i];
      if (id >= 0 && id < v) atomicOr(&bans[id / 32], 1u << (id % 32));
    }
    __syncthreads();
    r.banned = bans;
  }
  sample_part part = search(r);
  if (gridDim.x > 1 && !join(part, space.parts + row * gridDim.x, space.arrived + row)) return;
  int id = decide(r, part, bans);
  if (threadIdx.x == 0) ids[row] = id;
}

bool sample_open(inferno_device *dev) {
  sample_space *s = (sample_space *)calloc(1, sizeof *s);
  dev->sampling = s;
  cudaFuncAttributes kernel;
  if (!s || cudaFuncGetAttributes(&kernel, sample_kernel)) return false;
  s->max_ban_bytes = (int)dev->properties.sharedMemPerBlockOptin - (int)kernel.sharedSizeBytes;
  return !cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, s->max_ban_bytes) &&
         !cudaMalloc(&s->parts, MAX_SHARED * sizeof *s->parts) && !cudaMalloc(&s->arrived, MAX_SHARED * sizeof *s->arrived) &&
         !cudaMemset(s->arrived, 0, MAX_SHARED * sizeof *s->arrived);
}

void sample_close(inferno_device *dev) {
  if (!dev->sampling) return;
  cudaFree(dev->sampling->parts);
  cudaFree(dev->sampling->arrived);
  free(dev->sampling);
}

int64_t sample_max_vocab(const inferno_device *dev) { return dev->sampling->max_ban_bytes / 4 * 32; }

void cuda_sample(inferno_device *dev, const inferno_sample_args *a) {
  int64_t v = a->logits.cols, rows = a->logits.rows, bytes = div_up(v, 32) * 4;
  if (v > sample_max_vocab(dev)) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "sample: more ids than a bit set on the card holds");
  if (rows > 65535) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "sample: more than 65535 rows on CUDA");
  int64_t parts = dev->properties.multiProcessorCount / rows; // a block an SM
  parts = parts < MAX_PARTS ? parts : (int64_t)MAX_PARTS;
  parts = parts < div_up(v, SAMPLE_SWEEP) ? parts : div_up(v, SAMPLE_SWEEP);
  parts = parts * rows <= MAX_SHARED && parts > 1 ? parts : 1;
  int64_t size = div_up(div_up(v, parts), 4) * 4;
  adjust_view adjustments = {(const int32_t *)a->adjustments.data, view<const int32_t>(a->history), view<const int32_t>(a->block_table),
                             (int)a->history.cols};
  cuda_launch(dev, "sample", sample_kernel, dim3((unsigned)div_up(v, size), (unsigned)rows), SAMPLE_THREADS, (size_t)bytes,
              view<float>(a->logits), (const inferno_sample_params *)a->params.data, view<const int32_t>(a->banned), (int)a->banned.cols,
              (int32_t *)a->ids.data, (int)v, (int)size, is_wide(a->logits), *dev->sampling, adjustments);
}
