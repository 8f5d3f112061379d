// simd_avx512.h: simd.h's operations in AVX-512, with and without VNNI.
#ifndef INFERNO_CPU_SIMD_AVX512_H
#define INFERNO_CPU_SIMD_AVX512_H

#include <immintrin.h>

#ifdef SIMD_AVX512VNNI
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")))
#else
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))
#endif
#define SIMD static inline __attribute__((always_inline)) TARGET
#define LANES 16
#define MAX_TILE 16 // float vectors that a tile keeps in registers

typedef __m512 vf;
typedef __m512i vw;
typedef struct {
  __m512i v[8];
} vq;

SIMD vf vf_zero(void) { return _mm512_setzero_ps(); }
SIMD vf vf_set1(float x) { return _mm512_set1_ps(x); }
SIMD vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
SIMD void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
SIMD vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
SIMD vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
SIMD vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
SIMD vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
SIMD vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); } // b where either is NaN
SIMD vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
SIMD vf vf_load_bf16(const uint16_t *p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// v, in a register: hides where it came from, or gcc would rather load it again at each use.
SIMD vf vf_pin(vf v) {
  __asm__("" : "+v"(v));
  return v;
}

// v in the first n lanes, other in those after.
SIMD vf vf_first(vf v, int64_t n, vf other) {
  __mmask16 keep = n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
  return _mm512_mask_blend_ps(keep, other, v);
}

// p · 2ⁿ for n the integer in the low bits of `shifted`.
SIMD vf vf_scale_exponent(vf p, vf shifted) {
  __m512i n = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n));
}

SIMD float vf_sum_lanes(vf v) { return _mm512_reduce_add_ps(v); }
SIMD float vf_max_lanes(vf v) { return _mm512_reduce_max_ps(v); }

// m[i] lane j becomes m[j] lane i.
SIMD void vf_transpose(vf m[16]) {
  __m512 a[16];
  UNROLL for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(m[i], m[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(m[i], m[i + 1]);
  }
  UNROLL for (int i = 0; i < 16; i += 4) {
    UNROLL for (int j = 0; j < 2; j++) {
      __m512d lo = _mm512_castps_pd(a[i + j]), hi = _mm512_castps_pd(a[i + j + 2]);
      m[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo, hi));
      m[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo, hi));
    }
  }
  // m[4q + c] now holds, in its four quarters s, column 4s + c of rows 4q .. 4q+3.
  UNROLL for (int c = 0; c < 4; c++) {
    __m512 low01 = _mm512_shuffle_f32x4(m[c], m[4 + c], 0x44), high01 = _mm512_shuffle_f32x4(m[8 + c], m[12 + c], 0x44);
    __m512 low23 = _mm512_shuffle_f32x4(m[c], m[4 + c], 0xee), high23 = _mm512_shuffle_f32x4(m[8 + c], m[12 + c], 0xee);
    a[c] = _mm512_shuffle_f32x4(low01, high01, 0x88);
    a[4 + c] = _mm512_shuffle_f32x4(low01, high01, 0xdd);
    a[8 + c] = _mm512_shuffle_f32x4(low23, high23, 0x88);
    a[12 + c] = _mm512_shuffle_f32x4(low23, high23, 0xdd);
  }
  UNROLL for (int i = 0; i < 16; i++) m[i] = a[i];
}

SIMD vw vw_load(const void *p) { return _mm512_loadu_si512(p); }

// (each 32-bit lane >> shift) & mask, as float32.
SIMD vf vw_field(vw v, int shift, int mask) {
  return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(v, (unsigned)shift), _mm512_set1_epi32(mask)));
}

SIMD __m512i vw_set1(const void *p) {
  int32_t word;
  memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}

#ifdef SIMD_AVX512VNNI

// High nibbles stay in place, 16 times their value: their sum is shifted down once a block.
SIMD vq vq_unpack4(const uint8_t *p) {
  vq w;
  UNROLL for (int i = 0; i < 4; i++) {
    __m512i bytes = _mm512_loadu_si512(p + 64 * i);
    w.v[i] = _mm512_and_si512(bytes, _mm512_set1_epi8(0x0f));
    w.v[4 + i] = _mm512_and_si512(bytes, _mm512_set1_epi8((char)0xf0));
  }
  return w;
}

SIMD vf vq_dot4(const vq *w, const cpu_act_block *x, int offset8) {
  __m512i low = _mm512_setzero_si512(), high = offset8 ? _mm512_set1_epi32(x->sum128) : _mm512_setzero_si512();
  UNROLL for (int i = 0; i < 4; i++) {
    low = _mm512_dpbusd_epi32(low, w->v[i], vw_set1(x->q + 4 * i));
    high = _mm512_dpbusd_epi32(high, w->v[4 + i], vw_set1(x->q + 16 + 4 * i));
  }
  return _mm512_cvtepi32_ps(_mm512_add_epi32(low, _mm512_srai_epi32(high, 4)));
}

SIMD vq vq_unpack8(const uint8_t *p) {
  vq w;
  UNROLL for (int i = 0; i < 8; i++) w.v[i] = _mm512_loadu_si512(p + 64 * i);
  return w;
}

SIMD vf vq_dot8(const vq *w, const cpu_act_block *x) {
  __m512i even = _mm512_set1_epi32(x->sum128), odd = _mm512_setzero_si512();
  UNROLL for (int i = 0; i < 8; i += 2) {
    even = _mm512_dpbusd_epi32(even, w->v[i], vw_set1(x->q + 4 * i));
    odd = _mm512_dpbusd_epi32(odd, w->v[i + 1], vw_set1(x->q + 4 * i + 4));
  }
  return _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
}

#else

SIMD vq vq_unpack4(const uint8_t *p) {
  vq w;
  UNROLL for (int i = 0; i < 4; i++) {
    __m512i bytes = _mm512_loadu_si512(p + 64 * i), nibble = _mm512_set1_epi8(0x0f);
    w.v[i] = _mm512_and_si512(bytes, nibble);
    w.v[4 + i] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
  }
  return w;
}

// Eight pair sums of at most 2·15·127 fit 16 bits.
SIMD vf vq_dot4(const vq *w, const cpu_act_block *x, int offset8) {
  __m512i pairs = _mm512_setzero_si512();
  UNROLL for (int i = 0; i < 8; i++) { pairs = _mm512_add_epi16(pairs, _mm512_maddubs_epi16(w->v[i], vw_set1(x->q + 4 * i))); }
  __m512i dot = _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
  if (offset8) dot = _mm512_add_epi32(dot, _mm512_srai_epi32(_mm512_set1_epi32(x->sum128), 4));
  return _mm512_cvtepi32_ps(dot);
}

SIMD vq vq_unpack8(const uint8_t *p) {
  vq w;
  UNROLL for (int i = 0; i < 8; i++) { w.v[i] = _mm512_xor_si512(_mm512_loadu_si512(p + 64 * i), _mm512_set1_epi8((char)0x80)); }
  return w;
}

// |w| · (x with w's sign): a pair sum is at most 2·128·127, which 16 bits hold.
SIMD vf vq_dot8(const vq *w, const cpu_act_block *x) {
  __m512i dot = _mm512_setzero_si512();
  UNROLL for (int i = 0; i < 8; i++) {
    __m512i q = vw_set1(x->q + 4 * i);
    __m512i turned = _mm512_mask_sub_epi8(q, _mm512_movepi8_mask(w->v[i]), _mm512_setzero_si512(), q);
    __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w->v[i]), turned);
    dot = _mm512_add_epi32(dot, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
  return _mm512_cvtepi32_ps(dot);
}

#endif // SIMD_AVX512VNNI

#endif // INFERNO_CPU_SIMD_AVX512_H
