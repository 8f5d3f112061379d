// sample_cut.cuh: the smallest key that top_k and top_p keep, found by one block over a whole row: a radix selection from the top digit
// down, over a histogram of counts for top_k, of probabilities for top_p. Probabilities are fixed-point numbers of 2⁻⁴⁰, so that their sums
// are exact and no order of additions matters.
#ifndef INFERNO_CUDA_SAMPLE_CUT_CUH
#define INFERNO_CUDA_SAMPLE_CUT_CUH

#include "sample.cuh"

enum {
  DIGIT = 11, // bits of a key that one pass settles
  BINS = 1 << DIGIT,
};

constexpr float one = 0x1p40f; // a probability of 1, relative to the likeliest token's

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
// probability. key_of_token(id, logit) orders the tokens. Tokens lighter than `cutoff` are known not to be in it. 1 <= wanted <= what there
// is. Never below `lowest`.
template <typename F>
__device__ __forceinline__ u64 select_by(const sample_row &r, histogram *h, F key_of_token, u64 lowest, u64 wanted, bool by_mass,
                                         u64 cutoff) {
  u64 prefix = 0;
  for (int shift = 64 - DIGIT, width = DIGIT;; width = min(DIGIT, shift), shift -= width) {
    __syncthreads();
    for (int i = threadIdx.x; i < BINS; i += SAMPLE_THREADS) h->count[i] = 0, h->mass[i] = 0;
    __syncthreads();
    bool first = shift == 64 - DIGIT;
    for_each(r, [&](int id, float logit) {
      u64 key = key_of_token(id, logit);
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
    // All of the bin, or its only key. Keys below `lowest` may have the same digits so far.
    bool settled = shift == 0 || h->count[digit] == 1 || (!by_mass && h->count[digit] == wanted);
    if (settled) return prefix > lowest ? prefix : lowest;
  }
}

__device__ u64 select_key(const sample_row &r, histogram *h, u64 lowest, u64 wanted, bool by_mass, u64 cutoff) {
  return select_by(r, h, [](int id, float logit) { return key_of(logit, id); }, lowest, wanted, by_mass, cutoff);
}

// The smallest key that top_k keeps.
__device__ u64 lowest_of_top_k(const sample_row &r, histogram *h) {
  const inferno_sample_params *p = &r.params;
  if (!(p->top_k > 0 && p->top_k < r.v)) return 0;
  u64 open = 0;
  for_each(r, [&](int, float) { open++; });
  return (u64)p->top_k < block_sum(open) ? select_key(r, h, 0, (u64)p->top_k, false, 0) : 0;
}

// The smallest key, from `lowest` up, that top_p keeps.
__device__ u64 lowest_of_top_p(const sample_row &r, histogram *h, u64 lowest) {
  const inferno_sample_params *p = &r.params;
  if (!(p->top_p < 1)) return lowest;
  u64 total = 0;
  for_each(r, [&](int id, float logit) {
    if (key_of(logit, id) >= lowest) total += (u64)(r.weight(logit) * one);
  });
  total = block_sum(total);
  double wanted = ceil((double)p->top_p * (double)total);
  // Tokens lighter than this have less than 1 − top_p of the total all together, so the list that reaches top_p needs none of them.
  double cutoff = 0.5 * (1 - (double)p->top_p) * (double)total / r.v;
  return select_key(r, h, lowest, wanted > 1 ? (u64)wanted : 1, true, (u64)cutoff);
}

#endif // INFERNO_CUDA_SAMPLE_CUT_CUH
