// attention_body.h: one tile of attention in one instruction set, included after simd.h by attention_*.c.
//
// For each (row, head), over chunks of 32 keys from position 0 up to the row's own position:
//   s_t = Σ_d (scale·q_d)·k_td, by FMA over d in order;  m' = max(m, max s);  p_t = exp(s_t − m')
//   sum = sum·exp(m − m') + p, in as many lanes as the vector has
//   acc_d = acc_d·exp(m − m'), then fma(p_t, v_td, acc_d) over t in order
// and out = acc / Σ lanes of sum. A key after the row's own is left out, never added as zero, so a row's bits are the
// same in any tile.
//
// Keys of a chunk are turned to [d][key] once for all rows and heads of the tile, so that lanes are keys and no sum
// runs across lanes.

#define QUERY_ROWS 4 // (row, head) pairs that share loaded keys and values
#define VECTORS (MAX_TILE / QUERY_ROWS)
#define KEY_VECTORS 2 // vectors of scores a pair has in registers
#define prefetch(p) __builtin_prefetch((p), 0, 2)

// Where a chunk's keys and values lie in the cache; the last visible one stands in for those after it.
typedef struct {
  const char *key[ATTENTION_CHUNK], *value[ATTENTION_CHUNK];
} attention_rows;

typedef struct {
  const cpu_attention_tile *t;
  int64_t k, padded;               // head dimension, and rounded up to 16
  int count;                       // (row, head) pairs
  int block_shift;                 // log2 of the block size
  float *q, *acc;                  // [count][padded]
  float *sum;                      // [count][16] of which LANES are used
  float *p;                        // [count][ATTENTION_CHUNK] scores, then probabilities
  float *keys;                     // [k][ATTENTION_CHUNK]
  float *wide;                     // [ATTENTION_CHUNK][padded] values as float32
  const float *v[ATTENTION_CHUNK]; // where the chunk's values are as float32
  attention_rows rows, next;       // of this chunk and the one after it
  float max[ATTENTION_QUERIES];
} attention_state;

// Keys that pair i of the tile sees.
static inline int64_t visible(const cpu_attention_tile *t, int i) { return t->position + i / t->heads + 1; }

static void locate(const attention_state *s, int64_t start, attention_rows *rows) {
  const inferno_tensor *k = &s->t->args->k_cache, *v = &s->t->args->v_cache;
  int64_t last = visible(s->t, s->count - 1) - 1, mask = ((int64_t)1 << s->block_shift) - 1;
  int64_t k_element = k->dtype == INFERNO_F32 ? 4 : 2, v_element = v->dtype == INFERNO_F32 ? 4 : 2;
  for (int64_t i = 0; i < ATTENTION_CHUNK; i++) {
    int64_t position = cpu_min(start + i, last), block = s->t->blocks[position >> s->block_shift];
    int64_t in_block = (((int64_t)s->t->kv_head << s->block_shift) + (position & mask)) * s->k;
    rows->key[i] = (const char *)k->data + (block * k->stride + in_block) * k_element;
    rows->value[i] = (const char *)v->data + (block * v->stride + in_block) * v_element;
  }
}

static inline float cache_element(int32_t dtype, const void *row, int64_t d) {
  return dtype == INFERNO_F32 ? ((const float *)row)[d] : cpu_f16(((const uint16_t *)row)[d]);
}

// The chunk's n keys → [d][key]; what lies in the lanes after n is masked later.
SIMD void load_keys(const attention_state *s, int32_t dtype, int64_t n) {
  const char *const *rows = s->rows.key;
  int64_t whole = s->k / LANES * LANES;
  for (int first = 0; first < n; first += LANES) {
    for (int64_t d = 0; d < whole; d += LANES) {
      vf m[LANES];
      UNROLL for (int i = 0; i < LANES; i++) m[i] = vf_load_as(dtype, rows[first + i], d);
      vf_transpose(m);
      UNROLL for (int i = 0; i < LANES; i++) vf_store(s->keys + (d + i) * ATTENTION_CHUNK + first, m[i]);
    }
    for (int64_t d = whole; d < s->k; d++) {
      for (int i = 0; i < LANES; i++) s->keys[d * ATTENTION_CHUNK + first + i] = cache_element(dtype, rows[first + i], d);
    }
  }
}

// Float32 values whose rows fill whole vectors are read where they are.
SIMD void load_values(attention_state *s, int32_t dtype, int64_t n) {
  int64_t whole = s->k / LANES * LANES;
  for (int64_t i = 0; i < n; i++) {
    const void *row = s->rows.value[i];
    if (dtype == INFERNO_F32 && whole == s->k) {
      s->v[i] = row;
      continue;
    }
    float *out = s->wide + i * s->padded;
    for (int64_t d = 0; d < whole; d += LANES) vf_store(out + d, vf_load_as(dtype, row, d));
    for (int64_t d = whole; d < s->padded; d++) out[d] = d < s->k ? cache_element(dtype, row, d) : 0;
    s->v[i] = out;
  }
}

// Scores of `rows` pairs from pair i on, against the chunk's first n keys. `ahead`: ask for the next chunk's keys
// meanwhile, a line or two at a time. Blocks are too short for the hardware to see the next one coming, and a burst
// of requests would hold up the loads behind it.
SIMD void scores(const attention_state *s, int i, int rows, int64_t n, bool ahead) {
  const float *q = s->q + i * s->padded;
  const bool wide = s->t->args->k_cache.dtype == INFERNO_F32;
  for (int first = 0; first < n; first += KEY_VECTORS * LANES) {
    vf acc[QUERY_ROWS][KEY_VECTORS];
    UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int j = 0; j < KEY_VECTORS; j++) acc[r][j] = vf_zero(); }
    for (int64_t d = 0; d < s->k; d++) {
      if (ahead && first == 0) {
        const char *next = s->next.key[d % ATTENTION_CHUNK] + d / ATTENTION_CHUNK * 64;
        prefetch(next);
        if (wide) prefetch(next + 2 * s->k);
      }
      vf key[KEY_VECTORS];
      const float *line = s->keys + d * ATTENTION_CHUNK + first;
      UNROLL for (int j = 0; j < KEY_VECTORS; j++) key[j] = vf_pin(vf_load(line + j * LANES));
      UNROLL for (int r = 0; r < rows; r++) {
        vf broadcast = vf_set1(q[r * s->padded + d]);
        UNROLL for (int j = 0; j < KEY_VECTORS; j++) acc[r][j] = vf_fma(broadcast, key[j], acc[r][j]);
      }
    }
    UNROLL for (int r = 0; r < rows; r++) {
      float *out = s->p + (i + r) * ATTENTION_CHUNK + first;
      UNROLL for (int j = 0; j < KEY_VECTORS; j++) vf_store(out + j * LANES, acc[r][j]);
    }
  }
}

// Scores → probabilities relative to the largest score so far, of pair i and its n visible keys.
SIMD void soften(attention_state *s, int i, int64_t n) {
  float *p = s->p + i * ATTENTION_CHUNK, *acc = s->acc + i * s->padded;
  const vf none = vf_set1(-INFINITY);
  vf largest = none;
  for (int64_t j = 0; j < n; j += LANES) largest = vf_max(largest, vf_first(vf_load(p + j), n - j, none));
  float old = s->max[i], max = vf_max_lanes(largest);
  vf sum = vf_load(s->sum + i * 16);
  if (max > old) {
    vf factor = vf_exp(vf_set1(old - max));
    for (int64_t d = 0; d < s->padded; d += LANES) vf_store(acc + d, vf_mul(factor, vf_load(acc + d)));
    sum = vf_mul(factor, sum);
    s->max[i] = max;
  } else {
    max = old;
  }
  for (int64_t j = 0; j < n; j += LANES) {
    vf e = vf_first(vf_exp(vf_sub(vf_load(p + j), vf_set1(max))), n - j, vf_zero());
    vf_store(p + j, e);
    sum = vf_add(sum, e);
  }
  vf_store(s->sum + i * 16, sum);
}

// acc_d = fma(p_t, v_td, acc_d) for `rows` pairs from pair i on, `vectors` vectors of dimensions from d, keys [from,
// to) of the chunk.
SIMD void weigh_tile(const attention_state *s, int i, int rows, int64_t d, int vectors, int64_t from, int64_t to, bool ahead) {
  const int64_t element = s->t->args->v_cache.dtype == INFERNO_F32 ? 4 : 2;
  float *out = s->acc + i * s->padded + d;
  const float *p = s->p + i * ATTENTION_CHUNK;
  vf acc[QUERY_ROWS][VECTORS];
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int j = 0; j < vectors; j++) acc[r][j] = vf_load(out + r * s->padded + j * LANES); }
  for (int64_t t = from; t < to; t++) {
    if (ahead) {
      for (int64_t b = 0; b < vectors * LANES * element; b += 64) prefetch(s->next.value[t] + d * element + b);
    }
    vf value[VECTORS];
    UNROLL for (int j = 0; j < vectors; j++) value[j] = vf_pin(vf_load(s->v[t] + d + j * LANES));
    UNROLL for (int r = 0; r < rows; r++) {
      vf broadcast = vf_set1(p[r * ATTENTION_CHUNK + t]);
      UNROLL for (int j = 0; j < vectors; j++) acc[r][j] = vf_fma(broadcast, value[j], acc[r][j]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int j = 0; j < vectors; j++) vf_store(out + r * s->padded + j * LANES, acc[r][j]); }
}

SIMD void weigh(const attention_state *s, int i, int rows, int64_t from, int64_t to, bool ahead) {
  int64_t end = cpu_div_up(s->k, LANES) * LANES, d = 0;
  for (; d + VECTORS * LANES <= end; d += VECTORS * LANES) weigh_tile(s, i, rows, d, VECTORS, from, to, ahead);
  for (; d < end; d += LANES) weigh_tile(s, i, rows, d, 1, from, to, ahead);
}

// One chunk for `rows` pairs from pair i on; `rows` is a constant wherever this is inlined.
SIMD void chunk_rows(attention_state *s, int i, int rows, int64_t start, bool ahead) {
  int64_t seen[QUERY_ROWS]; // not falling, for later rows see more
  for (int r = 0; r < rows; r++) seen[r] = cpu_min(visible(s->t, i + r) - start, ATTENTION_CHUNK);
  scores(s, i, rows, seen[rows - 1], ahead);
  for (int r = 0; r < rows; r++) soften(s, i + r, seen[r]);
  weigh(s, i, rows, 0, seen[0], ahead);
  for (int r = 1; r < rows; r++) {
    if (seen[r] > seen[0]) weigh(s, i + r, 1, seen[0], seen[r], false);
  }
}

TARGET static void chunk(attention_state *s, int64_t start) {
  const inferno_attention_args *a = s->t->args;
  int64_t n = cpu_min(visible(s->t, s->count - 1) - start, ATTENTION_CHUNK);
  s->rows = s->next;
  locate(s, start + ATTENTION_CHUNK, &s->next);
  if (a->k_cache.dtype == INFERNO_F16) load_keys(s, INFERNO_F16, n);
  else load_keys(s, INFERNO_F32, n);
  if (a->v_cache.dtype == INFERNO_F16) load_values(s, INFERNO_F16, n);
  else load_values(s, INFERNO_F32, n);

  int i = 0;
  while (visible(s->t, i) <= start) i++; // earlier rows may end before this chunk
  bool ahead = true;
  for (; i + 4 <= s->count; i += 4, ahead = false) chunk_rows(s, i, 4, start, ahead);
  switch (s->count - i) {
  case 3: chunk_rows(s, i, 3, start, ahead); return;
  case 2: chunk_rows(s, i, 2, start, ahead); return;
  case 1: chunk_rows(s, i, 1, start, ahead); return;
  }
}

// Pair i's head dimensions in q or out.
static inline float *pair_row(const cpu_attention_tile *t, const inferno_tensor *x, int i) {
  return (float *)x->data + (t->row + i / t->heads) * x->stride + (int64_t)(t->head + i % t->heads) * t->args->head_dim;
}

TARGET static void begin(attention_state *s) {
  const cpu_attention_tile *t = s->t;
  for (int i = 0; i < s->count; i++) {
    const float *q = pair_row(t, &t->args->q, i);
    for (int64_t d = 0; d < s->k; d++) s->q[i * s->padded + d] = q[d] * t->args->scale;
    for (int64_t d = 0; d < s->padded; d++) s->acc[i * s->padded + d] = 0;
    for (int lane = 0; lane < 16; lane++) s->sum[i * 16 + lane] = 0;
    s->max[i] = -INFINITY;
  }
}

// A row that sees no key, which only padding does, yields zeros.
TARGET static void finish(const attention_state *s) {
  const cpu_attention_tile *t = s->t;
  for (int i = 0; i < s->count; i++) {
    float *out = pair_row(t, &t->args->out, i);
    float inverse = visible(t, i) > 0 ? 1 / vf_sum_lanes(vf_load(s->sum + i * 16)) : 0;
    for (int64_t d = 0; d < s->k; d++) out[d] = s->acc[i * s->padded + d] * inverse;
  }
}

TARGET static void attention_tile(const cpu_attention_tile *t) {
  attention_state s = {.t = t, .k = t->args->head_dim, .count = t->rows * t->heads};
  s.padded = cpu_div_up(s.k, 16) * 16;
  s.block_shift = __builtin_ctz((unsigned)t->args->block_size);
  s.q = t->scratch;
  s.acc = s.q + ATTENTION_QUERIES * s.padded;
  s.sum = s.acc + ATTENTION_QUERIES * s.padded;
  s.p = s.sum + ATTENTION_QUERIES * 16;
  s.keys = s.p + ATTENTION_QUERIES * ATTENTION_CHUNK;
  s.wide = s.keys + ATTENTION_CHUNK * s.padded;
  begin(&s);
  if (visible(t, s.count - 1) > 0) locate(&s, 0, &s.next);
  for (int64_t start = 0; start < visible(t, s.count - 1); start += ATTENTION_CHUNK) chunk(&s, start);
  finish(&s);
}
