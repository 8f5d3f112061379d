// sample_adjust.c: changes a row of logits by penalties and biases before its token is chosen, as inferno_adjustment says. Bound by a random
// access for each token of the sequence.
#include <float.h>
#include <math.h>

#include "sample.h"

// The tokens of a row's sequence, through its block table.
typedef struct {
  const int32_t *history, *table;
  int64_t block_size, v;
} token_list;

// Token i, or −1 where that is no id.
static int64_t token_at(const token_list *t, int64_t i) {
  int64_t id = t->history[t->table[i / t->block_size] * t->block_size + i % t->block_size];
  return id >= 0 && id < t->v ? id : -1;
}

// True the first time that an id is asked for.
static bool mark(uint32_t *marks, int64_t id) {
  uint32_t bit = 1u << (id % 32);
  bool first = !(marks[id / 32] & bit);
  marks[id / 32] |= bit;
  return first;
}

static float penalize(float logit, float repetition) {
  if (!(logit <= FLT_MAX)) return logit; // a NaN or +Inf, which the row keeps
  return fminf(logit > 0 ? logit / repetition : logit * repetition, FLT_MAX);
}

static void apply_penalties(const inferno_adjustment *a, const token_list *t, int64_t tokens, float *logits, uint32_t *marks) {
  size_t mark_bytes = (size_t)cpu_div_up(t->v, 32) * sizeof *marks;
  if (a->repetition != 1) {
    memset(marks, 0, mark_bytes);
    for (int64_t i = a->window > 0 && a->window < tokens ? tokens - a->window : 0; i < tokens; i++) {
      int64_t id = token_at(t, i);
      if (id >= 0 && mark(marks, id)) logits[id] = penalize(logits[id], a->repetition);
    }
  }
  if (a->presence != 0) {
    memset(marks, 0, mark_bytes);
    for (int64_t i = a->prompt; i < tokens; i++) {
      int64_t id = token_at(t, i);
      if (id >= 0 && mark(marks, id)) logits[id] -= a->presence;
    }
  }
  if (a->frequency == 0) return;
  for (int64_t i = a->prompt; i < tokens; i++) {
    int64_t id = token_at(t, i);
    if (id >= 0) logits[id] -= a->frequency;
  }
}

const uint32_t *sample_adjust(const inferno_sample_args *args, const inferno_sample_params *p, float *logits, uint32_t *marks) {
  if (!args->adjustments.data || p->adjustment < 1) return NULL;
  const inferno_adjustment *a = (const inferno_adjustment *)((const int32_t *)args->adjustments.data + p->adjustment - 1);
  int64_t v = args->logits.cols;
  if (args->history.data) {
    const int32_t *table = (const int32_t *)args->block_table.data + a->sequence * args->block_table.stride;
    token_list t = {(const int32_t *)args->history.data, table, args->history.cols, v};
    apply_penalties(a, &t, p->position, logits, marks);
  }
  const int32_t *pair = (const int32_t *)(a + 1);
  for (int32_t i = 0; i < a->num_bias; i++, pair += 2) {
    if (pair[0] >= 0 && pair[0] < v) logits[pair[0]] += cpu_float((uint32_t)pair[1]);
  }
  return a->masked ? (const uint32_t *)pair : NULL;
}
