// simd_portable.h: simd.h's operations in C with vectors of 16 bytes, which GCC and Clang turn into SSE2, NEON or
// scalar code.
#ifndef INFERNO_CPU_SIMD_PORTABLE_H
#define INFERNO_CPU_SIMD_PORTABLE_H

#define TARGET
#define SIMD static inline __attribute__((always_inline))
#define LANES 4
#define MAX_TILE 8 // float vectors that a tile keeps in registers

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vw __attribute__((vector_size(16)));
typedef int16_t vs __attribute__((vector_size(16)));
// v[2i]: columns 4i and 4i+2 of each of the four weight rows in turn; v[2i+1]: columns 4i+1 and 4i+3.
typedef struct {
  vs v[16];
} vq;

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

// As cpu_f16 does it.
SIMD vf vf_load_f16(const uint16_t *p) {
  vw half = {p[0], p[1], p[2], p[3]};
  vw special = (vw)((half & 0x7c00) == 0x7c00), sign = (half & 0x8000) << 16, rest = (half & 0x7fff) << 13;
  vw magnitude = (vw)((vf)rest * 0x1p112f);
  return (vf)((special & (rest | 0x7f800000)) | (~special & magnitude) | sign);
}

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
SIMD vf vw_field(vw v, int shift, int mask) { return __builtin_convertvector((vi)((v >> shift) & (uint32_t)mask), vf); }

SIMD vq vq_unpack4(const uint8_t *p) {
  typedef uint16_t vu __attribute__((vector_size(16)));
  vq w;
  UNROLL for (int i = 0; i < 4; i++) {
    vu bytes = (vu)vw_load(p + 64 * i);
    w.v[2 * i] = (vs)(bytes & 15);
    w.v[2 * i + 1] = (vs)((bytes >> 8) & 15);
    w.v[8 + 2 * i] = (vs)((bytes >> 4) & 15);
    w.v[8 + 2 * i + 1] = (vs)(bytes >> 12);
  }
  return w;
}

SIMD vq vq_unpack8(const uint8_t *p) {
  vq w;
  UNROLL for (int i = 0; i < 8; i++) {
    vs bytes = (vs)(vw_load(p + 64 * i) ^ 0x80808080);
    w.v[2 * i] = (bytes << 8) >> 8;
    w.v[2 * i + 1] = bytes >> 8;
  }
  return w;
}

// The products of columns 4i .. 4i+3, two in each lane. Of 8-bit weights they are at most 2·128·127, of 4-bit ones
// 2·15·127: one of the former, or eight of the latter, fit 16 bits.
SIMD vs vq_products(const vq *w, const cpu_act_block *x, int i) {
  uint32_t word;
  memcpy(&word, x->q + 4 * i, 4);
  vs bytes = (vs)(vw){word, word, word, word};
  return w->v[2 * i] * ((bytes << 8) >> 8) + w->v[2 * i + 1] * (bytes >> 8);
}

SIMD vi vs_pair_sums(vs v) { return (((vi)v << 16) >> 16) + ((vi)v >> 16); }

SIMD vf vq_dot8(const vq *w, const cpu_act_block *x) {
  vi dot = {0, 0, 0, 0};
  UNROLL for (int i = 0; i < 8; i++) dot += vs_pair_sums(vq_products(w, x, i));
  return __builtin_convertvector(dot, vf);
}

SIMD vf vq_dot4(const vq *w, const cpu_act_block *x, int offset8) {
  vs products = {0, 0, 0, 0, 0, 0, 0, 0};
  UNROLL for (int i = 0; i < 8; i++) products += vq_products(w, x, i);
  vi dot = vs_pair_sums(products);
  if (offset8) dot += x->sum128 / 16;
  return __builtin_convertvector(dot, vf);
}

#endif // INFERNO_CPU_SIMD_PORTABLE_H
