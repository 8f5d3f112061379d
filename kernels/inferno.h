// inferno.h: the one seam between Go and native code. A device library fills inferno_table; internal/device/native calls it.
//
// Contract
//   - The table and every argument struct grow at their end only; `size` is sizeof the struct as the caller knows it, and any change
//     bumps INFERNO_ABI_VERSION. Plain fixed-width data, no C++ types, nothing throws, prints or exits.
//   - One thread drives a device: the one that opened it, or one that took it over with nothing pending. open, info, alloc, free,
//     pack_bytes, pack, alloc_host, free_host and random may also be called from other threads (loads run beside a step).
//   - Ops enqueue and return nothing. The first failure sticks; sync reports it from then on. The caller has checked shapes and types.
//   - Work runs in the order of its calls. `launch(dev, NULL)` starts what is pending, sync starts and waits for it.
//   - Steps are numbered by their marks: step k is what is enqueued between the marks k − 1 and k, counted from 0. Where `overlap` is set a
//     caller prepares step k + 1 while k runs; host memory that both sides use has as many slots as steps may be under way, and step k
//     uses slot k mod slots, also where its ops are a graph's.
//   - Between capture_begin and capture_end nothing is uploaded, downloaded, allocated or synchronised; ops are recorded, not run.
//     A graph reads lengths, ids and block tables from the device memory that its tensors name, at the time of its launch.
//   - A row's result does not depend on the other rows of the batch, on how many there are, or on timing: the order of every sum
//     is fixed by the layer's shape and the row's own position. Products of more than 64 rows may have an order of their own.
//
// Dimension letters: n tokens in the batch, b sequences, r rows that want logits, d model dim, h query heads, g KV heads, k head dim,
// f ffn dim, v vocabulary, p block size (tokens in a KV block), B KV blocks.
#ifndef INFERNO_H
#define INFERNO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define INFERNO_ABI_VERSION 6

// Element types. The quantised ones are GGUF's blocks of 32 along a row:
//   Q8_0: f16 d, 32 × int8 q           value = d·q                    34 bytes
//   Q4_0: f16 d, 16 bytes of nibbles    value = d·(q − 8)              18 bytes; low nibbles are elements 0..15, high ones 16..31
//   Q4_1: f16 d, f16 m, 16 bytes        value = d·q + m                20 bytes; nibbles as in Q4_0
enum {
  INFERNO_F32 = 1,
  INFERNO_F16 = 2,
  INFERNO_BF16 = 3,
  INFERNO_I32 = 4,
  INFERNO_Q8_0 = 16,
  INFERNO_Q4_0 = 17,
  INFERNO_Q4_1 = 18,
};

// Status of open, alloc and sync; 0 is success.
enum {
  INFERNO_OK = 0,
  INFERNO_UNAVAILABLE = 1, // no such device, driver or feature here
  INFERNO_OUT_OF_MEMORY = 2,
  INFERNO_DEVICE_LOST = 3,  // sticky: the device must be closed
  INFERNO_BAD_ARGUMENT = 4, // the caller broke the contract
};

// Flags of open.
enum {
  INFERNO_EXACT = 1,     // weights of every type multiply float32 activations; the default rounds activations to 8 bits for quantised
                         // weights (CPU), or to BF16 (CUDA)
  INFERNO_NO_AVX512 = 2, // CPU: leave AVX-512 unused, so that one machine can test the other kernels
  INFERNO_NO_AVX2 = 4,   // CPU: leave AVX2 unused too
  INFERNO_PROFILE = 8,   // CUDA: each op runs and is timed by itself, for `profile`; nothing can be captured
};

typedef struct inferno_device inferno_device;
typedef struct inferno_graph inferno_graph;

// A dense matrix in device memory, or a vector (rows or cols 1). Element (i, j) is at data + (i·stride + j)·sizeof(dtype).
typedef struct {
  void *data;
  int32_t dtype;
  int32_t reserved;
  int64_t rows, cols, stride;
} inferno_tensor;

// A packed weight [rows, cols] = [out, in]: `data` holds pack_bytes(dtype, rows, cols) bytes in the device's own order.
typedef struct {
  void *data;
  int32_t dtype;
  int32_t reserved;
  int64_t rows, cols;
} inferno_weight;

typedef struct {
  uint32_t size;
  uint32_t flags;
  int32_t ordinal; // which card; 0 on the CPU
  int32_t threads; // CPU worker threads, the caller's included; 0 means one a core
} inferno_open_args;

typedef struct {
  uint32_t size;
  int32_t threads;
  int32_t unified;     // 1: device memory is host memory (the CPU)
  int32_t capture;     // 1: capture_begin works
  int64_t total_bytes; // of the memory that alloc draws from
  int64_t free_bytes;
  char name[96];        // "AMD EPYC ..." or "NVIDIA H200"
  char features[96];    // the kernels chosen: "avx512-vnni", "avx2", "portable", "sm_90"
  int32_t exact;        // 1: quantised weights multiply activations as they are; 0: rounded to 8 bits
  int32_t activations;  // type that a model computes in, and
  int32_t cache;        // that it caches keys and values in, unless all of its weights are F32: then both are F32
  int32_t driver;       // CUDA version that the driver knows, 1000·major + 10·minor; 0 on the CPU
  int32_t runtime;      // CUDA version that the library was built with
  int64_t own_bytes;    // of that memory, what open took for the ops' own scratch
  int32_t overlap;      // 1: launch returns while the work runs
  int32_t kv_block;     // tokens in a KV block as attention reads them best; it takes any number
  int32_t max_head_dim; // k that attention takes, and
  int32_t max_vocab;    // v that sample takes; 0: any
} inferno_info;

// Where a pack may begin: at a multiple of so many rows.
enum { INFERNO_PACK_ROWS = 64 };

// Copies `rows` rows of a weight, from first_row on, from host memory, rows as the file holds them, into w's packed form. Rows are packed
// in any order and by several threads at once; the last ones come with what w is filled up with.
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_weight w;
  const void *src;           // host: source_rows rows, contiguous, in w.dtype
  const int32_t *source_row; // host: [rows] which source row becomes row first_row + i; NULL: row i
  int64_t first_row;         // a multiple of INFERNO_PACK_ROWS
  int64_t rows;              // a multiple of INFERNO_PACK_ROWS, or all up to w.rows
  int64_t source_rows;
} inferno_pack_args;

// out[n,d] = table[ids[n], :]; an id outside the table yields zeros.
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_tensor out;
  inferno_weight table;
  inferno_tensor ids; // I32 [n]
} inferno_embed_args;

// out[n,d] = x[n,d] / sqrt(mean_d(x²) + eps) · w[d]; out may be x.
typedef struct {
  uint32_t size;
  float eps;
  inferno_tensor out, x, w; // w F32 [d]
} inferno_rms_norm_args;

enum { INFERNO_MAX_PRODUCTS = 3 };

// out_i[n,m_i] = x[n,c] · w_i[m_i,c]ᵀ + bias_i[m_i] (+ out_i where `accumulate`), for i < count: products that share their activations.
typedef struct {
  inferno_weight w;
  inferno_tensor bias; // F32 [m]; data NULL: none
  inferno_tensor out;  // [n, m]
  int32_t accumulate;
  int32_t reserved;
} inferno_product;

typedef struct {
  uint32_t size;
  int32_t count;
  inferno_tensor x; // [n, c]
  inferno_product product[INFERNO_MAX_PRODUCTS];
} inferno_matmul_args;

// table[n, i] = scale · cos(pos[n] · freq[i]), table[n, k/2 + i] = scale · sin(pos[n] · freq[i]) for i < k/2; the angle in double.
typedef struct {
  uint32_t size;
  float scale;
  inferno_tensor table; // F32 [n, k]
  inferno_tensor pos;   // I32 [n]
  inferno_tensor freq;  // F32 [k/2] radians a position
} inferno_rope_table_args;

// Rotates, in place, the neighbours (2i, 2i+1) of each head of x[n, heads·k] by table's angle i.
typedef struct {
  uint32_t size;
  int32_t heads;
  inferno_tensor x;
  inferno_tensor table; // F32 [n, k]
} inferno_rope_args;

// k_cache[slot/p, j, slot%p, :] = key[n, j, :] for KV head j, and the same for values; slot −1 is skipped.
typedef struct {
  uint32_t size;
  int32_t kv_heads, head_dim, block_size;
  inferno_tensor key, value;       // [n, g·k]
  inferno_tensor slots;            // I32 [n]
  inferno_tensor k_cache, v_cache; // F32, F16 or BF16 [B, g·p·k]
} inferno_store_kv_args;

// Causal attention of a ragged batch over paged keys and values. Rows query_start[i] .. query_start[i+1]−1 belong to sequence i and are
// its last positions: row j of m has position kv_len[i] − m + j and sees the keys at positions 0 .. its own.
// out[n, h·k] = softmax(scale · q kᵀ) v; query head a reads KV head a / (h/g).
typedef struct {
  uint32_t size;
  int32_t heads, kv_heads, head_dim, block_size;
  float scale;
  inferno_tensor out, q;           // [n, h·k]
  inferno_tensor k_cache, v_cache; // [B, g·p·k]
  inferno_tensor block_table;      // I32 [b, max blocks of a sequence]
  inferno_tensor query_start;      // I32 [b+1]
  inferno_tensor kv_len;           // I32 [b]
} inferno_attention_args;

// out[n,f] = gate/(1+exp(−gate)) · up; out may be gate.
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_tensor out, gate, up;
} inferno_swiglu_args;

// out = a + b, all of one shape; out may be a or b.
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_tensor out, a, b;
} inferno_add_args;

// out[i,:] = x[rows[i],:].
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_tensor out, x;
  inferno_tensor rows; // I32 [r]
} inferno_gather_rows_args;

// What one row of logits is sampled with. 48 bytes; the array lies in device memory.
typedef struct {
  uint64_t seed;
  uint32_t position;  // of the token being chosen, counted from the start of the prompt
  int32_t top_k;      // 0: off
  float temperature;  // 0: greedy
  float top_p;        // 1: off
  float min_p;        // 0: off
  int32_t num_banned; // how many of this row's `banned` hold
  float typical_p;    // 0 or 1: off
  int32_t adjustment; // 1 + where in `adjustments` it begins, in words of 4 bytes; 0: none
  int64_t reserved;
} inferno_sample_params;

// What changes a row of logits in place before its token is chosen; what runs after `sample` finds them changed. A row that holds a NaN or
// +Inf still does. In this order, each a rounding of its own:
//   l = l > 0 ? l / repetition : l · repetition, at most the largest finite number   once for each id among the last `window` tokens
//   l = l − presence                                                                 once for each id generated
//   l = l − frequency                                                                for each time that the id was generated
//   l = l + value                                                                    for each pair
// The row's tokens, `position` of them, are history[block_table[sequence, i/p], i%p] for i < position. 32 bytes; then come num_bias pairs of
// I32 ids, all different, and F32 values; then, where `masked`, v bits in words of 32, lowest first: 1 where an id may be chosen.
typedef struct {
  float repetition;          // 1: off
  float presence, frequency; // 0: off
  int32_t window;            // 0: all tokens
  int32_t prompt;            // tokens of the prompt; those behind it were generated
  int32_t sequence;
  int32_t num_bias;
  int32_t masked;
} inferno_adjustment;

// Chooses a token id a row, after its adjustment. Banned ids, and those that a mask leaves out, are out first. Temperature 0: the largest
// logit, the lowest id among equals. Otherwise probabilities are softmax(logits / temperature), and what is kept is, in this order: the
// top_k largest (ties: lower ids first); the smallest set of those whose −ln of their probability, renormalised, is nearest to its mean, the
// entropy (ties: lower ids first), that reaches typical_p; the smallest set of the most likely whose probabilities, renormalised, reach
// top_p; and those of at least min_p times the largest that is left. Among the kept the token with the largest logit/temperature + G(seed, position, id) is taken, G = −ln(−ln(u)) the Gumbel noise of
// u = (x + 0.5)·2⁻³² (in double), x = word id%4 of Philox4x32-10 with key (seed low, seed high) and counter (id/4, position, 0, 0).
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_tensor logits; // F32 [r, v]
  inferno_tensor params; // inferno_sample_params [r], as bytes: dtype I32, rows r, cols 12
  inferno_tensor banned; // I32 [r, max banned]; data NULL: none
  inferno_tensor ids;    // out: I32 [r]; −1 where the row holds a NaN or +Inf, or where every id is banned

  inferno_tensor adjustments; // I32 [any] as params name them; data NULL: none
  inferno_tensor history;     // I32 [B, p], contiguous; data NULL: no adjustment looks at tokens
  inferno_tensor block_table; // I32 [b, max blocks of a sequence]; with history
} inferno_sample_args;

// Optional: rope on q and key, then store_kv, in one pass. NULL where the device has none; bit-equal to its composition.
typedef struct {
  uint32_t size;
  int32_t heads, kv_heads, head_dim, block_size;
  inferno_tensor q;                // [n, h·k], rotated in place
  inferno_tensor key, value;       // [n, g·k]; key may or may not be left rotated
  inferno_tensor table;            // F32 [n, k]
  inferno_tensor slots;            // I32 [n]
  inferno_tensor k_cache, v_cache; // [B, g·p·k]
} inferno_rope_store_kv_args;

// Optional: rms_norm of x into normed, then matmul of normed. NULL where the device has none; bit-equal to its composition, as the two
// below are. `normed` is scratch: contents undefined afterwards.
typedef struct {
  uint32_t size;
  float eps;
  inferno_tensor x;      // [n, d]
  inferno_tensor norm;   // F32 [d]
  inferno_tensor normed; // [n, d], not x
  int32_t count;
  int32_t reserved;
  inferno_product product[INFERNO_MAX_PRODUCTS]; // as of matmul; no out is x
} inferno_norm_matmul_args;

// Optional: out = swiglu(rms_norm(x) · gateᵀ + gate_bias, rms_norm(x) · upᵀ + up_bias), both products rounded to out's type before swiglu.
typedef struct {
  uint32_t size;
  float eps;
  inferno_tensor x, norm, normed;
  inferno_weight gate, up;           // [f, d]
  inferno_tensor gate_bias, up_bias; // F32 [f]; data NULL: none
  inferno_tensor out;                // [n, f]
  inferno_tensor scratch;            // [n, f]; contents undefined afterwards
} inferno_norm_gate_up_args;

// Optional: q, k and v as products of rms_norm(x), then rope_store_kv of them.
typedef struct {
  uint32_t size;
  float eps;
  inferno_tensor x, norm, normed;
  inferno_product q, k, v; // accumulate 0; out [n, h·k], [n, g·k], [n, g·k]; the outs of k and v are scratch: contents undefined afterwards
  int32_t heads, kv_heads, head_dim, block_size;
  inferno_tensor table;            // F32 [n, k]
  inferno_tensor slots;            // I32 [n]
  inferno_tensor k_cache, v_cache; // [B, g·p·k]
} inferno_norm_qkv_args;

// Optional: what lies between the attentions of two layers. x is the tensor that all of it is done to: out of o and down, x of mlp and next.
// x += attended · oᵀ; x += (norm_gate_up of x) · downᵀ; then norm_qkv of x, of the next layer, where there is one. Bit-equal to matmul,
// norm_gate_up, matmul, norm_qkv.
typedef struct {
  uint32_t size;
  int32_t has_next;              // 0: this was the last layer; next holds nothing
  inferno_tensor attended;       // [n, h·k]
  inferno_product o;             // [d, h·k]; accumulate 1
  inferno_norm_gate_up_args mlp; // its out is scratch, too
  inferno_product down;          // [d, f]; accumulate 1
  inferno_norm_qkv_args next;
} inferno_dense_args;

// The calls of an op with one shape.
typedef struct {
  char op[24];    // as the table calls it
  char shape[40]; // of what differs beside the rows, for a person; may be empty
  int64_t rows;   // n of each call
  int64_t count;  // calls
  int64_t bytes;  // that must be read or written, of all calls; 0 where it is not told
  double seconds; // of all calls, each by itself: more than they take in a step, where one starts while the other ends
} inferno_profile_row;
// dst[w] = src[k mod slots, :] in step k.
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_tensor dst; // I32 [w]
  inferno_tensor src; // I32 [slots, w] of alloc_mapped
} inferno_pull_args;

// dst[index[i]] = values[i]; an index outside dst is skipped, and none comes twice.
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_tensor dst;           // I32 [any], contiguous
  inferno_tensor index, values; // I32 [n]
} inferno_scatter_args;

// tokens[i] = ids[from[i]] where from[i] is an index of ids; the others stay.
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_tensor tokens, from; // I32 [n]
  inferno_tensor ids;          // I32 [any]
} inferno_feed_args;

// Ends step k: out[k mod slots, :] = values, and then `passed` is k + 1.
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_tensor values; // I32 [r]; data NULL: none
  inferno_tensor out;    // I32 [slots, r] of alloc_mapped
} inferno_mark_args;

enum { INFERNO_MAX_TOP_LOGPROBS = 20 };

// Log-probabilities of q rows of logits: lp(id) = logit[id] − ln Σ exp(logit), before anything that sampling does. A row of out holds, in
// words of 32 bits, floats by their bits: lp(chosen), its rank (1 and as many as have a larger logit, or the same one and a lower id),
// lp of each of `ids`, the `top` ids of the largest logits, the lower id first among equals, and their lp. An id outside the vocabulary
// has lp NaN and rank 0, and a top id that there is none of is −1 with lp NaN; so are all of a row that holds a NaN or +Inf, or −Inf alone.
typedef struct {
  uint32_t size;
  int32_t top;           // 0 to INFERNO_MAX_TOP_LOGPROBS
  inferno_tensor logits; // F32 [r, v]
  inferno_tensor rows;   // I32 [q] of logits
  inferno_tensor chosen; // I32 [q]
  inferno_tensor ids;    // I32 [q, m]; data NULL: m = 0
  inferno_tensor out;    // I32 [q, 2 + m + 2·top]
} inferno_logprobs_args;

// out[i,:] = Σ x[j,:] over from[i] ≤ j < to[i], in double and in the order of the rows, rounded once; zeros for an empty range.
typedef struct {
  uint32_t size;
  uint32_t reserved;
  inferno_tensor out;      // F32 [e, d]
  inferno_tensor x;        // [n, d]
  inferno_tensor from, to; // I32 [e], 0 to n
} inferno_pool_args;

typedef struct {
  uint32_t version; // INFERNO_ABI_VERSION
  uint32_t size;    // sizeof(inferno_table)

  // Lifecycle. open writes a reason of at most `reason_bytes` into reason when it fails.
  int32_t (*open)(const inferno_open_args *args, inferno_device **dev, char *reason, size_t reason_bytes);
  void (*close)(inferno_device *dev); // waits for what runs; pending work is dropped
  void (*info)(inferno_device *dev, inferno_info *info);
  int32_t (*alloc)(inferno_device *dev, int64_t bytes, void **data); // aligned to 256 bytes, contents undefined
  void (*free)(inferno_device *dev, void *data);
  void (*upload)(inferno_device *dev, void *dst, const void *src, int64_t bytes);   // src may be reused on return
  void (*download)(inferno_device *dev, void *dst, const void *src, int64_t bytes); // dst is valid after sync
  void (*fill)(inferno_device *dev, void *dst, int32_t byte, int64_t bytes);
  int64_t (*pack_bytes)(inferno_device *dev, int32_t dtype, int64_t rows, int64_t cols);
  int32_t (*pack)(inferno_device *dev, const inferno_pack_args *args); // complete on return
  int32_t (*capture_begin)(inferno_device *dev);
  int32_t (*capture_end)(inferno_device *dev, inferno_graph **graph);
  void (*graph_free)(inferno_device *dev, inferno_graph *graph);
  void (*launch)(inferno_device *dev, inferno_graph *graph); // NULL: what is pending
  int32_t (*sync)(inferno_device *dev, char *reason, size_t reason_bytes);

  // Mandatory primitives.
  void (*embed)(inferno_device *dev, const inferno_embed_args *args);
  void (*rms_norm)(inferno_device *dev, const inferno_rms_norm_args *args);
  void (*matmul)(inferno_device *dev, const inferno_matmul_args *args);
  void (*rope_table)(inferno_device *dev, const inferno_rope_table_args *args);
  void (*rope)(inferno_device *dev, const inferno_rope_args *args);
  void (*store_kv)(inferno_device *dev, const inferno_store_kv_args *args);
  void (*attention)(inferno_device *dev, const inferno_attention_args *args);
  void (*swiglu)(inferno_device *dev, const inferno_swiglu_args *args);
  void (*add)(inferno_device *dev, const inferno_add_args *args);
  void (*gather_rows)(inferno_device *dev, const inferno_gather_rows_args *args);
  void (*sample)(inferno_device *dev, const inferno_sample_args *args);

  // Optional fused ops; NULL allowed.
  void (*rope_store_kv)(inferno_device *dev, const inferno_rope_store_kv_args *args);
  void (*norm_matmul)(inferno_device *dev, const inferno_norm_matmul_args *args);
  void (*norm_gate_up)(inferno_device *dev, const inferno_norm_gate_up_args *args);
  void (*norm_qkv)(inferno_device *dev, const inferno_norm_qkv_args *args);

  // Optional: host memory that pack reads fastest. A block serves one pack at a time. NULL: any memory is as good.
  int32_t (*alloc_host)(inferno_device *dev, int64_t bytes, void **data);
  void (*free_host)(inferno_device *dev, void *data);

  // Optional: fills a packed F32, F16 or BF16 weight, for measurements without a checkpoint: element (i, j) is s·2⁻³¹·scale in float32,
  // rounded to the weight's type, where s is the upper half, as a signed number, of splitmix64's output for state
  // seed + (i·cols + j + 1)·0x9e3779b97f4a7c15. Complete on return. NULL: the caller makes the rows and packs them.
  int32_t (*random)(inferno_device *dev, const inferno_weight *w, uint64_t seed, float scale);

  // Optional: copies at most `capacity` rows of what a device opened with INFERNO_PROFILE has timed since it was last asked, and returns
  // how many.
  int32_t (*profile)(inferno_device *dev, inferno_profile_row *rows, int32_t capacity);

  // Steps that the host and the device work on at the same time; mandatory.
  int32_t (*alloc_mapped)(inferno_device *dev, int64_t bytes, void **data); // host memory that pull and mark reach; freed by close
  void (*pull)(inferno_device *dev, const inferno_pull_args *args);
  void (*scatter)(inferno_device *dev, const inferno_scatter_args *args);
  void (*feed)(inferno_device *dev, const inferno_feed_args *args);
  void (*mark)(inferno_device *dev, const inferno_mark_args *args);
  int64_t (*passed)(inferno_device *dev); // steps that have ended; −1 after a failure that is known. Asks no driver
  int32_t (*poll)(inferno_device *dev);   // like sync, but waits for nothing

  // What is told of a step beside its tokens; mandatory.
  void (*logprobs)(inferno_device *dev, const inferno_logprobs_args *args);
  void (*pool)(inferno_device *dev, const inferno_pool_args *args);

  void (*dense)(inferno_device *dev, const inferno_dense_args *args); // optional fused op

  // Optional: says that a launch of graph is near, so that what it needs on the host's side can be brought near too. Changes nothing, and
  // waits for nothing.
  void (*expect)(inferno_device *dev, inferno_graph *graph);
} inferno_table;

// What a device library exports, and all that it exports.
const inferno_table *inferno_device_table(void);

#ifdef __cplusplus
}
#endif

#endif // INFERNO_H
