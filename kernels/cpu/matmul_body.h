// matmul_body.h: the inner loops of matmul.h for one instruction set, included after simd.h by matmul_*.c. A tile
// keeps all its sums in registers: a weight is loaded (and unpacked) once for all activation rows, an activation is
// broadcast once for all row groups.
//
// Bound by memory for one activation row (the weights are read once), by FMA or VNNI throughput from 8 rows on. To be
// expected of a Zen 4 core, in GOPS, cached, 1 row and a full tile: Q4_1 210 and 310 with VNNI, 170 and 260 with
// AVX-512 alone, 110 and 150 with AVX2, 20 portable; F32, F16, BF16 90 to 100 with AVX-512 (the FMA peak is 115), 80
// with AVX2.

// Weights are asked for this many bytes ahead of their use: the hardware alone looks too little ahead once a tile of
// rows computes for long between two lines. Past a group's end lies the next one, and past the last a request is
// harmless.
#define AHEAD 4096

// `rows`, `groups` and `dtype` are constants wherever this is inlined.
SIMD void float_tile_of(const cpu_tile *t, const float *x, int64_t x_stride, int32_t dtype, int rows, int groups) {
  const int64_t element = dtype == INFERNO_F32 ? 4 : 2;
  const int vectors = groups * SUBS;
  vf acc[MATMUL_MAX_ROWS][MATMUL_MAX_GROUPS * SUBS];
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int j = 0; j < vectors; j++) { acc[r][j] = t->resume ? vf_load(t->acc + r * MATMUL_ACC_STRIDE + j * LANES) : vf_zero(); }
  }
  const uint8_t *panel = t->panel;
  for (int64_t c = 0; c < t->cols; c++, panel += CPU_LANE_ROWS * element) {
    vf w[MATMUL_MAX_GROUPS * SUBS];
    if (rows > 2 && dtype != INFERNO_F32 && c % 2 == 0) { // once a line of 64 bytes; float32 gains nothing
      UNROLL for (int g = 0; g < groups; g++) __builtin_prefetch(panel + g * t->group_bytes + AHEAD);
    }
    UNROLL for (int j = 0; j < vectors; j++) { w[j] = vf_load_as(dtype, panel + j / SUBS * t->group_bytes, j % SUBS * LANES); }
    UNROLL for (int r = 0; r < rows; r++) {
      vf broadcast = vf_set1(x[r * x_stride + c]);
      UNROLL for (int j = 0; j < vectors; j++) acc[r][j] = vf_fma(broadcast, w[j], acc[r][j]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int j = 0; j < vectors; j++) vf_store(t->acc + r * MATMUL_ACC_STRIDE + j * LANES, acc[r][j]);
  }
}

// The tiles that fit MAX_TILE vectors of sums; matmul.c asks for no other.
SIMD void float_tile_as(const cpu_tile *t, const float *x, int64_t x_stride, int32_t dtype) {
  switch (t->rows * 8 + t->groups) {
  case 8 + 1: float_tile_of(t, x, x_stride, dtype, 1, 1); return;
  case 8 + 2: float_tile_of(t, x, x_stride, dtype, 1, 2); return;
#if MAX_TILE / SUBS >= 4
  case 8 + 4: float_tile_of(t, x, x_stride, dtype, 1, 4); return;
#endif
  case 16 + 1: float_tile_of(t, x, x_stride, dtype, 2, 1); return;
#if MAX_TILE / SUBS >= 4
  case 16 + 2: float_tile_of(t, x, x_stride, dtype, 2, 2); return;
  case 32 + 1: float_tile_of(t, x, x_stride, dtype, 4, 1); return;
#endif
#if MAX_TILE / SUBS >= 16
  case 16 + 4: float_tile_of(t, x, x_stride, dtype, 2, 4); return;
  case 32 + 2: float_tile_of(t, x, x_stride, dtype, 4, 2); return;
  case 32 + 4: float_tile_of(t, x, x_stride, dtype, 4, 4); return;
  case 64 + 1: float_tile_of(t, x, x_stride, dtype, 8, 1); return;
  case 64 + 2: float_tile_of(t, x, x_stride, dtype, 8, 2); return;
#endif
  }
}

TARGET static void float_tile(const cpu_tile *t, const float *x, int64_t x_stride) {
  switch (t->dtype) {
  case INFERNO_F32: float_tile_as(t, x, x_stride, INFERNO_F32); return;
  case INFERNO_F16: float_tile_as(t, x, x_stride, INFERNO_F16); return;
  case INFERNO_BF16: float_tile_as(t, x, x_stride, INFERNO_BF16); return;
  }
}

// One vector of rows after the other: the panel stays in the level-1 cache, and eight vectors of unpacked weights
// fill AVX2's registers.
SIMD void quant_tile_of(const cpu_tile *t, const cpu_act_block *x, int64_t x_stride, int32_t dtype, int rows) {
  for (int s = 0; s < SUBS; s++) {
    vf acc[MATMUL_MAX_ROWS];
    UNROLL for (int r = 0; r < rows; r++) acc[r] = vf_zero();
    const uint8_t *block = t->panel;
    for (int64_t b = 0; b < t->cols / CPU_QBLOCK; b++, block += cpu_block_bytes(dtype)) {
      if (s == 0 && rows > 2) {
        UNROLL for (int i = 0; i < cpu_block_bytes(dtype); i += 64) __builtin_prefetch(block + AHEAD + i);
      }
      const uint8_t *quants = block + cpu_block_head(dtype) + s * LANES * 4;
      vf scale = vf_load_as(INFERNO_F16, block, s * LANES);
      vf minimum = dtype == INFERNO_Q4_1 ? vf_load_as(INFERNO_F16, block + 32, s * LANES) : vf_zero();
      vq w = dtype == INFERNO_Q8_0 ? vq_unpack8(quants) : vq_unpack4(quants);
      UNROLL for (int r = 0; r < rows; r++) {
        const cpu_act_block *a = &x[r * x_stride + b];
        vf dot = dtype == INFERNO_Q8_0 ? vq_dot8(&w, a) : vq_dot4(&w, a, dtype == INFERNO_Q4_0);
        acc[r] = vf_fma(vf_mul(scale, vf_set1(a->d)), dot, acc[r]);
        if (dtype == INFERNO_Q4_1) acc[r] = vf_fma(minimum, vf_set1(a->d_sum), acc[r]);
      }
    }
    UNROLL for (int r = 0; r < rows; r++) vf_store(t->acc + r * MATMUL_ACC_STRIDE + s * LANES, acc[r]);
  }
}

SIMD void quant_tile_as(const cpu_tile *t, const cpu_act_block *x, int64_t x_stride, int32_t dtype) {
  switch (t->rows) {
  case 1: quant_tile_of(t, x, x_stride, dtype, 1); return;
  case 2: quant_tile_of(t, x, x_stride, dtype, 2); return;
  case 4: quant_tile_of(t, x, x_stride, dtype, 4); return;
#if MAX_TILE >= 16
  case 8: quant_tile_of(t, x, x_stride, dtype, 8); return;
#endif
  }
}

TARGET static void quant_tile(const cpu_tile *t, const cpu_act_block *x, int64_t x_stride) {
  switch (t->dtype) {
  case INFERNO_Q8_0: quant_tile_as(t, x, x_stride, INFERNO_Q8_0); return;
  case INFERNO_Q4_0: quant_tile_as(t, x, x_stride, INFERNO_Q4_0); return;
  case INFERNO_Q4_1: quant_tile_as(t, x, x_stride, INFERNO_Q4_1); return;
  }
}

// Plain loops, which the compiler turns into this instruction set. The largest magnitude is found among the bit
// patterns, where NaN is the largest of all; rounding to nearest even is the addition of 1.5·2²³.
TARGET static void quantise(const float *x, int64_t cols, cpu_act_block *out) {
  for (; cols > 0; cols -= CPU_QBLOCK, x += CPU_QBLOCK, out++) {
    uint32_t q[CPU_QBLOCK], largest = 0, sum = 0;
    for (int i = 0; i < CPU_QBLOCK; i++) {
      uint32_t magnitude = cpu_bits_of_float(x[i]) & 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
    float max = cpu_float_of_bits(largest);
    bool tiny = max < 1e-30f; // so small that its inverse might overflow
    float inverse = tiny ? 0 : 127 / max;
    for (int i = 0; i < CPU_QBLOCK; i++) {
      q[i] = cpu_bits_of_float(x[i] * inverse + 12582912.0f) - 0x4b400000;
      sum += q[i];
    }
    for (int i = 0; i < CPU_QBLOCK; i++) out->q[i] = (int8_t)q[i];
    out->d = tiny ? 0 : max / 127;
    out->d_sum = out->d * (float)(int32_t)sum;
    out->sum128 = (int32_t)(sum * -128u);
  }
}

// The lanes of value · scale + minimum for the bits of one column.
SIMD vf dequantised(vw line, int shift, int mask, vf offset, vf scale, vf minimum) {
  return vf_fma(vf_sub(vw_field(line, shift, mask), offset), scale, minimum);
}

TARGET static void dequantise(int32_t dtype, const uint8_t *panel, int64_t cols, float *out) {
  const int64_t head = cpu_block_head(dtype);
  const vf offset = vf_set1(dtype == INFERNO_Q8_0 ? 128 : dtype == INFERNO_Q4_0 ? 8 : 0);
  for (; cols > 0; cols -= CPU_QBLOCK, panel += cpu_block_bytes(dtype), out += CPU_QBLOCK * CPU_LANE_ROWS) {
    for (int s = 0; s < SUBS; s++) {
      vf scale = vf_load_as(INFERNO_F16, panel, s * LANES);
      vf minimum = dtype == INFERNO_Q4_1 ? vf_load_as(INFERNO_F16, panel + 32, s * LANES) : vf_zero();
      float *column = out + s * LANES;
      for (int i = 0; i < (dtype == INFERNO_Q8_0 ? 8 : 4); i++) {
        vw line = vw_load(panel + head + 64 * i + s * LANES * 4);
        UNROLL for (int j = 0; j < 4; j++) {
          if (dtype == INFERNO_Q8_0) {
            vf_store(column + (4 * i + j) * CPU_LANE_ROWS, dequantised(line, 8 * j, 255, offset, scale, minimum));
          } else {
            vf_store(column + (4 * i + j) * CPU_LANE_ROWS, dequantised(line, 8 * j, 15, offset, scale, minimum));
            vf_store(column + (16 + 4 * i + j) * CPU_LANE_ROWS, dequantised(line, 8 * j + 4, 15, offset, scale, minimum));
          }
        }
      }
    }
  }
}
