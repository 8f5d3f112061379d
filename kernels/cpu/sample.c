// sample.c: chooses a token a row as inferno.h defines it; a row is one worker's. Bound by one read of the row (greedy) or by Philox, whose
// noise is drawn only where it could still win; nothing sorts the vocabulary.
//
// A row is cut into pieces of 64 tokens and each piece's largest logit is kept: what cannot matter is then ruled out a piece at a time,
// always exactly: G is at most −ln(−ln(1 − 2⁻³³)) < 22.9, and the k-th largest of the pieces' maxima is no more than the k-th largest logit.
#include <math.h>
#include <stdlib.h>

#include "vecmath.h"

enum {
  PIECE = 64,              // tokens
  COUNTERS = PIECE / 4,    // Philox blocks of a piece: four words each
  NEGLIGIBLE_EXPONENT = 60 // of e^−x: 49152 tokens this far below the largest weigh 4e-22 of it
};

// 1 + the largest G, so that rounding cannot matter.
static const double max_noise = 23.9;

// One row's work. Logits where banned ids hold −Inf, and memory of the worker that has it.
typedef struct {
  const float *logits;        // [v]
  const float *piece_max;     // [pieces]
  float max;                  // of all
  int64_t v, pieces, max_piece;
  const inferno_sample_params *params;
  cpu_isa isa;
  uint64_t *keys;             // [v] room for candidates
  float *spare;               // [pieces]
} sample_row;

// A candidate's logit and id in one number that sorts as the most likely first, ties by lower id.
static uint64_t key_of(float logit, int64_t id) {
  uint32_t bits = cpu_bits(logit + 0.0f); // −0 becomes 0
  uint32_t ascending = bits & 0x80000000 ? ~bits : bits | 0x80000000;
  return (uint64_t)~ascending << 32 | (uint32_t)id;
}

static float key_logit(uint64_t key) {
  uint32_t ascending = ~(uint32_t)(key >> 32);
  return cpu_float(ascending & 0x80000000 ? ascending & 0x7fffffff : ~ascending);
}

static int64_t key_id(uint64_t key) { return (int64_t)(uint32_t)key; }

// Philox4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011), for COUNTERS counters
// (first + i, position, 0, 0): word j of block i to words[4·i + j].
CPU_INLINE void philox_piece(uint64_t seed, uint32_t position, uint32_t first, uint32_t *words) {
  uint32_t c0[COUNTERS], c1[COUNTERS], c2[COUNTERS], c3[COUNTERS];
  for (int i = 0; i < COUNTERS; i++) {
    c0[i] = first + (uint32_t)i;
    c1[i] = position;
    c2[i] = c3[i] = 0;
  }
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
    for (int i = 0; i < COUNTERS; i++) {
      uint64_t p0 = (uint64_t)0xD2511F53 * c0[i], p1 = (uint64_t)0xCD9E8D57 * c2[i];
      c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = (uint32_t)p1;
      c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = (uint32_t)p0;
    }
  }
  for (int i = 0; i < COUNTERS; i++) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
  }
}
CPU_CLONES(void, philox_piece, (uint64_t seed, uint32_t position, uint32_t first, uint32_t *words), (seed, position, first, words))

// G of a Philox word.
static double gumbel(uint32_t word) { return -log(-log(((double)word + 0.5) * 0x1p-32)); }

// The largest score so far.
typedef struct {
  double score;
  int64_t id; // −1: none yet
} best_token;

static void consider(best_token *best, const sample_row *r, int64_t id, uint32_t word) {
  double score = (double)r->logits[id] / (double)r->params->temperature + gumbel(word);
  if (best->id < 0 || score > best->score || (score == best->score && id < best->id)) *best = (best_token){score, id};
}

// The smallest word with which a token of this logit could reach the best score; a few too small rather than one too large.
static uint32_t word_needed(const best_token *best, const sample_row *r, float logit) {
  if (best->id < 0) return 0;
  double noise = best->score - (double)logit / (double)r->params->temperature;
  noise -= 1e-6 + 1e-12 * fabs(best->score);
  double word = exp(-exp(-noise)) * 0x1p32 - 4;
  return word > 0 ? (uint32_t)fmin(word, 0xffffffffu) : 0;
}

static bool out_of_reach(const best_token *best, const sample_row *r, float logit) {
  if (best->id < 0) return false;
  double temperature = (double)r->params->temperature;
  return (double)logit / temperature + max_noise < best->score - 1e-12 * fabs(best->score);
}

// Considers all tokens of a piece. `candidate` are those that hold: a bit a token.
static void consider_piece(best_token *best, const sample_row *r, int64_t piece) {
  if (out_of_reach(best, r, r->piece_max[piece])) return;
  uint32_t words[PIECE], needed = word_needed(best, r, r->piece_max[piece]);
  CPU_CALL(r->isa, philox_piece)(r->params->seed, r->params->position, (uint32_t)(piece * COUNTERS), words);
  int64_t first = piece * PIECE, n = cpu_min(PIECE, r->v - first);
  for (int64_t i = 0; i < n; i++) {
    if (words[i] < needed || out_of_reach(best, r, r->logits[first + i])) continue;
    consider(best, r, first + i, words[i]);
    needed = word_needed(best, r, r->piece_max[piece]);
  }
}
