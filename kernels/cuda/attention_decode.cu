// attention_decode.cu: out[n, h·k] = softmax(scale · q kᵀ) v over paged BF16 caches, a row of q at a time, k 64 or 128, float32 sums. For
// decode steps and other batches of few rows. Bound by the bytes of keys and values, 4·k a token and KV head, each read once for all of
// the head's query heads.
//
// Bits. A row's keys are cut into chunks of 64 from position 0. A chunk has its own softmax and its own sum of values, begun at zero.
// Chunks are merged in their order, four to a group; groups likewise, four to one of the next level; the groups of the highest level one
// after another. This tree depends on the row's position alone. Who computes which part of it does not show in the result: a unit of work
// is one group of a level chosen by the length and the room on the card, and the block that finishes a row's last unit merges the units
// along the same tree.
//
// A block takes one unit of a row and KV head: its four warps score 16 keys each, then hold a quarter of the values' columns each. Keys
// and values are the 16-row operands of mma.m16n8k16, up to eight query heads the 8 columns. Two or three chunks are in flight a block,
// two of them asked of the L2 before the wait for the kernel that makes q.
#include <stdlib.h>

#include "attention_tile.cuh"

enum {
  WARPS = 4,
  THREADS = 32 * WARPS,
  CHUNK = 64, // keys
  TILE_HEADS = 8,
  FAN = 4,    // groups of a level in one of the next
  LEVELS = 5, // groups of level i hold FANⁱ chunks, of the last level all of a row's
  SCORE_PITCH = CHUNK + 8,
  MERGE_AHEAD = 8,          // units that a merge reads at a time
  MAX_UNITS = 32,           // of a row and KV head
  TARGET_UNITS = 256,       // of all
  MAX_ARRIVALS = 1 << 16,   // rows × KV heads that can be split
  PARTIAL_FLOATS = 8 << 20, // of all units
};

// Results of units, and how many of a row's units are done: zeros between launches. Fixed in size, so that no step allocates.
struct attention_partials {
  float *units;       // [rows × KV heads][units][heads][k + 4]: sum of values, largest score, sum of weights
  uint32_t *arrivals; // [rows × KV heads]
};

bool attention_open(inferno_device *dev) {
  attention_partials *p = (attention_partials *)calloc(1, sizeof *p);
  dev->partials = p;
  return p && !cudaMalloc((void **)&p->units, PARTIAL_FLOATS * sizeof(float)) &&
         !cudaMalloc((void **)&p->arrivals, MAX_ARRIVALS * sizeof(uint32_t)) &&
         !cudaMemset(p->arrivals, 0, MAX_ARRIVALS * sizeof(uint32_t));
}

void attention_close(inferno_device *dev) {
  if (!dev->partials) return;
  cudaFree(dev->partials->units);
  cudaFree(dev->partials->arrivals);
  free(dev->partials);
}

struct decode_view {
  attention_view<bf16> a;
  attention_partials partials;
  decode_rows which;
  int32_t max_units, tiles; // of query heads a KV head
  int32_t num_blocks, table_cols;
};

// A block's row and what it sees of it.
struct decode_unit {
  int row, sequence, keys;
  int units, level, first, end; // of the row; of this unit: its chunks are first .. end−1. None: units 0
};

// Reads what uploads wrote, without the first-level cache, so that it may be asked before the wait as a guess and after it for certain.
__device__ __forceinline__ decode_unit unit_of(const decode_view &d) {
  decode_unit u = {};
  if (d.which == EVERY_ROW) {
    u.row = blockIdx.z;
    u.sequence = d.a.sequence_of(u.row, u.keys);
  } else {
    u.sequence = blockIdx.z;
    u.row = __ldcg(d.a.query_start + u.sequence);
    if (__ldcg(d.a.query_start + u.sequence + 1) != u.row + 1) return u;
    u.keys = __ldcg(d.a.kv_len + u.sequence);
  }
  if (u.sequence < 0 || u.keys <= 0) return u;
  int chunks = (u.keys + CHUNK - 1) / CHUNK, size = 1;
  while (u.level < LEVELS && (chunks + size - 1) / size > d.max_units) {
    u.level++;
    size = u.level == LEVELS ? chunks : size * FAN;
  }
  u.first = blockIdx.x * size;
  u.end = min(chunks, u.first + size);
  u.units = u.first < chunks ? (chunks + size - 1) / size : 0;
  return u;
}

// Softmax of some keys for one query head: the largest score (in powers of 2), the sum of weights relative to it, and N elements of their
// sum of values.
template <int N> struct partial {
  float largest, weights, values[N];
};

// How a thread that holds values of a matrix unit's result gets its heads' factors: lane 4·j has those of head j; values 2i and 2i + 1 are
// of heads 2·(lane % 4) and 2·(lane % 4) + 1.
struct by_column {
  static __device__ __forceinline__ void factors(float (&to)[2], float f) {
    int t = threadIdx.x % 4;
    to[0] = __shfl_sync(~0u, f, 8 * t);
    to[1] = __shfl_sync(~0u, f, 8 * t + 4);
  }
};

// The same where all values are of the thread's own head.
struct by_thread {
  static __device__ __forceinline__ void factors(float (&to)[2], float f) { to[0] = to[1] = f; }
};

// Adds y, of later keys, to x. The roundings are spelled out: they are the same wherever this is compiled.
template <typename HEADS, int N> __device__ __forceinline__ void merge(partial<N> &x, const partial<N> &y) {
  float largest = fmaxf(x.largest, y.largest), fx = exp2_fast(__fsub_rn(x.largest, largest)), fy = exp2_fast(__fsub_rn(y.largest, largest));
  x.largest = largest;
  x.weights = __fmaf_rn(y.weights, fy, __fmul_rn(x.weights, fx));
  float for_x[2], for_y[2];
  HEADS::factors(for_x, fx);
  HEADS::factors(for_y, fy);
#pragma unroll
  for (int i = 0; i < N; i++) x.values[i] = __fmaf_rn(y.values[i], for_y[i % 2], __fmul_rn(x.values[i], for_x[i % 2]));
}

// The groups that are being merged, one a level.
template <typename HEADS, int N> struct merge_tree {
  partial<N> group[LEVELS];

  // Adds x, the group number `index` of level `from`; `last`: no more follow. Where that completes a group of level `to`, x becomes it.
  __device__ __forceinline__ bool add(partial<N> &x, int index, int from, int to, bool last) {
#pragma unroll
    for (int level = 1; level <= LEVELS; level++) {
      if (level <= from || level > to) continue;
      partial<N> &g = group[level - 1];
      int place = level == LEVELS ? index : index % FAN;
      if (place == 0) g = x;
      else merge<HEADS>(g, x);
      if (!last && (level == LEVELS || place < FAN - 1)) return false;
      x = g;
      index /= FAN;
    }
    return true;
  }
};

template <int K> struct decode_shape {
  static constexpr int STAGES = K == 128 ? 2 : 3, TILE = CHUNK * K; // elements
  static constexpr int KEY_STEPS = K / 16;                          // matrix products that score 16 keys
  static constexpr int VALUE_TILES = K / 16 / WARPS;                // of 16 columns, a warp
  static constexpr int PITCH = K + 4;                               // floats of a head of a unit's result
  static constexpr size_t SHARED = (size_t)STAGES * 2 * TILE * sizeof(bf16) + 2 * TILE_HEADS * SCORE_PITCH * sizeof(float);
};

// Asks the L2 for a chunk, as far as the guess makes sense: a stale one must not lead out of the cache.
template <int K> __device__ __forceinline__ void prefetch_chunk(const decode_view &d, const decode_unit &u, int64_t head, int chunk) {
  constexpr int LINES = K * 2 / 128;
  for (int line = threadIdx.x; line < CHUNK * LINES; line += THREADS) {
    int token = CHUNK * chunk + line / LINES, column = token / d.a.block_size;
    if (token >= u.keys || column >= d.table_cols) continue;
    int block = __ldcg(d.a.block_table.row(u.sequence) + column);
    if (block < 0 || block >= d.num_blocks) continue;
    int64_t at = block * d.a.k_cache.stride + head + token % d.a.block_size * K + line % LINES * 64;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(d.a.k_cache.data + at));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(d.a.v_cache.data + at));
  }
}

// q as the column operand: words 2s and 2s + 1 of lane 4·j + t are columns 16s + 2t and 16s + 2t + 8 of head j.
template <int K> __device__ __forceinline__ void load_query(uint32_t (&q)[K / 8], const bf16 *heads, int num_heads, bool wide) {
  int j = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < K / 8; i++) q[i] = j < num_heads ? load_pair(heads + j * K + 8 * i + 2 * t, wide) : 0;
}

// The raw scores of 16 keys of a warp, into scores[head][key].
template <int K> __device__ __forceinline__ void score_keys(float *scores, const bf16 *keys, const uint32_t (&q)[K / 8]) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float even[4] = {}, odd[4] = {}; // two chains: half the latency
#pragma unroll
  for (int s = 0; s < K / 16; s += 2) {
    uint32_t a[4];
    load_matrices(a, keys + tile_at<CHUNK>(16 * warp + lane % 16, 2 * s + lane / 16));
    mma_bf16(even, a, q[2 * s], q[2 * s + 1]);
    load_matrices(a, keys + tile_at<CHUNK>(16 * warp + lane % 16, 2 * s + 2 + lane / 16));
    mma_bf16(odd, a, q[2 * s + 2], q[2 * s + 3]);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) scores[(2 * t + i % 2) * SCORE_PITCH + 16 * warp + g + i / 2 * 8] = even[i] + odd[i];
}

// The softmax of a chunk and its sum of values, of which `left` keys are seen. Every warp weighs all keys, a head in four lanes.
template <int K>
__device__ __forceinline__ void sum_values(partial<4 * decode_shape<K>::VALUE_TILES> &x, const float *scores, const bf16 *values, int left,
                                           float scale) {
  constexpr int STEPS = CHUNK / 16;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float w[STEPS][4]; // keys 16s + 2t + {0, 1, 8, 9} of head g
  x.largest = -INFINITY;
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      int key = 16 * s + 2 * t + 4 * i;
      float2 pair = *(const float2 *)(scores + g * SCORE_PITCH + key);
      w[s][i] = key < left ? __fmul_rn(pair.x, scale) : -INFINITY;
      w[s][i + 1] = key + 1 < left ? __fmul_rn(pair.y, scale) : -INFINITY;
      x.largest = fmaxf(x.largest, fmaxf(w[s][i], w[s][i + 1]));
    }
  }
  x.largest = fmaxf(x.largest, __shfl_xor_sync(~0u, x.largest, 1));
  x.largest = fmaxf(x.largest, __shfl_xor_sync(~0u, x.largest, 2));
  x.weights = 0;
  uint32_t packed[STEPS][2];
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
#pragma unroll
    for (int i = 0; i < 4; i++) w[s][i] = exp2_fast(__fsub_rn(w[s][i], x.largest));
    x.weights += (w[s][0] + w[s][1]) + (w[s][2] + w[s][3]);
    packed[s][0] = pack_halves(w[s][0], w[s][1]);
    packed[s][1] = pack_halves(w[s][2], w[s][3]);
  }
  x.weights += __shfl_xor_sync(~0u, x.weights, 1);
  x.weights += __shfl_xor_sync(~0u, x.weights, 2);
#pragma unroll
  for (int m = 0; m < decode_shape<K>::VALUE_TILES; m++) {
    float sum[4] = {};
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      uint32_t a[4]; // 16 columns of the values by 16 keys
      int piece = (warp * decode_shape<K>::VALUE_TILES + m) * 2 + lane / 8 % 2;
      load_matrices_transposed(a, values + tile_at<CHUNK>(16 * s + lane % 8 + lane / 16 * 8, piece));
      mma_bf16(sum, a, packed[s][0], packed[s][1]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) x.values[4 * m + i] = sum[i];
  }
}

// Calls do(head, column, value) for what the thread holds of a result.
template <int K, typename F>
__device__ __forceinline__ void each_value(const partial<4 * decode_shape<K>::VALUE_TILES> &x, int num_heads, F visit) {
  int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4 * decode_shape<K>::VALUE_TILES; i++) {
    int head = 2 * t + i % 2, column = (warp * decode_shape<K>::VALUE_TILES + i / 4) * 16 + i / 2 % 2 * 8 + g;
    if (head < num_heads) visit(head, column, x.values[i], i % 2);
  }
}

// Merges the units of a row into out: a thread takes four columns of a head at a time.
template <int K> __device__ void merge_units(bf16 *out, bool wide, const float *units, int num_units, int level, int num_heads) {
  constexpr int PITCH = decode_shape<K>::PITCH, QUADS = K / 4;
  for (int i = threadIdx.x; i < num_heads * QUADS; i += THREADS) {
    int head = i / QUADS, column = i % QUADS * 4;
    const float *from = units + head * PITCH;
    merge_tree<by_thread, 4> tree;
    partial<4> x = {};
    for (int first = 0; first < num_units; first += MERGE_AHEAD) {
      float4 values[MERGE_AHEAD];
      float2 sums[MERGE_AHEAD];
#pragma unroll
      for (int j = 0; j < MERGE_AHEAD; j++) {
        if (first + j >= num_units) break;
        const float *unit = from + (int64_t)(first + j) * num_heads * PITCH;
        values[j] = __ldcg((const float4 *)(unit + column));
        sums[j] = __ldcg((const float2 *)(unit + K));
      }
#pragma unroll
      for (int j = 0; j < MERGE_AHEAD; j++) {
        if (first + j >= num_units) break;
        x = {sums[j].x, sums[j].y, {values[j].x, values[j].y, values[j].z, values[j].w}};
        tree.add(x, first + j, level, LEVELS, first + j == num_units - 1);
      }
    }
    bf16 *to = out + head * K + column;
    float share = 1 / x.weights;
    store_pair(to, x.values[0] * share, x.values[1] * share, wide);
    store_pair(to + 2, x.values[2] * share, x.values[3] * share, wide);
  }
}

// Whether the caller's block is the last of its row's units to come here; what the others wrote before can be read then.
__device__ __forceinline__ bool arrive_last(uint32_t *arrivals, int units) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrivals, 1) == (uint32_t)units - 1;
    if (last) *arrivals = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// A block a unit (x), KV head and tile of its query heads (y), and row (z).
template <int K> __global__ void __launch_bounds__(THREADS, K == 128 ? 3 : 4) attention_decode_kernel(const decode_view d) {
  using shape = decode_shape<K>;
  constexpr int STAGES = shape::STAGES, N = 4 * shape::VALUE_TILES;
  extern __shared__ __align__(128) unsigned char shared[];
  bf16 *stages = (bf16 *)shared;                                // [STAGES][keys, values][CHUNK · K]
  float *scores = (float *)(stages + STAGES * 2 * shape::TILE); // [2][TILE_HEADS][SCORE_PITCH]
  allow_dependents();
  int kv_head = blockIdx.y / d.tiles, tile = blockIdx.y % d.tiles, group = d.a.heads / d.a.kv_heads;
  int64_t head = (int64_t)kv_head * d.a.block_size * K;
  decode_unit u = unit_of(d);
  for (int c = u.first; u.units > 0 && c < min(u.end, u.first + STAGES); c++) prefetch_chunk<K>(d, u, head, c);
  dependency_wait();
  u = unit_of(d);
  if (u.units == 0) return;

  paged_head<K> cache(d.a, u.sequence, u.keys);
  const bf16 *keys = d.a.k_cache.data + head, *values = d.a.v_cache.data + head;
  auto load = [&](int chunk, int64_t place) {
    bf16 *to = stages + (chunk - u.first) % STAGES * 2 * shape::TILE;
    cache.template load<CHUNK, THREADS>(to, keys, chunk, place, threadIdx.x);
    cache.template load<CHUNK, THREADS>(to + shape::TILE, values, chunk, place, threadIdx.x);
  };
#pragma unroll
  for (int i = 0; i < STAGES; i++) {
    if (u.first + i < u.end) load(u.first + i, cache.template place<CHUNK>(u.first + i));
    copies_commit();
  }
  int64_t place = cache.template place<CHUNK>(u.first + STAGES); // of the chunk that is asked for next

  int first_head = kv_head * group + tile * TILE_HEADS, num_heads = min((int)TILE_HEADS, group - tile * TILE_HEADS);
  uint32_t q[K / 8];
  load_query<K>(q, d.a.q.row(u.row) + (int64_t)first_head * K, num_heads, d.a.wide_rows);
  float scale = d.a.scale * 1.44269504f; // softmax in powers of 2
  int to_level = u.units == 1 ? (int)LEVELS : u.level;
  merge_tree<by_column, N> tree;
  partial<N> x = {};
  for (int c = u.first; c < u.end; c++) {
    if (c == u.first) copies_wait<STAGES - 1>();
    else copies_wait<STAGES - 2>();
    __syncthreads(); // the chunk has landed, and the one before is used up
    if (c > u.first) {
      int next = c - 1 + STAGES;
      if (next < u.end) load(next, place);
      copies_commit();
      place = cache.template place<CHUNK>(next + 1);
    }
    const bf16 *stage = stages + (c - u.first) % STAGES * 2 * shape::TILE;
    float *mine = scores + c % 2 * TILE_HEADS * SCORE_PITCH;
    score_keys<K>(mine, stage, q);
    __syncthreads();
    sum_values<K>(x, mine, stage + shape::TILE, u.keys - CHUNK * c, scale);
    tree.add(x, c, 0, to_level, c == u.end - 1);
  }

  bf16 *out = d.a.out.row(u.row) + (int64_t)first_head * K;
  if (u.units == 1) {
    float share[2];
    by_column::factors(share, 1 / x.weights);
    each_value<K>(x, num_heads, [&](int j, int column, float v, int odd) { out[j * K + column] = from_float<bf16>(v * share[odd]); });
    return;
  }
  int64_t item = (int64_t)blockIdx.z * gridDim.y + blockIdx.y;
  float *units = d.partials.units + item * d.max_units * min(group, (int)TILE_HEADS) * shape::PITCH;
  float *mine = units + (int64_t)blockIdx.x * num_heads * shape::PITCH;
  each_value<K>(x, num_heads, [&](int j, int column, float v, int) { mine[j * shape::PITCH + column] = v; });
  int lane = threadIdx.x % 32;
  if (threadIdx.x < 32 && lane % 4 == 0 && lane / 4 < num_heads) {
    *(float2 *)(mine + lane / 4 * shape::PITCH + K) = make_float2(x.largest, x.weights);
  }
  if (arrive_last(d.partials.arrivals + item, u.units)) merge_units<K>(out, d.a.wide_rows, units, u.units, u.level, num_heads);
}

template <int K> static void go(inferno_device *dev, const inferno_attention_args *a, decode_rows which) {
  using shape = decode_shape<K>;
  int64_t group = a->heads / a->kv_heads, tiles = div_up(group, TILE_HEADS), rows = which == EVERY_ROW ? a->q.rows : a->block_table.rows;
  int64_t items = rows * a->kv_heads * tiles, unit_floats = (group < TILE_HEADS ? group : (int64_t)TILE_HEADS) * shape::PITCH;
  int64_t chunks = div_up(a->block_table.cols * a->block_size, CHUNK), units = TARGET_UNITS / items;
  units = units < FAN ? (int64_t)FAN : units > MAX_UNITS ? (int64_t)MAX_UNITS : units;
  if (units > chunks) units = chunks;
  if (items > MAX_ARRIVALS || units * items * unit_floats > PARTIAL_FLOATS) units = PARTIAL_FLOATS / (items * unit_floats);
  if (items > MAX_ARRIVALS || units < 1) units = 1;

  cudaError_t error = cudaFuncSetAttribute(attention_decode_kernel<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shape::SHARED);
  if (error) return cuda_fail(dev, error, "attention");
  decode_view d = {view_of<bf16>(a), *dev->partials, which, (int)units, (int)tiles, (int)a->k_cache.rows, (int)a->block_table.cols};
  dim3 grid((unsigned)units, (unsigned)(a->kv_heads * tiles), (unsigned)rows);
  cuda_launch(dev, "attention", attention_decode_kernel<K>, grid, THREADS, shape::SHARED, d);
}

void cuda_attention_decode(inferno_device *dev, const inferno_attention_args *a, decode_rows which) {
  if (a->head_dim == 128) go<128>(dev, a, which);
  else go<64>(dev, a, which);
}
