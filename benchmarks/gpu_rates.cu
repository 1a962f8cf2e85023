// What the L2 cache of this GPU does in a second: sectors of 32 bytes read, and sectors that numbers are added to, at
// random places of a table that fits into it. Each returns milliseconds for blocks * 256 * `repeats` of them; negative
// is a CUDA error.
#include <cstdint>

namespace {

constexpr int kThreads = 256, kUnroll = 8;  // reads of a thread that are on their way at once

__device__ uint32_t place_of(uint32_t i, uint32_t mask) { return (i * 2654435761u ^ (i >> 15) * 2246822519u) & mask; }

__global__ void read(const float2* __restrict__ table, uint32_t mask, int repeats, float* __restrict__ out) {
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.0f;
    for (int i = 0; i < repeats; i += kUnroll) {
        float2 seen[kUnroll];
        for (int k = 0; k < kUnroll; ++k) seen[k] = table[4 * size_t(place_of(thread * repeats + i + k, mask))];
        for (int k = 0; k < kUnroll; ++k) sum += seen[k].x + seen[k].y;
    }
    if (sum == 12345.0f) *out = sum;  // for all that the compiler knows, somebody wants it
}

__global__ void add(float* __restrict__ table, uint32_t mask, int repeats) {
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (int i = 0; i < repeats; ++i) atomicAdd(&table[8 * size_t(place_of(thread * repeats + i, mask))], 1.0f);
}

template <class Launch>
float timed(Launch launch) {
    cudaEvent_t start, end;
    float ms = 0.0f;
    cudaEventCreate(&start);
    cudaEventCreate(&end);
    launch();  // brings the table into the cache
    cudaEventRecord(start);
    launch();
    cudaEventRecord(end);
    cudaEventSynchronize(end);
    cudaEventElapsedTime(&ms, start, end);
    cudaEventDestroy(start);
    cudaEventDestroy(end);
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? ms : -float(error);
}

}  // namespace

// table: 8 * 2^log2_sectors floats on the device; out: one float
extern "C" float sectors_read(float* table, int64_t log2_sectors, int64_t blocks, int64_t repeats, float* out) {
    const uint32_t mask = (1u << log2_sectors) - 1;
    const float2* pairs = reinterpret_cast<const float2*>(table);
    return timed([&] { read<<<blocks, kThreads>>>(pairs, mask, int(repeats), out); });
}

extern "C" float sectors_added_to(float* table, int64_t log2_sectors, int64_t blocks, int64_t repeats) {
    const uint32_t mask = (1u << log2_sectors) - 1;
    return timed([&] { add<<<blocks, kThreads>>>(table, mask, int(repeats)); });
}
