// simd_portable.h: simd.h's operations in C with vectors of 16 bytes, which GCC and Clang turn into SSE2, NEON or scalar code.
#ifndef INFERNO_CPU_SIMD_PORTABLE_H
#define INFERNO_CPU_SIMD_PORTABLE_H

#define TARGET
#define SIMD static inline __attribute__((always_inline))
#define LANES 4
#define MAX_TILE 8 // float vectors that a tile keeps in registers

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vw __attribute__((vector_size(16)));
typedef struct { int8_t v[8][16]; } vq; // [columns 4i .. 4i+3][LANES weights × 4 columns]

SIMD vf vf_zero(void) { return (vf){0, 0, 0, 0}; }
SIMD vf vf_set1(float x) { return (vf){x, x, x, x}; }
SIMD vf vf_load(const float *p) {
  vf v;
  memcpy(&v, p, sizeof v);
  return v;
}
SIMD void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
SIMD vf vf_add(vf a, vf b) { return a + b; }
SIMD vf vf_sub(vf a, vf b) { return a - b; }
SIMD vf vf_mul(vf a, vf b) { return a * b; }

SIMD vf vf_fma(vf a, vf b, vf c) {
#ifdef __FP_FAST_FMAF
  return (vf){__builtin_fmaf(a[0], b[0], c[0]), __builtin_fmaf(a[1], b[1], c[1]), __builtin_fmaf(a[2], b[2], c[2]),
              __builtin_fmaf(a[3], b[3], c[3])};
#else
  return a * b + c;
#endif
}

SIMD vf vf_max(vf a, vf b) { // b where either is NaN
  vi larger = a > b;
  return (vf)((larger & (vi)a) | (~larger & (vi)b));
}

SIMD vf vf_load_f16(const uint16_t *p) { return (vf){cpu_f16(p[0]), cpu_f16(p[1]), cpu_f16(p[2]), cpu_f16(p[3])}; }
SIMD vf vf_load_bf16(const uint16_t *p) {
  vw wide = {p[0], p[1], p[2], p[3]};
  return (vf)(wide << 16);
}

SIMD vf vf_pin(vf v) { return v; }

// v in the first n lanes, other in those after.
SIMD vf vf_first(vf v, int64_t n, vf other) {
  int32_t count = n > 4 ? 4 : n < 0 ? 0 : (int32_t)n;
  vi keep = (vi){0, 1, 2, 3} < (vi){count, count, count, count};
  return (vf)((keep & (vi)v) | (~keep & (vi)other));
}

// p · 2ⁿ for n the integer in the low bits of `shifted`.
SIMD vf vf_scale_exponent(vf p, vf shifted) { return (vf)((vw)p + ((vw)shifted << 23)); }

SIMD float vf_sum_lanes(vf v) { return (v[0] + v[2]) + (v[1] + v[3]); }
SIMD float vf_max_lanes(vf v) {
  float low = v[0] > v[1] ? v[0] : v[1], high = v[2] > v[3] ? v[2] : v[3];
  return low > high ? low : high;
}

// m[i] lane j becomes m[j] lane i.
SIMD void vf_transpose(vf m[4]) {
  vf a = m[0], b = m[1], c = m[2], d = m[3];
  m[0] = (vf){a[0], b[0], c[0], d[0]};
  m[1] = (vf){a[1], b[1], c[1], d[1]};
  m[2] = (vf){a[2], b[2], c[2], d[2]};
  m[3] = (vf){a[3], b[3], c[3], d[3]};
}

SIMD vw vw_load(const void *p) {
  vw v;
  memcpy(&v, p, sizeof v);
  return v;
}

// (each 32-bit lane >> shift) & mask, as float32.
SIMD vf vw_field(vw v, int shift, int mask) {
  return __builtin_convertvector((vi)((v >> shift) & (uint32_t)mask), vf);
}

SIMD vq vq_unpack4(const uint8_t *p) {
  vq w;
  for (int i = 0; i < 4; i++) {
    for (int j = 0; j < 16; j++) {
      w.v[i][j] = p[64 * i + j] & 15;
      w.v[4 + i][j] = p[64 * i + j] >> 4;
    }
  }
  return w;
}

SIMD vq vq_unpack8(const uint8_t *p) {
  vq w;
  for (int i = 0; i < 8; i++) {
    for (int j = 0; j < 16; j++) w.v[i][j] = (int8_t)(p[64 * i + j] ^ 0x80);
  }
  return w;
}

SIMD vf vq_dot8(const vq *w, const cpu_act_block *x) {
  vi dot = {0, 0, 0, 0};
  for (int i = 0; i < 8; i++) {
    const int8_t *q = x->q + 4 * i;
    for (int lane = 0; lane < 4; lane++) {
      const int8_t *v = &w->v[i][4 * lane];
      dot[lane] += v[0] * q[0] + v[1] * q[1] + v[2] * q[2] + v[3] * q[3];
    }
  }
  return __builtin_convertvector(dot, vf);
}

SIMD vf vq_dot4(const vq *w, const cpu_act_block *x, int offset8) {
  vf dot = vq_dot8(w, x);
  return offset8 ? dot + vf_set1((float)(x->sum128 / 16)) : dot;
}

#endif // INFERNO_CPU_SIMD_PORTABLE_H
