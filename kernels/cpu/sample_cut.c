// sample_cut.c: what top_k, typical_p, top_p and min_p keep of a row, by selection: nothing sorts the vocabulary.
#include <math.h>

#include "sample.h"

enum { NEGLIGIBLE = 50 }; // nats below the largest: a vocabulary of such tokens weighs less than a rounding of the sum

// Moves the keys of [lo, hi) that are smaller than a pivot to the front, the pivot behind them, and returns its place. The pivot's choice
// is arbitrary but fixed, so that no order of logits is bad for all rows.
static int64_t partition(uint64_t *keys, int64_t lo, int64_t hi) {
  int64_t chosen = lo + (int64_t)((uint64_t)(hi - lo) * 0x9E3779B97F4A7C15u % (uint64_t)(hi - lo));
  uint64_t pivot = keys[chosen];
  keys[chosen] = keys[hi - 1];
  int64_t end = lo;
  for (int64_t i = lo; i < hi - 1; i++) {
    uint64_t key = keys[i];
    keys[i] = keys[end];
    keys[end] = key;
    end += key < pivot;
  }
  keys[hi - 1] = keys[end];
  keys[end] = pivot;
  return end;
}

// Moves the k smallest of n keys to the front.
static void select_count(uint64_t *keys, int64_t n, int64_t k) {
  int64_t lo = 0, hi = n;
  while (hi - lo > 1) {
    int64_t middle = partition(keys, lo, hi);
    if (middle >= k) hi = middle;
    if (middle < k) lo = middle + 1;
  }
}

// A token's probability over that of the likeliest.
CPU_INLINE vector_double weights_of(vector_double logits, double max, double temperature) {
  return vector_exp_negative((logits - max) * (1.0 / temperature));
}

// A key's own logit, or where keys are of something else, the one at its id.
CPU_INLINE float logit_at(uint64_t key, const float *logits) { return logits ? logits[key_id(key)] : key_logit(key); }

static double weight_of(const sample_row *r, uint64_t key, const float *logits) {
  vector_double logit = {(double)logit_at(key, logits)};
  return weights_of(logit, (double)r->max, r->temperature)[0];
}

// What n logits weigh. The missing ones of the last vector are −Inf, whose weight is 0.
CPU_INLINE double logits_weight(const float *logits, int64_t n, double max, double temperature) {
  vector_double sum = {0};
  int64_t i = 0;
  for (; i + DOUBLE_LANES <= n; i += DOUBLE_LANES) sum += weights_of(vector_widen(logits + i), max, temperature);
  if (i < n) {
    float rest[DOUBLE_LANES] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    for (int j = 0; i + j < n; j++) rest[j] = logits[i + j];
    sum += weights_of(vector_widen(rest), max, temperature);
  }
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

// What n candidates weigh.
CPU_INLINE double keys_weight(const uint64_t *keys, int64_t n, const float *at, double max, double temperature) {
  double total = 0;
  for (int64_t i = 0; i < n; i += PIECE) {
    float logits[PIECE];
    int64_t m = cpu_min(n - i, PIECE);
    for (int64_t j = 0; j < m; j++) logits[j] = logit_at(keys[i + j], at);
    total += logits_weight(logits, m, max, temperature);
  }
  return total;
}
CPU_CLONES(double, keys_weight, (const uint64_t *keys, int64_t n, const float *at, double max, double temperature),
           (keys, n, at, max, temperature))

static double weight_sum(const sample_row *r, int64_t lo, int64_t hi, const float *logits) {
  return CPU_CALL(r->isa, keys_weight)(r->keys + lo, hi - lo, logits, (double)r->max, r->temperature);
}

// Moves the smallest set of likeliest keys that weighs at least `limit` to the front and returns its size: at least 1, n if all weigh less.
static int64_t select_weight(const sample_row *r, int64_t n, double limit, const float *logits) {
  int64_t lo = 0, hi = n;
  double before = 0; // what [0, lo) weighs
  while (lo < hi) {
    int64_t middle = partition(r->keys, lo, hi);
    double left = weight_sum(r, lo, middle, logits), pivot = weight_of(r, r->keys[middle], logits);
    if (before + left >= limit) {
      hi = middle;
    } else if (before + left + pivot >= limit) {
      return middle + 1;
    } else {
      before += left + pivot;
      lo = middle + 1;
    }
  }
  return lo > 1 ? lo : 1;
}

// Collects the keys of logits that are at least cutoff: their ids first, so that most tokens cost a comparison and no more.
static int64_t collect(const sample_row *r, float cutoff) {
  int64_t n = 0;
  for (int64_t piece = 0; piece < r->pieces; piece++) {
    if (r->piece_max[piece] < cutoff) continue;
    int64_t end = cpu_min((piece + 1) * PIECE, r->v);
    for (int64_t id = piece * PIECE; id < end; id++) {
      r->keys[n] = (uint64_t)id;
      n += r->logits[id] >= cutoff;
    }
  }
  for (int64_t i = 0; i < n; i++) r->keys[i] = key_of(r->logits[r->keys[i]], (int64_t)r->keys[i]);
  return n;
}

// No more than the k-th largest logit: k pieces have a token that is at least the k-th largest of their maxima.
static float count_cutoff(const sample_row *r, int64_t k) {
  if (k > r->pieces) return -INFINITY;
  for (int64_t i = 0; i < r->pieces; i++) r->keys[i] = key_of(r->piece_max[i], i);
  select_count(r->keys, r->pieces, k);
  float cutoff = INFINITY;
  for (int64_t i = 0; i < k; i++) cutoff = fminf(cutoff, key_logit(r->keys[i]));
  return cutoff;
}

// No more than any logit whose weight is at least `weight`.
static float weight_cutoff(const sample_row *r, double weight) {
  double nats = weight < 1 ? log(weight) - 1e-9 : 0;
  return nextafterf((float)((double)r->max + r->temperature * nats), -INFINITY);
}

// What all tokens weigh.
CPU_INLINE double total_weight(const float *logits, int64_t v, const float *piece_max, double max, double temperature) {
  double total = 0;
  for (int64_t from = 0; from < v; from += PIECE) {
    if (max - (double)piece_max[from / PIECE] > NEGLIGIBLE * temperature) continue;
    total += logits_weight(logits + from, cpu_min(PIECE, v - from), max, temperature);
  }
  return total;
}
CPU_CLONES(double, total_weight, (const float *logits, int64_t v, const float *piece_max, double max, double temperature),
           (logits, v, piece_max, max, temperature))

// The sum of weight · (logit − max) / temperature over n candidates; what is −Inf adds nothing.
CPU_INLINE double keys_moment(const uint64_t *keys, int64_t n, double max, double temperature) {
  vector_double sum = {0}, least = {-1000, -1000, -1000, -1000};
  for (int64_t i = 0; i < n; i += DOUBLE_LANES) {
    vector_double relative = least;
    for (int64_t j = 0; j < DOUBLE_LANES && i + j < n; j++) relative[j] = ((double)key_logit(keys[i + j]) - max) * (1.0 / temperature);
    for (int j = 0; j < DOUBLE_LANES; j++) relative[j] = relative[j] > least[j] ? relative[j] : least[j];
    sum += vector_exp_negative(relative) * relative;
  }
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}
CPU_CLONES(double, keys_moment, (const uint64_t *keys, int64_t n, double max, double temperature), (keys, n, max, temperature))

// Moves the keys that typical_p keeps of n to the front and returns how many they are. With w = logit/temperature − the largest, −ln p is
// ln Σ e^w − w, so that it lies as far from the entropy as w lies from its own mean.
static int64_t keep_typical(sample_row *r, int64_t n) {
  double total = weight_sum(r, 0, n, NULL);
  double mean = CPU_CALL(r->isa, keys_moment)(r->keys, n, (double)r->max, r->temperature) / total;
  for (int64_t i = 0; i < n; i++) {
    double w = ((double)key_logit(r->keys[i]) - (double)r->max) * (1.0 / r->temperature);
    r->keys[i] = (uint64_t)cpu_bits((float)fabs(w - mean)) << 32 | (uint32_t)key_id(r->keys[i]);
  }
  n = select_weight(r, n, (double)r->params->typical_p * total, r->logits);
  float max = -INFINITY;
  for (int64_t i = 0; i < n; i++) {
    int64_t id = key_id(r->keys[i]);
    max = fmaxf(max, r->logits[id]);
    r->keys[i] = key_of(r->logits[id], id);
  }
  r->max = max;
  return n;
}

// The candidates before min_p.
static int64_t keep_before_min_p(sample_row *r, double min_p) {
  const inferno_sample_params *p = r->params;
  bool by_count = p->top_k > 0 && p->top_k < r->v, typical = sample_is_typical(p), by_weight = p->top_p < 1;
  int64_t n;
  if (by_count) {
    n = collect(r, count_cutoff(r, p->top_k));
    select_count(r->keys, n, p->top_k);
    n = p->top_k;
  } else if (typical) { // any token may be typical
    n = collect(r, -INFINITY);
  } else if (by_weight) {
    double total = CPU_CALL(r->isa, total_weight)(r->logits, r->v, r->piece_max, (double)r->max, r->temperature);
    // Tokens lighter than this weigh less than 1 − top_p of the total all together, so the set that reaches top_p needs none of them.
    n = collect(r, weight_cutoff(r, 0.5 * (1 - (double)p->top_p) * total / (double)r->v));
    return select_weight(r, n, (double)p->top_p * total, NULL);
  } else {
    return collect(r, weight_cutoff(r, min_p));
  }
  if (typical) n = keep_typical(r, n);
  return by_weight ? select_weight(r, n, (double)p->top_p * weight_sum(r, 0, n, NULL), NULL) : n;
}

int64_t sample_keep(sample_row *r) {
  double min_p = r->params->min_p > 0 ? fmin((double)r->params->min_p, 1) : 0;
  int64_t n = keep_before_min_p(r, min_p), kept = 0;
  if (min_p == 0) return n;
  for (int64_t i = 0; i < n; i++) {
    r->keys[kept] = r->keys[i];
    kept += weight_of(r, r->keys[i], NULL) >= min_p;
  }
  return kept;
}
