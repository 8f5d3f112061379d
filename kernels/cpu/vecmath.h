// vecmath.h: vectors, exponentials and half precision in plain C with gcc's and clang's vector types, for the ops that need no more: one
// rounding an operation, no branches on values. A function that uses them is compiled once a CPU_CLONES target and gives the same bits
// on all of them.
#ifndef INFERNO_CPU_VECMATH_H
#define INFERNO_CPU_VECMATH_H

#include <stdint.h>
#include <string.h>

#include "cpu.h"

#define CPU_INLINE static inline __attribute__((always_inline))

// CPU_CLONES(name, (parameters), (arguments)) defines name##_portable and, on x86, name##_avx2, each a compilation of the CPU_INLINE
// function name; CPU_CALL picks one. AVX-512 gains nothing here: these functions wait for memory or are short.
#if defined(__x86_64__)
#define CPU_CLONES(result, name, parameters, arguments)               \
  static result name##_portable parameters { return name arguments; } \
  __attribute__((target("avx2,fma,f16c"))) static result name##_avx2 parameters { return name arguments; }
#define CPU_CALL(isa, name) ((isa) >= CPU_AVX2 ? name##_avx2 : name##_portable)
#else
#define CPU_CLONES(result, name, parameters, arguments) \
  static result name##_portable parameters { return name arguments; }
#define CPU_CALL(isa, name) ((void)(isa), name##_portable)
#endif

CPU_INLINE uint32_t cpu_bits(float x) {
  uint32_t b;
  memcpy(&b, &x, sizeof b);
  return b;
}

CPU_INLINE float cpu_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Eight lanes, whatever the machine has: one AVX register, two of SSE or NEON.
enum { VECTOR_LANES = 8 };
typedef float vector __attribute__((vector_size(4 * VECTOR_LANES)));
typedef int32_t vector_bits __attribute__((vector_size(4 * VECTOR_LANES)));

// The first n lanes from x, zeros behind.
CPU_INLINE vector vector_load(const float *x, int64_t n) {
  vector v = {0};
  if (n >= VECTOR_LANES) {
    memcpy(&v, x, sizeof v);
  } else {
    memcpy(&v, x, (size_t)n * sizeof(float));
  }
  return v;
}

CPU_INLINE void vector_store(float *out, vector v, int64_t n) {
  if (n >= VECTOR_LANES) {
    memcpy(out, &v, sizeof v);
  } else {
    memcpy(out, &v, (size_t)n * sizeof(float));
  }
}

// mask has all bits of a lane set, or none.
CPU_INLINE vector vector_select(vector_bits mask, vector yes, vector no) {
  return (vector)((mask & (vector_bits)yes) | (~mask & (vector_bits)no));
}

// e^x within 1.5 ulp, subnormal results included; 0 below −104, +Inf above 88.8, NaN for NaN.
// x = n·ln 2 + r with |r| ≤ ln 2 / 2; adding 1.5·2²³ rounds to an integer and leaves it in the low bits of the sum.
CPU_INLINE vector vector_exp(vector x) {
  const float round = 0x1.8p23f, log2e = 0x1.715476p0f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  const vector high = (vector){0} + 90.0f, low = (vector){0} - 105.0f;
  x = vector_select(x > high, high, x);
  x = vector_select(x < low, low, x);
  vector shifted = x * log2e + round;
  vector n = shifted - round;
  vector r = (x - n * ln2_high) - n * ln2_low;
  vector p = r * 0x1.6850e4p-10f + 0x1.123bccp-7f;
  p = p * r + 0x1.555b98p-5f;
  p = p * r + 0x1.55548ep-3f;
  p = p * r + 0x1.fffff8p-2f;
  p = p * r * r + r;
  vector_bits exponent = (vector_bits)shifted - (vector_bits)((vector){0} + round); // −152 .. 130: scaled in two steps
  vector_bits half = exponent >> 1;
  return (p + 1.0f) * (vector)((half + 127) << 23) * (vector)((exponent - half + 127) << 23);
}

typedef double vector_double __attribute__((vector_size(32)));
typedef int64_t vector_double_bits __attribute__((vector_size(32)));
enum { DOUBLE_LANES = 4 };

CPU_INLINE vector_double vector_widen(const float x[DOUBLE_LANES]) {
  float __attribute__((vector_size(4 * DOUBLE_LANES))) v;
  memcpy(&v, x, sizeof v);
  return __builtin_convertvector(v, vector_double);
}

// e^x for x ≤ 0 within 3e-16 of its value; 0 below −700.
CPU_INLINE vector_double vector_exp_negative(vector_double x) {
  const double round = 0x1.8p52, log2e = 0x1.71547652b82fep0, ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b39p-40;
  const vector_double low = (vector_double){0} - 700.0;
  vector_double_bits vanishes = x < low;
  x = (vector_double)((vanishes & (vector_double_bits)low) | (~vanishes & (vector_double_bits)x));
  vector_double shifted = x * log2e + round;
  vector_double n = shifted - round;
  vector_double r = (x - n * ln2_high) - n * ln2_low;
  vector_double p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0; // the series of e^r to r^13: its rest is 2e-18 at |r| = ln 2 / 2
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r * r + r;
  vector_double_bits exponent = (vector_double_bits)shifted - (vector_double_bits)((vector_double){0} + round);
  vector_double e = (p + 1.0) * (vector_double)((exponent + 1023) << 52);
  return (vector_double)(~vanishes & (vector_double_bits)e);
}

// IEEE half precision, rounded to nearest even, as F16C does it: overflow to infinity, subnormals kept, a NaN stays one (made quiet).
CPU_INLINE uint16_t cpu_f16(float x) {
  uint32_t bits = cpu_bits(x), sign = bits >> 16 & 0x8000, a = bits & 0x7fffffff;
  uint32_t nan = 0x7e00 | (a >> 13 & 0x3ff);
  // 13 bits fall off: add just under half of the last kept one, and one more if that is odd; then move the exponent's bias from 127 to 15.
  uint32_t normal = (a + 0xfff + (a >> 13 & 1) - (112u << 23)) >> 13;
  // Below 2⁻¹⁴ the sum with 0.5 has the half's subnormal in its low bits, rounded by the addition itself.
  uint32_t subnormal = cpu_bits(cpu_float(a) + 0.5f) - cpu_bits(0.5f);
  uint32_t half = a < (113u << 23) ? subnormal : normal;
  half = a >= 0x477ff000 ? 0x7c00 : half; // 65520 and up
  half = a > 0x7f800000 ? nan : half;
  return (uint16_t)(sign | half);
}

#endif // INFERNO_CPU_VECMATH_H
