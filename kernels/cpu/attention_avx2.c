// attention_avx2.c: attention's tiles in AVX2.
#if defined(__x86_64__)

#define SIMD_AVX2
#include <math.h>

#include "attention.h"
#include "simd.h"

#include "attention_body.h"

void cpu_attention_avx2(const cpu_attention_tile *t) { attention_tile(t); }

#endif
