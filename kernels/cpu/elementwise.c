// elementwise.c: rms_norm, swiglu, add, gather_rows, all on float32. Memory-bound, or too short to matter: one pass over rows that lie in
// cache. Every sum runs over 16 lanes that are then added as a tree, whatever the instruction set: its order is fixed by the row's length.
#include <math.h>

#include "vecmath.h"

enum { PIECE = 256 }; // elements: the ops without a sum divide rows too, at multiples of this

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
  int64_t from, to;
  cpu_share(w, a->x.rows, &from, &to);
  for (int64_t i = from; i < to; i++) {
    CPU_CALL(w->dev->isa, rms_norm_row)(cpu_row(&a->out, i), cpu_row(&a->x, i), a->w.data, a->x.cols, a->eps);
  }
}

// One worker's share of a matrix: from element `column` of row `i` on, `left` pieces in all.
typedef struct {
  int64_t i, column, left;
} stretch;

static stretch share_of(const cpu_worker *w, const inferno_tensor *t) {
  int64_t pieces = cpu_div_up(t->cols, PIECE), from, to;
  cpu_share(w, t->rows * pieces, &from, &to);
  return (stretch){from / pieces, from % pieces * PIECE, to - from};
}

// The next run of elements within one row: row *i, n elements from *column on. 0: none is left.
static int64_t next_run(stretch *s, const inferno_tensor *t, int64_t *i, int64_t *column) {
  int64_t pieces = cpu_min(cpu_div_up(t->cols - s->column, PIECE), s->left);
  *i = s->i++;
  *column = s->column;
  s->column = 0;
  s->left -= pieces;
  return cpu_min(pieces * PIECE, t->cols - *column);
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
  stretch share = share_of(w, &a->gate);
  for (int64_t i, j, n; (n = next_run(&share, &a->gate, &i, &j)) > 0;) {
    CPU_CALL(w->dev->isa, swiglu_row)(cpu_row(&a->out, i) + j, cpu_row(&a->gate, i) + j, cpu_row(&a->up, i) + j, n);
  }
}

CPU_INLINE void add_row(float *out, const float *a, const float *b, int64_t n) {
  for (int64_t i = 0; i < n; i += VECTOR_LANES) vector_store(out + i, vector_load(a + i, n - i) + vector_load(b + i, n - i), n - i);
}
CPU_CLONES(void, add_row, (float *out, const float *a, const float *b, int64_t n), (out, a, b, n))

void cpu_add(cpu_worker *w, const void *args) {
  const inferno_add_args *a = args;
  stretch share = share_of(w, &a->a);
  for (int64_t i, j, n; (n = next_run(&share, &a->a, &i, &j)) > 0;) {
    CPU_CALL(w->dev->isa, add_row)(cpu_row(&a->out, i) + j, cpu_row(&a->a, i) + j, cpu_row(&a->b, i) + j, n);
  }
}

// out[i,:] = x[rows[i],:]; workers split rows.
void cpu_gather_rows(cpu_worker *w, const void *args) {
  const inferno_gather_rows_args *a = args;
  const int32_t *rows = a->rows.data;
  int64_t from, to;
  cpu_share(w, a->out.rows, &from, &to);
  for (int64_t i = from; i < to; i++) {
    if (rows[i] < 0 || rows[i] >= a->x.rows) {
      cpu_fail(w->dev, INFERNO_BAD_ARGUMENT, "gather_rows: a row index lies outside x");
      continue;
    }
    memcpy(cpu_row(&a->out, i), cpu_row(&a->x, rows[i]), (size_t)a->out.cols * sizeof(float));
  }
}
