// pack.c: weights from a file's rows to the packed layout of matmul.h and back, one row at a time. A permutation of
// 4-byte or 2-byte words, bound by stores: 3 to 4 GB/s a thread.
//
// cpu_pack touches nothing but its arguments, so any number of threads may pack different weights, or rows of one, at once.
#include "matmul.h"

// Bytes of a source row that are read in one go, so that 16 rows a power of two apart do not evict each other.
enum { RUN_BYTES = 128 };

static bool is_dtype(int32_t dtype) {
  switch (dtype) {
  case INFERNO_F32:
  case INFERNO_F16:
  case INFERNO_BF16: return true;
  case INFERNO_Q8_0:
  case INFERNO_Q4_0:
  case INFERNO_Q4_1: return true;
  }
  return false;
}

// −1 for what cannot be packed.
int64_t cpu_pack_bytes(inferno_device *dev, int32_t dtype, int64_t rows, int64_t cols) {
  (void)dev;
  if (!is_dtype(dtype) || rows < 1 || cols < 1 || (cpu_is_quantised(dtype) && cols % CPU_QBLOCK != 0)) return -1;
  return cpu_div_up(rows, CPU_LANE_ROWS) * cpu_group_bytes(dtype, cols);
}

// Bytes of a GGUF block of 32 elements.
static int64_t file_block_bytes(int32_t dtype) { return dtype == INFERNO_Q8_0 ? 34 : dtype == INFERNO_Q4_0 ? 18 : 20; }

static int64_t file_row_bytes(int32_t dtype, int64_t cols) {
  if (cpu_is_quantised(dtype)) return cols / CPU_QBLOCK * file_block_bytes(dtype);
  return cols * (dtype == INFERNO_F32 ? 4 : 2);
}

// Row `lane` of a group, elements [from, to): one element in 16.
static void pack_words(int32_t dtype, const uint8_t *src, int64_t from, int64_t to, int lane, uint8_t *group) {
  if (dtype == INFERNO_F32) {
    uint32_t *out = (uint32_t *)group + lane;
    for (int64_t c = from; c < to; c++) memcpy(&out[c * CPU_LANE_ROWS], src + c * 4, 4);
    return;
  }
  uint16_t *out = (uint16_t *)group + lane;
  for (int64_t c = from; c < to; c++) memcpy(&out[c * CPU_LANE_ROWS], src + c * 2, 2);
}

// The same for blocks of `words` 4-byte words of quants after the scale (and minimum); `flip` makes signed bytes
// unsigned.
static inline __attribute__((always_inline)) void pack_blocks(int32_t dtype, const uint8_t *src, int64_t from, int64_t to, int lane,
                                                              uint8_t *group) {
  const int64_t head = cpu_block_head(dtype), bytes = cpu_block_bytes(dtype), file_bytes = file_block_bytes(dtype);
  const int words = dtype == INFERNO_Q8_0 ? 8 : 4;
  const uint32_t flip = dtype == INFERNO_Q8_0 ? 0x80808080 : 0;
  for (int64_t b = from; b < to; b++) {
    const uint8_t *in = src + b * file_bytes;
    uint8_t *out = group + b * bytes;
    memcpy(out + 2 * lane, in, 2);
    if (dtype == INFERNO_Q4_1) memcpy(out + 32 + 2 * lane, in + 2, 2);
    in += dtype == INFERNO_Q4_1 ? 4 : 2;
    for (int i = 0; i < words; i++) {
      uint32_t word;
      memcpy(&word, in + 4 * i, 4);
      word ^= flip;
      memcpy(out + head + 64 * i + 4 * lane, &word, 4);
    }
  }
}

static void pack_run(int32_t dtype, const uint8_t *src, int64_t from, int64_t to, int lane, uint8_t *group) {
  switch (dtype) {
  case INFERNO_Q8_0: pack_blocks(INFERNO_Q8_0, src, from, to, lane, group); return;
  case INFERNO_Q4_0: pack_blocks(INFERNO_Q4_0, src, from, to, lane, group); return;
  case INFERNO_Q4_1: pack_blocks(INFERNO_Q4_1, src, from, to, lane, group); return;
  default: pack_words(dtype, src, from, to, lane, group);
  }
}

int32_t cpu_pack(inferno_device *dev, const inferno_pack_args *args) {
  const inferno_weight *w = &args->w;
  if (cpu_pack_bytes(dev, w->dtype, w->rows, w->cols) < 0 || !w->data || !args->src) return INFERNO_BAD_ARGUMENT;
  int64_t end = args->first_row + args->rows;
  if (args->first_row < 0 || args->first_row % INFERNO_PACK_ROWS != 0 || args->rows < 1 || end > w->rows ||
      (end < w->rows && end % INFERNO_PACK_ROWS != 0)) {
    return INFERNO_BAD_ARGUMENT;
  }
  for (int64_t i = 0; i < args->rows; i++) {
    int64_t source = args->source_row ? args->source_row[i] : i;
    if (source < 0 || source >= args->source_rows) return INFERNO_BAD_ARGUMENT;
  }
  int64_t row_bytes = file_row_bytes(w->dtype, w->cols), group_bytes = cpu_group_bytes(w->dtype, w->cols);
  int64_t units = cpu_is_quantised(w->dtype) ? w->cols / CPU_QBLOCK : w->cols; // a run is counted in blocks or elements
  int64_t run = cpu_div_up(RUN_BYTES * units, row_bytes);
  for (int64_t at = 0; at < args->rows; at += CPU_LANE_ROWS) {
    uint8_t *group = (uint8_t *)w->data + (args->first_row + at) / CPU_LANE_ROWS * group_bytes;
    int lanes = (int)cpu_min(CPU_LANE_ROWS, args->rows - at);
    if (lanes < CPU_LANE_ROWS) memset(group, 0, (size_t)group_bytes); // a scale of zero makes its row zero
    for (int64_t from = 0; from < units; from += run) {
      for (int lane = 0; lane < lanes; lane++) {
        int64_t source = args->source_row ? args->source_row[at + lane] : at + lane;
        const uint8_t *src = (const uint8_t *)args->src + source * row_bytes;
        pack_run(w->dtype, src, from, cpu_min(from + run, units), lane, group);
      }
    }
  }
  return INFERNO_OK;
}

static inline uint16_t load16(const uint8_t *p) {
  uint16_t v;
  memcpy(&v, p, 2);
  return v;
}

static void unpack_block(int32_t dtype, const uint8_t *block, int lane, float *out) {
  float scale = cpu_f16(load16(block + 2 * lane));
  float minimum = dtype == INFERNO_Q4_1 ? cpu_f16(load16(block + 32 + 2 * lane)) : 0;
  const uint8_t *quants = block + cpu_block_head(dtype) + 4 * lane;
  for (int i = 0; i < 16; i++) {
    int byte = quants[i / 4 * 64 + i % 4];
    switch (dtype) {
    case INFERNO_Q8_0:
      out[i] = scale * (float)(byte - 128);
      out[16 + i] = scale * (float)(quants[(4 + i / 4) * 64 + i % 4] - 128);
      break;
    case INFERNO_Q4_0:
      out[i] = scale * (float)((byte & 15) - 8);
      out[16 + i] = scale * (float)((byte >> 4) - 8);
      break;
    default: out[i] = scale * (float)(byte & 15) + minimum; out[16 + i] = scale * (float)(byte >> 4) + minimum;
    }
  }
}

void cpu_unpack_row(const inferno_weight *w, int64_t row, float *out) {
  const uint8_t *group = (const uint8_t *)w->data + row / CPU_LANE_ROWS * cpu_group_bytes(w->dtype, w->cols);
  int lane = (int)(row % CPU_LANE_ROWS);
  if (cpu_is_quantised(w->dtype)) {
    for (int64_t b = 0; b < w->cols / CPU_QBLOCK; b++) {
      unpack_block(w->dtype, group + b * cpu_block_bytes(w->dtype), lane, out + b * CPU_QBLOCK);
    }
    return;
  }
  for (int64_t c = 0; c < w->cols; c++) {
    int64_t at = c * CPU_LANE_ROWS + lane;
    switch (w->dtype) {
    case INFERNO_F16: out[c] = cpu_f16(((const uint16_t *)group)[at]); break;
    case INFERNO_BF16: out[c] = cpu_bf16(((const uint16_t *)group)[at]); break;
    default: out[c] = ((const float *)group)[at];
    }
  }
}
