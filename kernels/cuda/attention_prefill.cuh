// attention_prefill.cuh: what the two forms of prefill attention share: which rows a block takes, and its tile of q.
#ifndef INFERNO_CUDA_ATTENTION_PREFILL_CUH
#define INFERNO_CUDA_ATTENTION_PREFILL_CUH

#include "attention_tile.cuh"

// Rows of one sequence: q's rows from `row` on, the first of them at `position`. None: rows 0.
struct query_tile {
  int sequence, row, rows, position;
};

// Tiles of a ragged batch of n rows. Sequence i has those from query_start[i]/ROWS + i on: a bound that needs no sum over the sequences
// before, and leaves at most one tile a sequence empty.
template <int ROWS> static inline unsigned num_tiles(const inferno_attention_args *a) {
  return (unsigned)(a->q.rows / ROWS + a->block_table.rows);
}

// Tile `index`; whole warps ask.
template <int ROWS> __device__ __forceinline__ query_tile tile_of(const attention_view<bf16> &a, prefill_sequences which, int index) {
  int before = 0; // sequences that begin at or before the tile
  for (int i = 0; i < a.sequences; i += 32) {
    int sequence = i + threadIdx.x % 32;
    before += __popc(__ballot_sync(~0u, sequence < a.sequences && __ldcg(a.query_start + sequence) / ROWS + sequence <= index));
  }
  query_tile t = {};
  t.sequence = before - 1;
  int from = __ldcg(a.query_start + t.sequence), m = __ldcg(a.query_start + t.sequence + 1) - from;
  int first = (index - from / ROWS - t.sequence) * ROWS;
  if (first >= m || (which == LONGER_SEQUENCES && m == 1)) return t;
  t.row = from + first;
  t.rows = min(ROWS, m - first);
  t.position = __ldcg(a.kv_len + t.sequence) - m + first;
  return t;
}

// Eight elements from p; `wide`: p lies at a multiple of 16 bytes.
__device__ __forceinline__ uint4 load_piece(const bf16 *p, bool wide) {
  if (wide) return *(const uint4 *)p;
  return make_uint4(load_pair(p, false), load_pair(p + 2, false), load_pair(p + 4, false), load_pair(p + 6, false));
}

// Copies the tile's rows of a head into shared memory, [ROWS][K] as tiles of keys lie; rows beyond become zeros.
template <int ROWS, int K, int THREADS>
__device__ __forceinline__ void load_queries(bf16 *to, const attention_view<bf16> &a, const query_tile &t, int head, int thread) {
  constexpr int PIECES = K / 8;
  for (int i = thread; i < ROWS * PIECES; i += THREADS) {
    int row = i / PIECES, piece = i % PIECES;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (row < t.rows) v = load_piece(a.q.row(t.row + row) + (int64_t)head * K + 8 * piece, a.wide_rows);
    *(uint4 *)(to + tile_at<ROWS>(row, piece)) = v;
  }
}

// The running softmax of two rows, g and g + 8 of a warp's sixteen; four lanes share a row.
struct running_softmax {
  float largest[2], weights[2];

  // Turns scores of TILES · 8 keys (element 4j + i: row g + i/2 · 8, key 8j + 2·(lane % 4) + i%2) into weights, and returns by what the
  // sums so far shrink. `scale` makes powers of 2 of raw scores.
  template <int N> __device__ __forceinline__ void weigh(float (&s)[N], float scale, float (&shrink)[2]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float most = largest[r], most_odd = -INFINITY; // two chains, as of the sums: half the latency
#pragma unroll
      for (int i = 2 * r; i < N; i += 4) most = fmaxf(most, s[i]), most_odd = fmaxf(most_odd, s[i + 1]);
      most = fmaxf(most, most_odd);
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      shrink[r] = exp2_fast((largest[r] - most) * scale);
      largest[r] = most;
      float sum = 0, sum_odd = 0, offset = most * scale;
#pragma unroll
      for (int i = 2 * r; i < N; i += 4) {
        s[i] = exp2_fast(fmaf(s[i], scale, -offset));
        s[i + 1] = exp2_fast(fmaf(s[i + 1], scale, -offset));
        sum += s[i];
        sum_odd += s[i + 1];
      }
      sum += sum_odd;
      weights[r] = fmaf(weights[r], shrink[r], sum);
    }
  }

  // The sum of weights over all keys, once the last tile is in.
  __device__ __forceinline__ float total(int r) const {
    float sum = weights[r] + __shfl_xor_sync(~0u, weights[r], 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
  }
};

// Scores of keys beyond a row's own position become −∞; first_key is the tile's, `position` that of the warp's row 0.
template <int N> __device__ __forceinline__ void mask_future(float (&s)[N], int first_key, int position) {
  int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < N; i++) {
    int key = first_key + i / 4 * 8 + 2 * t + i % 2, row = position + g + i / 2 % 2 * 8;
    if (key > row) s[i] = -INFINITY;
  }
}

// Writes a warp's sixteen rows of a head, from row `first` of the tile on; the element order is that of weigh().
template <int N>
__device__ __forceinline__ void store_rows(const attention_view<bf16> &a, const query_tile &tile, int first, int head, const float (&o)[N],
                                           const running_softmax &softmax) {
  int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float share = 1 / softmax.total(r);
    int row = first + g + 8 * r;
    if (row >= tile.rows) continue;
    bf16 *to = a.out.row(tile.row + row) + (int64_t)head * (2 * N) + 2 * t;
#pragma unroll
    for (int j = 0; j < N / 4; j++) store_pair(to + 8 * j, o[4 * j + 2 * r] * share, o[4 * j + 2 * r + 1] * share, a.wide_rows);
  }
}

#endif // INFERNO_CUDA_ATTENTION_PREFILL_CUH
