// trampoline.h: cgo cannot call a pointer, so each entry of the table has a function that does.
#ifndef INFERNO_TRAMPOLINE_H
#define INFERNO_TRAMPOLINE_H

#include "inferno.h"

static inline int32_t call_open(const inferno_table *t, const inferno_open_args *args, inferno_device **dev, char *reason,
                                size_t reason_bytes) {
  return t->open(args, dev, reason, reason_bytes);
}
static inline void call_close(const inferno_table *t, inferno_device *dev) { t->close(dev); }
static inline void call_info(const inferno_table *t, inferno_device *dev, inferno_info *info) { t->info(dev, info); }
static inline int32_t call_alloc(const inferno_table *t, inferno_device *dev, int64_t bytes, void **data) {
  return t->alloc(dev, bytes, data);
}
static inline void call_free(const inferno_table *t, inferno_device *dev, void *data) { t->free(dev, data); }
static inline void call_upload(const inferno_table *t, inferno_device *dev, void *dst, const void *src, int64_t bytes) {
  t->upload(dev, dst, src, bytes);
}
static inline void call_download(const inferno_table *t, inferno_device *dev, void *dst, const void *src, int64_t bytes) {
  t->download(dev, dst, src, bytes);
}
static inline void call_fill(const inferno_table *t, inferno_device *dev, void *dst, int32_t byte, int64_t bytes) {
  t->fill(dev, dst, byte, bytes);
}
static inline int64_t call_pack_bytes(const inferno_table *t, inferno_device *dev, int32_t dtype, int64_t rows, int64_t cols) {
  return t->pack_bytes(dev, dtype, rows, cols);
}
static inline int32_t call_pack(const inferno_table *t, inferno_device *dev, const inferno_pack_args *args) { return t->pack(dev, args); }
static inline int32_t call_alloc_host(const inferno_table *t, inferno_device *dev, int64_t bytes, void **data) {
  return t->alloc_host(dev, bytes, data);
}
static inline void call_free_host(const inferno_table *t, inferno_device *dev, void *data) { t->free_host(dev, data); }
static inline int32_t call_random(const inferno_table *t, inferno_device *dev, const inferno_weight *w, uint64_t seed, float scale) {
  return t->random(dev, w, seed, scale);
}
static inline int32_t call_capture_begin(const inferno_table *t, inferno_device *dev) { return t->capture_begin(dev); }
static inline int32_t call_capture_end(const inferno_table *t, inferno_device *dev, inferno_graph **graph) {
  return t->capture_end(dev, graph);
}
static inline void call_graph_free(const inferno_table *t, inferno_device *dev, inferno_graph *graph) { t->graph_free(dev, graph); }
static inline void call_launch(const inferno_table *t, inferno_device *dev, inferno_graph *graph) { t->launch(dev, graph); }
static inline void call_expect(const inferno_table *t, inferno_device *dev, inferno_graph *graph) {
  if (t->expect) t->expect(dev, graph);
}
static inline int32_t call_sync(const inferno_table *t, inferno_device *dev, char *reason, size_t reason_bytes) {
  return t->sync(dev, reason, reason_bytes);
}

static inline int32_t call_profile(const inferno_table *t, inferno_device *dev, inferno_profile_row *rows, int32_t capacity) {
  return t->profile ? t->profile(dev, rows, capacity) : 0;
}
static inline int32_t call_alloc_mapped(const inferno_table *t, inferno_device *dev, int64_t bytes, void **data) {
  return t->alloc_mapped(dev, bytes, data);
}
static inline int64_t call_passed(const inferno_table *t, inferno_device *dev) { return t->passed(dev); }
static inline int32_t call_poll(const inferno_table *t, inferno_device *dev) { return t->poll(dev); }

// args is the op's inferno_*_args, laid out by Go.
#define CALL_OP(op) \
  static inline void call_##op(const inferno_table *t, inferno_device *dev, const void *args) { t->op(dev, args); }

CALL_OP(embed)
CALL_OP(rms_norm)
CALL_OP(matmul)
CALL_OP(rope_table)
CALL_OP(rope)
CALL_OP(store_kv)
CALL_OP(attention)
CALL_OP(swiglu)
CALL_OP(add)
CALL_OP(gather_rows)
CALL_OP(sample)
CALL_OP(rope_store_kv)
CALL_OP(norm_matmul)
CALL_OP(norm_gate_up)
CALL_OP(norm_qkv)
CALL_OP(dense)
CALL_OP(pull)
CALL_OP(scatter)
CALL_OP(feed)
CALL_OP(mark)
CALL_OP(logprobs)
CALL_OP(pool)

#endif // INFERNO_TRAMPOLINE_H
