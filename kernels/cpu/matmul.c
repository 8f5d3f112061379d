// matmul.c: out_i[n,m_i] = x[n,c] · w_i[m_i,c]ᵀ + bias_i (+ out_i), for up to three products that share x. x, bias
// and out float32; the weights packed as matmul.h says. Quantised weights meet activations in 8-bit blocks, made in a
// first pass; with dev->exact they are turned into float32 panels instead.
//
// Every output is its own sum in the order that matmul.h states, so tiles, blocks and workers change no bit of it.
//
// One activation row is bound by memory: the weights are read once, at the copy rate. From some 8 rows on it is bound
// by arithmetic: work goes in units of row groups that fit a level-2 cache, past blocks of 64 activation rows.
#include <stdlib.h>

#include "matmul.h"

enum {
  ROW_BLOCK = 64,     // activation rows that pass a unit's weights together
  COL_BLOCK = 256,    // columns of a float panel that ROW_BLOCK rows pass before the next ones
  ALONE = 4096,       // activations that each worker quantises for itself, sooner than wait at a barrier
  UNIT_BYTES = 65536, // of weights, that a worker takes at a time
};

// One worker's view of the running op.
typedef struct {
  const inferno_matmul_args *args;
  const cpu_matmul_kernels *kernels;
  const cpu_act_block *act; // [n][blocks]; NULL where no product wants it
  int64_t blocks;           // of 32 columns
  bool exact;
  float *acc;   // [ROW_BLOCK][MATMUL_ACC_STRIDE]
  float *panel; // [MATMUL_MAX_GROUPS][COL_BLOCK][16], dequantised weights
} matmul_run;

static const cpu_matmul_kernels *kernels_of(cpu_isa isa) {
#if defined(__x86_64__)
  switch (isa) {
  case CPU_AVX512_VNNI: return &cpu_matmul_avx512vnni;
  case CPU_AVX512: return &cpu_matmul_avx512;
  case CPU_AVX2: return &cpu_matmul_avx2;
  case CPU_PORTABLE: break;
  }
#endif
  (void)isa;
  return &cpu_matmul_portable;
}

static bool wants_act(const inferno_device *dev, const inferno_matmul_args *a) {
  if (dev->exact) return false;
  for (int i = 0; i < a->count; i++) {
    if (cpu_is_quantised(a->product[i].w.dtype)) return true;
  }
  return false;
}

bool cpu_matmul_reserve(inferno_device *dev, const inferno_matmul_args *a) {
  int64_t elements = a->x.rows * a->x.cols;
  if (!wants_act(dev, a) || elements <= ALONE) return true;
  int64_t bytes = cpu_div_up(elements / CPU_QBLOCK * (int64_t)sizeof(cpu_act_block), 64) * 64;
  if (bytes <= dev->act_bytes) return true;
  free(dev->act);
  dev->act = aligned_alloc(64, (size_t)bytes);
  dev->act_bytes = dev->act ? bytes : 0;
  if (!dev->act) cpu_fail(dev, INFERNO_OUT_OF_MEMORY, "no memory for the quantised activations of a matrix product");
  return dev->act != NULL;
}

// Quantises x, split over the workers by rows.
static const cpu_act_block *quantise_rows(cpu_worker *w, const matmul_run *run, cpu_act_block *own) {
  const inferno_tensor *x = &run->args->x;
  bool alone = x->rows * x->cols <= ALONE;
  cpu_act_block *act = alone ? own : w->dev->act;
  int64_t from = 0, to = x->rows;
  while (alone ? from < to : cpu_take(w, x->rows, 4, &from, &to)) {
    for (; from < to; from++) {
      run->kernels->quantise((const float *)x->data + from * x->stride, x->cols, act + from * run->blocks);
    }
  }
  if (!alone) cpu_barrier(w);
  return act;
}

// The largest of 1, 2, 4 and 8 that neither n nor limit is below.
static int tile_size(int64_t n, int limit) {
  int size = 1;
  while (2 * size <= limit && 2 * size <= n) size *= 2;
  return size;
}

// out = (sum + bias) + old for a tile at (row, first_group).
static void finish(const inferno_product *p, int64_t row, int rows, int64_t first_group, int groups, const float *acc) {
  int64_t from = first_group * CPU_LANE_ROWS, count = cpu_min(groups * CPU_LANE_ROWS, p->w.rows - from);
  const float *bias = p->bias.data ? (const float *)p->bias.data + from : NULL;
  for (int r = 0; r < rows; r++, acc += MATMUL_ACC_STRIDE) {
    float *restrict out = (float *)p->out.data + (row + r) * p->out.stride + from;
    if (!bias && !p->accumulate) {
      memcpy(out, acc, (size_t)count * sizeof(float));
      continue;
    }
    for (int64_t i = 0; i < count; i++) {
      float sum = bias ? acc[i] + bias[i] : acc[i];
      out[i] = p->accumulate ? sum + out[i] : sum;
    }
  }
}

static void quant_unit(const matmul_run *run, const inferno_product *p, int64_t group, int64_t end) {
  const inferno_tensor *x = &run->args->x;
  int64_t group_bytes = cpu_group_bytes(p->w.dtype, p->w.cols), first = group;
  cpu_tile tile = {.dtype = p->w.dtype, .groups = 1, .cols = p->w.cols, .acc = run->acc};
  for (int64_t block = 0; block < x->rows; block += ROW_BLOCK) {
    int64_t block_end = cpu_min(block + ROW_BLOCK, x->rows);
    for (group = first; group < end; group++) {
      tile.panel = (const uint8_t *)p->w.data + group * group_bytes;
      for (int64_t row = block; row < block_end; row += tile.rows) {
        tile.rows = tile_size(block_end - row, run->kernels->max_rows);
        run->kernels->quant_tile(&tile, run->act + row * run->blocks, run->blocks);
        finish(p, row, tile.rows, group, 1, run->acc);
      }
    }
  }
}

// ROW_BLOCK activation rows past the panel of up to MATMUL_MAX_GROUPS groups that t describes; columns from `col`.
static void float_panel(const matmul_run *run, cpu_tile t, int64_t row, int64_t row_end, int64_t col) {
  const inferno_tensor *x = &run->args->x;
  const uint8_t *panel = t.panel;
  int groups = t.groups;
  for (int64_t r = row; r < row_end; r += t.rows) {
    t.rows = tile_size(row_end - r, run->kernels->max_rows);
    for (int g = 0; g < groups; g += t.groups) {
      t.groups = tile_size(groups - g, (int)cpu_min(MATMUL_MAX_GROUPS, run->kernels->max_sums / t.rows));
      t.panel = panel + g * t.group_bytes;
      t.acc = run->acc + (r - row) * MATMUL_ACC_STRIDE + g * CPU_LANE_ROWS;
      run->kernels->float_tile(&t, (const float *)x->data + r * x->stride + col, x->stride);
    }
  }
}

// Float weights, or quantised ones as float32 panels.
static void float_unit(const matmul_run *run, const inferno_product *p, int64_t group, int groups) {
  const inferno_tensor *x = &run->args->x;
  const inferno_weight *w = &p->w;
  bool widen = cpu_is_quantised(w->dtype);
  int64_t group_bytes = cpu_group_bytes(w->dtype, w->cols), column_bytes = w->dtype == INFERNO_F32 ? 64 : 32;
  const uint8_t *data = (const uint8_t *)w->data + group * group_bytes;
  int64_t step = x->rows <= run->kernels->max_rows && !widen ? w->cols : COL_BLOCK;
  cpu_tile tile = {.dtype = widen ? INFERNO_F32 : w->dtype, .group_bytes = group_bytes, .groups = groups};
  for (int64_t row = 0; row < x->rows; row += ROW_BLOCK) {
    int64_t row_end = cpu_min(row + ROW_BLOCK, x->rows);
    for (int64_t col = 0; col < w->cols; col += step) {
      tile.cols = cpu_min(step, w->cols - col);
      tile.resume = col > 0;
      tile.panel = data + col * column_bytes;
      if (widen) {
        for (int g = 0; g < groups; g++) {
          const uint8_t *packed = data + g * group_bytes + col / CPU_QBLOCK * cpu_block_bytes(w->dtype);
          run->kernels->dequantise(w->dtype, packed, tile.cols, run->panel + g * COL_BLOCK * CPU_LANE_ROWS);
        }
        tile.panel = (const uint8_t *)run->panel;
        tile.group_bytes = COL_BLOCK * CPU_LANE_ROWS * (int64_t)sizeof(float);
      }
      float_panel(run, tile, row, row_end, col);
    }
    finish(p, row, (int)(row_end - row), group, groups, run->acc);
  }
}

static void product_groups(const matmul_run *run, const inferno_product *p, int64_t group, int64_t end) {
  if (cpu_is_quantised(p->w.dtype) && !run->exact) {
    quant_unit(run, p, group, end);
    return;
  }
  for (; group < end; group += MATMUL_MAX_GROUPS) {
    float_unit(run, p, group, (int)cpu_min(MATMUL_MAX_GROUPS, end - group));
  }
}

// Groups that a worker takes at a time: a multiple of MATMUL_MAX_GROUPS where there is enough of them for every worker.
static int64_t unit_groups(const inferno_matmul_args *a, int64_t groups, int workers) {
  int64_t bytes = 0;
  for (int i = 0; i < a->count; i++) {
    int64_t group_bytes = cpu_group_bytes(a->product[i].w.dtype, a->product[i].w.cols);
    bytes = group_bytes > bytes ? group_bytes : bytes;
  }
  int64_t fit = cpu_div_up(UNIT_BYTES, bytes), share = groups / (4 * (int64_t)workers);
  int64_t unit = cpu_min(fit, share);
  return unit >= MATMUL_MAX_GROUPS ? unit / MATMUL_MAX_GROUPS * MATMUL_MAX_GROUPS : unit < 1 ? 1 : unit;
}

void cpu_matmul(cpu_worker *w, const void *args) {
  const inferno_matmul_args *a = args;
  matmul_run run = {.args = a, .kernels = kernels_of(w->dev->isa), .blocks = a->x.cols / CPU_QBLOCK, .exact = w->dev->exact};
  int64_t acc = ROW_BLOCK * MATMUL_ACC_STRIDE, panel = MATMUL_MAX_GROUPS * COL_BLOCK * CPU_LANE_ROWS;
  int64_t own = ALONE / CPU_QBLOCK * (int64_t)sizeof(cpu_act_block);
  run.acc = cpu_scratch(w, (acc + panel) * (int64_t)sizeof(float) + own);
  if (!run.acc) return;
  run.panel = run.acc + acc;
  if (wants_act(w->dev, a)) run.act = quantise_rows(w, &run, (cpu_act_block *)(run.panel + panel));

  int64_t total = 0;
  for (int i = 0; i < a->count; i++) total += cpu_div_up(a->product[i].w.rows, CPU_LANE_ROWS);
  int64_t unit = unit_groups(a, total, w->count), from, to;
  while (cpu_take(w, total, unit, &from, &to)) {
    for (int i = 0; i < a->count && to > 0; i++) { // [from, to) may end in another product than it began in
      int64_t groups = cpu_div_up(a->product[i].w.rows, CPU_LANE_ROWS);
      if (from < groups) product_groups(&run, &a->product[i], from, cpu_min(to, groups));
      from = from > groups ? from - groups : 0;
      to -= groups;
    }
  }
}
