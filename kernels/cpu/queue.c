// queue.c: the list of ops, the workers that run it, and the barrier between ops.
//
// A launch costs one wake (none while the workers still spin from the last one), an op one barrier. The thread that launches is worker 0;
// the others sleep between launches. A repeated step allocates nothing: lists, argument arenas and scratch only grow.
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "queue.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define cpu_pause() _mm_pause()
#elif defined(__aarch64__)
#define cpu_pause() __asm__ __volatile__("isb" ::: "memory")
#else
#define cpu_pause() ((void)0)
#endif

enum {
  MAX_SPINS = 2048, // pauses before a waiting worker yields: some 50 µs
  MIN_SPINS = 16,
  MAX_YIELDS = 400,           // before it sleeps: some 150 µs where no one else wants the core
  SLICE_NANOSECONDS = 400000, // a yield that takes longer met a stranger
  SHY_WAITS = 256,            // waits without a yield after that
  ARGS_ALIGN = 16,            // of an op's arguments in the arena
  STACK_BYTES = 1 << 20,      // of a worker
};

typedef struct {
  cpu_op run;
  int64_t args; // offset in the list's arena
  bool solo;
} cpu_entry;

typedef struct {
  cpu_entry *entries;
  int64_t count, capacity;
  char *arena;
  int64_t used, arena_bytes;
  bool parallel; // an entry is not solo
} cpu_list;

struct inferno_graph {
  cpu_list list;
  inferno_graph *prev, *next;
};

// What belongs to one worker; a cache line apart from the next one's.
typedef struct {
  _Alignas(64) cpu_worker worker;
  int spins, shy;      // how it waits: spin_past, yield_past
  unsigned generation; // of the pool's generations, how many this worker has seen
  void *scratch;
  int64_t scratch_bytes;
  pthread_t thread;
} cpu_seat;

struct cpu_pool {
  cpu_list pending;
  inferno_graph *recording; // what ops are appended to while a capture is open
  inferno_graph *graphs;    // all that live, so that close frees them
  cpu_seat *seats;
  int threads; // seats, worker 0 included
  int started; // threads that run, worker 0 excluded
  const char *reason;
  atomic_int status;       // the first failure
  const cpu_list *running; // published by generation
  bool stop;

  // The generation advances at every launch and barrier; whoever waits for that spins, then yields, then sleeps on changed.
  _Alignas(64) atomic_uint generation;
  _Alignas(64) atomic_int arrived;   // at the barrier
  _Alignas(64) _Atomic int64_t next; // of cpu_take
  _Alignas(64) atomic_int sleepers;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
};

static bool has_passed(cpu_pool *p, unsigned seen) { return atomic_load_explicit(&p->generation, memory_order_acquire) != seen; }

// Spins half as long the next time when it was in vain, as where two workers got one core, and twice as long when it was not.
static bool spin_past(cpu_pool *p, cpu_seat *seat, unsigned seen) {
  for (int i = 0; i < seat->spins; i++) {
    if (has_passed(p, seen)) {
      if (seat->spins < MAX_SPINS) seat->spins *= 2;
      return true;
    }
    cpu_pause();
  }
  if (seat->spins > MIN_SPINS) seat->spins /= 2;
  return false;
}

static int64_t nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

// Yields the core, best where a fellow worker needs it. A stranger that computes keeps it for a time slice, though, where a worker that
// sleeps and is woken gets it back at once; who met one sleeps at its next waits.
static bool yield_past(cpu_pool *p, cpu_seat *seat, unsigned seen) {
  if (seat->shy > 0) {
    seat->shy--;
    return false;
  }
  for (int i = 0; i < MAX_YIELDS && !has_passed(p, seen); i++) {
    int64_t start = nanoseconds();
    sched_yield();
    if (nanoseconds() - start > SLICE_NANOSECONDS) {
      seat->shy = SHY_WAITS;
      break;
    }
  }
  return has_passed(p, seen);
}

// Returns once the generation is no longer `seen`.
static void wait_past(cpu_pool *p, cpu_seat *seat, unsigned seen) {
  if (spin_past(p, seat, seen) || yield_past(p, seat, seen)) return;
  pthread_mutex_lock(&p->mutex);
  atomic_fetch_add(&p->sleepers, 1);
  while (atomic_load(&p->generation) == seen) pthread_cond_wait(&p->changed, &p->mutex);
  atomic_fetch_sub(&p->sleepers, 1);
  pthread_mutex_unlock(&p->mutex);
}

// A sleeper counts itself before it looks at the generation, and this looks at the count after it changed the generation: with both in one
// total order (seq_cst) no wake is lost.
static void advance(cpu_pool *p) {
  atomic_fetch_add(&p->generation, 1);
  if (atomic_load(&p->sleepers) == 0) return;
  pthread_mutex_lock(&p->mutex);
  pthread_cond_broadcast(&p->changed);
  pthread_mutex_unlock(&p->mutex);
}

void cpu_barrier(cpu_worker *w) {
  cpu_pool *p = w->dev->pool;
  if (w->count == 1) {
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    return;
  }
  unsigned seen = p->seats[w->index].generation++;
  if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) + 1 < w->count) {
    wait_past(p, &p->seats[w->index], seen);
    return;
  }
  atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
  atomic_store_explicit(&p->next, 0, memory_order_relaxed);
  advance(p);
}

bool cpu_take(cpu_worker *w, int64_t n, int64_t chunk, int64_t *from, int64_t *to) {
  int64_t first = atomic_fetch_add_explicit(&w->dev->pool->next, chunk, memory_order_relaxed);
  if (first >= n) return false;
  *from = first;
  *to = cpu_min(first + chunk, n);
  return true;
}

void *cpu_scratch(cpu_worker *w, int64_t bytes) {
  cpu_seat *seat = &w->dev->pool->seats[w->index];
  if (bytes <= seat->scratch_bytes) return seat->scratch;
  free(seat->scratch);
  int64_t rounded = cpu_div_up(bytes, 4096) * 4096;
  seat->scratch = aligned_alloc(64, (size_t)rounded);
  seat->scratch_bytes = seat->scratch ? rounded : 0;
  if (!seat->scratch) cpu_fail(w->dev, INFERNO_OUT_OF_MEMORY, "no memory for a worker's scratch");
  return seat->scratch;
}

void cpu_fail(inferno_device *dev, int32_t status, const char *reason) {
  int none = INFERNO_OK;
  if (atomic_compare_exchange_strong(&dev->pool->status, &none, status)) dev->pool->reason = reason;
}

int32_t cpu_status(inferno_device *dev, const char **reason) {
  int32_t status = atomic_load(&dev->pool->status);
  *reason = status == INFERNO_OK ? "" : dev->pool->reason;
  return status;
}

// Room for one more entry with its args; NULL when there is no memory.
static void *list_append(cpu_list *list, cpu_op op, bool solo, int64_t args_bytes) {
  if (list->count == list->capacity) {
    int64_t capacity = list->capacity ? 2 * list->capacity : 64;
    cpu_entry *entries = realloc(list->entries, (size_t)capacity * sizeof *entries);
    if (!entries) return NULL;
    list->entries = entries;
    list->capacity = capacity;
  }
  int64_t bytes = cpu_div_up(args_bytes, ARGS_ALIGN) * ARGS_ALIGN;
  if (list->used + bytes > list->arena_bytes) {
    int64_t arena_bytes = 2 * (list->used + bytes);
    char *arena = realloc(list->arena, (size_t)arena_bytes);
    if (!arena) return NULL;
    list->arena = arena;
    list->arena_bytes = arena_bytes;
  }
  void *args = list->arena + list->used;
  list->entries[list->count++] = (cpu_entry){.run = op, .args = list->used, .solo = solo};
  list->used += bytes;
  list->parallel |= !solo;
  return args;
}

static void list_clear(cpu_list *list) {
  list->count = 0;
  list->used = 0;
  list->parallel = false;
}

static void list_free(cpu_list *list) {
  free(list->entries);
  free(list->arena);
}

void *cpu_append(inferno_device *dev, cpu_op op, bool solo, int64_t args_bytes) {
  cpu_pool *p = dev->pool;
  void *args = list_append(p->recording ? &p->recording->list : &p->pending, op, solo, args_bytes);
  if (!args) cpu_fail(dev, INFERNO_OUT_OF_MEMORY, "no memory for the list of ops");
  return args;
}

void cpu_enqueue(inferno_device *dev, cpu_op op, const void *args, int64_t args_bytes) {
  void *copy = cpu_append(dev, op, false, args_bytes);
  if (copy) memcpy(copy, args, (size_t)args_bytes);
}

void cpu_enqueue_solo(inferno_device *dev, cpu_op op, const void *args, int64_t args_bytes) {
  void *copy = cpu_append(dev, op, true, args_bytes);
  if (copy) memcpy(copy, args, (size_t)args_bytes);
}

// Every worker runs this with the same list. Consecutive solo ops need no barrier: worker 0 runs them all. The count is read once: behind
// the last barrier worker 0 may already be writing the next list.
static void run_list(cpu_worker *w, const cpu_list *list) {
  int64_t count = list->count;
  cpu_worker alone = {.dev = w->dev, .index = 0, .count = 1};
  for (int64_t i = 0; i < count; i++) {
    const cpu_entry *e = &list->entries[i];
    const void *args = list->arena + e->args;
    if (!e->solo) {
      e->run(w, args);
    } else if (w->index == 0) {
      atomic_store_explicit(&w->dev->pool->next, 0, memory_order_relaxed);
      e->run(&alone, args);
    }
    bool together = e->solo && i + 1 < count && list->entries[i + 1].solo;
    if (!together) cpu_barrier(w);
  }
}

static void launch_list(inferno_device *dev, const cpu_list *list) {
  cpu_pool *p = dev->pool;
  if (list->count == 0 || atomic_load(&p->status) != INFERNO_OK) return;
  cpu_worker alone = {.dev = dev, .index = 0, .count = 1};
  if (p->threads == 1 || !list->parallel) {
    run_list(&alone, list);
    return;
  }
  p->running = list;
  p->seats[0].generation++;
  advance(p);
  run_list(&p->seats[0].worker, list);
}

bool cpu_has_pending(inferno_device *dev) { return dev->pool->pending.count > 0; }

bool cpu_capturing(inferno_device *dev) { return dev->pool->recording != NULL; }

void cpu_launch(inferno_device *dev, inferno_graph *graph) {
  cpu_pool *p = dev->pool;
  launch_list(dev, &p->pending);
  list_clear(&p->pending);
  if (graph) launch_list(dev, &graph->list);
}

int32_t cpu_capture_begin(inferno_device *dev) {
  cpu_pool *p = dev->pool;
  if (p->recording) return INFERNO_BAD_ARGUMENT;
  inferno_graph *g = calloc(1, sizeof *g);
  if (!g) return INFERNO_OUT_OF_MEMORY;
  g->next = p->graphs;
  if (p->graphs) p->graphs->prev = g;
  p->graphs = g;
  p->recording = g;
  return INFERNO_OK;
}

int32_t cpu_capture_end(inferno_device *dev, inferno_graph **graph) {
  cpu_pool *p = dev->pool;
  *graph = p->recording;
  p->recording = NULL;
  return *graph ? INFERNO_OK : INFERNO_BAD_ARGUMENT;
}

void cpu_graph_free(inferno_device *dev, inferno_graph *graph) {
  if (graph->next) graph->next->prev = graph->prev;
  *(graph->prev ? &graph->prev->next : &dev->pool->graphs) = graph->next;
  list_free(&graph->list);
  free(graph);
}

static void *worker_main(void *seat_pointer) {
  cpu_seat *seat = seat_pointer;
  cpu_pool *p = seat->worker.dev->pool;
  for (;;) {
    wait_past(p, seat, seat->generation++);
    if (p->stop) return NULL;
    run_list(&seat->worker, p->running);
  }
}

// Signals belong to the host's threads: Go's runtime installs its handlers for threads of its own.
static bool start_workers(cpu_pool *p) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) != 0) return false;
  pthread_attr_setstacksize(&attr, STACK_BYTES);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool ok = true;
  for (int i = 1; ok && i < p->threads; i++) {
    ok = pthread_create(&p->seats[i].thread, &attr, worker_main, &p->seats[i]) == 0;
    p->started += ok;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attr);
  return ok;
}

bool cpu_pool_open(inferno_device *dev) {
  cpu_pool *p = aligned_alloc(64, sizeof *p);
  cpu_seat *seats = aligned_alloc(64, (size_t)dev->threads * sizeof *seats);
  if (!p || !seats) {
    free(p);
    free(seats);
    return false;
  }
  memset(p, 0, sizeof *p);
  memset(seats, 0, (size_t)dev->threads * sizeof *seats);
  p->seats = seats;
  p->threads = dev->threads;
  pthread_mutex_init(&p->mutex, NULL);
  pthread_cond_init(&p->changed, NULL);
  dev->pool = p;
  for (int i = 0; i < p->threads; i++) {
    seats[i].worker = (cpu_worker){.dev = dev, .index = i, .count = p->threads};
    seats[i].spins = MAX_SPINS;
  }
  if (start_workers(p)) return true;
  cpu_pool_close(dev);
  return false;
}

void cpu_pool_close(inferno_device *dev) {
  cpu_pool *p = dev->pool;
  p->stop = true;
  advance(p);
  for (int i = 1; i <= p->started; i++) pthread_join(p->seats[i].thread, NULL);
  for (int i = 0; i < p->threads; i++) free(p->seats[i].scratch);
  while (p->graphs) cpu_graph_free(dev, p->graphs);
  list_free(&p->pending);
  pthread_cond_destroy(&p->changed);
  pthread_mutex_destroy(&p->mutex);
  free(p->seats);
  free(p);
  dev->pool = NULL;
}
