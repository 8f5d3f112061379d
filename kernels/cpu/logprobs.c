// logprobs.c: log-probabilities, a rank and the likeliest tokens of rows of logits, as inferno.h defines them; a row is one worker's. The
// row (4·v bytes) lies in the cache after its first pass; most of the time is that of v exponentials in double.
#include <math.h>

#include "vecmath.h"

enum { PIECE = 64 }; // tokens that are ruled out together

// A likely token.
typedef struct {
  float logit;
  int32_t id;
} candidate;

// The largest of n logits; true in *bad for a NaN or +Inf, left alone otherwise.
CPU_INLINE float largest(const float *x, int64_t n, bool *bad) {
  const vector infinity = (vector){0} + INFINITY;
  vector most = -infinity;
  vector_bits fine = ~(vector_bits){0};
  int64_t i = 0;
  for (; i + VECTOR_LANES <= n; i += VECTOR_LANES) {
    vector v = vector_load(x + i, VECTOR_LANES);
    most = vector_select(v > most, v, most);
    fine &= v < infinity;
  }
  float max = -INFINITY;
  for (int j = 0; j < VECTOR_LANES; j++) {
    max = most[j] > max ? most[j] : max;
    *bad |= !fine[j];
  }
  for (; i < n; i++) {
    max = x[i] > max ? x[i] : max;
    *bad |= !(x[i] < INFINITY);
  }
  return max;
}

// How many of n logits are above the limit, or as large where `equal`.
CPU_INLINE int64_t count_above(const float *x, int64_t n, float limit, bool equal) {
  vector_bits counts = {0};
  int64_t i = 0, count = 0;
  for (; i + VECTOR_LANES <= n; i += VECTOR_LANES) {
    vector v = vector_load(x + i, VECTOR_LANES);
    counts -= equal ? v >= limit : v > limit;
  }
  for (int j = 0; j < VECTOR_LANES; j++) count += counts[j];
  for (; i < n; i++) count += equal ? x[i] >= limit : x[i] > limit;
  return count;
}

// Puts a token behind those of `count` that are no less likely; what is then the n-th falls out.
CPU_INLINE void insert(candidate *top, int64_t count, int64_t n, float logit, int64_t id) {
  int64_t at = count;
  for (; at > 0 && logit > top[at - 1].logit; at--) {
    if (at < n) top[at] = top[at - 1];
  }
  if (at < n) top[at] = (candidate){logit, (int32_t)id};
}

// The n ≤ v likeliest, in order. Ids come in ascending order, so that the lower one is in front among equals.
CPU_INLINE void likeliest(const float *x, int64_t v, candidate *top, int64_t n) {
  for (int64_t i = 0; i < n; i++) insert(top, i, n, x[i], i);
  for (int64_t from = n; from < v; from += PIECE) {
    int64_t to = cpu_min(from + PIECE, v);
    bool bad = false;
    if (!(largest(x + from, to - from, &bad) > top[n - 1].logit)) continue;
    for (int64_t i = from; i < to; i++) {
      if (x[i] > top[n - 1].logit) insert(top, n, n, x[i], i);
    }
  }
}

// Σ exp(x − max), in an order that v alone decides.
CPU_INLINE double total(const float *x, int64_t v, double max) {
  vector_double sum = {0};
  int64_t i = 0;
  for (; i + DOUBLE_LANES <= v; i += DOUBLE_LANES) sum += vector_exp_negative(vector_widen(x + i) - max);
  float rest[DOUBLE_LANES] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  for (int j = 0; i + j < v; j++) rest[j] = x[i + j];
  sum += vector_exp_negative(vector_widen(rest) - max);
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

// One row: what the words of out hold is in inferno.h.
CPU_INLINE void logprobs_row(int32_t *out, const float *x, int64_t v, int32_t chosen, const int32_t *ids, int64_t m, int64_t top) {
  const int32_t nan = (int32_t)cpu_bits(NAN);
  bool bad = false;
  double max = (double)largest(x, v, &bad);
  bad |= max == -INFINITY; // no token has a probability
  double lse = bad ? 0 : max + log(total(x, v, max));
  int32_t *best = out + 2 + m;
  candidate found[INFERNO_MAX_TOP_LOGPROBS];
  int64_t n = bad ? 0 : cpu_min(top, v);
  if (n > 0) likeliest(x, v, found, n);
  for (int64_t i = 0; i < top; i++) {
    best[i] = i < n ? found[i].id : -1;
    best[top + i] = i < n ? (int32_t)cpu_bits((float)((double)found[i].logit - lse)) : nan;
  }
  for (int64_t i = 0; i < m; i++) {
    bool known = !bad && ids[i] >= 0 && ids[i] < v;
    out[2 + i] = known ? (int32_t)cpu_bits((float)((double)x[ids[i]] - lse)) : nan;
  }
  bool known = !bad && chosen >= 0 && chosen < v;
  out[0] = known ? (int32_t)cpu_bits((float)((double)x[chosen] - lse)) : nan;
  out[1] = 0;
  if (known) out[1] = (int32_t)(1 + count_above(x, chosen, x[chosen], true) + count_above(x + chosen, v - chosen, x[chosen], false));
}
CPU_CLONES(void, logprobs_row, (int32_t *out, const float *x, int64_t v, int32_t chosen, const int32_t *ids, int64_t m, int64_t top),
           (out, x, v, chosen, ids, m, top))

// Workers split rows.
void cpu_logprobs(cpu_worker *w, const void *args) {
  const inferno_logprobs_args *a = args;
  const int32_t *rows = a->rows.data, *chosen = a->chosen.data;
  int64_t m = a->ids.data ? a->ids.cols : 0, i, end;
  while (cpu_take(w, a->out.rows, 1, &i, &end)) {
    if (rows[i] < 0 || rows[i] >= a->logits.rows) {
      cpu_fail(w->dev, INFERNO_BAD_ARGUMENT, "logprobs: a row index lies outside the logits");
      continue;
    }
    const int32_t *ids = m > 0 ? (const int32_t *)a->ids.data + i * a->ids.stride : NULL;
    int32_t *out = (int32_t *)a->out.data + i * a->out.stride;
    CPU_CALL(w->dev->isa, logprobs_row)(out, cpu_row(&a->logits, rows[i]), a->logits.cols, chosen[i], ids, m, a->top);
  }
}
