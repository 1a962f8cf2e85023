// Small kernels that say what barriers, shuffles, votes, atomics and shared memory do; right ones and wrong ones.
#include "tensor_cores.h"

using namespace threedgen;

namespace {

// [6, threads]: what each lane gets from lane 5, from 3 below, from 3 above, from its neighbour, from the vote, and
// from the scans
__global__ void exchange(const float* values, float* out) {
    const int i = threadIdx.x, n = blockDim.x, lane = i & 31;
    out[0 * n + i] = __shfl_sync(kAllLanes, values[i], 5);
    out[1 * n + i] = __shfl_up_sync(kAllLanes, values[i], 3);
    out[2 * n + i] = __shfl_down_sync(kAllLanes, values[i], 3);
    out[3 * n + i] = __shfl_xor_sync(kAllLanes, values[i], 1);
    out[4 * n + i] = float(__popc(__ballot_sync(kAllLanes, values[i] > 0)));
    out[5 * n + i] = product_up_to(values[i], lane) + sum_from(values[i], lane);
}

// Halves of a warp exchange at different places, each with its own mask.
__global__ void exchange_in_halves(const float* values, float* out) {
    const int i = threadIdx.x;
    out[i] = i < 16 ? __shfl_xor_sync(0x0000ffffu, values[i], 8) : __shfl_xor_sync(0xffff0000u, values[i], 1);
}

// Block b adds its numbers up in shared memory and adds the sum to out[0]; out[1] counts threads.
__global__ void sum(const float* values, float* out) {
    TG_SHARED(float, partial);
    const int i = threadIdx.x;
    partial[i] = values[blockIdx.x * blockDim.x + i];
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (i < half) partial[i] += partial[i + half];
        __syncthreads();
    }
    if (i == 0) atomicAdd(out, partial[0]);
    atomicAdd(out + 1, 1.0f);
}

__global__ void sum_without_barrier(const float* values, float* out) {
    TG_SHARED(float, partial);
    const int i = threadIdx.x;
    partial[i] = values[i];
    out[i] = partial[blockDim.x - 1 - i];
}

__global__ void read_before_writing(float* out) {
    TG_SHARED(float, nothing);
    out[threadIdx.x] = nothing[threadIdx.x];
}

// Whether any number of the block is positive, and whether any is above 5.
__global__ void any_of_block(const float* values, float* out) {
    const float value = values[blockIdx.x * blockDim.x + threadIdx.x];
    const int positive = __syncthreads_or(value > 0);
    const float neighbour = __shfl_xor_sync(kAllLanes, value, 1);
    const int large = __syncthreads_or(neighbour > 5);
    out[blockIdx.x * blockDim.x + threadIdx.x] = float(positive + 2 * large);
}

__global__ void barrier_and_vote(float* out) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        out[threadIdx.x] = float(__syncthreads_or(1));
}

__global__ void diverging_barrier(float* out) {
    if (threadIdx.x < 40)
        __syncthreads();
    else
        out[threadIdx.x] = __shfl_sync(kAllLanes, 1.0f, 0);
}

__global__ void diverging_warp(float* out) {
    if (threadIdx.x & 1)
        out[threadIdx.x] = __shfl_sync(kAllLanes, 1.0f, 0);
    else
        out[threadIdx.x] = float(__ballot_sync(kAllLanes, 1));
}

__global__ void foreign_mask(float* out) { out[threadIdx.x] = __shfl_sync(1u, 1.0f, 0); }

// Some threads leave; the others still meet at the barrier, but a lane that left has nothing to give.
__global__ void leave_early(float* out) {
    if (threadIdx.x == 7) return;
    __syncthreads();
    out[threadIdx.x] = __shfl_sync(kAllLanes, 2.0f, threadIdx.x < 16 ? 6 : 7);
}

// a [16, 16] b [16, 8] + c [16, 8], and the transpose of a's upper left [8, 8]; numbers of half precision, as floats.
__global__ void matrices(const float* a, const float* b, const float* c, float* product, float* turned) {
    const int group = threadIdx.x / 4, t = threadIdx.x % 4;
    const auto pair_of_a = [&](int row, int column) { return half_pair(a[row * 16 + column], a[row * 16 + column + 1]); };
    const auto pair_of_b = [&](int row) { return half_pair(b[row * 8 + group], b[(row + 1) * 8 + group]); };
    const HalfPair mine[4] = {pair_of_a(group, 2 * t), pair_of_a(group + 8, 2 * t), pair_of_a(group, 2 * t + 8),
                              pair_of_a(group + 8, 2 * t + 8)};
    float sum[4];
    const auto place = [&](int i) { return (group + i / 2 * 8) * 8 + 2 * t + i % 2; };
    for (int i = 0; i < 4; ++i) sum[i] = c[place(i)];
    add_product(sum, mine, pair_of_b(2 * t), pair_of_b(2 * t + 8));
    for (int i = 0; i < 4; ++i) product[place(i)] = sum[i];
    const float2 row = floats_of(transposed(mine[0]));
    turned[group * 8 + 2 * t] = row.x, turned[group * 8 + 2 * t + 1] = row.y;
}

__global__ void half_of_a_warp(float* out) { out[threadIdx.x] = floats_of(transposed(half_pair(1.0f, 2.0f))).x; }

// Numbers to half precision and back.
__global__ void round_trip(int count, const float* values, float* out) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) out[i] = floats_of(half_pair(0.0f, values[i])).y;
}

}  // namespace

TG_API int64_t probe_exchange(int64_t threads, const float* values, float* out) {
    return launch(exchange, 1, int(threads), 0, nullptr, values, out);
}
TG_API int64_t probe_exchange_in_halves(const float* values, float* out) {
    return launch(exchange_in_halves, 1, 32, 0, nullptr, values, out);
}
TG_API int64_t probe_sum(int64_t blocks, int64_t threads, const float* values, float* out) {
    return launch(sum, blocks, int(threads), threads * 4, nullptr, values, out);
}
TG_API int64_t probe_sum_without_barrier(const float* values, float* out) {
    return launch(sum_without_barrier, 1, 64, 256, nullptr, values, out);
}
TG_API int64_t probe_read_before_writing(float* out) { return launch(read_before_writing, 1, 32, 128, nullptr, out); }
TG_API int64_t probe_diverging_barrier(float* out) { return launch(diverging_barrier, 2, 64, 0, nullptr, out); }
TG_API int64_t probe_any_of_block(int64_t blocks, const float* values, float* out) {
    return launch(any_of_block, blocks, 64, 0, nullptr, values, out);
}
TG_API int64_t probe_barrier_and_vote(float* out) { return launch(barrier_and_vote, 1, 64, 0, nullptr, out); }
TG_API int64_t probe_diverging_warp(float* out) { return launch(diverging_warp, 1, 32, 0, nullptr, out); }
TG_API int64_t probe_foreign_mask(float* out) { return launch(foreign_mask, 1, 32, 0, nullptr, out); }
TG_API int64_t probe_leave_early(float* out) { return launch(leave_early, 1, 32, 0, nullptr, out); }
TG_API int64_t probe_too_much_shared_memory(float* out) {
    return launch(read_before_writing, 1, 32, kMostSharedBytes + 1, nullptr, out);
}
TG_API int64_t probe_matrices(const float* a, const float* b, const float* c, float* product, float* turned) {
    return launch(matrices, 1, 32, 0, nullptr, a, b, c, product, turned);
}
TG_API int64_t probe_half_of_a_warp(float* out) { return launch(half_of_a_warp, 1, 16, 0, nullptr, out); }
TG_API int64_t probe_round_trip(int64_t count, const float* values, float* out) {
    return launch(round_trip, 1, 64, 0, nullptr, int(count), values, out);
}
