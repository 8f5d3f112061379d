// attention_portable.c: attention's tiles in plain C.
#define SIMD_PORTABLE
#include <math.h>

#include "attention.h"
#include "simd.h"

#include "attention_body.h"

void cpu_attention_portable(const cpu_attention_tile *t) { attention_tile(t); }
