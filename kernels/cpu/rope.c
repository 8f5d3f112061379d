// rope.c: rotary position embedding and the writing of keys and values. Memory-bound; the angles' sines are computed once a step.
#include <math.h>

#include "vecmath.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static inline float *row(const inferno_tensor *t, int64_t i) { return (float *)t->data + i * t->stride; }

// table[n, i] = scale · cos(pos[n] · freq[i]), table[n, k/2 + i] = scale · sin(pos[n] · freq[i]) for i < k/2; all in double but the result.
void cpu_rope_table(cpu_worker *w, const void *args) {
  const inferno_rope_table_args *a = args;
  const int32_t *pos = a->pos.data;
  const float *freq = a->freq.data;
  int64_t from, to, half = a->table.cols / 2, n = a->table.rows;
  cpu_share(w, n, &from, &to);
  for (int64_t i = from; i < to; i++) {
    float *table = row(&a->table, i);
    for (int64_t j = 0; j < half; j++) {
      double angle = (double)pos[i] * (double)freq[j];
      table[j] = (float)((double)a->scale * cos(angle));
      table[half + j] = (float)((double)a->scale * sin(angle));
    }
  }
}

// Rotates the neighbours (2i, 2i+1) of each of x's heads by the angle i of table[k].
CPU_INLINE void rotate(float *restrict x, const float *restrict table, int64_t heads, int64_t k) {
  for (int64_t h = 0; h < heads; h++, x += k) {
    for (int64_t i = 0; i < k / 2; i++) {
      float c = table[i], s = table[k / 2 + i], even = x[2 * i], odd = x[2 * i + 1];
      x[2 * i] = even * c - odd * s;
      x[2 * i + 1] = even * s + odd * c;
    }
  }
}
CPU_CLONES(void, rotate, (float *x, const float *table, int64_t heads, int64_t k), (x, table, heads, k))

// x[n, heads·k] in place, table[n, k].
void cpu_rope(cpu_worker *w, const void *args) {
  const inferno_rope_args *a = args;
  int64_t from, to, n = a->x.rows;
  cpu_share(w, n, &from, &to);
  for (int64_t i = from; i < to; i++) CPU_CALL(w->dev->isa, rotate)(row(&a->x, i), row(&a->table, i), a->heads, a->table.cols);
}

static void to_f16_portable(uint16_t *out, const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = cpu_f16(x[i]);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma,f16c"))) static void to_f16_avx2(uint16_t *out, const float *x, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; i++) out[i] = cpu_f16(x[i]);
}
#endif

// Where the keys and values go: caches [B, g, p, k].
typedef struct {
  const inferno_tensor *cache;
  int32_t kv_heads, head_dim, block_size, slot;
} destination;

// x[g, k] to its slot.
static void store(cpu_isa isa, destination to, const float *x) {
  int64_t k = to.head_dim, block = to.slot / to.block_size, offset = to.slot % to.block_size;
  for (int64_t j = 0; j < to.kv_heads; j++, x += k) {
    int64_t at = block * to.cache->stride + (j * to.block_size + offset) * k;
    if (to.cache->dtype == INFERNO_F32) {
      memcpy((float *)to.cache->data + at, x, (size_t)k * sizeof(float));
    } else {
      CPU_CALL(isa, to_f16)((uint16_t *)to.cache->data + at, x, k);
    }
  }
}

// False for a slot that is skipped: −1, or one outside the cache, which is a failure.
static bool is_stored(cpu_worker *w, const inferno_tensor *cache, int32_t slot, int32_t block_size) {
  if (slot == -1) return false;
  if (slot >= 0 && slot / block_size < cache->rows) return true;
  cpu_fail(w->dev, INFERNO_BAD_ARGUMENT, "store_kv: a slot lies outside the cache");
  return false;
}

// Keys and values [n, g·k] to their slots; workers split rows.
void cpu_store_kv(cpu_worker *w, const void *args) {
  const inferno_store_kv_args *a = args;
  const int32_t *slots = a->slots.data;
  int64_t from, to, n = a->key.rows;
  cpu_share(w, n, &from, &to);
  for (int64_t i = from; i < to; i++) {
    if (!is_stored(w, &a->k_cache, slots[i], a->block_size)) continue;
    destination d = {&a->k_cache, a->kv_heads, a->head_dim, a->block_size, slots[i]};
    store(w->dev->isa, d, row(&a->key, i));
    d.cache = &a->v_cache;
    store(w->dev->isa, d, row(&a->value, i));
  }
}

// cpu_rope on q and key, then cpu_store_kv, row by row while both lie in cache; key is left rotated.
void cpu_rope_store_kv(cpu_worker *w, const void *args) {
  const inferno_rope_store_kv_args *a = args;
  const int32_t *slots = a->slots.data;
  int64_t from, to, n = a->q.rows;
  cpu_share(w, n, &from, &to);
  for (int64_t i = from; i < to; i++) {
    CPU_CALL(w->dev->isa, rotate)(row(&a->q, i), row(&a->table, i), a->heads, a->head_dim);
    CPU_CALL(w->dev->isa, rotate)(row(&a->key, i), row(&a->table, i), a->kv_heads, a->head_dim);
    if (!is_stored(w, &a->k_cache, slots[i], a->block_size)) continue;
    destination d = {&a->k_cache, a->kv_heads, a->head_dim, a->block_size, slots[i]};
    store(w->dev->isa, d, row(&a->key, i));
    d.cache = &a->v_cache;
    store(w->dev->isa, d, row(&a->value, i));
  }
}
