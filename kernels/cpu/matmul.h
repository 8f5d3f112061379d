// matmul.h: what the matrix products share: the packed weight's layout, activations in 8-bit blocks, and one
// instruction set's kernels.
//
// Packed layout, the same for every instruction set. Rows go in groups of 16 (the last one padded with zero rows),
// and a group is one sequential stream of memory:
//   F32, F16, BF16  [column][16 rows], elements as stored.
//   Q8_0            for each 32 columns: 16 f16 scales; 8 lines of 64 bytes, line i holding [16 rows][columns 4i .. 4i+3]
//                   as q + 128.
//   Q4_0, Q4_1      for each 32 columns: 16 f16 scales; Q4_1: 16 f16 minima; 4 lines of 64 bytes, line i holding
//                   [16 rows][4 bytes], the low nibbles columns 4i .. 4i+3 and the high ones columns 16+4i .. 19+4i.
#ifndef INFERNO_CPU_MATMUL_H
#define INFERNO_CPU_MATMUL_H

#include <string.h>

#include "cpu.h"

#define MATMUL_MAX_GROUPS 4 // row groups that a float tile spans at most
#define MATMUL_MAX_ROWS 8   // activation rows that a tile spans at most
#define MATMUL_ACC_STRIDE (MATMUL_MAX_GROUPS * CPU_LANE_ROWS)

static inline bool cpu_is_quantised(int32_t dtype) { return dtype >= INFERNO_Q8_0; }

// Bytes of the scales (and minima) before the quants of a packed block, and of the whole block of 32 columns × 16 rows.
static inline int64_t cpu_block_head(int32_t dtype) { return dtype == INFERNO_Q4_1 ? 64 : 32; }
static inline int64_t cpu_block_bytes(int32_t dtype) { return cpu_block_head(dtype) + (dtype == INFERNO_Q8_0 ? 512 : 256); }

// Bytes of one packed row group.
static inline int64_t cpu_group_bytes(int32_t dtype, int64_t cols) {
  if (cpu_is_quantised(dtype)) return cols / CPU_QBLOCK * cpu_block_bytes(dtype);
  return cols * CPU_LANE_ROWS * (dtype == INFERNO_F32 ? 4 : 2);
}

static inline float cpu_float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static inline uint32_t cpu_bits_of_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// IEEE half precision to float32, exactly: the exponent is rebased by a multiplication, which also makes subnormals
// normal.
static inline float cpu_f16(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
  if ((h & 0x7c00) == 0x7c00) return cpu_float_of_bits(sign | 0x7f800000 | rest);
  float magnitude = cpu_float_of_bits(rest) * 0x1p112f;
  return sign ? -magnitude : magnitude;
}

static inline float cpu_bf16(uint16_t h) { return cpu_float_of_bits((uint32_t)h << 16); }

// 32 activations as 8 bits: x ≈ d·q, |q| ≤ 127. A NaN or Inf among them makes d NaN or Inf.
typedef struct {
  float d;        // max|x| / 127
  float d_sum;    // d · Σq, what a minimum is multiplied by
  int32_t sum128; // −128 · Σq, what undoes the offset of Q8_0's unsigned quants; a sixteenth of it undoes Q4_0's 8
  int8_t q[CPU_QBLOCK];
} cpu_act_block;

// One tile of out = x · Wᵀ: up to MATMUL_MAX_ROWS activation rows × `groups` row groups. acc[row][MATMUL_ACC_STRIDE]
// is where sums are left, and where they are taken up again when `resume` is set.
typedef struct {
  int32_t dtype;
  int rows, groups;
  bool resume;
  const uint8_t *panel; // the first group's weights at the first column
  int64_t group_bytes;  // from one group's weights to the next one's
  int64_t cols;
  float *acc;
} cpu_tile;

// One instruction set's inner loops. For each output, whatever the tile:
//   float_tile  sum = fma(x_c, w_c, sum) for c = 0, 1, …, from 0
//   quant_tile  sum = fma(d_w·d_x, Σ q_w·q_x, sum), then for Q4_1 sum = fma(m_w, d_x·Σq_x, sum), for blocks of 32 columns
//               in order
typedef struct {
  int max_rows; // activation rows of a tile at most: 8, 4 or 2; a tile has 1, 2, 4 or 8
  int max_sums; // rows × groups of a float tile at most
  void (*float_tile)(const cpu_tile *t, const float *x, int64_t x_stride);
  void (*quant_tile)(const cpu_tile *t, const cpu_act_block *x, int64_t x_stride);
  void (*quantise)(const float *x, int64_t cols, cpu_act_block *out);
  // Packed quantised blocks of one group → float32 [column][16 rows].
  void (*dequantise)(int32_t dtype, const uint8_t *panel, int64_t cols, float *out);
} cpu_matmul_kernels;

extern const cpu_matmul_kernels cpu_matmul_portable;
extern const cpu_matmul_kernels cpu_matmul_avx2;
extern const cpu_matmul_kernels cpu_matmul_avx512;
extern const cpu_matmul_kernels cpu_matmul_avx512vnni;

#endif // INFERNO_CPU_MATMUL_H
