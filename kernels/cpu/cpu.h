// cpu.h: what the files of the CPU device share. Ops append to a list; a launch wakes the workers once, every worker runs every op of the
// list, and a spin barrier stands between ops. A captured graph is the list kept.
#ifndef INFERNO_CPU_H
#define INFERNO_CPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../inferno.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#define CPU_MAX_THREADS 256
#define CPU_LANE_ROWS 16 // rows of a packed weight that are interleaved: one AVX-512 register of float32, two of AVX2
#define CPU_QBLOCK 32    // elements that share a scale in the quantised types, and in quantised activations

// The best instruction set that the machine has and open's flags allow.
typedef enum { CPU_PORTABLE = 0, CPU_AVX2 = 1, CPU_AVX512 = 2, CPU_AVX512_VNNI = 3 } cpu_isa;

typedef struct cpu_pool cpu_pool;   // threads, barrier, lists of ops: queue.c
typedef struct cpu_block cpu_block; // what alloc gave: table.c

// One worker's view of a running op.
typedef struct {
  inferno_device *dev;
  int index, count; // this worker and how many there are
} cpu_worker;

// An op runs on all workers at once with the same args (a copy that lives as long as the op). Work is split by cpu_share or cpu_take.
typedef void (*cpu_op)(cpu_worker *w, const void *args);

struct inferno_device {
  cpu_isa isa;
  bool exact;
  int threads; // workers, the caller's thread included
  cpu_pool *pool;
  cpu_block *blocks; // all that alloc gave and free did not take back; table.c guards it
  // Activations of the running matmul as 8-bit blocks; owned by matmul.c, grown by matmul_reserve while no op runs.
  void *act;
  int64_t act_bytes;
  _Atomic int64_t steps; // marks passed
};

// queue.c -------------------------------------------------------------------------------------------------------------------------

// Appends an op with a copy of its args; runs at the next launch, or is recorded while a capture is open.
void cpu_enqueue(inferno_device *dev, cpu_op op, const void *args, int64_t args_bytes);
// The first failure sticks; reason is a literal.
void cpu_fail(inferno_device *dev, int32_t status, const char *reason);
// Waits until every worker of the running op has come here. All must call it equally often.
void cpu_barrier(cpu_worker *w);
// Hands out [*from, *to) of n items, `chunk` at a time, to whichever worker asks; false when none is left. The counter is reset at every
// barrier and at the start of every op.
bool cpu_take(cpu_worker *w, int64_t n, int64_t chunk, int64_t *from, int64_t *to);
// This worker's equal share [*from, *to) of n items, the same each time: what an op leaves in a core's cache its next op finds there.
static inline void cpu_share(const cpu_worker *w, int64_t n, int64_t *from, int64_t *to) {
  *from = n * w->index / w->count;
  *to = n * (w->index + 1) / w->count;
}
// bytes of this worker's own memory, 64-byte aligned, contents undefined, valid until the op ends or asks again: a worker has one such
// block, grown when more is asked for than ever before, so that a repeated step allocates nothing. NULL after cpu_fail when there is no
// memory.
void *cpu_scratch(cpu_worker *w, int64_t bytes);

// Ops, one file a subject: the table's wrappers enqueue these with their inferno_*_args. ---------------------------------------------
void cpu_embed(cpu_worker *w, const void *args);    // embed.c
void cpu_rms_norm(cpu_worker *w, const void *args); // elementwise.c
void cpu_swiglu(cpu_worker *w, const void *args);
void cpu_add(cpu_worker *w, const void *args);
void cpu_gather_rows(cpu_worker *w, const void *args);
void cpu_rope_table(cpu_worker *w, const void *args); // rope.c
void cpu_rope(cpu_worker *w, const void *args);
void cpu_store_kv(cpu_worker *w, const void *args);
void cpu_rope_store_kv(cpu_worker *w, const void *args);
void cpu_matmul(cpu_worker *w, const void *args);    // matmul.c
void cpu_attention(cpu_worker *w, const void *args); // attention.c
void cpu_sample(cpu_worker *w, const void *args);    // sample.c
void cpu_pull(cpu_worker *w, const void *args);      // step.c
void cpu_scatter(cpu_worker *w, const void *args);
void cpu_feed(cpu_worker *w, const void *args);
void cpu_mark(cpu_worker *w, const void *args);
void cpu_logprobs(cpu_worker *w, const void *args);  // logprobs.c
void cpu_pool_rows(cpu_worker *w, const void *args); // pool.c

// Called by the table's wrapper before the op is enqueued, so that the op itself never allocates: false after cpu_fail.
bool cpu_matmul_reserve(inferno_device *dev, const inferno_matmul_args *args); // matmul.c

// pack.c ------------------------------------------------------------------------------------------------------------------------------
int64_t cpu_pack_bytes(inferno_device *dev, int32_t dtype, int64_t rows, int64_t cols);
int32_t cpu_pack(inferno_device *dev, const inferno_pack_args *args);
// Writes row `row` of a packed weight as float32: cols values.
void cpu_unpack_row(const inferno_weight *w, int64_t row, float *out);

static inline int64_t cpu_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t cpu_div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
// Row i of a float32 tensor.
static inline float *cpu_row(const inferno_tensor *t, int64_t i) { return (float *)t->data + i * t->stride; }

#endif // INFERNO_CPU_H
