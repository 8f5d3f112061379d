// pool.c: out[i,:] = Σ x[j,:] over from[i] ≤ j < to[i], in double and in the order of the rows. Workers split columns; bound by one read of
// the rows.
#include "cpu.h"

enum { COLUMNS = 64 }; // that are summed together

void cpu_pool_rows(cpu_worker *w, const void *args) {
  const inferno_pool_args *a = args;
  const int32_t *from = a->from.data, *to = a->to.data;
  int64_t first, last;
  cpu_share(w, cpu_div_up(a->x.cols, COLUMNS), &first, &last);
  for (int64_t i = 0; i < a->out.rows; i++) {
    if (from[i] < 0 || to[i] > a->x.rows) {
      cpu_fail(w->dev, INFERNO_BAD_ARGUMENT, "pool: a range of rows lies outside x");
      continue;
    }
    for (int64_t column = first * COLUMNS; column < cpu_min(last * COLUMNS, a->x.cols); column += COLUMNS) {
      double sum[COLUMNS] = {0};
      int64_t n = cpu_min(COLUMNS, a->x.cols - column);
      for (int64_t j = from[i]; j < to[i]; j++) {
        const float *x = cpu_row(&a->x, j) + column;
        for (int64_t c = 0; c < n; c++) sum[c] += (double)x[c];
      }
      for (int64_t c = 0; c < n; c++) cpu_row(&a->out, i)[column + c] = (float)sum[c];
    }
  }
}
