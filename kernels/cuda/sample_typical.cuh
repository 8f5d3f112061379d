// sample_typical.cuh: what typical_p keeps, by one block over a whole row; the rest is banned. With w = logit/temperature − the largest, −ln p
// is ln Σ e^w − w, so that it lies as far from the entropy as w lies from its own mean: two sums and a selection by that distance.
#ifndef INFERNO_CUDA_SAMPLE_TYPICAL_CUH
#define INFERNO_CUDA_SAMPLE_TYPICAL_CUH

#include "sample_cut.cuh"

__device__ __forceinline__ bool is_typical(const inferno_sample_params &p) { return p.typical_p > 0 && p.typical_p < 1; }

__device__ __forceinline__ double block_sum_double(double v) {
  return block_reduce(v, [](double a, double b) { return a + b; });
}

// Larger for nearer tokens, then for lower ids; no key is 0. The distance is a fixed-point number of 2⁻²⁵, whose first digits tell more tokens
// apart than a float's. Both mean and entropy lie within ln v of 0: what is 128 away has no probability that counts.
__device__ __forceinline__ u64 nearness_key(double w, double mean, int id) {
  uint32_t distance = (uint32_t)fmin(fabs(w - mean) * 0x1p25, 0xffffffff.0p0);
  return (u64)(0xffffffffu - distance) << 32 | (0xffffffffu - (uint32_t)id);
}

// Bans what top_k, whose smallest key is `lowest`, and typical_p leave out, and returns the largest logit that is left. `bans` is room for
// v bits. r is a value, and the function never inlined, so that rows without typical_p keep theirs in registers.
__device__ __noinline__ float keep_typical(sample_row r, histogram *h, u64 lowest, uint32_t *bans) {
  double weights = 0, moment = 0;
  for_each(r, [&](int id, float logit) {
    double w = r.relative(logit), weight = exp(w);
    if (key_of(logit, id) < lowest || !(weight > 0)) return;
    weights += weight, moment += weight * w;
  });
  weights = block_sum_double(weights);
  double mean = block_sum_double(moment) / weights;
  auto key = [&](int id, float logit) { return key_of(logit, id) < lowest ? 0 : nearness_key(r.relative(logit), mean, id); };
  u64 total = 0;
  for_each(r, [&](int id, float logit) {
    if (key_of(logit, id) >= lowest) total += (u64)(r.weight(logit) * one);
  });
  total = block_sum(total);
  double wanted = ceil((double)r.params.typical_p * (double)total);
  u64 farthest = select_by(r, h, key, 1, wanted > 1 ? (u64)wanted : 1, true, 0);

  __syncthreads();
  bool fresh = !r.banned;
  if (fresh) {
    for (int i = threadIdx.x; i < (r.v + 31) / 32; i += SAMPLE_THREADS) bans[i] = 0;
    __syncthreads();
  }
  u64 top = 0;
  for_each(r, [&](int id, float logit) {
    u64 k = key_of(logit, id);
    if (key(id, logit) < farthest) atomicOr(&bans[id / 32], 1u << (id % 32));
    else top = k > top ? k : top;
  });
  top = block_max(top); // all bans are set
  return key_logit(top);
}

#endif // INFERNO_CUDA_SAMPLE_TYPICAL_CUH
