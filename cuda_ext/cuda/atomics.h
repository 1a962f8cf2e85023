// Adding neighbouring numbers to memory that other threads add to as well.
#pragma once

#include "launch.h"

namespace threedgen {

// Compute capability 9.0 and up add 2 or 4 neighbours at once.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kVectorAtomics = true;
__device__ inline void add_pack(float* to, float a, float b) {
    asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "f"(a), "f"(b)
                 : "memory");
}
__device__ inline void add_pack(float* to, float a, float b, float c, float d) {
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
                 "f"(a), "f"(b), "f"(c), "f"(d)
                 : "memory");
}
#else
constexpr bool kVectorAtomics = false;
template <class... Values>
__device__ void add_pack(Values...);
#endif

// How many neighbours a thread adds to at once.
#if defined(__CUDACC__)
__device__ constexpr int added_at_once() { return kVectorAtomics ? 2 : 1; }
#else
inline int added_at_once() { return emulated::machine.adds_pairs ? 2 : 1; }
#endif

// Sums of real numbers, in the order in which threads come by.
template <class T, int W>
struct RealSum {
    T* table;

    __device__ void add(int64_t index, const T (&values)[W]) const {
        T* const to = table + index;
        if constexpr (kVectorAtomics && sizeof(T) == 4 && W == 2)
            add_pack(to, values[0], values[1]);
        else if constexpr (kVectorAtomics && sizeof(T) == 4 && W == 4)
            add_pack(to, values[0], values[1], values[2], values[3]);
        else
            for (int w = 0; w < W; ++w) atomicAdd(to + w, values[w]);
    }
};

}  // namespace threedgen
