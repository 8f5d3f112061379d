// sample_adjust.cuh: changes a row of logits by penalties and biases before its token is chosen, and finds its mask, as inferno_adjustment says.
// Each block of a row reads all of its tokens and changes the logits of its own part. Bound by a few dependent reads, of tables, tokens and
// logits, all in L2.
#ifndef INFERNO_CUDA_SAMPLE_ADJUST_CUH
#define INFERNO_CUDA_SAMPLE_ADJUST_CUH

#include <cfloat>

#include "sample.cuh"

// Where rows find what changes them.
struct adjust_view {
  const int32_t *adjustments; // NULL: nothing does
  matrix_view<const int32_t> history, tables;
  int block_size;

  __device__ const inferno_adjustment *of(const inferno_sample_params &p) const {
    return adjustments && p.adjustment > 0 ? (const inferno_adjustment *)(adjustments + p.adjustment - 1) : NULL;
  }
};

// A row's mask, a bit an id; NULL: it has none.
__device__ __forceinline__ const uint32_t *mask_of(const inferno_adjustment *a) {
  return a && a->masked ? (const uint32_t *)(a + 1) + 2 * a->num_bias : NULL;
}

__device__ __forceinline__ float penalize(float logit, float repetition) {
  if (!(logit <= FLT_MAX)) return logit; // a NaN or +Inf, which the row keeps
  return fminf(logit > 0 ? __fdiv_rn(logit, repetition) : __fmul_rn(logit, repetition), FLT_MAX);
}

// Calls f(id) for the tokens from first on that lie in r's part, each once where `marks` is set: v bits that all threads share.
template <typename F>
__device__ __forceinline__ void for_each_token(const sample_row &r, const adjust_view &view, int sequence, int first, uint32_t *marks,
                                               F f) {
  const int32_t *table = view.tables.row(sequence);
  if (marks) {
    __syncthreads();
    for (int i = threadIdx.x; i < (r.v + 31) / 32; i += SAMPLE_THREADS) marks[i] = 0;
  }
  __syncthreads(); // what was changed before, by other threads, has been changed
  for (int i = first + threadIdx.x; i < (int)r.params.position; i += SAMPLE_THREADS) {
    int id = view.history.row(table[i / view.block_size])[i % view.block_size];
    if (id < r.from || id >= r.to) continue;
    uint32_t bit = 1u << (id % 32);
    if (!marks || !(atomicOr(&marks[id / 32], bit) & bit)) f(id);
  }
}

// By all threads of a block. Its arguments are values, and it is never inlined, so that rows without an adjustment keep theirs in registers.
__device__ __noinline__ void adjust(sample_row r, adjust_view view, const inferno_adjustment *a, float *logits, uint32_t *marks) {
  int tokens = (int)r.params.position;
  if (view.history.data) {
    int first = a->window > 0 && a->window < tokens ? tokens - a->window : 0;
    if (a->repetition != 1)
      for_each_token(r, view, a->sequence, first, marks, [&](int id) { logits[id] = penalize(logits[id], a->repetition); });
    if (a->presence != 0)
      for_each_token(r, view, a->sequence, a->prompt, marks, [&](int id) { logits[id] = __fsub_rn(logits[id], a->presence); });
    if (a->frequency != 0) for_each_token(r, view, a->sequence, a->prompt, NULL, [&](int id) { atomicAdd(&logits[id], -a->frequency); });
  }
  __syncthreads();
  const int32_t *pairs = (const int32_t *)(a + 1);
  for (int i = threadIdx.x; i < a->num_bias; i += SAMPLE_THREADS) {
    int id = pairs[2 * i];
    if (id >= r.from && id < r.to) logits[id] = __fadd_rn(logits[id], __int_as_float(pairs[2 * i + 1]));
  }
  __syncthreads();
}

#endif // INFERNO_CUDA_SAMPLE_ADJUST_CUH
