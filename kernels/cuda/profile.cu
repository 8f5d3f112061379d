// profile.cu: the time of each op by itself, for a device opened with INFERNO_PROFILE.
//
// An op is timed by two events. In front of the first a kernel waits for LEAD_NS, in which the host enqueues both events and what lies
// between them: so the card goes from one to the other without waiting for the host. What two events with nothing between them take is
// taken off. What overlaps in a step (the start of a kernel and the end of the one before it) does not here, so the times of a step's ops
// add up to more than the step.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.cuh"
#include "profile.cuh"

enum { MAX_ROWS = 512, LEAD_NS = 50000, CALIBRATIONS = 9 };

struct op_profile {
  cudaEvent_t begin, end;
  inferno_profile_row rows[MAX_ROWS];
  int num_rows;
  int64_t step_rows; // of the last embed, with which a step begins
  float idle_ms;     // between two events that follow each other
};

__global__ void lead_kernel() {
  uint64_t now, until = 0;
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (!until) until = now + LEAD_NS;
  } while (now < until);
}

static cudaError_t begin(inferno_device *dev) {
  lead_kernel<<<1, 1, 0, dev->stream>>>();
  cudaError_t error = cudaGetLastError();
  return error ? error : cudaEventRecord(dev->profile->begin, dev->stream);
}

static cudaError_t end(inferno_device *dev, float *ms) {
  op_profile *p = dev->profile;
  cudaError_t error = cudaEventRecord(p->end, dev->stream);
  if (!error) error = cudaEventSynchronize(p->end);
  return error ? error : cudaEventElapsedTime(ms, p->begin, p->end);
}

bool profile_open(inferno_device *dev) {
  op_profile *p = (op_profile *)calloc(1, sizeof *p);
  dev->profile = p;
  if (!p || cudaEventCreate(&p->begin) || cudaEventCreate(&p->end)) return false;
  for (int i = 0; i < CALIBRATIONS; i++) { // the least: what comes on top is the host's
    float ms;
    if (begin(dev) || end(dev, &ms)) return false;
    if (i == 0 || ms < p->idle_ms) p->idle_ms = ms;
  }
  return true;
}

void profile_close(inferno_device *dev) {
  op_profile *p = dev->profile;
  if (!p) return;
  if (p->begin) cudaEventDestroy(p->begin);
  if (p->end) cudaEventDestroy(p->end);
  free(p);
}

void profile_begin(inferno_device *dev) {
  cudaError_t error = begin(dev);
  if (error) cuda_fail(dev, error, "profile");
}

static inferno_profile_row *find(op_profile *p, const char *op, const op_shape &s) {
  for (int i = 0; i < p->num_rows; i++) {
    inferno_profile_row *r = &p->rows[i];
    if (r->rows == s.rows && !strcmp(r->op, op) && !strcmp(r->shape, s.text)) return r;
  }
  if (p->num_rows == MAX_ROWS) return NULL;
  inferno_profile_row *r = &p->rows[p->num_rows++];
  memset(r, 0, sizeof *r);
  r->rows = s.rows;
  snprintf(r->op, sizeof r->op, "%s", op);
  snprintf(r->shape, sizeof r->shape, "%s", s.text);
  return r;
}

void profile_end(inferno_device *dev, const char *op, op_shape s) {
  op_profile *p = dev->profile;
  if (!strcmp(op, "embed")) p->step_rows = s.rows;
  if (!s.rows) s.rows = p->step_rows;
  if (dev->status) return;
  float ms = 0;
  cudaError_t error = end(dev, &ms);
  if (error) return cuda_fail(dev, error, op);
  inferno_profile_row *r = find(p, op, s);
  if (!r) return;
  r->count++;
  r->bytes += s.bytes;
  r->seconds += (ms > p->idle_ms ? ms - p->idle_ms : 0) / 1e3;
}

int32_t profile_take(inferno_device *dev, inferno_profile_row *rows, int32_t capacity) {
  op_profile *p = dev->profile;
  if (!p) return 0;
  int n = p->num_rows < capacity ? p->num_rows : capacity;
  memcpy(rows, p->rows, (size_t)n * sizeof *rows);
  p->num_rows = 0;
  return n;
}

// Shapes ------------------------------------------------------------------------------------------------------------------------------

static int64_t tensor_bytes(const inferno_tensor &t) {
  return t.data ? t.rows * t.cols * (t.dtype == INFERNO_F32 || t.dtype == INFERNO_I32 ? 4 : 2) : 0;
}

static op_shape shaped(const inferno_tensor &t, int64_t bytes) {
  op_shape s = {t.rows, bytes, ""};
  snprintf(s.text, sizeof s.text, "%lld", (long long)t.cols);
  return s;
}

op_shape profile_shape(inferno_device *, const inferno_embed_args *a) { return shaped(a->out, 2 * tensor_bytes(a->out)); }

op_shape profile_shape(inferno_device *, const inferno_rms_norm_args *a) {
  return shaped(a->x, tensor_bytes(a->x) + tensor_bytes(a->out) + tensor_bytes(a->w));
}

// What products of x read and write; a residual that is added to is read too.
static op_shape products(inferno_device *dev, const inferno_tensor &x, const inferno_product *product, int count) {
  op_shape s = {x.rows, tensor_bytes(x), ""};
  int64_t out = 0;
  for (int i = 0; i < count; i++) {
    const inferno_product &p = product[i];
    out += p.w.rows;
    s.bytes += cuda_pack_bytes(dev, p.w.dtype, p.w.rows, p.w.cols) + (p.accumulate ? 2 : 1) * tensor_bytes(p.out);
  }
  snprintf(s.text, sizeof s.text, "%lld to %lld", (long long)x.cols, (long long)out);
  return s;
}

op_shape profile_shape(inferno_device *dev, const inferno_matmul_args *a) { return products(dev, a->x, a->product, a->count); }

// Of what lies between x and out nothing must be written.
op_shape profile_shape(inferno_device *dev, const inferno_norm_gate_up_args *a) {
  inferno_product both[] = {{a->gate, a->gate_bias, a->out, 0, 0}, {a->up, a->up_bias, {}, 0, 0}};
  return products(dev, a->x, both, 2);
}

op_shape profile_shape(inferno_device *, const inferno_rope_table_args *a) { return shaped(a->table, tensor_bytes(a->table)); }
op_shape profile_shape(inferno_device *, const inferno_rope_args *a) { return shaped(a->x, 2 * tensor_bytes(a->x)); }

op_shape profile_shape(inferno_device *, const inferno_store_kv_args *a) {
  return shaped(a->key, 2 * (tensor_bytes(a->key) + tensor_bytes(a->value)));
}

op_shape profile_shape(inferno_device *, const inferno_rope_store_kv_args *a) {
  return shaped(a->q, 2 * (tensor_bytes(a->q) + tensor_bytes(a->key) + tensor_bytes(a->value)));
}

// The lengths lie on the card. Keys and values count once, whatever the number of query rows that read them.
op_shape profile_shape(inferno_device *dev, const inferno_attention_args *a) {
  op_shape s = {a->q.rows, tensor_bytes(a->q) + tensor_bytes(a->out), ""};
  snprintf(s.text, sizeof s.text, "%d heads of %d, %d of keys", a->heads, a->head_dim, a->kv_heads);
  int64_t b = a->kv_len.rows * a->kv_len.cols, keys = 0;
  int32_t *lengths = (int32_t *)calloc((size_t)b, sizeof *lengths);
  if (!lengths) return s;
  cudaError_t error = cudaMemcpyAsync(lengths, a->kv_len.data, (size_t)b * sizeof *lengths, cudaMemcpyDeviceToHost, dev->stream);
  if (!error) error = cudaStreamSynchronize(dev->stream);
  if (error) cuda_fail(dev, error, "profile");
  for (int64_t i = 0; i < b && !error; i++) keys += lengths[i];
  free(lengths);
  s.bytes += 2 * keys * a->kv_heads * a->head_dim * (a->k_cache.dtype == INFERNO_F32 ? 4 : 2);
  return s;
}

op_shape profile_shape(inferno_device *, const inferno_swiglu_args *a) { return shaped(a->out, 3 * tensor_bytes(a->out)); }
op_shape profile_shape(inferno_device *, const inferno_add_args *a) { return shaped(a->out, 3 * tensor_bytes(a->out)); }
op_shape profile_shape(inferno_device *, const inferno_gather_rows_args *a) { return shaped(a->out, 2 * tensor_bytes(a->out)); }
op_shape profile_shape(inferno_device *, const inferno_sample_args *a) { return shaped(a->logits, tensor_bytes(a->logits)); }

// Of the weights, x and what attention reads and has left.
op_shape profile_shape(inferno_device *dev, const inferno_dense_args *a) {
  const inferno_norm_gate_up_args &mlp = a->mlp;
  op_shape s = {mlp.x.rows, 2 * tensor_bytes(mlp.x) + tensor_bytes(a->attended), ""};
  auto weight = [&](const inferno_weight &w) { s.bytes += cuda_pack_bytes(dev, w.dtype, w.rows, w.cols); };
  weight(a->o.w), weight(mlp.gate), weight(mlp.up), weight(a->down.w);
  if (a->has_next) {
    for (const inferno_product *p : {&a->next.q, &a->next.k, &a->next.v}) weight(p->w), s.bytes += tensor_bytes(p->out);
  }
  snprintf(s.text, sizeof s.text, "%lld, ffn %lld%s", (long long)mlp.x.cols, (long long)mlp.gate.rows, a->has_next ? "" : ", last");
  return s;
}
