// attention_decode.cu: out[n, h·k] = softmax(scale · q kᵀ) v over paged BF16 caches, a row of q at a time, k 64 or 128, float32 sums. For
// decode steps and other batches of few rows. Bound by the bytes of keys and values, 4·k a token and KV head, each read once for all of
// the head's query heads: on an H200 with k 128 and 1,040 keys, 4.2 TB/s at 256 rows of 8 heads, 3.5 at 64; at one row latency, 7 µs.
//
// Bits. A row's keys are cut into chunks of 64 from position 0. A chunk has its own softmax and its own sum of values, begun at zero.
// Chunks are merged in their order, four to a group; groups likewise, four to one of the next level; the groups of the highest level one
// after another. This tree depends on the row's position alone. Who computes which part of it does not show in the result.
//
// Several blocks share a row and KV head: each takes as many groups of a level chosen by the length. In a cluster it sends their results, as
// they come, to those who merge them along the same tree, each a slice of the columns; without clusters the last to come merges all. Four warps
// are a team, a block's only one or one of two: they score 16 keys of a chunk each, then hold a quarter of the values' columns each. Keys and
// values are the 16-row operands of mma.m16n8k16, up to eight query heads the 8 columns. Two or three chunks are in flight a team.
//
// Lengths and tables are read, and keys and values of earlier steps brought in, before the wait for the kernel that makes q and stores this
// step's: those are a row's last. Where inputs were written just before (cuda_settled), all comes after the wait.
//
// Of few rows each result also goes to dense in words (handover.cuh): it has begun already, and does not wait for this kernel's end.
#include <stdlib.h>

#include "attention_decode.cuh"

enum {
  MAX_CLUSTER = 16,         // blocks of a row and KV head that merge through shared memory
  SLOTS = 2,                // results that a block leaves in device memory
  MAX_GROUPS = 32,          // results of a row and KV head
  MAX_ARRIVALS = 1 << 16,   // rows × KV heads that can be split
  PARTIAL_FLOATS = 8 << 20, // of all results
};

// On cards without clusters: results of groups, and how many of a row's parts are done: zeros between launches. Fixed in size, so that no
// step allocates.
struct attention_partials {
  float *results;     // [rows × KV heads][parts][slots][heads][k + 4]: sum of values, largest score, sum of weights
  uint32_t *arrivals; // [rows × KV heads]
};

// Whether blocks come in clusters of MAX_CLUSTER: sm_90 and sm_100, of the cards that have programmatic dependent launch.
static bool has_clusters(const inferno_device *dev) { return dev->pdl && dev->properties.major <= 10; }

bool attention_open(inferno_device *dev) {
  attention_partials *p = (attention_partials *)calloc(1, sizeof *p);
  dev->partials = p;
  if (!p || has_clusters(dev)) return p;
  return !cudaMalloc((void **)&p->results, PARTIAL_FLOATS * sizeof(float)) &&
         !cudaMalloc((void **)&p->arrivals, MAX_ARRIVALS * sizeof(uint32_t)) &&
         !cudaMemset(p->arrivals, 0, MAX_ARRIVALS * sizeof(uint32_t));
}

void attention_close(inferno_device *dev) {
  if (!dev->partials) return;
  cudaFree(dev->partials->results);
  cudaFree(dev->partials->arrivals);
  free(dev->partials);
}

struct decode_view {
  attention_view<bf16> a;
  attention_partials partials;
  decode_rows which;
  int32_t parts_bits;  // 2^parts_bits blocks share a row and KV head
  int32_t most_groups; // of a row
  int32_t slots;       // results that a part may leave in device memory
  int32_t slice_bits;  // 2^slice_bits columns are merged by each block of a cluster
  int32_t tiles;       // of query heads a KV head
  int32_t table_cols;
  bool settled;
  attended_words handed;
};

// A block's part of a row. None: groups 0.
struct decode_part : row_groups {
  int row, sequence, keys, chunks; // of the row
  int fresh;                       // keys from this one on are of this step
  int first, end;                  // this part's chunks are first .. end−1
};

__device__ __forceinline__ int groups_of(int chunks, int level) {
  return level == LEVELS ? 1 : (chunks + (1 << FAN_BITS * level) - 1) >> FAN_BITS * level;
}

// Meeting the team.
template <int TEAMS> __device__ __forceinline__ void meet(int team) {
  if constexpr (TEAMS == 1) __syncthreads();
  else asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"((int)THREADS) : "memory");
}

// `team` counts from the row's first block on, of 2^team_bits in each.
__device__ __forceinline__ decode_part part_of(const decode_view &d, int team, int team_bits) {
  decode_part p = {};
  if (d.which == EVERY_ROW) {
    p.row = blockIdx.z;
    bool step = p.row < d.a.sequences; // perhaps each sequence asks for one row
    if (step) {
      int first = __ldcg(d.a.query_start + p.row), end = __ldcg(d.a.query_start + p.row + 1);
      p.sequence = p.row;
      p.keys = __ldcg(d.a.kv_len + p.row);
      step = first == p.row && end == p.row + 1;
    }
    if (!step) p.sequence = d.a.sequence_of(p.row, p.keys);
    p.fresh = p.keys - 1 - (step || p.sequence < 0 ? 0 : p.row - __ldcg(d.a.query_start + p.sequence));
  } else {
    p.sequence = blockIdx.z;
    p.row = __ldcg(d.a.query_start + p.sequence);
    int end = __ldcg(d.a.query_start + p.sequence + 1);
    p.keys = __ldcg(d.a.kv_len + p.sequence);
    p.fresh = p.keys - 1;
    if (end != p.row + 1 || p.row < 0 || p.row >= d.a.rows) return p;
  }
  if (p.sequence < 0 || p.keys <= 0 || p.keys > d.table_cols * d.a.block_size) return p;
  p.chunks = (p.keys + CHUNK - 1) / CHUNK;
  p.parts_bits = d.parts_bits + team_bits;
  p.level = d.parts_bits ? 0 : (int)LEVELS;
  while (groups_of(p.chunks, p.level) > d.most_groups) p.level++;
  p.groups = groups_of(p.chunks, p.level);
  int size = p.level == LEVELS ? p.chunks : 1 << FAN_BITS * p.level;
  p.first = min(p.chunks, p.first_of(team) * size);
  p.end = min(p.chunks, p.first_of(team + 1) * size);
  return p;
}

// The block of the cache that holds the eight tokens of this lane in a chunk.
__device__ __forceinline__ int block_of(const decode_view &d, const decode_part &p, int chunk) {
  int token = CHUNK * chunk + 8 * (threadIdx.x % (CHUNK / 8));
  return chunk < p.end && token < p.keys ? __ldcg(d.a.block_table.row(p.sequence) + token / d.a.block_size) : 0;
}

// Element offset of these tokens from the head's place in block 0.
template <int K> __device__ __forceinline__ int64_t place_of(const decode_view &d, int block, int chunk) {
  int token = CHUNK * chunk + 8 * (threadIdx.x % (CHUNK / 8));
  return block * d.a.k_cache.stride + token % d.a.block_size * K;
}

// A block a part (x), KV head and tile of its query heads (y), and row (z); CLUSTERED: the parts are a cluster. Of several TEAMS each takes its
// share of the block's part.
template <int K, bool CLUSTERED, int TEAMS>
__global__ void __launch_bounds__(THREADS *TEAMS, decode_shape<K, TEAMS>::BLOCKS)
    attention_decode_kernel(const __grid_constant__ decode_view d) {
  using shape = decode_shape<K, TEAMS>;
  constexpr int STAGES = shape::STAGES, N = 4 * shape::VALUE_TILES;
  extern __shared__ __align__(128) unsigned char shared[];
  int team = TEAMS == 1 ? 0 : threadIdx.x / THREADS, thread = threadIdx.x % THREADS;
  bf16 *stages = (bf16 *)shared + team * STAGES * 2 * shape::TILE;                               // [STAGES][keys, values][CHUNK · K]
  float *all_scores = (float *)((bf16 *)shared + TEAMS * STAGES * 2 * shape::TILE);              // [TEAMS][2][TILE_HEADS][SCORE_PITCH]
  float *scores = all_scores + team * shape::SCORES, *sent = all_scores + TEAMS * shape::SCORES; // [RESULT_FLOATS]
  if (!d.settled) dependency_wait();
  uint32_t tag = d.handed.words ? d.handed.tag() : 0; // before the next kernel may start
  int kv_head = blockIdx.y / d.tiles, tile = blockIdx.y % d.tiles, group = d.a.heads / d.a.kv_heads;
  int first_head = kv_head * group + tile * TILE_HEADS, num_heads = min((int)TILE_HEADS, group - tile * TILE_HEADS);
  int64_t head = (int64_t)kv_head * d.a.block_size * K;
  const bf16 *keys = d.a.k_cache.data + head, *values = d.a.v_cache.data + head;
  decode_part p = part_of(d, blockIdx.x * TEAMS + team, TEAMS / 2);
  slice_results<K> slices(sent, (uint64_t *)(sent + shape::RESULT_FLOATS), d.slice_bits, num_heads, p.groups);
  bool meets = CLUSTERED && p.groups > 1; // the row's parts, all or none of them
  if (meets) {
    if (threadIdx.x == 0) slices.expect(blockIdx.x, p.groups);
    __syncwarp();
    cluster_arrive();
  }
  int blocks[STAGES], old = min(p.end, p.fresh / CHUNK); // chunks that earlier steps have filled
  auto load = [&](int chunk, int64_t at) {
    paged_head<K> cache(d.a, p.sequence, p.keys);
    bf16 *to = stages + (chunk - p.first) % STAGES * 2 * shape::TILE;
    if (chunk < p.end) cache.template load<CHUNK, THREADS>(to, keys, chunk, at, thread);
    copies_commit();
    if (chunk < p.end) cache.template load<CHUNK, THREADS>(to + shape::TILE, values, chunk, at, thread);
    copies_commit();
  };

#pragma unroll
  for (int i = 0; i < STAGES; i++) blocks[i] = block_of(d, p, p.first + i);
#pragma unroll
  for (int i = 0; i < STAGES; i++) {
    if (p.first + i < old) load(p.first + i, place_of<K>(d, blocks[i], p.first + i));
  }
  dependency_wait();
  allow_dependents();
  row_writer out = {d.a.out.row(p.row) + (int64_t)first_head * K, d.a.wide_rows, NULL, tag};
  if (d.handed.words) out.words = d.handed.words + ((int64_t)p.row * d.handed.columns + first_head * K) / 2;
  if (p.groups == 0) {
    // Whoever waits for the words of a row of no sequence gets what lies there.
    if (!out.words || blockIdx.x > 0 || team > 0) return;
    for (int at = thread; at < num_heads * K / 2; at += THREADS) send(out.words + at, load_pair(out.out + 2 * at, out.wide), tag);
    return;
  }
#pragma unroll
  for (int i = 0; i < STAGES; i++) {
    if (p.first + i >= old) load(p.first + i, place_of<K>(d, blocks[i], p.first + i));
  }
  uint32_t q[K / 8];
  load_query<K>(q, d.a.q.row(p.row) + (int64_t)first_head * K, num_heads, d.a.wide_rows);

  int next_block = block_of(d, p, p.first + STAGES); // of the chunk that is asked for next
  float scale = d.a.scale * 1.44269504f;             // softmax in powers of 2
  if (meets) cluster_wait();                         // all have begun, and can be sent results
  int64_t item = (int64_t)blockIdx.z * gridDim.y + blockIdx.y;
  int group_floats = num_heads * shape::PITCH, part_floats = d.slots * group_floats;
  float *all = d.partials.results + (item << d.parts_bits) * d.slots * min(group, (int)TILE_HEADS) * shape::PITCH;
  float *result = all + blockIdx.x * part_floats;
  merge_tree<by_column, N> tree;
  partial<N> x = {};
  for (int c = p.first; c < p.end; c++) {
    if (c == p.first) copies_wait<2 * STAGES - 1>();
    else copies_wait<2 * STAGES - 3>();
    meet<TEAMS>(team); // the keys have landed, and the chunk before is used up
    if (c > p.first) {
      load(c - 1 + STAGES, place_of<K>(d, next_block, c - 1 + STAGES));
      next_block = block_of(d, p, c + STAGES);
    }
    const bf16 *stage = stages + (c - p.first) % STAGES * 2 * shape::TILE;
    float *mine = scores + c % 2 * TILE_HEADS * SCORE_PITCH;
    score_keys<K>(mine, stage, q);
    copies_wait<2 * STAGES - 2>();
    meet<TEAMS>(team); // so have the values
    sum_values<K>(x, mine, stage + shape::TILE, p.keys - CHUNK * c, scale);
    if (!tree.add(x, c, 0, p.groups == 1 ? (int)LEVELS : p.level, c == p.chunks - 1)) continue;
    if (p.groups == 1) {
      float share[2];
      by_column::factors(share, 1 / x.weights);
      put_values<K>(out, x, share, num_heads);
      return;
    }
    int lane = threadIdx.x % 32, its_head = thread < 32 && lane % 4 == 0 ? lane / 4 : num_heads;
    if constexpr (CLUSTERED) {
      int index = c >> FAN_BITS * p.level;
      each_value<K>(x, num_heads, [&](int j, int column, float v, int) { slices.send_value(index, j, column, v); });
      if (its_head < num_heads) slices.send_sums(index, its_head, x.largest, x.weights);
    } else {
      each_value<K>(x, num_heads, [&](int j, int column, float v, int) { result[j * shape::PITCH + column] = v; });
      if (its_head < num_heads) *(float2 *)(result + its_head * shape::PITCH + K) = make_float2(x.largest, x.weights);
      result += group_floats;
    }
  }
  if (p.groups == 1 || team > 0) return; // one part does it all; or the first team the merging

  if constexpr (CLUSTERED) {
    int from = slices.first_of(blockIdx.x), to = slices.first_of(blockIdx.x + 1);
    if (from == to) return;
    slices.wait();
    merge_all<K>(out, slices, p, from, to);
  } else {
    if (p.first == p.end || !arrive_last(d.partials.arrivals + item, min(p.groups, 1 << d.parts_bits))) return;
    group_results<K> results = {all, p, part_floats, group_floats};
    merge_all<K>(out, results, p, 0, num_heads * K);
  }
}

template <int K, bool CLUSTERED, int TEAMS> static void launch(inferno_device *dev, const dim3 &grid, const decode_view &d) {
  auto kernel = attention_decode_kernel<K, CLUSTERED, TEAMS>;
  constexpr size_t shared = decode_shape<K, TEAMS>::SHARED;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  if (error) return cuda_fail(dev, error, "attention");
  cuda_launch_clusters(dev, "attention", kernel, grid, THREADS * TEAMS, shared, CLUSTERED ? grid.x : 1, d);
}

template <int K, bool CLUSTERED> static void go(inferno_device *dev, const inferno_attention_args *a, decode_rows which) {
  using shape = decode_shape<K>;
  int64_t group = a->heads / a->kv_heads, tiles = div_up(group, TILE_HEADS), rows = which == EVERY_ROW ? a->q.rows : a->block_table.rows;
  int64_t items = rows * a->kv_heads * tiles, heads = group < TILE_HEADS ? group : (int64_t)TILE_HEADS;
  int64_t chunks = div_up(a->block_table.cols * a->block_size, CHUNK);
  // As many parts as the card holds at once; where rows alone are more, but not twice as many, halves leave less of it idle at the end.
  int64_t most = CLUSTERED ? (int64_t)MAX_CLUSTER : MAX_GROUPS / SLOTS, room = (int64_t)shape::BLOCKS * dev->properties.multiProcessorCount;
  int bits = items > room && items < 2 * room && chunks > 1;
  while (2 << bits <= most && 1 << bits < chunks && (2 << bits) * items <= room) bits++;
  if (!CLUSTERED && (items > MAX_ARRIVALS || (items * SLOTS * heads * shape::PITCH << bits) > PARTIAL_FLOATS)) bits = 0;

  int slice_bits = 2;
  while ((1 << bits + slice_bits) < heads * K) slice_bits++;
  int64_t groups = CLUSTERED ? shape::RESULT_FLOATS / ((1 << slice_bits) + 2 * heads) : SLOTS << bits;
  if (groups > MAX_GROUPS) groups = MAX_GROUPS;
  decode_view d = {view_of<bf16>(a),
                   *dev->partials,
                   which,
                   bits,
                   (int)groups,
                   SLOTS,
                   slice_bits,
                   (int)tiles,
                   (int)a->block_table.cols,
                   cuda_settled(dev, a->q.rows),
                   {}};
  if (which == EVERY_ROW) d.handed = cuda_attended_words(dev, a->q.rows, a->q.cols);
  dim3 grid(1u << bits, (unsigned)(a->kv_heads * tiles), (unsigned)rows);
  // A cluster may have fewer blocks than a row has chunks. Where the card holds them with two teams each, these take two chunks at once. Heads
  // of 128 leave no room for that beside a block of dense.cu.
  constexpr int TEAMS = CLUSTERED && K == 64 ? 2 : 1;
  int64_t held = (int64_t)decode_shape<K, TEAMS>::BLOCKS * dev->properties.multiProcessorCount;
  if (chunks > 1 << bits && 1 << bits == most && items << bits <= held) launch<K, CLUSTERED, TEAMS>(dev, grid, d);
  else launch<K, CLUSTERED, 1>(dev, grid, d);
  if (d.handed.words) dev->handed = a->out.data;
}

void cuda_attention_decode(inferno_device *dev, const inferno_attention_args *a, decode_rows which) {
  if (has_clusters(dev)) {
    if (a->head_dim == 128) go<128, true>(dev, a, which);
    else go<64, true>(dev, a, which);
  } else {
    if (a->head_dim == 128) go<128, false>(dev, a, which);
    else go<64, false>(dev, a, which);
  }
}
