// pack.cu: weights to the packed form of numeric.cuh: a piece of a file's rows is copied from page-locked host memory, and gathered and
// repacked on the device. Each loading thread has a block of such memory with a stream and a twin on the device of its own, so that one
// reads while another copies. Bound by the host's reads: from the page cache one thread loads 4.8 GB/s and twelve 36, of the link's 52.
//
// F32 stays F32. F16, BF16 and the quantised types become BF16: matrix units multiply one type, activations are BF16, and a rounding of
// 2⁻⁹ is below that of the activations. An exact device keeps every type as F32.
#include <cuda_fp16.h>
#include <pthread.h>
#include <stdlib.h>

#include "device.cuh"
#include "numeric.cuh"

enum { THREADS = 256, QBLOCK = 32 };

// What a pack copies through. A pack of other memory makes one for itself.
struct pack_lane {
  char *host; // page-locked
  int64_t host_bytes;
  char *device; // the piece as the file has it
  int64_t device_bytes;
  int32_t *order; // [order_rows] on the device: which row of the piece each row is
  int64_t order_rows;
  cudaStream_t stream;
  pack_lane *next;
};

struct pack_lanes {
  pthread_mutex_t mutex;
  pack_lane *first; // those that alloc_host gave out
};

bool pack_open(inferno_device *dev) {
  dev->lanes = (pack_lanes *)calloc(1, sizeof *dev->lanes);
  if (!dev->lanes) return false;
  pthread_mutex_init(&dev->lanes->mutex, NULL);
  return true;
}

static void lane_close(pack_lane *lane) {
  if (lane->stream) cudaStreamDestroy(lane->stream);
  cudaFree(lane->device);
  cudaFree(lane->order);
  cudaFreeHost(lane->host);
}

void pack_close(inferno_device *dev) {
  if (!dev->lanes) return;
  for (pack_lane *lane = dev->lanes->first, *next; lane; lane = next) {
    next = lane->next;
    lane_close(lane);
    free(lane);
  }
  pthread_mutex_destroy(&dev->lanes->mutex);
  free(dev->lanes);
}

// Makes the lane's parts hold a piece of `bytes` and an order of `rows`.
static cudaError_t lane_prepare(pack_lane *lane, int64_t bytes, int64_t rows) {
  cudaError_t error = cudaSuccess;
  if (!lane->stream) error = cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking);
  if (!error && lane->device_bytes < bytes) {
    cudaFree(lane->device);
    lane->device = NULL;
    error = cudaMalloc((void **)&lane->device, (size_t)bytes);
    lane->device_bytes = error ? 0 : bytes;
  }
  if (!error && lane->order_rows < rows) {
    cudaFree(lane->order);
    lane->order = NULL;
    error = cudaMalloc((void **)&lane->order, (size_t)rows * sizeof *lane->order);
    lane->order_rows = error ? 0 : rows;
  }
  return error;
}

int32_t cuda_alloc_host(inferno_device *dev, int64_t bytes, void **data) {
  if (bytes < 1) return INFERNO_BAD_ARGUMENT;
  pack_lane *lane = (pack_lane *)calloc(1, sizeof *lane);
  if (!lane) return INFERNO_OUT_OF_MEMORY;
  cudaError_t error = cudaMallocHost((void **)&lane->host, (size_t)bytes);
  if (!error) error = lane_prepare(lane, bytes, 0);
  if (error) {
    if (error == cudaErrorMemoryAllocation) cudaGetLastError(); // no failure of the device
    lane_close(lane);
    free(lane);
    return cuda_status(error);
  }
  lane->host_bytes = bytes;
  pthread_mutex_lock(&dev->lanes->mutex);
  lane->next = dev->lanes->first;
  dev->lanes->first = lane;
  pthread_mutex_unlock(&dev->lanes->mutex);
  *data = lane->host;
  return INFERNO_OK;
}

void cuda_free_host(inferno_device *dev, void *data) {
  pthread_mutex_lock(&dev->lanes->mutex);
  pack_lane **at = &dev->lanes->first;
  while (*at && (*at)->host != data) at = &(*at)->next;
  pack_lane *lane = *at;
  if (lane) *at = lane->next;
  pthread_mutex_unlock(&dev->lanes->mutex);
  if (!lane) return;
  lane_close(lane);
  free(lane);
}

// The lane whose host memory holds src; NULL where it is other memory.
static pack_lane *lane_of(pack_lanes *l, const void *src) {
  pthread_mutex_lock(&l->mutex);
  pack_lane *lane = l->first;
  while (lane && !((const char *)src >= lane->host && (const char *)src < lane->host + lane->host_bytes)) lane = lane->next;
  pthread_mutex_unlock(&l->mutex);
  return lane;
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
  return weight_groups(rows) * weight_units(cols) * UNIT_BYTES;
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

// Rows as a file has them, and which of them becomes which.
struct file_rows {
  const uint8_t *data;
  const int32_t *order; // NULL: themselves
  int64_t row_bytes;
  int32_t dtype;

  __device__ float operator()(int64_t row, int64_t c) const { return element(data + (order ? order[row] : row) * row_bytes, dtype, c); }
};

// What random makes of a weight's elements: inferno.h has the formula.
struct random_rows {
  uint64_t seed;
  int64_t cols;
  float scale;
  int32_t dtype;

  __device__ float operator()(int64_t row, int64_t c) const {
    uint64_t z = seed + (uint64_t)(row * cols + c + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    float v = (float)(int32_t)((z ^ (z >> 31)) >> 32) * 0x1p-31f * scale;
    if (dtype == INFERNO_F16) return __half2float(__float2half_rn(v));
    return dtype == INFERNO_BF16 ? to_float(from_float<bf16>(v)) : v;
  }
};

// Rows to units; dst is that of the first row, which begins a group. A thread a piece of 8 columns.
template <typename Rows>
__global__ void __launch_bounds__(THREADS) pack_bf16_kernel(bf16 *dst, Rows source, int64_t rows, int64_t cols, int64_t units) {
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, pieces = UNIT_COLS / 8 * units;
  int64_t row = at / pieces, piece = at % pieces;
  if (row >= weight_groups(rows) * GROUP_ROWS) return;
  float v[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int64_t c = 8 * piece + i;
    v[i] = row < rows && c < cols ? source(row, c) : 0.0f;
  }
  store8(dst + weight_piece(row, piece, units), v, 8, true);
}

// The same to rows of F32, a thread an element.
template <typename Rows>
__global__ void __launch_bounds__(THREADS) pack_f32_kernel(float *dst, Rows source, int64_t rows, int64_t cols, int64_t stride) {
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = at / stride, c = at % stride;
  if (row < rows) dst[at] = c < cols ? source(row, c) : 0.0f;
}

// Loading -----------------------------------------------------------------------------------------------------------------------------

// Enqueues the packing of w's rows [first, first + n).
template <typename Rows>
static cudaError_t pack_rows(inferno_device *dev, cudaStream_t stream, const inferno_weight *w, Rows source, int64_t first, int64_t n) {
  if (is_f32(dev, w->dtype)) {
    int64_t stride = weight_f32_stride(w->cols);
    float *dst = (float *)w->data + first * stride;
    pack_f32_kernel<<<(unsigned)div_up(n * stride, THREADS), THREADS, 0, stream>>>(dst, source, n, w->cols, stride);
    return cudaGetLastError();
  }
  int64_t units = weight_units(w->cols), pieces = weight_groups(n) * GROUP_ROWS * units * UNIT_COLS / 8;
  bf16 *dst = (bf16 *)w->data + first * units * UNIT_COLS;
  pack_bf16_kernel<<<(unsigned)div_up(pieces, THREADS), THREADS, 0, stream>>>(dst, source, n, w->cols, units);
  return cudaGetLastError();
}

static cudaError_t load(inferno_device *dev, pack_lane *lane, const inferno_pack_args *args) {
  const inferno_weight *w = &args->w;
  file_rows source = {NULL, NULL, file_row_bytes(w->dtype, w->cols), w->dtype};
  int64_t bytes = args->source_rows * source.row_bytes;
  cudaError_t error = lane_prepare(lane, bytes, args->source_row ? args->rows : 0);
  if (!error) error = cudaMemcpyAsync(lane->device, args->src, (size_t)bytes, cudaMemcpyHostToDevice, lane->stream);
  if (!error && args->source_row) {
    size_t order_bytes = (size_t)args->rows * sizeof *args->source_row;
    error = cudaMemcpyAsync(lane->order, args->source_row, order_bytes, cudaMemcpyHostToDevice, lane->stream);
    source.order = lane->order;
  }
  source.data = (const uint8_t *)lane->device;
  if (!error) error = pack_rows(dev, lane->stream, w, source, args->first_row, args->rows);
  cudaError_t waited = lane->stream ? cudaStreamSynchronize(lane->stream) : cudaSuccess;
  return error ? error : waited;
}

static bool is_range(const inferno_pack_args *args) {
  int64_t end = args->first_row + args->rows;
  if (args->first_row < 0 || args->first_row % INFERNO_PACK_ROWS != 0 || args->rows < 1 || end > args->w.rows) return false;
  if (end < args->w.rows && end % INFERNO_PACK_ROWS != 0) return false;
  for (int64_t i = 0; args->source_row && i < args->rows; i++) {
    if (args->source_row[i] < 0 || args->source_row[i] >= args->source_rows) return false;
  }
  return args->source_row || args->source_rows >= args->rows;
}

int32_t cuda_pack(inferno_device *dev, const inferno_pack_args *args) {
  const inferno_weight *w = &args->w;
  if (cuda_pack_bytes(dev, w->dtype, w->rows, w->cols) < 0 || !w->data || !args->src || !is_range(args)) return INFERNO_BAD_ARGUMENT;
  pack_lane own = {}, *lane = lane_of(dev->lanes, args->src);
  cudaError_t error = load(dev, lane ? lane : &own, args);
  lane_close(&own);
  if (error == cudaErrorMemoryAllocation) cudaGetLastError(); // no failure of the device
  return cuda_status(error);
}

int32_t cuda_random(inferno_device *dev, const inferno_weight *w, uint64_t seed, float scale) {
  if (cuda_pack_bytes(dev, w->dtype, w->rows, w->cols) < 0 || !w->data || is_quantised(w->dtype)) return INFERNO_BAD_ARGUMENT;
  cudaStream_t stream = NULL;
  cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (!error) error = pack_rows(dev, stream, w, random_rows{seed, w->cols, scale, w->dtype}, 0, w->rows);
  cudaError_t waited = stream ? cudaStreamSynchronize(stream) : cudaSuccess;
  if (stream) cudaStreamDestroy(stream);
  return cuda_status(error ? error : waited);
}
