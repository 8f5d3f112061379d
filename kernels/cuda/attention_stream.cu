// attention_stream.cu: attention_decode.cu's op on Hopper, for batches of so many rows that their keys and values keep all of the card
// busy. Bound by the bytes of these, 4·k a token and KV head, each read once.
//
// The chunks of all rows and KV heads form one list. As many blocks as the card holds cut it into runs of equal length, whatever the rows'
// lengths are. In a block a warp has the copy engine bring the run's keys and values into a ring of tiles, in whole boxes of a KV block,
// and four warps make of them what attention_decode.cu would: chunks, merged along the same tree, so that the bits are the same.
//
// Where the chunks of a row and head lie in several runs, each block leaves what it has made of its own in device memory, as few groups of
// the tree as they are; the last one to come goes on from there.
//
// Who wrote the block tables and lengths is at least two kernels back, or the host has the blocks wait first (inferno_device::settled).
// Keys and values of earlier steps come before the wait too; those of this step, a row's last, after it.
#include <cudaTypedefs.h>
#include <stdlib.h>

#include "attention_decode.cuh"
#include "attention_wgmma.cuh"

enum {
  STREAM_THREADS = THREADS + 32, // four warps that compute, and the one that copies
  MAX_ROWS = 512,                // of a launch
  MAX_CHUNKS = 2048,             // of a row
  MAX_GROUPS = 32,               // that a part of a row and head is made of: three a level on both sides, and those of the highest
  AT_ONCE = 4,                   // results read
  COMPUTE_BARRIER = 1,           // of the warps that compute
};

// What a block's warps tell each other.
struct alignas(16) stream_notes {
  int sums[STREAM_THREADS / 32];
  int last;
};

template <int K> struct stream_shape {
  static constexpr int STAGES = K == 128 ? 6 : 7, BLOCKS = K == 128 ? 2 : 3, TILE = CHUNK * K; // tiles; blocks on a multiprocessor
  static constexpr size_t SHARED = (size_t)STAGES * TILE * sizeof(bf16) + 2 * SCORE_PITCH * TILE_HEADS * sizeof(float) +
                                   2 * STAGES * sizeof(uint64_t) + sizeof(stream_notes); // and the rows
  static constexpr int RESULT = TILE_HEADS * decode_shape<K>::PITCH;                     // floats of a group
};

struct attention_results {
  float *results;     // [blocks][a row's end, a row's beginning][MAX_GROUPS][heads][k + 4]: sum of values, largest score, sum of weights
  uint32_t *arrivals; // [blocks] chunks of which results are there; zeros between launches
};

bool attention_stream_open(inferno_device *dev) {
  attention_results *r = (attention_results *)calloc(1, sizeof *r);
  dev->results = r;
  if (!r || !dev->encode_tensor_map) return r;
  size_t floats = 0, blocks = 0;
  auto need = [&](auto shape) {
    size_t most = (size_t)shape.BLOCKS * dev->properties.multiProcessorCount;
    if (most > blocks) blocks = most;
    if (2 * most * MAX_GROUPS * shape.RESULT > floats) floats = 2 * most * MAX_GROUPS * shape.RESULT;
  };
  need(stream_shape<64>());
  need(stream_shape<128>());
  return !cudaMalloc((void **)&r->results, floats * sizeof(float)) && !cudaMalloc((void **)&r->arrivals, blocks * sizeof(uint32_t)) &&
         !cudaMemset(r->arrivals, 0, blocks * sizeof(uint32_t));
}

void attention_stream_close(inferno_device *dev) {
  if (!dev->results) return;
  cudaFree(dev->results->results);
  cudaFree(dev->results->arrivals);
  free(dev->results);
}

struct stream_view {
  attention_view<bf16> a;
  attention_results results;
  decode_rows which;
  int32_t rows;         // of q, or sequences
  int32_t tiles;        // of query heads a KV head
  int32_t table_tokens; // that a sequence may have
  bool settled;
};

// A row of q as the block keeps it. None to compute: the end is that of the row before.
struct alignas(16) stream_row {
  int end;   // chunks of all heads of the rows up to this one
  int keys;  // that it sees
  int fresh; // of them, those before were there before this step
  int other; // its sequence (EVERY_ROW), or its row of q (SINGLE_ROWS)
};

__device__ __forceinline__ int chunks_of(int keys) { return (keys + CHUNK - 1) / CHUNK; }

__device__ __forceinline__ stream_row find_row(const stream_view &d, int i) {
  stream_row r = {0, 0, 0, -1};
  if (d.which == EVERY_ROW) {
    int keys = 0, sequence = d.a.sequence_of(i, keys);
    if (sequence >= 0) r = {0, keys, keys - 1 - (i - __ldcg(d.a.query_start + sequence)), sequence};
  } else {
    int first = __ldcg(d.a.query_start + i), end = __ldcg(d.a.query_start + i + 1), keys = __ldcg(d.a.kv_len + i);
    if (end == first + 1 && first >= 0 && first < d.a.rows) r = {0, keys, keys - 1, first};
  }
  if (r.keys < 0 || r.keys > d.table_tokens) r.keys = 0;
  r.end = chunks_of(r.keys) * d.a.kv_heads * d.tiles;
  return r;
}

// Finds all rows and adds their ends up. All threads call it.
__device__ __forceinline__ void find_rows(const stream_view &d, stream_row *rows, int *sums) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, before = 0;
  for (int base = 0; base < d.rows; base += STREAM_THREADS) {
    int i = base + threadIdx.x;
    stream_row r = {};
    if (i < d.rows) r = find_row(d, i);
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      int left = __shfl_up_sync(~0u, r.end, step);
      if (lane >= step) r.end += left;
    }
    if (lane == 31) sums[warp] = r.end;
    __syncthreads();
    r.end += before;
#pragma unroll
    for (int w = 0; w < STREAM_THREADS / 32; w++) {
      if (w < warp) r.end += sums[w];
      before += sums[w];
    }
    if (i < d.rows) rows[i] = r;
    __syncthreads();
  }
}

// How the list is cut: the first runs are longer by one than the others.
struct stream_cut {
  int length, longer; // of a run; runs that are longer

  __device__ explicit stream_cut(int total) : length(total / (int)gridDim.x), longer(total % (int)gridDim.x) {}
  __device__ int boundary(int run) const { return run * length + min(run, longer); }
  __device__ int run_of(int place) const {
    int before = longer * (length + 1);
    return place < before ? place / (length + 1) : longer + (place - before) / length;
  }
};

// A block's run of the list, and the part of it that is at hand: chunks first .. end−1 of a row and head.
struct stream_walk {
  const stream_view &d;
  const stream_row *rows;
  stream_cut cut;
  int at, to;          // the rest of the run
  int row, item, head; // item: a row's head, by its place in the list; head: of KV and tile
  int chunks, first, end;

  __device__ stream_walk(const stream_view &d, const stream_row *rows) : d(d), rows(rows), cut(rows[d.rows - 1].end), row(0) {
    at = cut.boundary(blockIdx.x);
    to = cut.boundary(blockIdx.x + 1);
    for (int high = d.rows - 1; row < high;) { // the first row that ends behind the run's beginning
      int middle = (row + high) / 2;
      if (rows[middle].end > at) high = middle;
      else row = middle + 1;
    }
  }

  __device__ bool next() {
    if (at >= to) return false;
    while (rows[row].end <= at) row++;
    int start = row > 0 ? rows[row - 1].end : 0;
    chunks = chunks_of(rows[row].keys);
    head = (at - start) / chunks;
    item = start + head * chunks;
    first = at - item;
    end = min(chunks, to - item);
    at = item + end;
    return true;
  }
};

// The level of the largest group that begins with chunk c and ends before `end`, or with the row.
__device__ __forceinline__ int group_level(int c, int end, int chunks) {
  int level = 0;
  for (int size = FAN; level + 1 < LEVELS && c % size == 0 && (c + size <= end || end == chunks); size *= FAN) level++;
  return level;
}

// The ring of tiles: keys and values of a chunk in turn.
template <int K> struct stream_ring {
  bf16 *tiles;
  uint64_t *full, *free;
  int stage = 0, parity = 0;

  __device__ bf16 *tile() const { return tiles + stage * stream_shape<K>::TILE; }
  __device__ void advance() {
    if (++stage == stream_shape<K>::STAGES) stage = 0, parity ^= 1;
  }
};

// A map's box of one KV block's tokens of a head: columns of a panel, tokens, panels, heads, blocks.
__device__ __forceinline__ void copy_tokens(bf16 *to, const CUtensorMap *map, int token, int head, int block, uint64_t *barrier) {
  asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %2, %4, %5}], [%6];" ::"r"(
                   shared_address(to)),
               "l"(map), "r"(0), "r"(token), "r"(head), "r"(block), "r"(shared_address(barrier))
               : "memory");
}

// What the copying warp does.
template <int K, int BOX>
__device__ __forceinline__ void copy_run(stream_walk &walk, stream_ring<K> ring, const CUtensorMap *keys, const CUtensorMap *values) {
  constexpr int BOXES = CHUNK / BOX;
  const stream_view &d = walk.d;
  int lane = threadIdx.x % 32, block_size = d.a.block_size;
  bool waited = false;
  while (walk.next()) {
    const stream_row r = walk.rows[walk.row];
    const int32_t *table = d.a.block_table.row(d.which == EVERY_ROW ? r.other : walk.row);
    int kv_head = walk.head / d.tiles, known = -32, block = 0; // of the table, 32 entries from `known` on are at hand, one a lane
    for (int c = walk.first; c < walk.end; c++) {
      int last = (min(r.keys, CHUNK * (c + 1)) - 1) / block_size;
      if (last >= known + 32) {
        known = CHUNK * c / block_size;
        block = (known + lane) * block_size < r.keys ? __ldcg(table + known + lane) : 0;
      }
      int token = CHUNK * c + BOX * lane, boxes = min(BOXES, (r.keys - CHUNK * c + BOX - 1) / BOX);
      int mine = __shfl_sync(~0u, block, token / block_size - known);
      if (!waited && CHUNK * (c + 1) > r.fresh) {
        dependency_wait();
        waited = true;
      }
#pragma unroll
      for (int v = 0; v < 2; v++) {
        wait_phase(ring.free + ring.stage, ring.parity ^ 1);
        if (lane == 0) arrive_expecting(ring.full + ring.stage, boxes * BOX * K * (int)sizeof(bf16));
        __syncwarp();
        if (lane < boxes)
          copy_tokens(ring.tile() + lane * BOX * K, v ? values : keys, token % block_size, kv_head, mine, ring.full + ring.stage);
        ring.advance();
      }
    }
  }
}

// Where a block leaves the results of its part of an item.
template <int K> __device__ __forceinline__ float *results_of(float *all, int run, bool begins) {
  return all + (int64_t)(2 * run + begins) * MAX_GROUPS * stream_shape<K>::RESULT;
}

template <int K> __device__ __forceinline__ void leave(float *to, const partial<4 * decode_shape<K>::VALUE_TILES> &x, int num_heads) {
  constexpr int PITCH = decode_shape<K>::PITCH;
  each_value<K>(x, num_heads, [&](int j, int column, float v, int) { to[j * PITCH + column] = v; });
  int lane = threadIdx.x % 32;
  if (threadIdx.x < 32 && lane % 4 == 0 && lane / 4 < num_heads) *(float2 *)(to + lane / 4 * PITCH + K) = make_float2(x.largest, x.weights);
}

// Whether all chunks of an item are there with those of the caller; what the others left can be read then.
__device__ __forceinline__ bool arrive_chunks(uint32_t *arrivals, int mine, int chunks, volatile int *last) {
  __threadfence();
  meet(COMPUTE_BARRIER, THREADS);
  if (threadIdx.x == 0) {
    *last = atomicAdd(arrivals, (uint32_t)mine) + mine == (uint32_t)chunks;
    if (*last) *arrivals = 0;
    __threadfence();
  }
  meet(COMPUTE_BARRIER, THREADS);
  return *last;
}

// Merges what the blocks left of an item into out. A thread takes four columns of a head.
template <int K>
__device__ __forceinline__ void merge_runs(bf16 *out, bool wide, float *all, stream_cut cut, int item, int chunks, int num_heads) {
  constexpr int QUADS = K / 4, PITCH = decode_shape<K>::PITCH;
  for (int i = threadIdx.x; i < num_heads * QUADS; i += THREADS) {
    int head = i / QUADS, column = i % QUADS * 4, chunk = 0, end = 0, first = cut.run_of(item), run = first;
    const float *from = NULL;
    merge_tree<by_thread, 4> tree;
    partial<4> x;
    while (chunk < chunks) {
      partial<4> y[AT_ONCE];
      int begin[AT_ONCE + 1], level[AT_ONCE];
#pragma unroll
      for (int j = 0; j < AT_ONCE; j++) { // all on their way together
        begin[j] = chunk;
        if (chunk == chunks) continue;
        for (; chunk == end; run++) {
          end = min(chunks, cut.boundary(run + 1) - item);
          from = results_of<K>(all, run, run == first) + head * PITCH;
        }
        level[j] = group_level(chunk, end, chunks);
        float4 v = __ldcg((const float4 *)(from + column));
        float2 sums = __ldcg((const float2 *)(from + K));
        y[j] = {sums.x, sums.y, {v.x, v.y, v.z, v.w}};
        from += num_heads * PITCH;
        chunk = min(end, chunk + (1 << FAN_BITS * level[j]));
      }
      begin[AT_ONCE] = chunk;
#pragma unroll
      for (int j = 0; j < AT_ONCE; j++) {
        if (begin[j] == chunks) continue;
        x = y[j];
        tree.add(x, begin[j] >> FAN_BITS * level[j], level[j], LEVELS, begin[j + 1] == chunks);
      }
    }
    bf16 *to = out + head * K + column;
    float share = 1 / x.weights;
    store_pair(to, x.values[0] * share, x.values[1] * share, wide);
    store_pair(to + 2, x.values[2] * share, x.values[3] * share, wide);
  }
}

// What the other warps do.
template <int K, int BOX> __device__ __forceinline__ void attend_run(stream_walk &walk, stream_ring<K> ring, float *scores, int *last) {
  constexpr int N = 4 * decode_shape<K>::VALUE_TILES;
  const stream_view &d = walk.d;
  int lane = threadIdx.x % 32, group = d.a.heads / d.a.kv_heads, turn = 0;
  float scale = d.a.scale * 1.44269504f; // softmax in powers of 2
  while (walk.next()) {
    const stream_row r = walk.rows[walk.row];
    int tile = walk.head % d.tiles, row = d.which == EVERY_ROW ? walk.row : r.other;
    int first_head = walk.head / d.tiles * group + tile * TILE_HEADS, num_heads = min((int)TILE_HEADS, group - tile * TILE_HEADS);
    bf16 *out = d.a.out.row(row) + (int64_t)first_head * K;
    uint32_t q[K / 8];
    load_query<K>(q, d.a.q.row(row) + (int64_t)first_head * K, num_heads, d.a.wide_rows);
    bool whole = walk.first == 0 && walk.end == walk.chunks;
    int level = whole ? (int)LEVELS : group_level(walk.first, walk.end, walk.chunks);
    float *results = results_of<K>(d.results.results, blockIdx.x, walk.first == 0);
    merge_tree<by_column, N> tree;
    partial<N> x = {};
    for (int c = walk.first; c < walk.end; c++, turn ^= 1) {
      float *mine = scores + turn * TILE_HEADS * SCORE_PITCH;
      wait_phase(ring.full + ring.stage, ring.parity);
      score_keys<K, BOX>(mine, ring.tile(), q);
      __syncwarp();
      if (lane == 0) arrive(ring.free + ring.stage);
      ring.advance();
      int seen = r.keys - CHUNK * c;
      wait_phase(ring.full + ring.stage, ring.parity);
      if (seen < CHUNK) { // what lies behind the row's end has no weight, but it may be no number
        for (int i = threadIdx.x; i < (CHUNK - seen) * (K / 8); i += THREADS) {
          *(uint4 *)(ring.tile() + box_at<K, BOX>(seen + i / (K / 8), i % (K / 8))) = make_uint4(0, 0, 0, 0);
        }
        shared_written();
      }
      meet(COMPUTE_BARRIER, THREADS);
      sum_values<K, BOX>(x, mine, ring.tile(), seen, scale);
      __syncwarp();
      if (lane == 0) arrive(ring.free + ring.stage);
      ring.advance();
      if (!tree.add(x, c, 0, level, c == walk.chunks - 1)) continue;
      if (whole) {
        float share[2];
        by_column::factors(share, 1 / x.weights);
        each_value<K>(x, num_heads, [&](int j, int column, float v, int odd) { out[j * K + column] = from_float<bf16>(v * share[odd]); });
      } else {
        leave<K>(results, x, num_heads);
        results += num_heads * decode_shape<K>::PITCH;
        level = group_level(c + 1, walk.end, walk.chunks);
      }
    }
    if (whole) continue;
    if (!arrive_chunks(d.results.arrivals + walk.cut.run_of(walk.item), walk.end - walk.first, walk.chunks, last)) continue;
    merge_runs<K>(out, d.a.wide_rows, d.results.results, walk.cut, walk.item, walk.chunks, num_heads);
  }
}

template <int K, int BOX>
__global__ void __launch_bounds__(STREAM_THREADS, stream_shape<K>::BLOCKS)
    attention_stream_kernel(const __grid_constant__ stream_view d, const __grid_constant__ CUtensorMap keys,
                            const __grid_constant__ CUtensorMap values) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using shape = stream_shape<K>;
  extern __shared__ __align__(1024) unsigned char shared[];
  stream_ring<K> ring = {(bf16 *)shared};
  float *scores = (float *)(ring.tiles + shape::STAGES * shape::TILE); // [2][TILE_HEADS][SCORE_PITCH]
  ring.full = (uint64_t *)(scores + 2 * TILE_HEADS * SCORE_PITCH);
  ring.free = ring.full + shape::STAGES;
  stream_notes *notes = (stream_notes *)(ring.free + shape::STAGES);
  stream_row *rows = (stream_row *)(notes + 1);
  if (threadIdx.x == THREADS) {
    for (int i = 0; i < shape::STAGES; i++) barrier_open(ring.full + i, 1), barrier_open(ring.free + i, WARPS);
    barriers_opened();
  }
  if (!d.settled) dependency_wait();
  find_rows(d, rows, notes->sums);
  stream_walk walk(d, rows);
  if (threadIdx.x >= THREADS) return copy_run<K, BOX>(walk, ring, &keys, &values);
  dependency_wait();
  allow_dependents();
  attend_run<K, BOX>(walk, ring, scores, &notes->last);
#endif
}

// A cache [B, g·p·k] in boxes of some tokens of a head, all of their columns, a panel after another.
static CUresult map_cache(inferno_device *dev, CUtensorMap *map, const inferno_tensor &cache, const inferno_attention_args *a, int box) {
  cuuint64_t k = (cuuint64_t)a->head_dim, p = (cuuint64_t)a->block_size, g = (cuuint64_t)a->kv_heads;
  cuuint64_t block = (cuuint64_t)(cache.rows == 1 ? cache.cols : cache.stride) * sizeof(bf16);
  cuuint64_t sizes[5] = {PANEL, p, k / PANEL, g, (cuuint64_t)cache.rows}, strides[4] = {2 * k, 2 * PANEL, 2 * k * p, block}; // bytes
  cuuint32_t boxes[5] = {PANEL, (cuuint32_t)box, (cuuint32_t)k / PANEL, 1, 1}, steps[5] = {1, 1, 1, 1, 1};
  return ((PFN_cuTensorMapEncodeTiled_v12000)dev->encode_tensor_map)(
      map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, cache.data, sizes, strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

template <int K, int BOX> static void go(inferno_device *dev, const inferno_attention_args *a, decode_rows which) {
  using shape = stream_shape<K>;
  CUtensorMap keys, values;
  if (map_cache(dev, &keys, a->k_cache, a, BOX) || map_cache(dev, &values, a->v_cache, a, BOX)) {
    return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "attention: the driver refuses the caches' tensor map");
  }
  auto kernel = attention_stream_kernel<K, BOX>;
  int64_t rows = which == EVERY_ROW ? a->q.rows : a->block_table.rows;
  size_t most = shape::SHARED + MAX_ROWS * sizeof(stream_row), shared = shape::SHARED + (size_t)rows * sizeof(stream_row);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most);
  if (error) return cuda_fail(dev, error, "attention");
  int64_t tiles = div_up(a->heads / a->kv_heads, TILE_HEADS);
  stream_view d = {view_of<bf16>(a),
                   *dev->results,
                   which,
                   (int32_t)rows,
                   (int32_t)tiles,
                   (int32_t)(a->block_table.cols * a->block_size),
                   cuda_settled(dev, a->q.rows)};
  dim3 grid((unsigned)(shape::BLOCKS * dev->properties.multiProcessorCount));
  cuda_launch(dev, "attention", kernel, grid, STREAM_THREADS, shared, d, keys, values);
}

bool cuda_attention_streams(const inferno_device *dev, const inferno_attention_args *a, decode_rows which) {
  int64_t rows = which == EVERY_ROW ? a->q.rows : a->block_table.rows, items = rows * a->kv_heads;
  bool boxes = a->block_size == 16 || a->block_size == 32 || a->block_size % CHUNK == 0;
  bool fits = rows <= MAX_ROWS && a->block_table.cols * a->block_size <= MAX_CHUNKS * CHUNK;
  return dev->encode_tensor_map && boxes && fits && items >= 32;
}

void cuda_attention_stream(inferno_device *dev, const inferno_attention_args *a, decode_rows which) {
  auto run = [&](auto k64, auto k128) { a->head_dim == 128 ? k128(dev, a, which) : k64(dev, a, which); };
  if (a->block_size == 16) run(go<64, 16>, go<128, 16>);
  else if (a->block_size == 32) run(go<64, 32>, go<128, 32>);
  else run(go<64, 64>, go<128, 64>);
}
