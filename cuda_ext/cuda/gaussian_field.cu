// Gaussians as a radiance field, a position a thread: lanes whose positions are of one list read the same rows.
#include "launch.h"

#include "threedgen/gaussian_field.h"

using namespace threedgen;

namespace {

constexpr int kThreads = 128;

// The Gaussians of position i are those with the numbers members[first[i] .. last[i]]. out: [count, 4]
template <class T>
__global__ void sum(int64_t count, const T* __restrict__ positions, const T* __restrict__ gaussians,
                    const int64_t* __restrict__ members, const int64_t* __restrict__ first,
                    const int64_t* __restrict__ last, T squared_reach, T* __restrict__ out) {
    const int64_t i = thread_in_grid();
    if (i >= count) return;
    const T* const at = positions + 3 * i;
    T sums[4] = {0, 0, 0, 0};
    TG_ROLLED
    for (int64_t m = first[i]; m < last[i]; ++m) {
        const T* const gaussian = gaussians + kFieldGaussianNumbers * members[m];
        add_emission(gaussian, squared_deviations(gaussian, at), squared_reach, sums);
    }
    for (int c = 0; c < 4; ++c) out[4 * i + c] = sums[c];
}

}  // namespace

#define TG_SUM_GAUSSIANS(suffix, T)                                                                                    \
    TG_API int64_t tg_sum_gaussians_##suffix(int64_t count, const T* positions, const T* gaussians,                    \
                                             const int64_t* members, const int64_t* first, const int64_t* last,        \
                                             T reach, T* out, void* stream) {                                          \
        return launch(sum<T>, blocks_for(count, kThreads), kThreads, 0, stream, count, positions, gaussians, members,  \
                      first, last, reach * reach, out);                                                                \
    }
TG_SUM_GAUSSIANS(f32, float)
TG_SUM_GAUSSIANS(f64, double)
