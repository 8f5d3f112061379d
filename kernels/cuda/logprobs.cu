// logprobs.cu: log-probabilities, a rank and the likeliest tokens of rows of logits as inferno_logprobs_args defines them. A block a query reads
// its row (4·v bytes, in L2) twice, and a third time for the likeliest tokens, each of which costs a maximum over the block: a thread knows the
// two likeliest of its share, and looks again only where both have won. Bound by the latency of one block's loads.
#include "sample.cuh"

struct plus {
  template <typename T> __device__ T operator()(T a, T b) const { return a + b; }
};

// One row, and how its likelihoods follow from its logits.
struct logprobs_row {
  sample_row tokens;
  bool bad; // nothing can be said of it
  double lse;

  __device__ bool has(int id) const { return !bad && id >= 0 && id < tokens.v; }
  __device__ int32_t of(int id) const {
    return __float_as_int(has(id) ? (float)((double)tokens.logits[id] - lse) : __int_as_float(0x7fc00000));
  }
};

// Four logits of each of UNROLL sweeps are on their way at a time.
enum { UNROLL = 4 };

// Calls f(id, logit) of this thread's share of the row. The share does not depend on `wide`, and so neither does the order of a sum.
template <typename F> __device__ __forceinline__ void for_each_logit(const sample_row &r, F f) {
  for (int base = 4 * threadIdx.x; base < r.to; base += UNROLL * SAMPLE_SWEEP) {
    float l[UNROLL][4];
#pragma unroll
    for (int k = 0; k < UNROLL; k++) {
      if (base + k * SAMPLE_SWEEP < r.to) r.load(l[k], base + k * SAMPLE_SWEEP);
    }
#pragma unroll
    for (int k = 0; k < UNROLL; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (base + k * SAMPLE_SWEEP + i < r.to) f(base + k * SAMPLE_SWEEP + i, l[k][i]);
      }
    }
  }
}

// The two largest keys of a thread's share that are not told yet; 0: none.
struct contenders {
  u64 best, second;

  __device__ void find(const sample_row &r, u64 below) {
    best = second = 0;
    for_each_logit(r, [&](int id, float l) {
      u64 key = key_of(l, id);
      if (key >= below || key <= second) return;
      second = key > best ? best : key;
      best = key > best ? key : best;
    });
  }
};

// Writes the `top` likeliest ids and their log-probabilities.
__device__ void write_top(const logprobs_row &row, int32_t *out, int top) {
  contenders mine = {};
  if (!row.bad) mine.find(row.tokens, ~0ull);
  for (int i = 0; i < top; i++) {
    u64 winner = block_max(mine.best);
    int id = winner ? key_id(winner) : -1;
    if (threadIdx.x == 0) {
      out[i] = id;
      out[top + i] = row.of(id);
    }
    if (!winner || winner != mine.best) continue; // keys are all different
    mine.best = mine.second;
    mine.second = 0;
    if (!mine.best) mine.find(row.tokens, winner);
  }
}

__global__ void __launch_bounds__(SAMPLE_THREADS, 1)
    logprobs_kernel(matrix_view<const float> logits, int64_t num_rows, const int32_t *rows, const int32_t *chosen,
                    matrix_view<const int32_t> ids, int m, int top, matrix_view<int32_t> out, int v, bool wide) {
  dependency_wait();
  allow_dependents();
  int64_t at = rows[blockIdx.x];
  int wanted = chosen[blockIdx.x];
  int32_t *to = out.row(blockIdx.x);
  logprobs_row row = {};
  bool there = at >= 0 && at < num_rows;
  row.tokens.logits = logits.row(there ? at : 0);
  row.tokens.v = v;
  row.tokens.to = there ? v : 0;
  row.tokens.wide = wide;

  float most = -INFINITY;
  int broken = 0;
  for_each_logit(row.tokens, [&](int, float l) {
    most = fmaxf(most, l);
    broken |= !(l < INFINITY);
  });
  most = block_max(most);
  row.bad = block_max(broken) || most == -INFINITY;

  float limit = row.has(wanted) ? row.tokens.logits[wanted] : INFINITY;
  double sum = 0;
  int ahead = 0;
  if (!row.bad) {
    for_each_logit(row.tokens, [&](int id, float l) {
      sum += (double)expf(l - most);
      ahead += l > limit || (l == limit && id < wanted);
    });
  }
  sum = block_reduce(sum, plus());
  ahead = block_reduce(ahead, plus());
  row.lse = (double)most + log(sum);
  if (threadIdx.x == 0) {
    to[0] = row.of(wanted);
    to[1] = row.has(wanted) ? 1 + ahead : 0;
  }
  for (int i = threadIdx.x; i < m; i += SAMPLE_THREADS) to[2 + i] = row.of(ids.row(blockIdx.x)[i]);
  if (top > 0) write_top(row, to + 2 + m, top);
}

void cuda_logprobs(inferno_device *dev, const inferno_logprobs_args *a) {
  int m = a->ids.data ? (int)a->ids.cols : 0;
  bool wide = (uintptr_t)a->logits.data % 16 == 0 && a->logits.stride % 4 == 0;
  cuda_launch(dev, "logprobs", logprobs_kernel, dim3((unsigned)a->out.rows), SAMPLE_THREADS, 0, view<const float>(a->logits),
              a->logits.rows, (const int32_t *)a->rows.data, (const int32_t *)a->chosen.data, view<const int32_t>(a->ids), m, (int)a->top,
              view<int32_t>(a->out), (int)a->logits.cols, wide);
}
