// staging.cu: copies between the host's pageable memory and the device, through pinned memory, in order with the ops. Bound by the host's
// memcpy (about 10 GB/s) below the link's 55 GB/s; a step moves some KiB.
#include <stdlib.h>
#include <string.h>

#include "device.cuh"

enum {
  SLOTS = 16,             // uploads in flight before one has to wait
  SLOT_BYTES = 256 << 10, // of an upload's pieces
  RETURN_BYTES = 4 << 20, // of downloads between two flushes
  MAX_RETURNS = 256,
};

// A download on its way: staged bytes that go to dst once the stream has come there.
struct pending_return {
  void *dst;
  int64_t at, bytes;
};

struct staging {
  char *up, *down; // pinned
  cudaEvent_t free[SLOTS];
  int next; // slot
  pending_return returns[MAX_RETURNS];
  int num_returns;
  int64_t used; // of down
};

bool staging_open(inferno_device *dev) {
  staging *s = (staging *)calloc(1, sizeof *s);
  dev->transfers = s;
  if (!s) return false;
  if (cudaMallocHost((void **)&s->up, (size_t)SLOTS * SLOT_BYTES) || cudaMallocHost((void **)&s->down, RETURN_BYTES)) return false;
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
  free(s);
}

void cuda_upload(inferno_device *dev, void *dst, const void *src, int64_t bytes) {
  staging *s = dev->transfers;
  for (int64_t at = 0; at < bytes && !dev->status; at += SLOT_BYTES) {
    int64_t n = bytes - at < SLOT_BYTES ? bytes - at : (int64_t)SLOT_BYTES;
    char *slot = s->up + (int64_t)s->next * SLOT_BYTES;
    cudaError_t error = cudaEventSynchronize(s->free[s->next]); // an event never recorded has happened
    if (!error) {
      memcpy(slot, (const char *)src + at, (size_t)n);
      error = cudaMemcpyAsync((char *)dst + at, slot, (size_t)n, cudaMemcpyHostToDevice, dev->stream);
    }
    if (!error) error = cudaEventRecord(s->free[s->next], dev->stream);
    if (error) cuda_fail(dev, error, "upload");
    s->next = (s->next + 1) % SLOTS;
  }
}

void cuda_download(inferno_device *dev, void *dst, const void *src, int64_t bytes) {
  staging *s = dev->transfers;
  for (int64_t at = 0; at < bytes && !dev->status;) {
    if (s->used == RETURN_BYTES || s->num_returns == MAX_RETURNS) {
      cudaError_t error = staging_flush(dev);
      if (error) cuda_fail(dev, error, "download");
      continue;
    }
    int64_t n = bytes - at < RETURN_BYTES - s->used ? bytes - at : RETURN_BYTES - s->used;
    cudaError_t error = cudaMemcpyAsync(s->down + s->used, (const char *)src + at, (size_t)n, cudaMemcpyDeviceToHost, dev->stream);
    if (error) cuda_fail(dev, error, "download");
    s->returns[s->num_returns++] = {(char *)dst + at, s->used, n};
    s->used = s->used + n; // pieces need no alignment
    at += n;
  }
}

// Waits for the stream and hands the downloads over.
cudaError_t staging_flush(inferno_device *dev) {
  staging *s = dev->transfers;
  cudaError_t error = cudaStreamSynchronize(dev->stream);
  for (int i = 0; i < s->num_returns && !error; i++) memcpy(s->returns[i].dst, s->down + s->returns[i].at, (size_t)s->returns[i].bytes);
  s->num_returns = 0;
  s->used = 0;
  return error;
}
