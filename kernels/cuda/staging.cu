// staging.cu: copies between the host's pageable memory and the device, through pinned memory, in order with the ops, and marks.
//
// A step moves some KiB each way, and what counts is how soon the next kernel may start: such copies are kernels that read and write the
// pinned memory themselves, 1 to 2 µs each, where the copy engine takes 3 to 5. Large ones are left to it; they are bound by the host's memcpy
// (about 10 GB/s), not by the link's 55 GB/s.
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "device.cuh"
#include "numeric.cuh"

enum {
  SLOTS = 16,               // uploads in flight before one has to wait
  SLOT_BYTES = 256 << 10,   // of an upload's pieces
  RETURN_BYTES = 4 << 20,   // of downloads that were not handed over yet
  MAX_RETURNS = 256,        // pieces of them
  KERNEL_BYTES = 128 << 10, // up to which a kernel copies
  LINE = 16,                // bytes that a thread copies
  THREADS = 128,
  POLLS_PER_QUERY = 256, // polls of a mark between two questions whether the stream still lives
};

// A download on its way: staged bytes that go to dst once the stream has come there.
struct pending_return {
  void *dst;
  int64_t at, bytes;
  int64_t mark; // the first one behind it
};

struct staging {
  char *up, *down; // pinned
  cudaEvent_t free[SLOTS];
  int next; // slot
  pending_return returns[MAX_RETURNS];
  int first, num_returns; // a ring
  int64_t tail, used;     // of down, a ring too: where the next one goes, and bytes not handed over
  int64_t *passed;        // pinned: the last mark that the stream has come by
  int64_t marks;          // the last one made
  unsigned polls;
};

bool staging_open(inferno_device *dev) {
  staging *s = (staging *)calloc(1, sizeof *s);
  dev->transfers = s;
  if (!s) return false;
  if (cudaMallocHost((void **)&s->up, (size_t)SLOTS * SLOT_BYTES) || cudaMallocHost((void **)&s->down, RETURN_BYTES)) return false;
  if (cudaMallocHost((void **)&s->passed, sizeof *s->passed)) return false;
  *s->passed = 0;
  for (int i = 0; i < SLOTS; i++) {
    if (cudaEventCreateWithFlags(&s->free[i], cudaEventDisableTiming)) return false;
  }
  return true;
}

void staging_close(inferno_device *dev) {
  staging *s = dev->transfers;
  if (!s) return;
  for (int i = 0; i < SLOTS; i++) {
    if (s->free[i]) cudaEventDestroy(s->free[i]);
  }
  cudaFreeHost(s->up);
  cudaFreeHost(s->down);
  cudaFreeHost(s->passed);
  free(s);
}

// Whole lines; one of src and dst is pinned.
__global__ void __launch_bounds__(THREADS) copy_kernel(uint4 *dst, const uint4 *src, int64_t lines) {
  allow_dependents();
  dependency_wait();
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < lines) dst[i] = src[i];
}

// Words, where src may end in the middle of a line.
__global__ void __launch_bounds__(THREADS) copy_words_kernel(uint32_t *dst, const uint32_t *src, int64_t words) {
  allow_dependents();
  dependency_wait();
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < words) dst[i] = src[i];
}

static cudaError_t copy(inferno_device *dev, void *dst, const void *src, int64_t n, cudaMemcpyKind kind) {
  uint64_t together = (uintptr_t)dst | (uintptr_t)src | (uint64_t)n;
  if (n > KERNEL_BYTES || together % 4 != 0) return cudaMemcpyAsync(dst, src, (size_t)n, kind, dev->stream);
  if (together % LINE == 0) {
    cuda_launch(dev, "copy", copy_kernel, dim3((unsigned)div_up(n, LINE * THREADS)), THREADS, 0, (uint4 *)dst, (const uint4 *)src, n / LINE);
  } else {
    cuda_launch(dev, "copy", copy_words_kernel, dim3((unsigned)div_up(n, 4 * THREADS)), THREADS, 0, (uint32_t *)dst, (const uint32_t *)src,
                n / 4);
  }
  return cudaSuccess; // cuda_launch has kept what it met
}

void cuda_upload(inferno_device *dev, void *dst, const void *src, int64_t bytes) {
  staging *s = dev->transfers;
  for (int64_t at = 0; at < bytes && !dev->status; at += SLOT_BYTES) {
    int64_t n = bytes - at < SLOT_BYTES ? bytes - at : (int64_t)SLOT_BYTES;
    char *slot = s->up + (int64_t)s->next * SLOT_BYTES;
    cudaError_t error = cudaEventSynchronize(s->free[s->next]); // an event never recorded has happened
    if (!error) {
      memcpy(slot, (const char *)src + at, (size_t)n);
      error = copy(dev, (char *)dst + at, slot, n, cudaMemcpyHostToDevice);
    }
    if (!error) error = cudaEventRecord(s->free[s->next], dev->stream);
    if (error) cuda_fail(dev, error, "upload");
    s->next = (s->next + 1) % SLOTS;
  }
}

static int64_t lines(int64_t bytes) { return div_up(bytes, LINE) * LINE; }

void cuda_download(inferno_device *dev, void *dst, const void *src, int64_t bytes) {
  staging *s = dev->transfers;
  for (int64_t at = 0; at < bytes && !dev->status;) {
    if (s->used == RETURN_BYTES || s->num_returns == MAX_RETURNS) {
      cudaError_t error = staging_flush(dev);
      if (error) cuda_fail(dev, error, "download");
      continue;
    }
    int64_t room = RETURN_BYTES - (s->used > s->tail ? s->used : s->tail); // up to the oldest one, or to the end
    int64_t n = bytes - at < room ? bytes - at : room;
    cudaError_t error = copy(dev, s->down + s->tail, (const char *)src + at, n, cudaMemcpyDeviceToHost);
    if (error) cuda_fail(dev, error, "download");
    s->returns[(s->first + s->num_returns++) % MAX_RETURNS] = {(char *)dst + at, s->tail, n, s->marks + 1};
    s->used += lines(n);
    s->tail = (s->tail + lines(n)) % RETURN_BYTES;
    at += n;
  }
}

// Hands over the downloads in front of a mark that was passed.
static void hand_over(staging *s, int64_t mark) {
  while (s->num_returns > 0 && s->returns[s->first].mark <= mark) {
    const pending_return *r = &s->returns[s->first];
    memcpy(r->dst, s->down + r->at, (size_t)r->bytes);
    s->used -= lines(r->bytes);
    s->first = (s->first + 1) % MAX_RETURNS;
    s->num_returns--;
  }
}

// Waits for the stream and hands the downloads over.
cudaError_t staging_flush(inferno_device *dev) {
  cudaError_t error = cudaStreamSynchronize(dev->stream);
  if (!error) hand_over(dev->transfers, dev->transfers->marks + 1);
  return error;
}

// Marks -------------------------------------------------------------------------------------------------------------------------------

// The host sees a mark after all that was written to pinned memory before it.
__global__ void mark_kernel(volatile int64_t *passed, int64_t mark) {
  allow_dependents();
  dependency_wait();
  __threadfence_system();
  *passed = mark;
}

int64_t cuda_mark(inferno_device *dev) {
  staging *s = dev->transfers;
  s->marks++;
  cuda_launch(dev, "mark", mark_kernel, dim3(1), 1, 0, (volatile int64_t *)s->passed, s->marks);
  return s->marks;
}

// A thread's timers may be late by 50 µs unless it asks for less.
static void sleep_for(int64_t nanoseconds) {
  static thread_local bool is_exact;
  if (!is_exact) is_exact = prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul) == 0;
  timespec t = {(time_t)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};
  nanosleep(&t, NULL);
}

int32_t cuda_passed(inferno_device *dev, int64_t mark, int64_t nanoseconds) {
  staging *s = dev->transfers;
  if (!dev->status && nanoseconds > 0 && __atomic_load_n(s->passed, __ATOMIC_ACQUIRE) < mark) sleep_for(nanoseconds);
  if (!dev->status && __atomic_load_n(s->passed, __ATOMIC_ACQUIRE) >= mark) {
    hand_over(s, mark);
    return 1;
  }
  if (!dev->status && (nanoseconds > 0 || ++s->polls % POLLS_PER_QUERY == 0)) {
    cudaError_t error = cudaStreamQuery(dev->stream); // a kernel that failed passes no mark
    if (error == cudaErrorNotReady) cudaGetLastError();
    else if (error) cuda_fail(dev, error, "step");
  }
  return dev->status ? -1 : 0;
}
