// Gaussians as a radiance field: eight positions of one list side by side, or one in float64.
#include "threedgen/gaussian_field.h"

#include "api.h"
#include "parallel.h"
#include "splats.h"
#include "vectors.h"

using namespace threedgen;

namespace {

constexpr int64_t kPositionsPerPiece = 1024;

TG_INLINE bool any_below(double x, double limit) { return x < limit; }
TG_INLINE bool any_below(f32x8 x, float limit) {
    typedef uint64_t u64x4 __attribute__((vector_size(32)));
    const u64x4 below = (u64x4)(x < limit);
    return (below[0] | below[1] | below[2] | below[3]) != 0;
}

// The Gaussians of position i are those with the numbers members[first[i] .. last[i]]. out: [count, 4]
template <class T>
void sum(int64_t count, const T* positions, const T* gaussians, const int64_t* members, const int64_t* first,
         const int64_t* last, T reach, T* out, int num_threads) {
    using V = LaneOf<T>;
    constexpr int64_t kLanes = Lane<V>::width;
    const T squared_reach = reach * reach;
    parallel_ranges(count, kPositionsPerPiece, num_threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin, n; i < end; i += n) {
            for (n = 1; n < kLanes && i + n < end && first[i + n] == first[i] && last[i + n] == last[i];) ++n;
            T lanes[3][kLanes], summed[4][kLanes];
            for (int64_t lane = 0; lane < kLanes; ++lane)  // the last one fills the lanes that are left over
                for (int axis = 0; axis < 3; ++axis)
                    lanes[axis][lane] = positions[3 * (i + (lane < n ? lane : n - 1)) + axis];
            V at[3], sums[4];
            memcpy(at, lanes, sizeof lanes);
            for (V& s : sums) s = broadcast<V>(T(0));
            for (int64_t m = first[i]; m < last[i]; ++m) {
                const T* const gaussian = gaussians + kFieldGaussianNumbers * members[m];
                const V squared = squared_deviations(gaussian, at);
                if (any_below(squared, squared_reach)) add_emission(gaussian, squared, squared_reach, sums);
            }
            memcpy(summed, sums, sizeof sums);
            for (int64_t lane = 0; lane < n; ++lane)
                for (int c = 0; c < 4; ++c) out[4 * (i + lane) + c] = summed[c][lane];
        }
    });
}

}  // namespace

#define TG_SUM_GAUSSIANS(suffix, T)                                                                                    \
    TG_API void tg_sum_gaussians_##suffix(int64_t count, const T* positions, const T* gaussians,                       \
                                          const int64_t* members, const int64_t* first, const int64_t* last, T reach,  \
                                          T* out, int64_t num_threads) {                                               \
        sum<T>(count, positions, gaussians, members, first, last, reach, out, int(num_threads));                       \
    }
TG_SUM_GAUSSIANS(f32, float)
TG_SUM_GAUSSIANS(f64, double)
