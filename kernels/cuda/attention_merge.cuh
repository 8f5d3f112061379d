// attention_merge.cuh: the tree along which attention_decode.cu merges what it made of chunks of a row's keys, in registers and over the
// blocks that share a row.
#ifndef INFERNO_CUDA_ATTENTION_MERGE_CUH
#define INFERNO_CUDA_ATTENTION_MERGE_CUH

#include "attention_tile.cuh"
#include "handover.cuh"

enum {
  WARPS = 4,
  THREADS = 32 * WARPS, // of a team, which takes chunks by itself
  CHUNK = 64,           // keys
  TILE_HEADS = 8,
  FAN_BITS = 2,
  FAN = 1 << FAN_BITS, // groups of a level in one of the next
  LEVELS = 5,          // groups of level i hold FANⁱ chunks, of the last level all of a row's
  SCORE_PITCH = CHUNK + 8,
};

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

template <int K, int TEAMS = 1> struct decode_shape {
  static constexpr int STAGES = K == 128 || TEAMS > 1 ? 2 : 3, TILE = CHUNK * K; // elements
  static constexpr int BLOCKS = TEAMS > 1 ? 2 : K == 128 ? 3 : 4;                // on a multiprocessor
  static constexpr int SCORES = 2 * SCORE_PITCH * TILE_HEADS;                    // of a team
  static constexpr int VALUE_TILES = K / 16 / WARPS;                             // of 16 columns, a warp
  static constexpr int PITCH = K + 4;                                            // floats of a head of a result
  static constexpr int RESULT_FLOATS = 12 * PITCH;                               // of the results that a block is sent
  static constexpr size_t SHARED =
      (size_t)TEAMS * STAGES * 2 * TILE * sizeof(bf16) + (TEAMS * SCORES + RESULT_FLOATS) * sizeof(float) + sizeof(uint64_t); // a barrier
};

// Meeting the other blocks of the cluster: what they wrote to shared memory before they came can be read then.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The groups of a row whose results are merged: so many of that level, in parts of equal numbers but for one.
struct row_groups {
  int level, groups, parts_bits; // 2^parts_bits parts

  __device__ __forceinline__ int first_of(int part) const { return groups * part >> parts_bits; }
  __device__ __forceinline__ int part_of(int group) const { return (((group + 1) << parts_bits) - 1) / groups; }
};

// The results of a row and KV head's groups in device memory, where no clusters are.
template <int K> struct group_results {
  const float *results; // of part 0
  row_groups groups;
  int part_floats, group_floats;

  // Four columns of a group's head.
  __device__ __forceinline__ partial<4> load(int group, int head, int column) const {
    int part = groups.part_of(group);
    const float *from = results + (int64_t)part * part_floats + (group - groups.first_of(part)) * group_floats;
    from += head * decode_shape<K>::PITCH;
    float4 v = __ldcg((const float4 *)(from + column));
    float2 sums = __ldcg((const float2 *)(from + K));
    return {sums.x, sums.y, {v.x, v.y, v.z, v.w}};
  }
};

// Whether the caller's block is the last of its row's parts to come here; what the others wrote before can be read then.
__device__ __forceinline__ bool arrive_last(uint32_t *arrivals, int parts) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrivals, 1) == (uint32_t)parts - 1;
    if (last) *arrivals = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// The same within a cluster: each block merges a slice of the columns of all heads, for which the others send it their results. They
// may end before it does.
template <int K> struct slice_results {
  float *values;     // [groups][2^slice_bits], at the same place in every block
  float *sums;       // [groups][heads][largest score, sum of weights]
  uint64_t *arrived; // counts the bytes that the block is sent
  int slice_bits, heads;

  __device__ __forceinline__ slice_results(float *shared, uint64_t *arrived, int slice_bits, int heads, int groups)
      : values(shared), sums(shared + (groups << slice_bits)), arrived(arrived), slice_bits(slice_bits), heads(heads) {}

  __device__ __forceinline__ int columns() const { return heads * K; }
  __device__ __forceinline__ int first_of(int block) const { return min(columns(), block << slice_bits); }

  // One thread of a block calls it before the cluster's blocks first meet.
  __device__ __forceinline__ void expect(int block, int groups) {
    int from = first_of(block), to = first_of(block + 1), bytes = 0;
    if (to > from) bytes = groups * 4 * (to - from + 2 * ((to - 1) / K - from / K + 1));
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;\n"
                 "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(arrived)),
                 "r"(bytes)
                 : "memory");
#endif
  }

  __device__ __forceinline__ void send(int block, float *to, float v) const {
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .b32 to, barrier;\nmapa.shared::cluster.u32 to, %0, %2;\nmapa.shared::cluster.u32 barrier, %1, %2;\n"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [to], %3, [barrier];\n}" ::"r"(shared_address(to)),
                 "r"(shared_address(arrived)), "r"(block), "r"(__float_as_uint(v))
                 : "memory");
#endif
  }

  // A thread's part of a group's result.
  __device__ __forceinline__ void send_value(int group, int head, int column, float v) const {
    int i = head * K + column;
    send(i >> slice_bits, values + (group << slice_bits) + (i & (1 << slice_bits) - 1), v);
  }
  __device__ __forceinline__ void send_sums(int group, int head, float largest, float weights) const {
    float *to = sums + 2 * (group * heads + head);
    for (int block = head * K >> slice_bits; block <= (head + 1) * K - 1 >> slice_bits; block++) {
      send(block, to, largest);
      send(block, to + 1, weights);
    }
  }

  // Waits for all that the block is sent.
  __device__ __forceinline__ void wait() const {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], 0;\n@!done bra again;\n}" ::"r"(
            shared_address(arrived))
        : "memory");
#endif
  }

  __device__ __forceinline__ partial<4> load(int group, int head, int column) const {
    float4 v = *(const float4 *)(values + (group << slice_bits) + (head * K + column & (1 << slice_bits) - 1));
    float2 s = *(const float2 *)(sums + 2 * (group * heads + head));
    return {s.x, s.y, {v.x, v.y, v.z, v.w}};
  }
};

// Merges what the first COUNT of the caller's LANES lanes from `first` on hold, as far as below n.
template <int LANES, int COUNT> __device__ __forceinline__ partial<4> merge_lanes(const partial<4> &x, int first, int n) {
  partial<4> sum = {};
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    partial<4> y;
    y.largest = __shfl_sync(~0u, x.largest, first + i, LANES);
    y.weights = __shfl_sync(~0u, x.weights, first + i, LANES);
#pragma unroll
    for (int j = 0; j < 4; j++) y.values[j] = __shfl_sync(~0u, x.values[j], first + i, LANES);
    if (i == 0) sum = y;
    else if (first + i < n) merge<by_thread>(sum, y);
  }
  return sum;
}

// Columns of a row of out, from those of a KV head's first query head on, and the words that dense is sent of them.
struct row_writer {
  bf16 *out;
  bool wide;
  uint64_t *words; // or NULL
  uint32_t tag;

  // Two columns, the first an even one.
  __device__ __forceinline__ void put(int column, float low, float high) const {
    store_pair(out + column, low, high, wide);
    if (words) send(words + column / 2, pack_halves(low, high), tag);
  }
};

// Merges the groups of a row, at most FAN · LANES, into columns from .. to−1 of the heads' out: so many lanes take four at a time.
template <int K, int LANES, typename RESULTS>
__device__ __forceinline__ void merge_groups(const row_writer &out, const RESULTS &results, const row_groups &p, int from, int to) {
  int lane = threadIdx.x % LANES;
  for (int first = from; first < to; first += 4 * THREADS / LANES) {
    int at = first + threadIdx.x / LANES * 4, n = p.groups;
    int head = min(at, to - 4) / K, column = min(at, to - 4) % K; // whole warps stay for the exchange
    partial<4> x = {};
    if (p.level + 1 == LEVELS) {
      x = results.load(0, head, column);
      for (int j = 1; j < n; j++) merge<by_thread>(x, results.load(j, head, column));
    } else {
      partial<4> y[FAN];
#pragma unroll
      for (int j = 0; j < FAN; j++) {
        if (lane * FAN + j < n) y[j] = results.load(lane * FAN + j, head, column);
      }
      x = y[0];
#pragma unroll
      for (int j = 1; j < FAN; j++) {
        if (lane * FAN + j < n) merge<by_thread>(x, y[j]);
      }
      n = (n + FAN - 1) / FAN;
      if (LANES > FAN && p.level + 2 < LEVELS) {
        partial<4> later = merge_lanes<LANES, FAN>(x, FAN, n);
        x = merge_lanes<LANES, FAN>(x, 0, n);
        if (n > FAN) merge<by_thread>(x, later);
      } else if (LANES > 1) {
        x = merge_lanes<LANES, LANES>(x, 0, n);
      }
    }
    if (lane > 0 || at >= to) continue;
    float share = 1 / x.weights;
    out.put(at, x.values[0] * share, x.values[1] * share);
    out.put(at + 2, x.values[2] * share, x.values[3] * share);
  }
}

// The same for any number of groups.
template <int K, typename RESULTS>
__device__ __forceinline__ void merge_all(const row_writer &out, const RESULTS &results, const row_groups &p, int from, int to) {
  if (p.groups <= FAN) merge_groups<K, 1>(out, results, p, from, to);
  else if (p.groups <= FAN * FAN) merge_groups<K, FAN>(out, results, p, from, to);
  else merge_groups<K, 2 * FAN>(out, results, p, from, to);
}

#endif // INFERNO_CUDA_ATTENTION_MERGE_CUH
