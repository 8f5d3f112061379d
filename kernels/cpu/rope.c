// rope.c: rotary position embedding and the writing of keys and values. Memory-bound; the angles' sines are computed once a step.
#include <math.h>

#include "vecmath.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// table[n, i] = scale · cos(pos[n] · freq[i]), table[n, k/2 + i] = scale · sin(pos[n] · freq[i]) for i < k/2; all in double but the result.
void cpu_rope_table(cpu_worker *w, const void *args) {
  const inferno_rope_table_args *a = args;
  const int32_t *pos = a->pos.data;
  const float *freq = a->freq.data;
  int64_t from, to, half = a->table.cols / 2, n = a->table.rows;
  cpu_share(w, n, &from, &to);
  for (int64_t i = from; i < to; i++) {
    float *table = cpu_row(&a->table, i);
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
  for (int64_t i = from; i < to; i++) CPU_CALL(w->dev->isa, rotate)(cpu_row(&a->x, i), cpu_row(&a->table, i), a->heads, a->table.cols);
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

// Where keys and values go.
typedef struct {
  const inferno_tensor *k_cache, *v_cache; // [B, g·p·k]
  int32_t kv_heads, head_dim, block_size;
} kv_cache;

// One token's keys or values x[g, k] to its slot of cache [B, g, p, k].
static void store(cpu_isa isa, const inferno_tensor *cache, const kv_cache *to, int64_t slot, const float *x) {
  int64_t k = to->head_dim, at = slot / to->block_size * cache->stride + slot % to->block_size * k;
  for (int64_t j = 0; j < to->kv_heads; j++, x += k, at += to->block_size * k) {
    if (cache->dtype == INFERNO_F32) {
      memcpy((float *)cache->data + at, x, (size_t)k * sizeof(float));
    } else {
      CPU_CALL(isa, to_f16)((uint16_t *)cache->data + at, x, k);
    }
  }
}

// One token's keys and values to its slot; −1 is none.
static void store_token(cpu_worker *w, const kv_cache *to, int64_t slot, const float *key, const float *value) {
  if (slot == -1) return;
  if (slot < 0 || slot / to->block_size >= to->k_cache->rows) {
    cpu_fail(w->dev, INFERNO_BAD_ARGUMENT, "store_kv: a slot lies outside the cache");
    return;
  }
  store(w->dev->isa, to->k_cache, to, slot, key);
  store(w->dev->isa, to->v_cache, to, slot, value);
}

// Keys and values [n, g·k] to their slots; workers split rows.
void cpu_store_kv(cpu_worker *w, const void *args) {
  const inferno_store_kv_args *a = args;
  const kv_cache cache = {&a->k_cache, &a->v_cache, a->kv_heads, a->head_dim, a->block_size};
  int64_t from, to;
  cpu_share(w, a->key.rows, &from, &to);
  for (int64_t i = from; i < to; i++) {
    store_token(w, &cache, ((const int32_t *)a->slots.data)[i], cpu_row(&a->key, i), cpu_row(&a->value, i));
  }
}

// cpu_rope on q and key, then cpu_store_kv, row by row while both lie in cache; key is left rotated.
void cpu_rope_store_kv(cpu_worker *w, const void *args) {
  const inferno_rope_store_kv_args *a = args;
  const kv_cache cache = {&a->k_cache, &a->v_cache, a->kv_heads, a->head_dim, a->block_size};
  int64_t from, to;
  cpu_share(w, a->q.rows, &from, &to);
  for (int64_t i = from; i < to; i++) {
    const float *table = cpu_row(&a->table, i);
    CPU_CALL(w->dev->isa, rotate)(cpu_row(&a->q, i), table, a->heads, a->head_dim);
    CPU_CALL(w->dev->isa, rotate)(cpu_row(&a->key, i), table, a->kv_heads, a->head_dim);
    store_token(w, &cache, ((const int32_t *)a->slots.data)[i], cpu_row(&a->key, i), cpu_row(&a->value, i));
  }
}
