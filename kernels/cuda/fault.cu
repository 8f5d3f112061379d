// fault.cu: a device library that goes wrong when it is told to, for tests of what a server does then. `make cuda-faults` alone compiles it;
// it is never shipped.
//
// The table is the shipped one, but each sample has a kernel in front of it, in captured graphs too, that looks at a word of host memory.
// INFERNO_CUDA_FAULT names a file: as soon as that exists, what it says happens once, and the file is gone.
//   spin    a kernel that does not end (but after a minute, should the process not)
//   write   a write to an address that nobody has
//   nan     the first row of logits has a NaN
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device.cuh"
#include "numeric.cuh"

extern "C" const inferno_table *inferno_shipped_table(void); // inferno_device_table of table.cu, as this build calls it

enum { NOTHING, SPIN, WRITE, NOT_A_NUMBER };
static const char *const faults[] = {"", "spin", "write", "nan"};

static volatile int32_t *wanted; // pinned; what the next kernel is to do

__global__ void fault_kernel(volatile int32_t *wanted, float *logits, volatile int32_t *nowhere) {
  dependency_wait();
  int32_t fault = *wanted;
  if (fault == NOTHING) return;
  *wanted = NOTHING;
  __threadfence_system();
  if (fault == NOT_A_NUMBER) *logits = nanf("");
  if (fault == WRITE) *nowhere = 1;
  uint64_t now, began = 0;
  while (fault == SPIN) {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (!began) began = now;
    if (now - began > 60000000000ull) fault = NOTHING;
  }
}

static void *listen(void *path) {
  for (;; usleep(5000)) {
    FILE *f = fopen((const char *)path, "r");
    if (!f) continue;
    char word[16] = "";
    int found = fscanf(f, "%15s", word);
    fclose(f);
    unlink((const char *)path);
    for (int i = 1; found == 1 && i < (int)(sizeof faults / sizeof *faults); i++) {
      if (!strcmp(word, faults[i])) *wanted = i;
    }
  }
  return NULL;
}

static int32_t fault_open(const inferno_open_args *args, inferno_device **dev, char *reason, size_t reason_bytes) {
  int32_t status = inferno_shipped_table()->open(args, dev, reason, reason_bytes);
  char *path = getenv("INFERNO_CUDA_FAULT");
  pthread_t thread;
  if (status || !path || wanted) return status;
  if (cudaMallocHost((void **)&wanted, sizeof *wanted)) return INFERNO_OUT_OF_MEMORY;
  *wanted = NOTHING;
  if (!pthread_create(&thread, NULL, listen, path)) pthread_detach(thread);
  return INFERNO_OK;
}

static void fault_sample(inferno_device *dev, const inferno_sample_args *args) {
  cuda_use(dev);
  if (wanted) cuda_launch(dev, "fault", fault_kernel, dim3(1), 1, 0, wanted, (float *)args->logits.data, (volatile int32_t *)256);
  inferno_shipped_table()->sample(dev, args);
}

extern "C" __attribute__((visibility("default"))) const inferno_table *inferno_device_table(void) {
  static inferno_table table;
  table = *inferno_shipped_table();
  table.open = fault_open;
  table.sample = fault_sample;
  return &table;
}
