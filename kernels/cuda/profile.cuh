// profile.cuh: how table.cu has an op timed, and what is said of its arguments.
#ifndef INFERNO_CUDA_PROFILE_CUH
#define INFERNO_CUDA_PROFILE_CUH

#include "device.cuh"

struct op_shape {
  int64_t rows;  // n; 0: those of the step, which its embed told
  int64_t bytes; // that must move; 0 where it is not told
  char text[40];
};

bool profile_open(inferno_device *dev);
void profile_close(inferno_device *dev);
void profile_begin(inferno_device *dev);
void profile_end(inferno_device *dev, const char *op, op_shape s);
int32_t profile_take(inferno_device *dev, inferno_profile_row *rows, int32_t capacity);

// An op whose arguments are not described here is told apart by its name and the step's rows.
template <typename Args> op_shape profile_shape(inferno_device *, const Args *) { return op_shape(); }

op_shape profile_shape(inferno_device *dev, const inferno_embed_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_rms_norm_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_matmul_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_norm_gate_up_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_rope_table_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_rope_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_store_kv_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_rope_store_kv_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_attention_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_swiglu_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_add_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_gather_rows_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_sample_args *args);
op_shape profile_shape(inferno_device *dev, const inferno_dense_args *args);

#endif // INFERNO_CUDA_PROFILE_CUH
