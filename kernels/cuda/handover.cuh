// handover.cuh: rows of BF16 that one kernel hands the next, or one block others, through the L2 ahead of its own end.
//
// A word is two neighbouring columns of a row and a tag, written and read as one: who finds the tag that it waits for has the columns,
// without a barrier, and there is nothing to reset.
#ifndef INFERNO_CUDA_HANDOVER_CUH
#define INFERNO_CUDA_HANDOVER_CUH

#include "device.cuh"
#include "numeric.cuh"

__device__ __forceinline__ void send(uint64_t *word, uint32_t columns, uint32_t tag) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(word), "l"((uint64_t)tag << 32 | columns) : "memory");
}

// Eight columns, if all have been sent.
__device__ __forceinline__ bool receive(uint4 &columns, const uint64_t *words, uint32_t tag) {
  uint64_t a, b, c, d;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(a), "=l"(b) : "l"(words) : "memory");
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(c), "=l"(d) : "l"(words + 2) : "memory");
  columns = make_uint4((uint32_t)a, (uint32_t)b, (uint32_t)c, (uint32_t)d);
  return (uint32_t)(a >> 32) == tag && (uint32_t)(b >> 32) == tag && (uint32_t)(c >> 32) == tag && (uint32_t)(d >> 32) == tag;
}

// What attention sends dense. Both know how often dense ran before and which launch of attention this is, in the order of the host's calls:
// one that is launched again, from a graph, finds dense to have run meanwhile, as dense reads it only from its own graph. So no two that
// write the same words have the same tag.
struct attended_words {
  uint64_t *words;         // [rows, columns / 2]; NULL: nothing is sent
  const uint32_t *tickets; // the lower half of dense's count of its blocks
  uint32_t ordinal;        // of attention
  int32_t columns;

  // `before` are the tickets that were given out when dense had last ended.
  __device__ __forceinline__ uint32_t tag(uint32_t before) const { return before + ordinal * 0x9e3779b1u; }

  // By attention: dense's blocks have all begun that run before this kernel, and none of the one behind it.
  __device__ __forceinline__ uint32_t tag() const {
    uint32_t before;
    asm volatile("ld.relaxed.gpu.global.b32 %0, [%1];" : "=r"(before) : "l"(tickets) : "memory");
    return tag(before);
  }
};

// dense.cu: words for so many rows and columns, if dense may take them; the launch that sends them is to be told by cuda_handed.
attended_words cuda_attended_words(inferno_device *dev, int64_t rows, int64_t columns);

#endif // INFERNO_CUDA_HANDOVER_CUH
