// simd_avx2.h: simd.h's operations in AVX2 with FMA and F16C.
#ifndef INFERNO_CPU_SIMD_AVX2_H
#define INFERNO_CPU_SIMD_AVX2_H

#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define SIMD static inline __attribute__((always_inline)) TARGET
#define LANES 8
#define MAX_TILE 8 // float vectors that a tile keeps in registers

typedef __m256 vf;
typedef __m256i vw;
typedef struct {
  __m256i v[8];
} vq;

SIMD vf vf_zero(void) { return _mm256_setzero_ps(); }
SIMD vf vf_set1(float x) { return _mm256_set1_ps(x); }
SIMD vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
SIMD void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
SIMD vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
SIMD vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
SIMD vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
SIMD vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
SIMD vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); } // b where either is NaN
SIMD vf vf_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
SIMD vf vf_load_bf16(const uint16_t *p) {
  __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

// v, in a register: hides where it came from, or gcc would rather load it again at each use.
SIMD vf vf_pin(vf v) {
  __asm__("" : "+x"(v));
  return v;
}

// v in the first n lanes, other in those after.
SIMD vf vf_first(vf v, int64_t n, vf other) {
  int32_t count = n > 8 ? 8 : n < 0 ? 0 : (int32_t)n;
  __m256i keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(keep));
}

// p · 2ⁿ for n the integer in the low bits of `shifted`.
SIMD vf vf_scale_exponent(vf p, vf shifted) {
  __m256i n = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
}

SIMD float vf_sum_lanes(vf v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

SIMD float vf_max_lanes(vf v) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// m[i] lane j becomes m[j] lane i.
SIMD void vf_transpose(vf m[8]) {
  __m256 a[8];
  UNROLL for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(m[i], m[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(m[i], m[i + 1]);
  }
  UNROLL for (int i = 0; i < 8; i += 4) {
    UNROLL for (int j = 0; j < 2; j++) {
      m[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
      m[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
    }
  }
  // m[4q + c] now holds, in its halves s, column 4s + c of rows 4q .. 4q+3.
  UNROLL for (int c = 0; c < 4; c++) {
    a[c] = _mm256_permute2f128_ps(m[c], m[4 + c], 0x20);
    a[4 + c] = _mm256_permute2f128_ps(m[c], m[4 + c], 0x31);
  }
  UNROLL for (int i = 0; i < 8; i++) m[i] = a[i];
}

SIMD vw vw_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

// (each 32-bit lane >> shift) & mask, as float32.
SIMD vf vw_field(vw v, int shift, int mask) {
  return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(v, shift), _mm256_set1_epi32(mask)));
}

SIMD __m256i vw_set1(const void *p) {
  int32_t word;
  memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}

SIMD vq vq_unpack4(const uint8_t *p) {
  vq w;
  UNROLL for (int i = 0; i < 4; i++) {
    __m256i bytes = vw_load(p + 64 * i), nibble = _mm256_set1_epi8(0x0f);
    w.v[i] = _mm256_and_si256(bytes, nibble);
    w.v[4 + i] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
  }
  return w;
}

// Eight pair sums of at most 2·15·127 fit 16 bits.
SIMD vf vq_dot4(const vq *w, const cpu_act_block *x, int offset8) {
  __m256i pairs = _mm256_setzero_si256();
  UNROLL for (int i = 0; i < 8; i++) { pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w->v[i], vw_set1(x->q + 4 * i))); }
  __m256i dot = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  if (offset8) dot = _mm256_add_epi32(dot, _mm256_srai_epi32(_mm256_set1_epi32(x->sum128), 4));
  return _mm256_cvtepi32_ps(dot);
}

SIMD vq vq_unpack8(const uint8_t *p) {
  vq w;
  UNROLL for (int i = 0; i < 8; i++) w.v[i] = _mm256_xor_si256(vw_load(p + 64 * i), _mm256_set1_epi8((char)0x80));
  return w;
}

// |w| · (x with w's sign): a pair sum is at most 2·128·127, which 16 bits hold.
SIMD vf vq_dot8(const vq *w, const cpu_act_block *x) {
  __m256i dot = _mm256_setzero_si256();
  UNROLL for (int i = 0; i < 8; i++) {
    __m256i turned = _mm256_sign_epi8(vw_set1(x->q + 4 * i), w->v[i]);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w->v[i]), turned);
    dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  return _mm256_cvtepi32_ps(dot);
}

#endif // INFERNO_CPU_SIMD_AVX2_H
