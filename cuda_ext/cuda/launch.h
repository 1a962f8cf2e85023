// What the drivers in this folder share: launching on the caller's stream, and what the lanes of a warp do together.
// The same files are compiled by nvcc for a GPU and by a C++ compiler for the emulation in ../emu.
#pragma once

#include "../cpu/api.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "../emu/cuda_emu.h"
#endif

#include "threedgen/lane.h"

// `name`: the block's shared memory as an array of T, of the size given at the launch
#if defined(__CUDACC__)
#define TG_SHARED(T, name)                                       \
    extern __shared__ __align__(16) unsigned char tg_shared[];   \
    T* const name = reinterpret_cast<T*>(tg_shared)
#else
#define TG_SHARED(T, name) T* const name = reinterpret_cast<T*>(emulated::machine.shared.data())
#endif

// before a loop that mostly runs once: the compiler would unroll it, at the cost of registers
#if defined(__CUDACC__)
#define TG_ROLLED _Pragma("unroll 1")
#else
#define TG_ROLLED
#endif

// before a loop whose counter says which of a thread's registers are meant
#if defined(__CUDACC__)
#define TG_UNROLLED _Pragma("unroll")
#else
#define TG_UNROLLED
#endif

namespace threedgen {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kSharedBytes = 48 << 10;      // what every GPU grants a block unasked
constexpr int kMostSharedBytes = 99 << 10;  // what every one of compute capability 8.0 and up grants when asked

inline int64_t blocks_for(int64_t items, int64_t per_block) { return (items + per_block - 1) / per_block; }

// Puts a kernel on the stream; returns 0 or CUDA's error code. Nothing here waits for the GPU.
template <class... Parameters, class... Arguments>
int64_t launch(void (*kernel)(Parameters...), int64_t blocks, dim3 block, int64_t shared_bytes, void* stream,
               Arguments... arguments) {
    if (blocks == 0) return 0;
#if defined(__CUDACC__)
    if (shared_bytes > kSharedBytes) {
        const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                       cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
        if (error != cudaSuccess) return int64_t(error);
    }
    kernel<<<dim3(unsigned(blocks)), block, size_t(shared_bytes), static_cast<cudaStream_t>(stream)>>>(arguments...);
    return int64_t(cudaGetLastError());
#else
    (void)stream;
    emulated::launch(dim3(unsigned(blocks)), block, size_t(shared_bytes), [&] { kernel(arguments...); });
    return emulated::machine.failure.empty() ? 0 : 1;
#endif
}

// Of the current device: its multiprocessors, and the shared memory of each in bytes.
struct Device {
    int64_t multiprocessors = 1, shared_bytes = kMostSharedBytes;
};

inline Device current_device() {
    Device found;
#if defined(__CUDACC__)
    int device = 0, count = 0, bytes = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device) == cudaSuccess)
        found = {count, bytes};
#else
    found.shared_bytes = 228 << 10;  // as an H100's
#endif
    return found;
}

__device__ inline int64_t thread_in_grid() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t threads_in_grid() { return int64_t(gridDim.x) * blockDim.x; }

template <class T>
__device__ inline T sum_over_warp(T x) {
    for (int bits = 16; bits > 0; bits >>= 1) x += __shfl_xor_sync(kAllLanes, x, bits);
    return x;
}

// Product over this lane and those below it.
template <class T>
__device__ inline T product_up_to(T x, int lane) {
    for (int delta = 1; delta < 32; delta <<= 1) {
        const T below = __shfl_up_sync(kAllLanes, x, delta);
        if (lane >= delta) x *= below;
    }
    return x;
}

// Sum over this lane and those above it.
template <class T>
__device__ inline T sum_from(T x, int lane) {
    for (int delta = 1; delta < 32; delta <<= 1) {
        const T above = __shfl_down_sync(kAllLanes, x, delta);
        if (lane + delta < 32) x += above;
    }
    return x;
}

// W neighbouring numbers, read and written at once. They must lie at a multiple of their size (16 bytes at most): a GPU
// stops otherwise.
template <class T, int W>
struct alignas(sizeof(T) * W < 16 ? sizeof(T) * W : 16) Pack {
    T of[W];
};

template <class T, int W>
__device__ inline Pack<T, W> load_pack(const T* from) {
#if !defined(__CUDACC__)
    if (uintptr_t(from) % alignof(Pack<T, W>) != 0) emulated::machine.failure = "misaligned address";
#endif
    return *reinterpret_cast<const Pack<T, W>*>(from);
}

}  // namespace threedgen
