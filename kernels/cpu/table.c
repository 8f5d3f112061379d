// table.c: the CPU's inferno_table: open and close, memory, and a wrapper an op that looks at its arguments and puts it on the list.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "queue.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

enum {
  ALIGN = 256,                  // of what alloc gives
  HUGE = 2 << 20,               // a transparent huge page; blocks of two and more ask for them
  INLINE_UPLOAD = 64 << 10,     // a longer upload behind pending ops runs them first rather than being copied twice
  FILL_CHUNK = 256 << 10,       // bytes
  SMALL_ELEMENTS = 8 << 10,     // an op that streams fewer takes about as long as a barrier
  SMALL_EXPONENTIALS = 2 << 10, // the same for one that computes exponentials
};

// Lies in front of the block's data, which starts ALIGN bytes on.
struct cpu_block {
  cpu_block *prev, *next;
};

// Loads on other threads allocate beside a step. One lock for all devices: alloc is rare.
static pthread_mutex_t blocks_mutex = PTHREAD_MUTEX_INITIALIZER;

static cpu_isa best_isa(uint32_t flags) {
#if defined(__x86_64__)
  if (flags & INFERNO_NO_AVX2) return CPU_PORTABLE;
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) return CPU_PORTABLE;
  if (flags & INFERNO_NO_AVX512) return CPU_AVX2;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512dq")) {
    return CPU_AVX2;
  }
  return __builtin_cpu_supports("avx512vnni") ? CPU_AVX512_VNNI : CPU_AVX512;
#else
  (void)flags;
  return CPU_PORTABLE;
#endif
}

static int32_t refuse(int32_t status, char *reason, size_t reason_bytes, const char *text) {
  if (reason_bytes > 0) snprintf(reason, reason_bytes, "%s", text);
  return status;
}

static int32_t device_open(const inferno_open_args *args, inferno_device **dev, char *reason, size_t reason_bytes) {
  if (args->size < sizeof *args) return refuse(INFERNO_BAD_ARGUMENT, reason, reason_bytes, "arguments of another version");
  if (args->ordinal != 0) return refuse(INFERNO_UNAVAILABLE, reason, reason_bytes, "there is one CPU device, number 0");
  if (args->threads < 0 || args->threads > CPU_MAX_THREADS) {
    return refuse(INFERNO_BAD_ARGUMENT, reason, reason_bytes, "threads must be 0 to 256");
  }
#if defined(__GLIBC__)
  mallopt(M_ARENA_MAX, 1); // else threads that come and go with models each leave an arena behind; nothing here allocates while it is fast
#endif
  inferno_device *d = calloc(1, sizeof *d);
  if (!d) return refuse(INFERNO_OUT_OF_MEMORY, reason, reason_bytes, "no memory for the device");
  d->isa = best_isa(args->flags);
  d->exact = args->flags & INFERNO_EXACT;
  d->threads = args->threads ? args->threads : (int)cpu_min(cpu_host_cores(), CPU_MAX_THREADS);
  if (!cpu_pool_open(d)) {
    free(d);
    return refuse(INFERNO_OUT_OF_MEMORY, reason, reason_bytes, "worker threads could not be started");
  }
  *dev = d;
  return INFERNO_OK;
}

static void device_close(inferno_device *dev) {
  cpu_pool_close(dev);
  for (cpu_block *b = dev->blocks, *next; b; b = next) {
    next = b->next;
    free(b);
  }
  free(dev->act);
  free(dev);
#if defined(__GLIBC__)
  malloc_trim(0); // the process may go on without this model: what its threads allocated goes back to the host too
#endif
}

static void device_info(inferno_device *dev, inferno_info *info) {
  static const char *const features[] = {"portable", "avx2", "avx512", "avx512-vnni"};
  inferno_info i = {.size = sizeof i, .threads = dev->threads, .unified = 1, .capture = 1, .exact = dev->exact, .kv_block = 16};
  i.activations = INFERNO_F32;
  i.cache = dev->exact ? INFERNO_F32 : INFERNO_F16;
  cpu_host_memory(&i.total_bytes, &i.free_bytes);
  cpu_host_name(i.name, sizeof i.name);
  snprintf(i.features, sizeof i.features, "%s", features[dev->isa]);
  memcpy(info, &i, info->size < sizeof i ? info->size : sizeof i);
}

// The kernel promises more memory than there is and kills whoever touches it, so what cannot ever fit is refused here.
static int32_t device_alloc(inferno_device *dev, int64_t bytes, void **data) {
  int64_t total, available;
  cpu_host_memory(&total, &available);
  if (bytes < 0) return INFERNO_BAD_ARGUMENT;
  if (bytes > total) return INFERNO_OUT_OF_MEMORY;
  bool huge = bytes >= 2 * HUGE;
  int64_t align = huge ? HUGE : ALIGN;
  int64_t rounded = cpu_div_up(ALIGN + bytes, align) * align;
  cpu_block *block = aligned_alloc((size_t)align, (size_t)rounded);
  if (!block) return INFERNO_OUT_OF_MEMORY;
#if defined(__linux__)
  if (huge) madvise(block, (size_t)rounded, MADV_HUGEPAGE);
#endif
  pthread_mutex_lock(&blocks_mutex);
  *block = (cpu_block){.next = dev->blocks};
  if (dev->blocks) dev->blocks->prev = block;
  dev->blocks = block;
  pthread_mutex_unlock(&blocks_mutex);
  *data = (char *)block + ALIGN;
  return INFERNO_OK;
}

static void device_free(inferno_device *dev, void *data) {
  if (!data) return;
  cpu_block *block = (cpu_block *)((char *)data - ALIGN);
  pthread_mutex_lock(&blocks_mutex);
  if (block->next) block->next->prev = block->prev;
  *(block->prev ? &block->prev->next : &dev->blocks) = block->next;
  pthread_mutex_unlock(&blocks_mutex);
  free(block);
}

typedef struct {
  void *dst;
  int64_t bytes;
} copy_args; // the bytes follow

static void copy_op(cpu_worker *w, const void *args) {
  (void)w;
  const copy_args *a = args;
  memcpy(a->dst, a + 1, (size_t)a->bytes);
}

static void device_upload(inferno_device *dev, void *dst, const void *src, int64_t bytes) {
  if (cpu_capturing(dev)) {
    cpu_fail(dev, INFERNO_BAD_ARGUMENT, "upload inside a capture");
    return;
  }
  if (bytes > INLINE_UPLOAD) cpu_launch(dev, NULL);
  if (!cpu_has_pending(dev)) {
    memcpy(dst, src, (size_t)bytes);
    return;
  }
  copy_args *a = cpu_append(dev, copy_op, true, (int64_t)sizeof *a + bytes);
  if (!a) return;
  *a = (copy_args){.dst = dst, .bytes = bytes};
  memcpy(a + 1, src, (size_t)bytes);
}

static void device_download(inferno_device *dev, void *dst, const void *src, int64_t bytes) {
  if (cpu_capturing(dev)) {
    cpu_fail(dev, INFERNO_BAD_ARGUMENT, "download inside a capture");
    return;
  }
  cpu_launch(dev, NULL);
  memcpy(dst, src, (size_t)bytes);
}

typedef struct {
  char *dst;
  int64_t bytes;
  int32_t byte;
} fill_args;

static void fill_op(cpu_worker *w, const void *args) {
  const fill_args *a = args;
  int64_t from, to;
  while (cpu_take(w, a->bytes, FILL_CHUNK, &from, &to)) memset(a->dst + from, a->byte, (size_t)(to - from));
}

static void device_fill(inferno_device *dev, void *dst, int32_t byte, int64_t bytes) {
  fill_args a = {.dst = dst, .bytes = bytes, .byte = byte};
  (bytes <= FILL_CHUNK ? cpu_enqueue_solo : cpu_enqueue)(dev, fill_op, &a, sizeof a);
}

static void device_launch(inferno_device *dev, inferno_graph *graph) {
  if (cpu_capturing(dev)) {
    cpu_fail(dev, INFERNO_BAD_ARGUMENT, "launch inside a capture");
    return;
  }
  cpu_launch(dev, graph);
}

static int32_t device_sync(inferno_device *dev, char *reason, size_t reason_bytes) {
  device_launch(dev, NULL);
  const char *text;
  int32_t status = cpu_status(dev, &text);
  return refuse(status, reason, reason_bytes, text);
}

// The wrappers. Shapes were checked by the caller; types are this device's own affair: it computes in float32.

static bool is_f32(inferno_device *dev, const inferno_tensor *t, const char *reason) {
  if (t->dtype == INFERNO_F32) return true;
  cpu_fail(dev, INFERNO_BAD_ARGUMENT, reason);
  return false;
}

static bool is_cache_type(inferno_device *dev, const inferno_tensor *t, const char *reason) {
  if (t->dtype == INFERNO_F32 || t->dtype == INFERNO_F16) return true;
  cpu_fail(dev, INFERNO_BAD_ARGUMENT, reason);
  return false;
}

static void enqueue(inferno_device *dev, cpu_op op, bool solo, const void *args, int64_t args_bytes) {
  (solo ? cpu_enqueue_solo : cpu_enqueue)(dev, op, args, args_bytes);
}

static bool is_small(const inferno_tensor *t) { return t->rows * t->cols < SMALL_ELEMENTS; }

static void op_embed(inferno_device *dev, const inferno_embed_args *a) {
  if (!is_f32(dev, &a->out, "embed: the CPU computes in F32 only")) return;
  enqueue(dev, cpu_embed, is_small(&a->out), a, sizeof *a);
}

static void op_rms_norm(inferno_device *dev, const inferno_rms_norm_args *a) {
  if (!is_f32(dev, &a->x, "rms_norm: the CPU computes in F32 only")) return;
  enqueue(dev, cpu_rms_norm, a->x.rows == 1 || is_small(&a->x), a, sizeof *a);
}

static void op_matmul(inferno_device *dev, const inferno_matmul_args *a) {
  if (!is_f32(dev, &a->x, "matmul: the CPU computes in F32 only")) return;
  if (cpu_matmul_reserve(dev, a)) cpu_enqueue(dev, cpu_matmul, a, sizeof *a);
}

static void op_rope_table(inferno_device *dev, const inferno_rope_table_args *a) {
  enqueue(dev, cpu_rope_table, a->table.rows == 1, a, sizeof *a);
}

static void op_rope(inferno_device *dev, const inferno_rope_args *a) {
  if (!is_f32(dev, &a->x, "rope: the CPU computes in F32 only")) return;
  enqueue(dev, cpu_rope, is_small(&a->x), a, sizeof *a);
}

static void op_store_kv(inferno_device *dev, const inferno_store_kv_args *a) {
  if (!is_f32(dev, &a->key, "store_kv: the CPU computes in F32 only")) return;
  if (!is_cache_type(dev, &a->k_cache, "store_kv: the CPU's caches are F32 or F16")) return;
  enqueue(dev, cpu_store_kv, is_small(&a->key), a, sizeof *a);
}

static void op_attention(inferno_device *dev, const inferno_attention_args *a) {
  if (!is_f32(dev, &a->q, "attention: the CPU computes in F32 only")) return;
  if (!is_cache_type(dev, &a->k_cache, "attention: the CPU's caches are F32 or F16")) return;
  cpu_enqueue(dev, cpu_attention, a, sizeof *a);
}

static void op_swiglu(inferno_device *dev, const inferno_swiglu_args *a) {
  if (!is_f32(dev, &a->gate, "swiglu: the CPU computes in F32 only")) return;
  enqueue(dev, cpu_swiglu, a->gate.rows * a->gate.cols < SMALL_EXPONENTIALS, a, sizeof *a);
}

static void op_add(inferno_device *dev, const inferno_add_args *a) {
  if (!is_f32(dev, &a->a, "add: the CPU computes in F32 only")) return;
  enqueue(dev, cpu_add, is_small(&a->a), a, sizeof *a);
}

static void op_gather_rows(inferno_device *dev, const inferno_gather_rows_args *a) {
  if (!is_f32(dev, &a->x, "gather_rows: the CPU computes in F32 only")) return;
  enqueue(dev, cpu_gather_rows, is_small(&a->out), a, sizeof *a);
}

static void op_sample(inferno_device *dev, const inferno_sample_args *a) { enqueue(dev, cpu_sample, a->logits.rows == 1, a, sizeof *a); }

static void op_rope_store_kv(inferno_device *dev, const inferno_rope_store_kv_args *a) {
  if (!is_f32(dev, &a->q, "rope_store_kv: the CPU computes in F32 only")) return;
  if (!is_cache_type(dev, &a->k_cache, "rope_store_kv: the CPU's caches are F32 or F16")) return;
  enqueue(dev, cpu_rope_store_kv, is_small(&a->q), a, sizeof *a);
}

static void op_pull(inferno_device *dev, const inferno_pull_args *a) { cpu_enqueue_solo(dev, cpu_pull, a, sizeof *a); }

static void op_scatter(inferno_device *dev, const inferno_scatter_args *a) { cpu_enqueue_solo(dev, cpu_scatter, a, sizeof *a); }

static void op_feed(inferno_device *dev, const inferno_feed_args *a) { cpu_enqueue_solo(dev, cpu_feed, a, sizeof *a); }

static void op_mark(inferno_device *dev, const inferno_mark_args *a) { cpu_enqueue_solo(dev, cpu_mark, a, sizeof *a); }

static void op_logprobs(inferno_device *dev, const inferno_logprobs_args *a) { enqueue(dev, cpu_logprobs, a->out.rows == 1, a, sizeof *a); }

static void op_pool(inferno_device *dev, const inferno_pool_args *a) {
  if (!is_f32(dev, &a->x, "pool: the CPU computes in F32 only")) return;
  cpu_enqueue(dev, cpu_pool_rows, a, sizeof *a);
}

static int64_t device_passed(inferno_device *dev) {
  const char *text;
  return cpu_status(dev, &text) ? -1 : atomic_load_explicit(&dev->steps, memory_order_acquire);
}

static int32_t device_poll(inferno_device *dev) {
  const char *text;
  return cpu_status(dev, &text);
}

static const inferno_table table = {
    .version = INFERNO_ABI_VERSION,
    .size = sizeof table,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .alloc = device_alloc,
    .free = device_free,
    .upload = device_upload,
    .download = device_download,
    .fill = device_fill,
    .pack_bytes = cpu_pack_bytes,
    .pack = cpu_pack,
    .capture_begin = cpu_capture_begin,
    .capture_end = cpu_capture_end,
    .graph_free = cpu_graph_free,
    .launch = device_launch,
    .sync = device_sync,
    .embed = op_embed,
    .rms_norm = op_rms_norm,
    .matmul = op_matmul,
    .rope_table = op_rope_table,
    .rope = op_rope,
    .store_kv = op_store_kv,
    .attention = op_attention,
    .swiglu = op_swiglu,
    .add = op_add,
    .gather_rows = op_gather_rows,
    .sample = op_sample,
    .rope_store_kv = op_rope_store_kv,
    .alloc_mapped = device_alloc,
    .pull = op_pull,
    .scatter = op_scatter,
    .feed = op_feed,
    .mark = op_mark,
    .passed = device_passed,
    .poll = device_poll,
    .logprobs = op_logprobs,
    .pool = op_pool,
};

__attribute__((visibility("default"))) const inferno_table *inferno_device_table(void) { return &table; }
