// pack.cu: weights from a file's rows, in host memory, to the packed form of numeric.cuh: rows are gathered into pinned memory, copied, and
// repacked on the device behind the copy. Bound by the host's memcpy (about 10 GB/s a thread; several threads may pack at once), then by
// the link (55 GB/s).
//
// F32 stays F32. F16, BF16 and the quantised types become BF16: matrix units multiply one type, activations are BF16, and a rounding of
// 2⁻⁹ is below that of the activations. An exact device keeps every type as F32.
#include <cuda_fp16.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "device.cuh"
#include "numeric.cuh"

enum { MAX_LANES = 8, LANE_BYTES = 2 << 20, THREADS = 256, QBLOCK = 32 };

// What one load uses: two pinned buffers that the host fills in turn, and their copies on the device.
struct pack_lane {
  cudaStream_t stream;
  char *pinned[2], *device[2];
  cudaEvent_t copied[2]; // pinned may be filled again
  int64_t bytes;         // of each buffer
  bool busy;
};

struct pack_lanes {
  pthread_mutex_t mutex;
  pthread_cond_t idle;
  pack_lane lane[MAX_LANES];
};

bool pack_open(inferno_device *dev) {
  dev->lanes = (pack_lanes *)calloc(1, sizeof *dev->lanes);
  if (!dev->lanes) return false;
  pthread_mutex_init(&dev->lanes->mutex, NULL);
  pthread_cond_init(&dev->lanes->idle, NULL);
  return true;
}

static void drop_buffers(pack_lane *lane) {
  for (int i = 0; i < 2; i++) {
    cudaFreeHost(lane->pinned[i]);
    cudaFree(lane->device[i]);
    lane->pinned[i] = lane->device[i] = NULL;
  }
  lane->bytes = 0;
}

void pack_close(inferno_device *dev) {
  if (!dev->lanes) return;
  for (int i = 0; i < MAX_LANES; i++) {
    pack_lane *lane = &dev->lanes->lane[i];
    drop_buffers(lane);
    for (int j = 0; j < 2; j++) {
      if (lane->copied[j]) cudaEventDestroy(lane->copied[j]);
    }
    if (lane->stream) cudaStreamDestroy(lane->stream);
  }
  pthread_mutex_destroy(&dev->lanes->mutex);
  pthread_cond_destroy(&dev->lanes->idle);
  free(dev->lanes);
}

static pack_lane *take_lane(pack_lanes *l) {
  pthread_mutex_lock(&l->mutex);
  for (;;) {
    for (int i = 0; i < MAX_LANES; i++) {
      if (l->lane[i].busy) continue;
      l->lane[i].busy = true;
      pthread_mutex_unlock(&l->mutex);
      return &l->lane[i];
    }
    pthread_cond_wait(&l->idle, &l->mutex);
  }
}

static void give_lane_back(pack_lanes *l, pack_lane *lane) {
  pthread_mutex_lock(&l->mutex);
  lane->busy = false;
  pthread_cond_signal(&l->idle);
  pthread_mutex_unlock(&l->mutex);
}

// Makes the lane's buffers hold at least `bytes`.
static cudaError_t prepare(pack_lane *lane, int64_t bytes) {
  cudaError_t error = cudaSuccess;
  if (!lane->stream) error = cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking);
  for (int i = 0; i < 2 && !error; i++) {
    if (!lane->copied[i]) error = cudaEventCreateWithFlags(&lane->copied[i], cudaEventDisableTiming);
  }
  if (error || lane->bytes >= bytes) return error;
  drop_buffers(lane);
  for (int i = 0; i < 2 && !error; i++) {
    error = cudaMallocHost((void **)&lane->pinned[i], (size_t)bytes);
    if (!error) error = cudaMalloc((void **)&lane->device[i], (size_t)bytes);
  }
  if (error) drop_buffers(lane);
  else lane->bytes = bytes;
  return error;
}

// Formats -----------------------------------------------------------------------------------------------------------------------------

static bool is_quantised(int32_t dtype) { return dtype == INFERNO_Q8_0 || dtype == INFERNO_Q4_0 || dtype == INFERNO_Q4_1; }

static int64_t file_row_bytes(int32_t dtype, int64_t cols) {
  switch (dtype) {
  case INFERNO_F32: return 4 * cols;
  case INFERNO_Q8_0: return cols / QBLOCK * 34;
  case INFERNO_Q4_0: return cols / QBLOCK * 18;
  case INFERNO_Q4_1: return cols / QBLOCK * 20;
  default: return 2 * cols;
  }
}

static bool is_f32(inferno_device *dev, int32_t dtype) { return dev->exact || dtype == INFERNO_F32; }

// −1 for what cannot be packed.
int64_t cuda_pack_bytes(inferno_device *dev, int32_t dtype, int64_t rows, int64_t cols) {
  bool known = dtype == INFERNO_F32 || dtype == INFERNO_F16 || dtype == INFERNO_BF16 || is_quantised(dtype);
  if (!known || rows < 1 || cols < 1 || (is_quantised(dtype) && cols % QBLOCK != 0)) return -1;
  if (is_f32(dev, dtype)) return rows * weight_f32_stride(cols) * 4;
  return div_up(rows, TILE_ROWS) * weight_chunks(cols) * CHUNK_BYTES;
}

// Element c of a row as files hold it.
__device__ __forceinline__ float element(const uint8_t *row, int32_t dtype, int64_t c) {
  if (dtype == INFERNO_F32) return ((const float *)row)[c];
  if (dtype == INFERNO_F16) return __half2float(((const __half *)row)[c]);
  if (dtype == INFERNO_BF16) return to_float(((const bf16 *)row)[c]);
  int j = (int)(c % QBLOCK);
  const uint8_t *block = row + c / QBLOCK * (dtype == INFERNO_Q8_0 ? 34 : dtype == INFERNO_Q4_0 ? 18 : 20);
  float d = __half2float(*(const __half *)block);
  if (dtype == INFERNO_Q8_0) return d * (float)(int8_t)block[2 + j];
  const uint8_t *nibbles = block + (dtype == INFERNO_Q4_0 ? 2 : 4);
  int q = j < 16 ? nibbles[j] & 15 : nibbles[j - 16] >> 4;
  if (dtype == INFERNO_Q4_0) return d * (float)(q - 8);
  return fmaf(d, (float)q, __half2float(*(const __half *)(block + 2)));
}

// rows of a file, row_bytes apart, to chunks; dst is that of the first row, which begins a tile. A thread a piece of 8 columns.
__global__ void __launch_bounds__(THREADS)
    pack_bf16_kernel(bf16 *dst, const uint8_t *src, int32_t dtype, int64_t row_bytes, int64_t rows, int64_t cols, int64_t chunks) {
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, pieces = 4 * chunks;
  int64_t row = at / pieces, piece = at % pieces;
  if (row >= (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS) return;
  float v[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int64_t c = 8 * piece + i;
    v[i] = row < rows && c < cols ? element(src + row * row_bytes, dtype, c) : 0.0f;
  }
  store8(dst + weight_piece(row, piece, chunks), v, 8, true);
}

// The same to rows of F32, a thread an element.
__global__ void __launch_bounds__(THREADS)
    pack_f32_kernel(float *dst, const uint8_t *src, int32_t dtype, int64_t row_bytes, int64_t rows, int64_t cols, int64_t stride) {
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = at / stride, c = at % stride;
  if (row < rows) dst[at] = c < cols ? element(src + row * row_bytes, dtype, c) : 0.0f;
}

// Loading -----------------------------------------------------------------------------------------------------------------------------

// Enqueues the repacking of rows [first, first + n) that lie in buffer `b` of the lane.
static cudaError_t repack(inferno_device *dev, pack_lane *lane, int b, const inferno_weight *w, int64_t first, int64_t n) {
  int64_t row_bytes = file_row_bytes(w->dtype, w->cols);
  const uint8_t *src = (const uint8_t *)lane->device[b];
  if (is_f32(dev, w->dtype)) {
    int64_t stride = weight_f32_stride(w->cols);
    pack_f32_kernel<<<(unsigned)div_up(n * stride, THREADS), THREADS, 0, lane->stream>>>((float *)w->data + first * stride, src, w->dtype,
                                                                                         row_bytes, n, w->cols, stride);
    return cudaGetLastError();
  }
  int64_t chunks = weight_chunks(w->cols), padded = div_up(n, TILE_ROWS) * TILE_ROWS;
  pack_bf16_kernel<<<(unsigned)div_up(padded * 4 * chunks, THREADS), THREADS, 0, lane->stream>>>(
      (bf16 *)w->data + first * chunks * CHUNK_COLS, src, w->dtype, row_bytes, n, w->cols, chunks);
  return cudaGetLastError();
}

static cudaError_t load(inferno_device *dev, pack_lane *lane, const inferno_pack_args *args) {
  const inferno_weight *w = &args->w;
  int64_t row_bytes = file_row_bytes(w->dtype, w->cols), tile_bytes = TILE_ROWS * row_bytes;
  cudaError_t error = prepare(lane, tile_bytes > LANE_BYTES ? tile_bytes : (int64_t)LANE_BYTES);
  int64_t rows = error ? 0 : lane->bytes / tile_bytes * TILE_ROWS;
  for (int64_t first = 0, b = 0; first < w->rows && !error; first += rows, b ^= 1) {
    int64_t n = w->rows - first < rows ? w->rows - first : rows;
    error = cudaEventSynchronize(lane->copied[b]); // an event never recorded has happened
    if (error) break;
    if (args->source_row) {
      for (int64_t i = 0; i < n; i++) {
        memcpy(lane->pinned[b] + i * row_bytes, (const char *)args->src + args->source_row[first + i] * row_bytes, (size_t)row_bytes);
      }
    } else {
      memcpy(lane->pinned[b], (const char *)args->src + first * row_bytes, (size_t)(n * row_bytes));
    }
    error = cudaMemcpyAsync(lane->device[b], lane->pinned[b], (size_t)(n * row_bytes), cudaMemcpyHostToDevice, lane->stream);
    if (!error) error = cudaEventRecord(lane->copied[b], lane->stream);
    if (!error) error = repack(dev, lane, (int)b, w, first, n);
  }
  cudaError_t waited = lane->stream ? cudaStreamSynchronize(lane->stream) : cudaSuccess;
  return error ? error : waited;
}

int32_t cuda_pack(inferno_device *dev, const inferno_pack_args *args) {
  const inferno_weight *w = &args->w;
  if (cuda_pack_bytes(dev, w->dtype, w->rows, w->cols) < 0 || !w->data || !args->src) return INFERNO_BAD_ARGUMENT;
  for (int64_t i = 0; args->source_row && i < w->rows; i++) {
    if (args->source_row[i] < 0) return INFERNO_BAD_ARGUMENT;
  }
  pack_lane *lane = take_lane(dev->lanes);
  cudaError_t error = load(dev, lane, args);
  give_lane_back(dev->lanes, lane);
  if (error == cudaErrorMemoryAllocation) cudaGetLastError(); // no failure of the device
  return cuda_status(error);
}
