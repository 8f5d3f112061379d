// tensor_map.cu: descriptions of matrices for the copy engine of Hopper. The driver writes them; its function is found at run time.
#include <cudaTypedefs.h>

#include "matmul.cuh"

bool tensor_map_open(inferno_device *dev) {
#ifdef INFERNO_SM90A
  if (dev->properties.major != 9) return true;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  void *encode = NULL;
  cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found);
  if (!error && found == cudaDriverEntryPointSuccess) dev->encode_tensor_map = encode;
  if (error) cudaGetLastError(); // the portable kernels do without
#endif
  return true;
}

// Boxes of `tokens` rows by `cols` columns of x, 32 or 64, swizzled by the bytes of a box's row, zeros beyond x; x is wide.
CUtensorMap box_map(inferno_device *dev, const inferno_tensor &x, int cols, int tokens) {
  CUtensorMap map = {};
  cuuint64_t dims[2] = {(cuuint64_t)x.cols, (cuuint64_t)x.rows};
  cuuint64_t strides[1] = {2 * (cuuint64_t)(x.rows > 1 ? x.stride : div_up(x.cols, 8) * 8)};
  cuuint32_t box[2] = {(cuuint32_t)cols, (cuuint32_t)tokens}, steps[2] = {1, 1};
  CUresult result = ((PFN_cuTensorMapEncodeTiled_v12000)dev->encode_tensor_map)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, x.data, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      cols == 32 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result) cuda_fail(dev, INFERNO_BAD_ARGUMENT, "matmul: the driver refuses the activations' tensor map");
  return map;
}

CUtensorMap activation_map(inferno_device *dev, const inferno_tensor &x, int tokens) { return box_map(dev, x, UNIT_COLS, tokens); }
