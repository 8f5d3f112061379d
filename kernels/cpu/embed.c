// embed.c: out[n,d] = table[ids[n], :], the rows of a packed weight of any type as float32; an id outside the table
// yields zeros. A tied output head is the same packed weight. Bound by the strided reads of one lane in 16: some 7 µs
// a row of 4096.
#include <string.h>

#include "cpu.h"

void cpu_embed(cpu_worker *w, const void *args) {
  const inferno_embed_args *a = args;
  const int32_t *ids = a->ids.data;
  int64_t from, to;
  while (cpu_take(w, a->out.rows, 1, &from, &to)) {
    float *out = (float *)a->out.data + from * a->out.stride;
    if (ids[from] < 0 || ids[from] >= a->table.rows) {
      memset(out, 0, (size_t)a->out.cols * sizeof(float));
    } else {
      cpu_unpack_row(&a->table, ids[from], out);
    }
  }
}
