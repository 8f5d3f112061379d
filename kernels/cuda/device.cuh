// device.cuh: what the files of the CUDA device share on the host: the device itself, failures, launches, and the ops by file.
//
// All work runs on one stream in the order of its calls. Every kernel is launched with programmatic dependent launch (PDL): it may start
// while the one before still runs, so that each kernel, in every block, calls dependency_wait() before it touches anything that another
// kernel writes or reads, and only then, at once, allow_dependents(). So when a kernel starts, the one before has passed its wait, and the
// one before that has ended: no more than two run at a time, and none holds shared memory while it waits for a chain of others.
// Before the wait a kernel may read what never changes while steps run (packed weights, norms, biases, frequencies), and what was written
// two kernels before it or earlier: cuda_settled() says whether that is so of a step's inputs and caches.
#ifndef INFERNO_CUDA_DEVICE_CUH
#define INFERNO_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "../inferno.h"

struct staging;            // pinned memory of upload and download: staging.cu
struct pack_lanes;         // streams and buffers of the loads: pack.cu
struct cuda_blocks;        // all that alloc gave: table.cu
struct attention_partials; // results of rows that several blocks share: attention_decode.cu
struct step_marks;         // how far the steps are, and host memory: step.cu
struct sample_space;       // what the blocks of a row of logits share: sample.cu
struct dense_space;        // what the blocks of a layer's products share: dense.cu
struct op_profile;         // times of ops: profile.cu

struct inferno_device {
  int ordinal;
  bool exact;              // every weight is kept in float32, and activations are float32
  bool pdl;                // the card and this code have programmatic dependent launch
  bool profiles;           // each op is timed by itself
  bool capturing;          // between capture_begin and capture_end
  int binary;              // version of the machine code that runs here: 90
  void *encode_tensor_map; // the driver's cuTensorMapEncodeTiled, where this code and the card are Hopper's; else NULL
  cudaDeviceProp properties;
  cudaStream_t stream;
  int64_t kernels;     // since a step's inputs were last written, or a graph began; that which wrote them counts
  int64_t stored_rows; // of keys and values, by the last kernel that stored any
  const void *handed;  // rows that the last kernel, an attention, sends dense besides (handover.cuh); NULL: none
  uint32_t attended;   // attentions that did so

  int64_t own_bytes; // of the card's memory, taken by open for the parts below

  int32_t status; // the first failure; sticks
  char reason[192];

  staging *transfers;
  pack_lanes *lanes;
  cuda_blocks *blocks;
  attention_partials *partials;
  sample_space *sampling;
  dense_space *dense;
  op_profile *profile; // NULL unless `profiles`
  step_marks *steps;
  inferno_graph *graphs; // all that live
  cudaStream_t aside;    // where nothing runs: for what shall not wait for the steps
};

// Makes the device's card the calling thread's.
void cuda_use(inferno_device *dev);
// failure.cu. The first failure sticks; `what` was being done.
void cuda_fail(inferno_device *dev, int32_t status, const char *what);
void cuda_fail(inferno_device *dev, cudaError_t error, const char *what);
int32_t cuda_status(cudaError_t error);

// Enqueues a kernel in clusters of `cluster` blocks; `what` names it in a failure.
template <typename... P, typename... A>
void cuda_launch_clusters(inferno_device *dev, const char *what, void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared,
                          unsigned cluster, A... args) {
  dev->handed = NULL;
  if (dev->status) return;
  cudaLaunchAttribute attributes[3] = {};
  int count = 0;
  attributes[count].id = cudaLaunchAttributePreferredSharedMemoryCarveout; // one for all: a multiprocessor drains before it changes
  attributes[count++].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
  if (dev->pdl) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {cluster, 1, 1};
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = dev->stream;
  config.attrs = attributes;
  config.numAttrs = count;
  cudaError_t error = cluster > 8 ? cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) : cudaSuccess;
  if (!error) error = cudaLaunchKernelEx(&config, kernel, P(args)...);
  if (error) cuda_fail(dev, error, what);
  dev->kernels++;
}

// Enqueues a kernel; `what` names it in a failure.
template <typename... P, typename... A>
void cuda_launch(inferno_device *dev, const char *what, void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared, A... args) {
  cuda_launch_clusters(dev, what, kernel, grid, threads, shared, 1, args...);
}

// What comes next writes a step's inputs: ids, positions, slots, lengths, tables.
static inline void cuda_unsettle(inferno_device *dev) {
  dev->kernels = 0;
  dev->handed = NULL;
}

// Whether the next kernel finds a step's inputs before its wait, and in the caches the keys and values of all rows but the last `rows`.
static inline bool cuda_settled(const inferno_device *dev, int64_t rows) { return dev->kernels >= 2 && dev->stored_rows <= rows; }

// staging.cu: copies between the host and the device in order with the ops. A download's destination is written by staging_flush, which
// waits for the stream.
bool staging_open(inferno_device *dev);
void staging_close(inferno_device *dev);
void cuda_upload(inferno_device *dev, void *dst, const void *src, int64_t bytes);
void cuda_download(inferno_device *dev, void *dst, const void *src, int64_t bytes);
cudaError_t staging_flush(inferno_device *dev);

// step.cu: what hands a step's inputs to the device and its results back, and says how far the steps are.
bool step_open(inferno_device *dev);
void step_close(inferno_device *dev);
int32_t step_alloc_mapped(inferno_device *dev, int64_t bytes, void **data);
int64_t step_passed(const inferno_device *dev);
void cuda_pull(inferno_device *dev, const inferno_pull_args *args);
void cuda_scatter(inferno_device *dev, const inferno_scatter_args *args);
void cuda_feed(inferno_device *dev, const inferno_feed_args *args);
void cuda_mark(inferno_device *dev, const inferno_mark_args *args);

// pack.cu
bool pack_open(inferno_device *dev);
void pack_close(inferno_device *dev);
int64_t cuda_pack_bytes(inferno_device *dev, int32_t dtype, int64_t rows, int64_t cols);
int32_t cuda_pack(inferno_device *dev, const inferno_pack_args *args);
int32_t cuda_alloc_host(inferno_device *dev, int64_t bytes, void **data);
void cuda_free_host(inferno_device *dev, void *data);
int32_t cuda_random(inferno_device *dev, const inferno_weight *w, uint64_t seed, float scale);

// tensor_map.cu
bool tensor_map_open(inferno_device *dev);

// attention_decode.cu
bool attention_open(inferno_device *dev);
int32_t attention_max_head_dim();
void attention_close(inferno_device *dev);

// The ops, a file a subject. Shapes were checked by the caller; types are this device's own affair: activations are BF16 with caches of
// BF16, or F32 with caches of F32.
void cuda_fill(inferno_device *dev, void *dst, int32_t byte, int64_t bytes); // elementwise.cu
void cuda_rms_norm(inferno_device *dev, const inferno_rms_norm_args *args);
void cuda_swiglu(inferno_device *dev, const inferno_swiglu_args *args);
void cuda_add(inferno_device *dev, const inferno_add_args *args);
void cuda_gather_rows(inferno_device *dev, const inferno_gather_rows_args *args);
void cuda_embed(inferno_device *dev, const inferno_embed_args *args);           // embed.cu
void cuda_rope_table(inferno_device *dev, const inferno_rope_table_args *args); // rope.cu
void cuda_rope(inferno_device *dev, const inferno_rope_args *args);
void cuda_store_kv(inferno_device *dev, const inferno_store_kv_args *args);
void cuda_rope_store_kv(inferno_device *dev, const inferno_rope_store_kv_args *args);
void cuda_matmul(inferno_device *dev, const inferno_matmul_args *args); // matmul.cu
void cuda_norm_gate_up(inferno_device *dev, const inferno_norm_gate_up_args *args);
void cuda_attention(inferno_device *dev, const inferno_attention_args *args); // attention.cu
void cuda_sample(inferno_device *dev, const inferno_sample_args *args);       // sample.cu
void cuda_logprobs(inferno_device *dev, const inferno_logprobs_args *args);   // logprobs.cu
void cuda_pool(inferno_device *dev, const inferno_pool_args *args);           // pool.cu
bool sample_open(inferno_device *dev);
int64_t sample_max_vocab(const inferno_device *dev);
void sample_close(inferno_device *dev);
bool cuda_dense_fits(inferno_device *dev, const inferno_dense_args *args); // dense.cu: whether cuda_dense takes it
void cuda_dense(inferno_device *dev, const inferno_dense_args *args);
void cuda_dense_composed(inferno_device *dev, const inferno_dense_args *args); // dense_compose.cu
bool dense_open(inferno_device *dev);
void dense_close(inferno_device *dev);

static inline bool is_activation(int32_t dtype) { return dtype == INFERNO_F32 || dtype == INFERNO_BF16; }

static inline int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether every eighth element of each row of t lies at a multiple of 16 bytes, so that rows are read and written 16 bytes at a time.
static inline bool is_wide(const inferno_tensor &t) {
  int64_t per = t.dtype == INFERNO_F32 ? 4 : 8;
  return (uintptr_t)t.data % 16 == 0 && (t.rows == 1 || t.stride % per == 0);
}

#endif // INFERNO_CUDA_DEVICE_CUH
