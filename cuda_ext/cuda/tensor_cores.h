// Products of small matrices by a warp: half precision, added up in float. From compute capability 8.0 on; on older
// cards, where nobody may launch what uses them, the kernels still compile.
//
// Lane l is number t = l % 4 of group l / 4. It holds of
//   a [16, 16]: rows group (0, 2) and group + 8 (1, 3); columns 2 t, 2 t + 1 (0, 1) and 8 more (2, 3)
//   b [16, 8]:  column group; rows 2 t, 2 t + 1 (b0) and 8 more (b1)
//   sum [16, 8]: rows group (0, 1) and group + 8 (2, 3); columns 2 t, 2 t + 1
// so that two neighbouring sums, rounded, are an `a`, and the transpose of a quarter of an `a` is half of a `b`.
#pragma once

#include "launch.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#else
#include "../emu/tensor_cores_emu.h"
#endif

namespace threedgen {

using HalfPair = uint32_t;  // two numbers of half precision, the first in the low bits

#if defined(__CUDACC__)

__device__ inline HalfPair half_pair(float first, float second) {
    const __half2 pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const HalfPair*>(&pair);
}

__device__ inline float2 floats_of(HalfPair pair) { return __half22float2(*reinterpret_cast<const __half2*>(&pair)); }

__device__ inline void add_product(float (&sum)[4], const HalfPair (&a)[4], HalfPair b0, HalfPair b1) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    __trap();
#endif
}

// An [8, 8] block, row group and columns 2 t and 2 t + 1 in each lane.
__device__ inline HalfPair transposed(HalfPair block) {
    HalfPair out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(block));
    return out;
}

#else

struct float2 {
    float x, y;
};

inline HalfPair half_pair(float first, float second) {
    return emulated::half_of(first) | uint32_t(emulated::half_of(second)) << 16;
}
inline float2 floats_of(HalfPair pair) { return {emulated::half_in(pair, 0), emulated::half_in(pair, 1)}; }
inline void add_product(float (&sum)[4], const HalfPair (&a)[4], HalfPair b0, HalfPair b1) {
    emulated::product(sum, a, b0, b1);
}
inline HalfPair transposed(HalfPair block) { return emulated::transpose(block); }

#endif
}  // namespace threedgen
