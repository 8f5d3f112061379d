// sample.h: what the files of sampling share: a row's work, and keys, which order tokens by likelihood.
#ifndef INFERNO_CPU_SAMPLE_H
#define INFERNO_CPU_SAMPLE_H

#include "vecmath.h"

enum { PIECE = 64 }; // tokens

// One row's work, in memory of the worker that has it.
typedef struct {
  const inferno_sample_params *params;
  double temperature;
  const uint32_t *mask; // a bit for each id that may be chosen; NULL: all
  const float *logits;  // [v], −Inf where banned
  int64_t v, pieces;
  float *piece_max;  // [pieces]
  float max;         // of all; once there are cuts, of what is kept
  int64_t max_piece; // the first piece that has the max of all
  uint64_t *keys;    // [v] room for candidates
  cpu_isa isa;
} sample_row;

static inline bool sample_allows(const uint32_t *mask, int64_t id) { return !mask || mask[id / 32] >> (id % 32) & 1; }

// A logit and its id in one number that is smaller for the likelier token, and for the lower id among equals.
static inline uint64_t key_of(float logit, int64_t id) {
  uint32_t bits = cpu_bits(logit + 0.0f); // −0 becomes 0
  uint32_t ascending = bits & 0x80000000 ? ~bits : bits | 0x80000000;
  return (uint64_t)~ascending << 32 | (uint32_t)id;
}

static inline float key_logit(uint64_t key) {
  uint32_t ascending = ~(uint32_t)(key >> 32);
  return cpu_float(ascending & 0x80000000 ? ascending & 0x7fffffff : ~ascending);
}

static inline int64_t key_id(uint64_t key) { return (int64_t)(uint32_t)key; }

static inline bool sample_is_typical(const inferno_sample_params *p) { return p->typical_p > 0 && p->typical_p < 1; }

// Puts the keys that top_k, typical_p, top_p and min_p keep to the front of r->keys and returns how many they are: sample_cut.c.
int64_t sample_keep(sample_row *r);

// Changes logits [v] by the row's adjustment, and returns its mask; `marks` is room for v bits: sample_adjust.c.
const uint32_t *sample_adjust(const inferno_sample_args *a, const inferno_sample_params *p, float *logits, uint32_t *marks);

#endif // INFERNO_CPU_SAMPLE_H
