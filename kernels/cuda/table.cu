// table.cu: the CUDA device's inferno_table: open and close, memory, graphs. An entry makes the device's card the thread's, and
// an op's file does the rest.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.cuh"
#include "numeric.cuh"
#include "profile.cuh"

// Blocks of alloc, so that close can free them. Loads on other threads allocate beside a step.
struct cuda_block {
  void *data;
  cuda_block *next;
};

struct cuda_blocks {
  pthread_mutex_t mutex;
  cuda_block *first;
};

struct inferno_graph {
  cudaGraphExec_t exec;
  inferno_graph *prev, *next;
};

static int32_t refuse(int32_t status, char *reason, size_t reason_bytes, const char *text) {
  if (reason_bytes > 0) snprintf(reason, reason_bytes, "%s", text);
  return status;
}

static int32_t refuse(cudaError_t error, char *reason, size_t reason_bytes, const char *what) {
  if (reason_bytes > 0) snprintf(reason, reason_bytes, "%s: %s", what, cudaGetErrorString(error));
  return cuda_status(error);
}

void cuda_use(inferno_device *dev) { cudaSetDevice(dev->ordinal); }

// Lifecycle ---------------------------------------------------------------------------------------------------------------------------

__global__ void probe_kernel() {}

static void device_close(inferno_device *dev);

// What the device is made of, once its card was found.
static cudaError_t open_parts(inferno_device *dev) {
  cudaError_t error = cudaSetDevice(dev->ordinal);
  if (!error) error = cudaGetDeviceProperties(&dev->properties, dev->ordinal);
  cudaFuncAttributes probe = {};
  if (!error) error = cudaFuncGetAttributes(&probe, probe_kernel);
  if (!error) error = cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking);
  if (!error) error = cudaStreamCreateWithFlags(&dev->aside, cudaStreamNonBlocking);
  if (error) return error;
  dev->binary = probe.binaryVersion;
  dev->pdl = probe.ptxVersion >= 90; // what older code was compiled without, it does not wait by, on any card
  dev->blocks = (cuda_blocks *)calloc(1, sizeof *dev->blocks);
  if (!dev->blocks || (dev->profiles && !profile_open(dev))) return cudaErrorMemoryAllocation;
  pthread_mutex_init(&dev->blocks->mutex, NULL);
  size_t before = 0, after = 0, total = 0;
  cudaMemGetInfo(&before, &total);
  if (!tensor_map_open(dev) || !staging_open(dev) || !step_open(dev) || !pack_open(dev) || !sample_open(dev) || !attention_open(dev) ||
      !dense_open(dev)) {
    return cudaErrorMemoryAllocation;
  }
  cudaMemGetInfo(&after, &total);
  dev->own_bytes = before > after ? (int64_t)(before - after) : 0;
  return cudaSuccess;
}

static int32_t device_open(const inferno_open_args *args, inferno_device **out, char *reason, size_t reason_bytes) {
  if (args->size < sizeof *args) return refuse(INFERNO_BAD_ARGUMENT, reason, reason_bytes, "arguments of another version");
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error || count == 0) return refuse(error ? error : cudaErrorNoDevice, reason, reason_bytes, "no usable card");
  if (args->ordinal < 0 || args->ordinal >= count) {
    if (reason_bytes > 0) snprintf(reason, reason_bytes, "no card %d: there are %d", args->ordinal, count);
    return INFERNO_UNAVAILABLE;
  }
  inferno_device *dev = (inferno_device *)calloc(1, sizeof *dev);
  if (!dev) return refuse(INFERNO_OUT_OF_MEMORY, reason, reason_bytes, "no memory for the device");
  dev->ordinal = args->ordinal;
  dev->exact = args->flags & INFERNO_EXACT;
  dev->profiles = args->flags & INFERNO_PROFILE;
  error = open_parts(dev);
  if (error) {
    int32_t status = refuse(error, reason, reason_bytes, error == cudaErrorNoKernelImageForDevice ? dev->properties.name : "open the card");
    device_close(dev);
    cudaGetLastError();
    return status;
  }
  *out = dev;
  return INFERNO_OK;
}

static void graph_destroy(inferno_device *dev, inferno_graph *graph) {
  if (graph->next) graph->next->prev = graph->prev;
  *(graph->prev ? &graph->prev->next : &dev->graphs) = graph->next;
  cudaGraphExecDestroy(graph->exec);
  free(graph);
}

static void device_close(inferno_device *dev) {
  cuda_use(dev);
  if (dev->stream) cudaStreamSynchronize(dev->stream);
  while (dev->graphs) graph_destroy(dev, dev->graphs);
  dense_close(dev);
  sample_close(dev);
  attention_close(dev);
  pack_close(dev);
  staging_close(dev);
  profile_close(dev);
  step_close(dev);
  if (dev->blocks) {
    for (cuda_block *b = dev->blocks->first, *next; b; b = next) {
      next = b->next;
      cudaFree(b->data);
      free(b);
    }
    pthread_mutex_destroy(&dev->blocks->mutex);
    free(dev->blocks);
  }
  if (dev->aside) cudaStreamDestroy(dev->aside);
  if (dev->stream) cudaStreamDestroy(dev->stream);
  free(dev);
}

static void device_info(inferno_device *dev, inferno_info *info) {
  cuda_use(dev);
  inferno_info i = {};
  i.size = sizeof i;
  i.capture = !dev->profiles;
  i.overlap = 1;
  i.kv_block = 64; // what attention_wgmma.cu brings in by one copy
  i.max_head_dim = attention_max_head_dim();
  i.max_vocab = (int32_t)sample_max_vocab(dev);
  i.exact = 1;
  i.activations = i.cache = dev->exact ? INFERNO_F32 : INFERNO_BF16;
  size_t available = 0, total = 0;
  if (cudaMemGetInfo(&available, &total) == cudaSuccess) i.total_bytes = (int64_t)total, i.free_bytes = (int64_t)available;
  i.own_bytes = dev->own_bytes;
  cudaDriverGetVersion(&i.driver);
  cudaRuntimeGetVersion(&i.runtime);
  snprintf(i.name, sizeof i.name, "%.95s", dev->properties.name);
  snprintf(i.features, sizeof i.features, "sm_%d", dev->binary);
  memcpy(info, &i, info->size < sizeof i ? info->size : sizeof i);
}

// Memory ------------------------------------------------------------------------------------------------------------------------------

static int32_t device_alloc(inferno_device *dev, int64_t bytes, void **data) {
  if (bytes < 0) return INFERNO_BAD_ARGUMENT;
  cuda_use(dev);
  cuda_block *block = (cuda_block *)malloc(sizeof *block);
  if (!block) return INFERNO_OUT_OF_MEMORY;
  cudaError_t error = cudaMalloc(&block->data, bytes > 0 ? (size_t)bytes : 1);
  if (error) {
    if (error == cudaErrorMemoryAllocation) cudaGetLastError(); // no failure of the device
    free(block);
    return cuda_status(error);
  }
  pthread_mutex_lock(&dev->blocks->mutex);
  block->next = dev->blocks->first;
  dev->blocks->first = block;
  pthread_mutex_unlock(&dev->blocks->mutex);
  *data = block->data;
  return INFERNO_OK;
}

static void device_free(inferno_device *dev, void *data) {
  if (!data) return;
  pthread_mutex_lock(&dev->blocks->mutex);
  cuda_block **at = &dev->blocks->first;
  while (*at && (*at)->data != data) at = &(*at)->next;
  cuda_block *block = *at;
  if (block) *at = block->next;
  pthread_mutex_unlock(&dev->blocks->mutex);
  if (!block) return;
  cuda_use(dev);
  cudaFree(data); // waits for what runs
  free(block);
}

// Fails and returns true inside a capture.
static bool refused_in_capture(inferno_device *dev, const char *what) {
  if (dev->capturing) cuda_fail(dev, INFERNO_BAD_ARGUMENT, what);
  return dev->capturing;
}

static void device_upload(inferno_device *dev, void *dst, const void *src, int64_t bytes) {
  if (dev->status || refused_in_capture(dev, "upload inside a capture")) return;
  cuda_use(dev);
  cuda_unsettle(dev);
  cuda_upload(dev, dst, src, bytes);
}

static void device_download(inferno_device *dev, void *dst, const void *src, int64_t bytes) {
  if (dev->status || refused_in_capture(dev, "download inside a capture")) return;
  cuda_use(dev);
  cuda_download(dev, dst, src, bytes);
}

// Graphs ------------------------------------------------------------------------------------------------------------------------------

static int32_t capture_begin(inferno_device *dev) {
  if (dev->status) return dev->status;
  if (dev->capturing || dev->profiles) return INFERNO_BAD_ARGUMENT;
  cuda_use(dev);
  cudaError_t error = cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal);
  if (error) return cuda_status(error);
  cuda_unsettle(dev);
  dev->capturing = true;
  return INFERNO_OK;
}

static int32_t capture_end(inferno_device *dev, inferno_graph **out) {
  if (!dev->capturing) return INFERNO_BAD_ARGUMENT;
  cuda_use(dev);
  cuda_unsettle(dev);
  dev->capturing = false;
  cudaGraph_t recorded = NULL;
  cudaError_t error = cudaStreamEndCapture(dev->stream, &recorded);
  inferno_graph *graph = (inferno_graph *)calloc(1, sizeof *graph);
  if (!error && !graph) error = cudaErrorMemoryAllocation;
  if (!error) error = cudaGraphInstantiate(&graph->exec, recorded, 0);
  if (!error) error = cudaGraphUpload(graph->exec, dev->stream);
  if (recorded) cudaGraphDestroy(recorded);
  if (error || dev->status) {
    if (graph && graph->exec) cudaGraphExecDestroy(graph->exec);
    free(graph);
    return dev->status ? dev->status : cuda_status(error);
  }
  graph->next = dev->graphs;
  if (graph->next) graph->next->prev = graph;
  dev->graphs = graph;
  *out = graph;
  return INFERNO_OK;
}

static void graph_free(inferno_device *dev, inferno_graph *graph) {
  cuda_use(dev);
  cudaStreamSynchronize(dev->stream); // it may still run
  graph_destroy(dev, graph);
}

static void device_launch(inferno_device *dev, inferno_graph *graph) {
  if (dev->status || refused_in_capture(dev, "launch inside a capture") || !graph) return;
  cuda_use(dev);
  cuda_unsettle(dev);
  cudaError_t error = cudaGraphLaunch(graph->exec, dev->stream);
  if (error) cuda_fail(dev, error, "launch a graph");
}

// A graph that is on the card already has nothing to upload, but on its way to finding that out the driver goes where a launch will go: after
// a sleep, in which the caches were lost, that is most of what a launch costs its caller.
static void device_expect(inferno_device *dev, inferno_graph *graph) {
  if (dev->status || dev->capturing) return;
  cuda_use(dev);
  cudaError_t error = cudaGraphUpload(graph->exec, dev->aside);
  if (error) cuda_fail(dev, error, "expect a graph");
}

static int32_t device_sync(inferno_device *dev, char *reason, size_t reason_bytes) {
  if (!refused_in_capture(dev, "sync inside a capture")) {
    cuda_use(dev);
    cudaError_t error = staging_flush(dev);
    if (error) cuda_fail(dev, error, "sync");
  }
  return refuse(dev->status, reason, reason_bytes, dev->reason);
}

static int32_t device_alloc_mapped(inferno_device *dev, int64_t bytes, void **data) {
  if (bytes < 0) return INFERNO_BAD_ARGUMENT;
  cuda_use(dev);
  return step_alloc_mapped(dev, bytes, data);
}

static int64_t device_passed(inferno_device *dev) { return dev->status ? -1 : step_passed(dev); }

static int32_t device_poll(inferno_device *dev) {
  if (refused_in_capture(dev, "poll inside a capture")) return dev->status;
  cuda_use(dev);
  cudaError_t error = cudaStreamQuery(dev->stream);
  if (error && error != cudaErrorNotReady) cuda_fail(dev, error, "a step");
  return dev->status;
}

// The table ---------------------------------------------------------------------------------------------------------------------------

// An op on the device's card, unless the device has failed.
template <typename Args>
static void run(inferno_device *dev, const char *name, void (*op)(inferno_device *, const Args *), const Args *args) {
  if (dev->status) return;
  cuda_use(dev);
  if (!dev->profiles) return op(dev, args);
  op_shape shape = profile_shape(dev, args);
  profile_begin(dev);
  op(dev, args);
  profile_end(dev, name, shape);
}

#define ENTRY(op) \
  static void op_##op(inferno_device *dev, const inferno_##op##_args *args) { run(dev, #op, cuda_##op, args); }

ENTRY(embed)
ENTRY(rms_norm)
ENTRY(matmul)
ENTRY(rope_table)
ENTRY(rope)
ENTRY(store_kv)
ENTRY(attention)
ENTRY(swiglu)
ENTRY(add)
ENTRY(gather_rows)
ENTRY(sample)
ENTRY(rope_store_kv)
ENTRY(norm_gate_up)
ENTRY(pull)
ENTRY(scatter)
ENTRY(feed)
ENTRY(mark)
ENTRY(logprobs)
ENTRY(pool)

static void op_dense(inferno_device *dev, const inferno_dense_args *args) {
  if (dev->status) return;
  if (cuda_dense_fits(dev, args)) run(dev, "dense", cuda_dense, args);
  else cuda_dense_composed(dev, args);
}

static void device_fill(inferno_device *dev, void *dst, int32_t byte, int64_t bytes) {
  if (dev->status || bytes <= 0) return;
  cuda_use(dev);
  cuda_unsettle(dev);
  cuda_fill(dev, dst, byte, bytes);
}

static int32_t device_pack(inferno_device *dev, const inferno_pack_args *args) {
  cuda_use(dev);
  return cuda_pack(dev, args);
}

static int32_t device_alloc_host(inferno_device *dev, int64_t bytes, void **data) {
  cuda_use(dev);
  return cuda_alloc_host(dev, bytes, data);
}

static void device_free_host(inferno_device *dev, void *data) {
  cuda_use(dev);
  cuda_free_host(dev, data);
}

static int32_t device_random(inferno_device *dev, const inferno_weight *w, uint64_t seed, float scale) {
  cuda_use(dev);
  return cuda_random(dev, w, seed, scale);
}

static const inferno_table table = {
    INFERNO_ABI_VERSION,
    sizeof(inferno_table),
    device_open,
    device_close,
    device_info,
    device_alloc,
    device_free,
    device_upload,
    device_download,
    device_fill,
    cuda_pack_bytes,
    device_pack,
    capture_begin,
    capture_end,
    graph_free,
    device_launch,
    device_sync,
    op_embed,
    op_rms_norm,
    op_matmul,
    op_rope_table,
    op_rope,
    op_store_kv,
    op_attention,
    op_swiglu,
    op_add,
    op_gather_rows,
    op_sample,
    op_rope_store_kv,
    NULL, // norm_matmul and norm_qkv: their composition is as fast
    op_norm_gate_up,
    NULL,
    device_alloc_host,
    device_free_host,
    device_random,
    profile_take,
    device_alloc_mapped,
    op_pull,
    op_scatter,
    op_feed,
    op_mark,
    device_passed,
    device_poll,
    op_logprobs,
    op_pool,
    op_dense,
    device_expect,
};

extern "C" __attribute__((visibility("default"))) const inferno_table *inferno_device_table(void) { return &table; }
