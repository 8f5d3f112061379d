// attention.c: causal attention of a ragged batch over paged keys and values; inferno_attention_args has the shapes,
// attention_body.h the arithmetic. q and out float32, the cache float32 or float16.
//
// Work is split into tiles of consecutive rows of a sequence × the query heads that read one KV head, so that keys
// and values are read and converted once for all of them; a row's result does not depend on its tile. A decoding row
// is bound by reading its keys and values, a prompt by FMA: 4·k flops a key, row and head. To be expected of a Zen 4
// core with AVX-512: 16 GB/s of float32 keys and values or 8 GB/s of float16 ones from memory, 70 GFLOPS of a peak of
// 115.
#include "attention.h"

static cpu_attention_kernel kernel_of(cpu_isa isa) {
#if defined(__x86_64__)
  switch (isa) {
  case CPU_AVX512_VNNI:
  case CPU_AVX512: return cpu_attention_avx512;
  case CPU_AVX2: return cpu_attention_avx2;
  case CPU_PORTABLE: break;
  }
#endif
  (void)isa;
  return cpu_attention_portable;
}

// How query heads and rows fall into tiles: `parts` runs of at most `heads` query heads a KV head, `rows` rows of a
// sequence each.
typedef struct {
  int64_t heads, parts, rows;
} attention_split;

static int64_t tiles_of(const inferno_attention_args *a, const attention_split *split) {
  const int32_t *start = a->query_start.data;
  int64_t tiles = 0;
  for (int64_t i = 0; i < a->kv_len.rows * a->kv_len.cols; i++) tiles += cpu_div_up(start[i + 1] - start[i], split->rows);
  return tiles * a->kv_heads * split->parts;
}

// Tiles as large as they may be, unless that leaves workers idle: then fewer rows, and at last one head each,
// although every tile reads all keys and values of its rows.
static attention_split split_work(const inferno_attention_args *a, int workers) {
  int64_t shared = a->heads / a->kv_heads, heads = cpu_min(shared, ATTENTION_QUERIES);
  attention_split split = {heads, cpu_div_up(shared, heads), ATTENTION_QUERIES / heads};
  while (split.rows > 1 && tiles_of(a, &split) < 2 * workers) split.rows /= 2;
  if (tiles_of(a, &split) * 2 <= workers) split = (attention_split){1, shared, 1};
  return split;
}

void cpu_attention(cpu_worker *w, const void *args) {
  const inferno_attention_args *a = args;
  const int32_t *start = a->query_start.data, *kv_len = a->kv_len.data;
  cpu_attention_kernel kernel = kernel_of(w->dev->isa);
  cpu_attention_tile tile = {.args = a, .scratch = cpu_scratch(w, cpu_attention_scratch(a->head_dim))};
  if (!tile.scratch) return;

  int64_t shared = a->heads / a->kv_heads;
  attention_split split = split_work(a, w->count);
  int64_t per_row_tile = a->kv_heads * split.parts, total = tiles_of(a, &split);

  int64_t sequence = 0, before = 0, from, to; // `before` tiles belong to the sequences before this one
  while (cpu_take(w, total, 1, &from, &to)) {
    int64_t row_tiles = cpu_div_up(start[sequence + 1] - start[sequence], split.rows);
    while (from >= before + row_tiles * per_row_tile) {
      before += row_tiles * per_row_tile;
      sequence++;
      row_tiles = cpu_div_up(start[sequence + 1] - start[sequence], split.rows);
    }
    // The last rows, which see most keys, go first.
    int64_t local = from - before, rows = start[sequence + 1] - start[sequence];
    int64_t first = (row_tiles - 1 - local / per_row_tile) * split.rows;
    int64_t part = local % per_row_tile % split.parts * split.heads;
    tile.kv_head = (int)(local % per_row_tile / split.parts);
    tile.head = (int)(tile.kv_head * shared + part);
    tile.heads = (int)cpu_min(split.heads, shared - part);
    tile.rows = (int)cpu_min(split.rows, rows - first);
    tile.row = start[sequence] + first;
    tile.position = kv_len[sequence] - rows + first;
    tile.blocks = (const int32_t *)a->block_table.data + sequence * a->block_table.stride;
    kernel(&tile);
  }
}
