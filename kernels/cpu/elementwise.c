// elementwise.c: rms_norm, swiglu, add, gather_rows, all on float32. Memory-bound, or too short to matter: one pass over rows that lie in
// cache. Every sum runs over 16 lanes that are then added as a tree, whatever the instruction set: its order is fixed by the row's length.
#include <math.h>

#include "vecmath.h"

enum {
  SHARES = 4,         // pieces a worker, so that one that wakes late leaves work to the others
  COLUMN_CHUNK = 2048 // elements of a row that one worker takes in the ops without a sum
};

static inline float *row(const inferno_tensor *t, int64_t i) { return (float *)t->data + i * t->stride; }

static int64_t row_chunk(const cpu_worker *w, int64_t rows) { return cpu_div_up(rows, (int64_t)w->count * SHARES); }

CPU_INLINE void rms_norm_row(float *out, const float *x, const float *weight, int64_t d, float eps) {
  vector sum[2] = {{0}, {0}};
  for (int64_t i = 0; i < d; i += VECTOR_LANES) {
    vector v = vector_load(x + i, d - i);
    sum[i / VECTOR_LANES % 2] += v * v;
  }
  sum[0] += sum[1];
  for (int width = VECTOR_LANES / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; j++) sum[0][j] += sum[0][j + width];
  }
  float scale = 1.0f / sqrtf(sum[0][0] / (float)d + eps);
  for (int64_t i = 0; i < d; i += VECTOR_LANES) {
    vector_store(out + i, vector_load(x + i, d - i) * scale * vector_load(weight + i, d - i), d - i);
  }
}
CPU_CLONES(void, rms_norm_row, (float *out, const float *x, const float *weight, int64_t d, float eps), (out, x, weight, d, eps))

// out[n,d] = x[n,d] / sqrt(mean_d(x²) + eps) · w[d]; workers split rows.
void cpu_rms_norm(cpu_worker *w, const void *args) {
  const inferno_rms_norm_args *a = args;
  int64_t from, to, rows = a->x.rows;
  while (cpu_take(w, rows, row_chunk(w, rows), &from, &to)) {
    for (int64_t i = from; i < to; i++) {
      CPU_CALL(w->dev->isa, rms_norm_row)(row(&a->out, i), row(&a->x, i), a->w.data, a->x.cols, a->eps);
    }
  }
}

// Hands out pieces of a matrix, at most COLUMN_CHUNK elements of one row each.
static bool take_piece(cpu_worker *w, const inferno_tensor *t, int64_t *i, int64_t *from, int64_t *to) {
  int64_t pieces = cpu_div_up(t->cols, COLUMN_CHUNK), piece, end;
  if (!cpu_take(w, t->rows * pieces, 1, &piece, &end)) return false;
  *i = piece / pieces;
  *from = piece % pieces * COLUMN_CHUNK;
  *to = cpu_min(*from + COLUMN_CHUNK, t->cols);
  return true;
}

CPU_INLINE void swiglu_row(float *out, const float *gate, const float *up, int64_t n) {
  for (int64_t i = 0; i < n; i += VECTOR_LANES) {
    vector g = vector_load(gate + i, n - i);
    vector_store(out + i, g / (1.0f + vector_exp(-g)) * vector_load(up + i, n - i), n - i);
  }
}
CPU_CLONES(void, swiglu_row, (float *out, const float *gate, const float *up, int64_t n), (out, gate, up, n))

// out[n,f] = gate / (1 + exp(−gate)) · up.
void cpu_swiglu(cpu_worker *w, const void *args) {
  const inferno_swiglu_args *a = args;
  int64_t i, from, to;
  while (take_piece(w, &a->gate, &i, &from, &to)) {
    CPU_CALL(w->dev->isa, swiglu_row)(row(&a->out, i) + from, row(&a->gate, i) + from, row(&a->up, i) + from, to - from);
  }
}

CPU_INLINE void add_row(float *out, const float *a, const float *b, int64_t n) {
  for (int64_t i = 0; i < n; i += VECTOR_LANES) vector_store(out + i, vector_load(a + i, n - i) + vector_load(b + i, n - i), n - i);
}
CPU_CLONES(void, add_row, (float *out, const float *a, const float *b, int64_t n), (out, a, b, n))

void cpu_add(cpu_worker *w, const void *args) {
  const inferno_add_args *a = args;
  int64_t i, from, to;
  while (take_piece(w, &a->a, &i, &from, &to)) {
    CPU_CALL(w->dev->isa, add_row)(row(&a->out, i) + from, row(&a->a, i) + from, row(&a->b, i) + from, to - from);
  }
}

// out[i,:] = x[rows[i],:]; workers split rows.
void cpu_gather_rows(cpu_worker *w, const void *args) {
  const inferno_gather_rows_args *a = args;
  const int32_t *rows = a->rows.data;
  int64_t from, to, n = a->out.rows;
  while (cpu_take(w, n, row_chunk(w, n), &from, &to)) {
    for (int64_t i = from; i < to; i++) {
      if (rows[i] < 0 || rows[i] >= a->x.rows) {
        cpu_fail(w->dev, INFERNO_BAD_ARGUMENT, "gather_rows: a row index lies outside x");
        continue;
      }
      memcpy(row(&a->out, i), row(&a->x, rows[i]), (size_t)a->out.cols * sizeof(float));
    }
  }
}
