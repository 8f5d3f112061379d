// dense.cu: what lies between the attentions of two layers, for few rows, in one kernel: out-projection, norm, gate and up, down, norm, q,
// k and v, rope, caches. Bound by the weights' bytes, each read once: on an H200, one row, layer after layer, 436 MB of the 8B shape in
// 109 µs (4.0 TB/s), 122 MB of 1B in 35 µs (3.5 TB/s); 7 MB of 135M, which is latency, in 10 µs.
//
// A block a multiprocessor, all of the card at once. Each product's tiles of 16 rows of weights are dealt to the blocks in turn, and of a
// tile its parts of K to the block's warps: a chain, summed by mma.m16n8k16 in the order of K; parts are added in their order. So the sums
// are those of matmul_skinny.cu, bit for bit. A warp copies the weights of its chains, through all of the products, into a ring of its own,
// which is full before the wait for attention and whenever the blocks wait for each other. Where few chains would leave warps idle a chain
// is half a tile.
//
// What one product hands the next goes through the L2: two columns and the number of the launch are one word of 8 bytes, so that whoever
// needs a row of x reads it until all of its words are of this launch. There is no barrier, and nothing to reset. Launches are numbered by
// counting the blocks that begin: every launch has as many, and all of one begin before any of the next (see below). Attention, if it is the
// kernel before, hands its rows over in the same way, and is waited for only after they are used.
//
// Blocks wait for blocks, so all of a launch must come to run. A block that has not begun needs what others hold of a multiprocessor; these
// are blocks of kernels before it, which end by themselves, or of other streams (loads), which do, too, or of kernels behind it, of which
// none has begun: a kernel begins once all blocks of the one before have begun and let it, as they do here after their own wait, or at
// the latest as attention does once it has begun. Two devices on one card would not keep this order: only the first that is open fuses.
#include <stdlib.h>

#include <atomic>

#include "dense_kernel.cuh"

// What the blocks of a launch share: exchanges, and the count of blocks that ever began, which numbers the launches.
struct dense_space {
  uint64_t *words; // [4][EXCHANGED / 2], the last of attention; NULL: all is composed
  unsigned long long *tickets;
};

// The device of each card whose blocks may wait for each other. Those of two would each hold a part of the card, and wait for ever.
static std::atomic<inferno_device *> waiting[64];

bool dense_open(inferno_device *dev) {
  dense_space *s = (dense_space *)calloc(1, sizeof *s);
  dev->dense = s;
  if (!s || !dev->encode_tensor_map || dev->exact || dev->ordinal >= 64) return s;
  inferno_device *none = NULL;
  if (!waiting[dev->ordinal].compare_exchange_strong(none, dev)) return true;
  size_t bytes = 4 * EXCHANGED / 2 * sizeof(uint64_t);
  return !cudaMalloc((void **)&s->words, bytes) && !cudaMalloc((void **)&s->tickets, sizeof *s->tickets) &&
         !cudaMemset(s->words, 0, bytes) && !cudaMemset(s->tickets, 0, sizeof *s->tickets);
}

void dense_close(inferno_device *dev) {
  if (!dev->dense) return;
  cudaFree(dev->dense->words);
  cudaFree(dev->dense->tickets);
  free(dev->dense);
  inferno_device *own = dev;
  if (dev->ordinal < 64) waiting[dev->ordinal].compare_exchange_strong(own, NULL);
}

// Columns of attention's rows between these are not handed over in words: at the 1B shape (2,048) a step took 0.795 ms with them and 0.781
// without, as asking for so many slows attention; of more a block asks for a few until they are there.
enum { FEW_COLUMNS = 1024, MANY_COLUMNS = 4096 };

// Those of the last attention that sends any.
static attended_words handed_words(const inferno_device *dev, int64_t rows, int64_t columns) {
  const dense_space *s = dev->dense;
  if (!s->words || rows > DENSE_ROWS || rows * columns > EXCHANGED || columns % 8) return {};
  if (columns > FEW_COLUMNS && columns < MANY_COLUMNS) return {};
  return {s->words + 3 * EXCHANGED / 2, (const uint32_t *)s->tickets, dev->attended, (int32_t)columns};
}

attended_words cuda_attended_words(inferno_device *dev, int64_t rows, int64_t columns) {
  dev->attended++;
  return handed_words(dev, rows, columns);
}

// Weights of every other type are BF16 once packed.
static bool is_bf16(const inferno_weight &w) { return w.dtype != INFERNO_F32; }

// Whether rows of t may be written two columns at a time.
static bool pairs(const inferno_tensor &t) { return t.dtype == INFERNO_BF16 && (uintptr_t)t.data % 4 == 0 && t.stride % 2 == 0; }

// What a block of attention_decode.cu takes of a multiprocessor's shared memory. One has room beside a block of this kernel: the layer's own
// attention is at work while this kernel fills its rings, and the next layer's waits for its end.
static int64_t attention_bytes(int64_t head_dim) { return head_dim > 64 ? 75 << 10 : 78 << 10; }

struct dense_plan {
  size_t rest;   // shared memory besides the rings
  int64_t slots; // of a ring that there is room for
};

// Whether the fused form is for these arguments; then fills in d.
static bool plan_of(inferno_device *dev, const inferno_dense_args *a, dense_view &d, dense_plan &plan) {
  const inferno_norm_gate_up_args &mlp = a->mlp;
  const inferno_norm_qkv_args &next = a->next;
  int64_t n = a->attended.rows, queries = a->attended.cols, dim = a->o.w.rows, ffn = a->down.w.cols;
  int blocks = dev->properties.multiProcessorCount;
  if (!dev->dense->words || n > DENSE_ROWS) return false;
  if (a->attended.dtype != INFERNO_BF16 || !is_wide(a->attended) || !pairs(a->o.out)) return false;
  if (!is_bf16(a->o.w) || !is_bf16(mlp.gate) || !is_bf16(mlp.up) || !is_bf16(a->down.w)) return false;
  if (dim % 8 || ffn % 8 || queries % 8 || dim > MAX_NORMED || n * dim > EXCHANGED || n * ffn > EXCHANGED) return false;
  if ((uintptr_t)mlp.norm.data % 16) return false;
  auto groups = [](const inferno_weight &w) { return (int)weight_groups(w.rows); };
  auto tiles = [](const inferno_weight &w) { return (int32_t)div_up(w.rows, TILE_ROWS); };
  auto bias = [](const inferno_tensor &t) { return (const float *)t.data; };

  d.steps = a->has_next ? 4 : 3;
  d.n = (int)n, d.d = (int)dim, d.f = (int)ffn, d.queries = (int)queries;
  d.norm_warps = (int)div_up(dim, 256);
  if (n * d.norm_warps > NORM_GROUPS * DENSE_WARPS) return false;
  d.mlp_eps = mlp.eps, d.mlp_norm = (const float *)mlp.norm.data;
  d.attended = view<const bf16>(a->attended), d.x = view<bf16>(a->o.out);
  for (int i = 0; i < 3; i++) d.exchange[i] = dev->dense->words + i * EXCHANGED / 2;
  d.tickets = dev->dense->tickets;
  if (dev->handed == a->attended.data) d.handed = handed_words(dev, n, queries);

  dense_product *p = d.product;
  int offset = 0;
  int64_t units = 0, chains = 0, total = 0;
  bool fits = true;
  // Those of the next step begin where those of this one end, but for DOWN, whose residuals are OUT's results.
  auto deal = [&](int step, int64_t tiles, int64_t cols, int groups) {
    p[step].units = (int32_t)weight_units(cols), p[step].log_split = split_of(groups, cols);
    p[step].even = (int32_t)(tiles / blocks), p[step].odd = (int32_t)(tiles % blocks), p[step].offset = step == DOWN ? 0 : offset;
    if (step != DOWN) offset = (int)((offset + tiles) % blocks);
    int64_t most = div_up(tiles, blocks), of_them = most << (p[step].log_split + (step == GATE_UP));
    fits = fits && most * 8 * n <= DENSE_THREADS; // a pair of rows a thread
    if (p[step].units > units) units = p[step].units;
    if (of_them > chains) chains = of_them;
    p[step].log_half = of_them % DENSE_WARPS != 0;
    total += of_them << p[step].log_half;
  };
  p[OUT].w[0] = (const char *)a->o.w.data, p[OUT].bias[0] = bias(a->o.bias);
  deal(OUT, tiles(a->o.w), queries, groups(a->o.w));
  p[GATE_UP].w[0] = (const char *)mlp.gate.data, p[GATE_UP].bias[0] = bias(mlp.gate_bias);
  p[GATE_UP].w[1] = (const char *)mlp.up.data, p[GATE_UP].bias[1] = bias(mlp.up_bias);
  deal(GATE_UP, tiles(mlp.gate), dim, groups(mlp.gate) + groups(mlp.up));
  p[DOWN].w[0] = (const char *)a->down.w.data, p[DOWN].bias[0] = bias(a->down.bias);
  deal(DOWN, tiles(a->down.w), ffn, groups(a->down.w));
  int64_t head_dim = 0;
  if (a->has_next) {
    const inferno_product *of[3] = {&next.q, &next.k, &next.v};
    head_dim = next.head_dim;
    if (!pairs(next.q.out) || !pairs(next.k_cache) || !pairs(next.v_cache) || head_dim % 2 || (uintptr_t)next.norm.data % 16) return false;
    d.next_eps = next.eps, d.next_norm = (const float *)next.norm.data;
    d.q = view<bf16>(next.q.out), d.angles = view<const float>(next.table), d.cache = caches_of<bf16>(&next);
    p[QKV].second = tiles(next.q.w), p[QKV].third = p[QKV].second + tiles(next.k.w);
    deal(QKV, p[QKV].third + tiles(next.v.w), dim, groups(next.q.w) + groups(next.k.w) + groups(next.v.w));
    for (int i = 0; i < 3; i++) {
      if (!is_bf16(of[i]->w)) return false;
      p[QKV].w[i] = (const char *)of[i]->w.data, p[QKV].bias[i] = bias(of[i]->bias);
    }
  }
  if (!fits || total > MAX_CHAINS) return false;
  d.pitch = (int)units * UNIT_COLS * 2 + 16;
  plan.rest = (size_t)(n * d.pitch + X_SLACK + chains * n * TILE_ROWS * 4);
  const int64_t own = 6 << 10; // what the kernel declares, and the card's share
  int64_t room = (int64_t)dev->properties.sharedMemPerMultiprocessor - attention_bytes(head_dim);
  int64_t most = (int64_t)dev->properties.sharedMemPerBlockOptin;
  plan.slots = ((room < most ? room : most) - own - (int64_t)plan.rest) / (DENSE_WARPS * SLOT_BYTES);
  return plan.slots >= 4;
}

bool cuda_dense_fits(inferno_device *dev, const inferno_dense_args *a) {
  dense_view d = {};
  dense_plan plan = {};
  return plan_of(dev, a, d, plan);
}

template <int SLOTS> static void go(inferno_device *dev, const dense_view &d, const dense_plan &plan) {
  size_t shared = DENSE_WARPS * SLOTS * SLOT_BYTES + plan.rest;
  auto kernel = dense_kernel<SLOTS>;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  if (error) return cuda_fail(dev, error, "dense");
  cuda_launch(dev, "dense", kernel, dim3((unsigned)dev->properties.multiProcessorCount), DENSE_THREADS, shared, d);
}

void cuda_dense(inferno_device *dev, const inferno_dense_args *a) {
  dense_view d = {};
  dense_plan plan = {};
  if (!plan_of(dev, a, d, plan)) return cuda_fail(dev, INFERNO_BAD_ARGUMENT, "dense: no fused form");
  if (a->has_next) dev->stored_rows = a->next.k.out.rows;
  if (plan.slots >= 9) return go<9>(dev, d, plan);
  if (plan.slots >= 7) return go<7>(dev, d, plan);
  if (plan.slots >= 5) return go<5>(dev, d, plan);
  go<4>(dev, d, plan);
}
