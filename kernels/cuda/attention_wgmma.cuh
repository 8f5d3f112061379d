// attention_wgmma.cuh: what attention_wgmma.cu asks of Hopper: barriers in shared memory that count arrivals and bytes, the copy engine, and
// the asynchronous matrix products of a warp group.
#ifndef INFERNO_CUDA_ATTENTION_WGMMA_CUH
#define INFERNO_CUDA_ATTENTION_WGMMA_CUH

#include <cuda.h>

#include "attention_prefill.cuh"

__device__ __forceinline__ void barrier_open(uint64_t *barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// What the other threads of the block, and the copy engine, may rely on once the block has met.
__device__ __forceinline__ void barriers_opened() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void arrive(uint64_t *barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and lets the phase end only when so many bytes have come as well.
__device__ __forceinline__ void arrive_expecting(uint64_t *barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

// Waits for the end of the phase of that parity; the phase before the first has ended, and is odd.
__device__ __forceinline__ void wait_phase(uint64_t *barrier, int parity) {
  asm volatile("{\n"
               ".reg .pred done;\n"
               "again:\n"
               "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
               "@!done bra again;\n"
               "}" ::"r"(shared_address(barrier)),
               "r"(parity)
               : "memory");
}

// Copies a map's box from those coordinates (column, row, block) on; its bytes are counted at the barrier. What lies outside the map
// becomes zeros.
__device__ __forceinline__ void copy_box(bf16 *to, const CUtensorMap *map, int column, int row, int block, uint64_t *barrier) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
                   shared_address(to)),
               "l"(map), "r"(column), "r"(row), "r"(block), "r"(shared_address(barrier))
               : "memory");
}

// Orders what the thread wrote to shared memory before what the matrix units read there, once the readers have met the thread.
__device__ __forceinline__ void shared_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Barrier `id` of the block, for so many threads.
__device__ __forceinline__ void meet(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ void announce(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Matrix products ---------------------------------------------------------------------------------------------------------------------
//
// The four warps of a group issue them together and go on; operands in registers and in shared memory are the unit's until
// products_wait(). An accumulator's element 4j + i of a thread is row 16·warp + g + i/2 · 8, column 8j + 2·(lane % 4) + i%2.

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until all but the last PENDING groups of products have ended; these are the sums of the last that has.
template <int PENDING, int N> __device__ __forceinline__ void products_wait(float (&sums)[N]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(sums[i])::"memory"); // no use of them moves before the wait
}

// The low word of what describes an operand in shared memory with 128-byte swizzle, from p on: `panels` bytes lie between panels of 64
// columns where columns are the rows of the product. Steps through the operand are added to it: step() of so many elements.
__device__ __forceinline__ uint32_t operand(const bf16 *p, int panels) { return shared_address(p) >> 4 | (uint32_t)(panels >> 4) << 16; }
__device__ __forceinline__ constexpr uint32_t step(int elements) { return (uint32_t)elements * sizeof(bf16) >> 4; }

// The high word: 1 KiB between eights of tokens, and the swizzle.
#define OPERAND_HIGH "0x40000040"

#define SUMS_8(i)                                                                                                                  \
  "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), "+f"(sums[i + 5]), "+f"(sums[i + 6]), \
      "+f"(sums[i + 7])

// sums[64, 128] = a[64, 16] · b[128, 16]ᵀ (+ sums), both in shared memory.
__device__ __forceinline__ void multiply_keys(float (&sums)[64], uint32_t a, uint32_t b, int accumulate) {
  asm volatile("{\n"
               ".reg .pred add;\n"
               ".reg .b64 a, b;\n"
               "setp.ne.b32 add, %66, 0;\n"
               "mov.b64 a, {%64, " OPERAND_HIGH "};\n"
               "mov.b64 b, {%65, " OPERAND_HIGH "};\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
               " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
               " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
               " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
               "a, b, add, 1, 1, 0, 0;\n"
               "}"
               : SUMS_8(0), SUMS_8(8), SUMS_8(16), SUMS_8(24), SUMS_8(32), SUMS_8(40), SUMS_8(48), SUMS_8(56)
               : "r"(a), "r"(b), "r"(accumulate));
}

// sums[64, 128] += a[64, 16] · b[16, 128], a in registers as of mma.m16n8k16, b in shared memory.
__device__ __forceinline__ void multiply_values(float (&sums)[64], const uint32_t *a, uint32_t b) {
  asm volatile("{\n"
               ".reg .pred add;\n"
               ".reg .b64 b;\n"
               "setp.eq.b32 add, 0, 0;\n"
               "mov.b64 b, {%68, " OPERAND_HIGH "};\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
               " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
               " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
               " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
               "{%64, %65, %66, %67}, b, add, 1, 1, 1;\n"
               "}"
               : SUMS_8(0), SUMS_8(8), SUMS_8(16), SUMS_8(24), SUMS_8(32), SUMS_8(40), SUMS_8(48), SUMS_8(56)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b));
}

// sums[64, 64] += a[64, 16] · b[16, 64], a in registers as of mma.m16n8k16, b in shared memory.
__device__ __forceinline__ void multiply_values(float (&sums)[32], const uint32_t *a, uint32_t b) {
  asm volatile("{\n"
               ".reg .pred add;\n"
               ".reg .b64 b;\n"
               "setp.eq.b32 add, 0, 0;\n"
               "mov.b64 b, {%36, " OPERAND_HIGH "};\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
               " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
               "{%32, %33, %34, %35}, b, add, 1, 1, 1;\n"
               "}"
               : SUMS_8(0), SUMS_8(8), SUMS_8(16), SUMS_8(24)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b));
}

#undef SUMS_8
#undef OPERAND_HIGH

#endif // INFERNO_CUDA_ATTENTION_WGMMA_CUH
