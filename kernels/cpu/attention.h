// attention.h: one tile of attention as the instruction sets compute it; attention.c makes the tiles,
// attention_body.h runs them.
#ifndef INFERNO_CPU_ATTENTION_H
#define INFERNO_CPU_ATTENTION_H

#include "cpu.h"

#define ATTENTION_CHUNK 32   // keys that one softmax step covers, counted from position 0
#define ATTENTION_QUERIES 32 // (row, head) pairs of a tile at most

// Bytes of scratch a tile needs, for head dimension k.
static inline int64_t cpu_attention_scratch(int64_t k) {
  int64_t padded = cpu_div_up(k, 16) * 16;
  int64_t floats = ATTENTION_QUERIES * (2 * padded + 16 + ATTENTION_CHUNK) + 2 * ATTENTION_CHUNK * padded;
  return floats * (int64_t)sizeof(float);
}

// Consecutive rows of one sequence × consecutive query heads that read one KV head.
typedef struct {
  const inferno_attention_args *args;
  const int32_t *blocks; // the sequence's block table
  int64_t row;           // the first row, in q and out
  int64_t position;      // of the first row in its sequence
  int rows;
  int kv_head;
  int head, heads; // rows · heads ≤ ATTENTION_QUERIES
  float *scratch;
} cpu_attention_tile;

typedef void (*cpu_attention_kernel)(const cpu_attention_tile *t);

void cpu_attention_portable(const cpu_attention_tile *t);
void cpu_attention_avx2(const cpu_attention_tile *t);
void cpu_attention_avx512(const cpu_attention_tile *t);

#endif // INFERNO_CPU_ATTENTION_H
