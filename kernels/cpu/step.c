// step.c: the ops that hand a step's inputs to the device and its results back: pull, scatter, feed, mark. Some KiB a step; one worker alone.
#include <string.h>

#include "cpu.h"

// Row k mod slots of host memory in step k.
static int32_t *slot_of(const cpu_worker *w, const inferno_tensor *t) {
  int64_t k = atomic_load_explicit(&w->dev->steps, memory_order_relaxed);
  return (int32_t *)t->data + k % t->rows * t->stride;
}

static int64_t length(const inferno_tensor *t) { return t->rows * t->cols; }

void cpu_pull(cpu_worker *w, const void *args) {
  const inferno_pull_args *a = args;
  memcpy(a->dst.data, slot_of(w, &a->src), (size_t)a->src.cols * sizeof(int32_t));
}

void cpu_scatter(cpu_worker *w, const void *args) {
  (void)w;
  const inferno_scatter_args *a = args;
  const int32_t *index = a->index.data, *values = a->values.data;
  int32_t *dst = a->dst.data;
  for (int64_t i = 0; i < length(&a->index); i++) {
    if (index[i] >= 0 && index[i] < length(&a->dst)) dst[index[i]] = values[i];
  }
}

void cpu_feed(cpu_worker *w, const void *args) {
  (void)w;
  const inferno_feed_args *a = args;
  const int32_t *from = a->from.data, *ids = a->ids.data;
  int32_t *tokens = a->tokens.data;
  for (int64_t i = 0; i < length(&a->tokens); i++) {
    if (from[i] >= 0 && from[i] < length(&a->ids)) tokens[i] = ids[from[i]];
  }
}

void cpu_mark(cpu_worker *w, const void *args) {
  const inferno_mark_args *a = args;
  if (a->values.data) memcpy(slot_of(w, &a->out), a->values.data, (size_t)a->out.cols * sizeof(int32_t));
  atomic_fetch_add_explicit(&w->dev->steps, 1, memory_order_release);
}
