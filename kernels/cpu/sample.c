// sample.c: chooses a token a row as inferno.h defines it; a row is one worker's. Bound by one read of the row (greedy) or by Philox, whose
// noise is drawn only where it could still win; nothing sorts the vocabulary.
//
// A row is cut into pieces of 64 tokens and each piece's largest logit is kept: what cannot matter is then ruled out a piece at a time,
// always exactly: G is at most −ln(−ln(1 − 2⁻³³)) < 22.9, and the k-th largest of the pieces' maxima is no more than the k-th largest logit.
#include <math.h>

#include "sample.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
  BLOCKS = PIECE / 4, // Philox blocks of a piece: one gives four words
  PHILOX_ROUNDS = 10,
};

// The multipliers of Philox and the steps of its key.
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u

static const double max_noise = 22.9; // G is at most 22.88

// The largest of n ≤ PIECE logits; true in *bad for a NaN or +Inf, left alone otherwise.
CPU_INLINE float piece_largest(const float *x, int64_t n, bool *bad) {
  const vector infinity = (vector){0} + INFINITY;
  vector largest = -infinity;
  vector_bits fine = ~(vector_bits){0};
  int64_t i = 0;
  for (; i + VECTOR_LANES <= n; i += VECTOR_LANES) {
    vector v = vector_load(x + i, VECTOR_LANES);
    largest = vector_select(v > largest, v, largest);
    fine &= v < infinity;
  }
  float max = -INFINITY;
  for (int j = 0; j < VECTOR_LANES; j++) {
    max = largest[j] > max ? largest[j] : max;
    *bad |= !fine[j];
  }
  for (; i < n; i++) {
    max = x[i] > max ? x[i] : max;
    *bad |= !(x[i] < INFINITY);
  }
  return max;
}

// Fills piece_max [v/PIECE, rounded up]; false where the row holds a NaN or +Inf.
CPU_INLINE bool scan(const float *x, int64_t v, float *piece_max) {
  bool bad = false;
  for (int64_t from = 0; from < v; from += PIECE) {
    int64_t n = v - from;
    piece_max[from / PIECE] = n >= PIECE ? piece_largest(x + from, PIECE, &bad) : piece_largest(x + from, n, &bad);
  }
  return !bad;
}
CPU_CLONES(bool, scan, (const float *x, int64_t v, float *piece_max), (x, v, piece_max))

// Noise --------------------------------------------------------------------------------------------------------------------------------

// Philox4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011) for the counter
// (block, position, 0, 0).
static void philox(uint64_t seed, uint32_t position, uint32_t block, uint32_t words[4]) {
  uint32_t c0 = block, c1 = position, c2 = 0, c3 = 0, k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < PHILOX_ROUNDS; round++, k0 += PHILOX_W0, k1 += PHILOX_W1) {
    uint64_t p0 = (uint64_t)PHILOX_M0 * c0, p1 = (uint64_t)PHILOX_M1 * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)p0;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// Fills in the words of a piece of tokens and returns the largest.
static uint32_t philox_piece_portable(uint64_t seed, uint32_t position, int64_t piece, uint32_t words[PIECE]) {
  uint32_t largest = 0;
  for (int i = 0; i < BLOCKS; i++) philox(seed, position, (uint32_t)(piece * BLOCKS + i), words + 4 * i);
  for (int i = 0; i < PIECE; i++) largest = words[i] > largest ? words[i] : largest;
  return largest;
}

#if defined(__x86_64__)
// Four blocks a register, each word in the low half of 64 bits. The upper halves hold what the products left: no product reads them.
__attribute__((target("avx2,fma,f16c"))) static uint32_t philox_piece_avx2(uint64_t seed, uint32_t position, int64_t piece,
                                                                           uint32_t words[PIECE]) {
  const __m256i m0 = _mm256_set1_epi64x(PHILOX_M0), m1 = _mm256_set1_epi64x(PHILOX_M1);
  __m256i c0[BLOCKS / 4], c1[BLOCKS / 4], c2[BLOCKS / 4], c3[BLOCKS / 4];
  for (int i = 0; i < BLOCKS / 4; i++) {
    c0[i] = _mm256_add_epi64(_mm256_set1_epi64x(piece * BLOCKS + 4 * i), _mm256_setr_epi64x(0, 1, 2, 3));
    c1[i] = _mm256_set1_epi64x(position);
    c2[i] = c3[i] = _mm256_setzero_si256();
  }
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < PHILOX_ROUNDS; round++, k0 += PHILOX_W0, k1 += PHILOX_W1) {
    __m256i key0 = _mm256_set1_epi64x(k0), key1 = _mm256_set1_epi64x(k1);
    for (int i = 0; i < BLOCKS / 4; i++) {
      __m256i p0 = _mm256_mul_epu32(c0[i], m0), p1 = _mm256_mul_epu32(c2[i], m1);
      c0[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1[i]), key0);
      c1[i] = p1;
      c2[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3[i]), key1);
      c3[i] = p0;
    }
  }
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < BLOCKS / 4; i++) {
    __m256i w01 = _mm256_blend_epi32(c0[i], _mm256_slli_epi64(c1[i], 32), 0xaa);
    __m256i w23 = _mm256_blend_epi32(c2[i], _mm256_slli_epi64(c3[i], 32), 0xaa);
    __m256i even = _mm256_unpacklo_epi64(w01, w23), odd = _mm256_unpackhi_epi64(w01, w23); // blocks 0 and 2, 1 and 3
    _mm256_storeu_si256((__m256i *)(words + 16 * i), _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256((__m256i *)(words + 16 * i + 8), _mm256_permute2x128_si256(even, odd, 0x31));
    largest = _mm256_max_epu32(largest, _mm256_max_epu32(even, odd));
  }
  uint32_t lanes[8], result = 0;
  _mm256_storeu_si256((__m256i *)lanes, largest);
  for (int i = 0; i < 8; i++) result = lanes[i] > result ? lanes[i] : result;
  return result;
}
#endif

// The largest score so far; id −1 before the first.
typedef struct {
  double score;
  int64_t id;
} best_token;

static void consider(best_token *best, const sample_row *r, float logit, int64_t id, uint32_t word) {
  double noise = -log(-log(((double)word + 0.5) * 0x1p-32)), score = (double)logit / r->temperature + noise;
  if (best->id < 0 || score > best->score || (score == best->score && id < best->id)) *best = (best_token){score, id};
}

// What noise a token of this logit needs to reach the best score, less what rounding could be worth.
static double noise_needed(const best_token *best, const sample_row *r, float logit) {
  if (best->id < 0) return -INFINITY;
  return best->score - (double)logit / r->temperature - 1e-6 - 1e-12 * fabs(best->score);
}

// No more than the smallest word that gives this noise: u = exp(−e^−noise) is at least 1 − e^−noise.
static uint32_t word_needed(double noise) {
  if (noise <= 0) return 0;
  vector_double below = vector_exp_negative((vector_double){-noise});
  double word = (1 - below[0]) * 0x1p32 - 4;
  return word > 0 ? (uint32_t)word : 0;
}

static void consider_piece(best_token *best, const sample_row *r, int64_t piece) {
  double noise = noise_needed(best, r, r->piece_max[piece]);
  if (noise > max_noise) return;
  uint32_t words[PIECE], needed = word_needed(noise);
  uint32_t largest = CPU_CALL(r->isa, philox_piece)(r->params->seed, r->params->position, piece, words);
  if (largest < needed) return;
  int64_t first = piece * PIECE, n = cpu_min(PIECE, r->v - first);
  for (int64_t i = 0; i < n; i++) {
    if (words[i] < needed || noise_needed(best, r, r->logits[first + i]) > max_noise) continue;
    consider(best, r, r->logits[first + i], first + i, words[i]);
  }
}

// Draws from all tokens, the likeliest piece first: its score rules out most of the rest.
static int64_t draw_from_all(const sample_row *r) {
  best_token best = {.id = -1};
  consider_piece(&best, r, r->max_piece);
  for (int64_t piece = 0; piece < r->pieces; piece++) {
    if (piece != r->max_piece) consider_piece(&best, r, piece);
  }
  return best.id;
}

static int64_t draw_from_kept(const sample_row *r, int64_t n) {
  best_token best = {.id = -1};
  for (int64_t i = 0; i < n; i++) {
    float logit = key_logit(r->keys[i]);
    int64_t id = key_id(r->keys[i]);
    if (noise_needed(&best, r, logit) > max_noise) continue;
    uint32_t words[4];
    philox(r->params->seed, r->params->position, (uint32_t)(id / 4), words);
    consider(&best, r, logit, id, words[id % 4]);
  }
  return best.id;
}

// Rows ---------------------------------------------------------------------------------------------------------------------------------

static int64_t lowest_with_max(const sample_row *r) {
  int64_t id = r->max_piece * PIECE;
  while (r->logits[id] != r->max) id++;
  return id;
}

static void find_max(sample_row *r) {
  r->max = r->piece_max[0];
  r->max_piece = 0;
  for (int64_t i = 1; i < r->pieces; i++) {
    if (r->piece_max[i] <= r->max) continue;
    r->max = r->piece_max[i];
    r->max_piece = i;
  }
}

static int64_t choose(sample_row *r) {
  const inferno_sample_params *p = r->params;
  if (!(p->temperature > 0)) return lowest_with_max(r);
  bool all = (p->top_k <= 0 || p->top_k >= r->v) && !(p->top_p < 1) && !(p->min_p > 0) && !sample_is_typical(p);
  return all ? draw_from_all(r) : draw_from_kept(r, sample_keep(r));
}

// The lowest id that is not banned, −1 if none, for a row of −Inf alone; marks[v] is room.
static int64_t lowest_allowed(const sample_row *r, const int32_t *banned, int64_t num_banned, uint64_t *marks) {
  memset(marks, 0, (size_t)r->v * sizeof *marks);
  for (int64_t i = 0; i < num_banned; i++) {
    if (banned[i] >= 0 && banned[i] < r->v) marks[banned[i]] = 1;
  }
  int64_t id = 0;
  while (id < r->v && (marks[id] || !sample_allows(r->mask, id))) id++;
  return id < r->v ? id : -1;
}

// `copy` [v] is room for the logits without the banned.
static int64_t sample(sample_row *r, const int32_t *banned, int64_t num_banned, float *copy) {
  if (!CPU_CALL(r->isa, scan)(r->logits, r->v, r->piece_max)) return -1;
  if (num_banned > 0 || r->mask) {
    for (int64_t id = 0; id < r->v; id++) copy[id] = sample_allows(r->mask, id) ? r->logits[id] : -INFINITY;
    for (int64_t i = 0; i < num_banned; i++) {
      if (banned[i] >= 0 && banned[i] < r->v) copy[banned[i]] = -INFINITY;
    }
    r->logits = copy;
    CPU_CALL(r->isa, scan)(copy, r->v, r->piece_max);
  }
  find_max(r);
  return r->max == -INFINITY ? lowest_allowed(r, banned, num_banned, r->keys) : choose(r);
}

// Workers split rows.
void cpu_sample(cpu_worker *w, const void *args) {
  const inferno_sample_args *a = args;
  int64_t v = a->logits.cols, pieces = cpu_div_up(v, PIECE), i, end;
  while (cpu_take(w, a->logits.rows, 1, &i, &end)) {
    const inferno_sample_params *p = (const inferno_sample_params *)a->params.data + i;
    const int32_t *banned = a->banned.data ? (const int32_t *)a->banned.data + i * a->banned.stride : NULL;
    int64_t num_banned = banned && p->num_banned > 0 ? cpu_min(p->num_banned, a->banned.cols) : 0;
    uint64_t *keys = cpu_scratch(w, v * (int64_t)(sizeof(uint64_t) + sizeof(float)) + pieces * (int64_t)sizeof(float));
    if (!keys) return;
    float *copy = (float *)(keys + v), *logits = cpu_row(&a->logits, i);
    sample_row r = {.params = p,
                    .temperature = (double)p->temperature,
                    .mask = sample_adjust(a, p, logits, (uint32_t *)keys),
                    .logits = logits,
                    .v = v,
                    .pieces = pieces,
                    .piece_max = copy + v,
                    .keys = keys,
                    .isa = w->dev->isa};
    ((int32_t *)a->ids.data)[i] = (int32_t)sample(&r, banned, num_banned, copy);
  }
}
