// The hash grid: encoding, its derivatives, and the derivative along a direction with its own derivatives, for normals.
//
// A block looks after 32 neighbouring samples, which mostly lie in neighbouring cells. Each of its warps takes one
// level, lane after lane one sample, so that a warp reads from one level's rows. Features cross shared memory on their
// way to or from [N, levels * features], which is thus read and written in whole lines.
#include "atomics.h"

#include "threedgen/hash_grid.h"

using namespace threedgen;

namespace {

constexpr int kSamples = 32;  // of a block, one a lane
constexpr int kMaxWarps = 8;  // of a block: levels at a time
constexpr int kThreads = kSamples * kMaxWarps;

// Warps a block has, and the shared memory it needs: a tile [32][levels * features], its rows padded to an odd length
// so that a column lies in 32 different banks, and for each warp 32 vectors.
struct Shape {
    int warps, stride;
    int64_t bytes;
};

template <class T>
Shape shape_of(const GridLayout& grid, bool with_vectors) {
    for (int warps = smaller(grid.num_levels, kMaxWarps);; --warps) {
        const int stride = warps * grid.num_features | 1, vectors = with_vectors ? 3 * warps : 0;
        const int64_t bytes = int64_t(sizeof(T)) * kSamples * (stride + vectors);
        if (bytes <= kSharedBytes || warps == 1) return {warps, stride, bytes};
    }
}

// What the two rows of a cell's pair count in a sum.
template <class T>
struct PairWeights {
    T low, high;
};

template <class T>
__device__ PairWeights<T> weights_of_value(const Cell<T>& cell, int k) {
    const T weight = cell.pair_weight(k);
    return {weight * (T(1) - cell.x), weight * cell.x};
}

// ... in the value's derivative along a direction, given in the level's own units.
template <class T>
__device__ PairWeights<T> weights_of_slope(const Cell<T>& cell, int k, const T (&direction)[3]) {
    const T along_x = cell.pair_weight(k) * direction[0];
    const T across = cell.pair_weight_dy(k) * direction[1] + cell.pair_weight_dz(k) * direction[2];
    return {across * (T(1) - cell.x) - along_x, across * cell.x + along_x};
}

// What one sample is to one level: the rows it touches and what they count, in its value (no directions given) or in
// its derivative along its direction.
template <class T, bool kSlope>
struct Touch {
    Cell<T> cell;
    PairWeights<T> weights[4];

    __device__ Touch(int64_t sample, const T* __restrict__ positions, const T* __restrict__ directions,
                     const GridLevel& level) {
        const T* at = positions + 3 * sample;
        cell = cell_at(at[0], at[1], at[2], level);
        T direction[3] = {0, 0, 0};
        if (kSlope)
            for (int axis = 0; axis < 3; ++axis)
                direction[axis] = directions[3 * sample + axis] * slope_scale(at[axis], level);
        for (int k = 0; k < 4; ++k)
            weights[k] = kSlope ? weights_of_slope(cell, k, direction) : weights_of_value(cell, k);
    }

    // cells per unit; 0 outside the cube, where positions are clamped
    __device__ static T slope_scale(T position, const GridLevel& level) {
        return position < 0 || position > 1 ? T(0) : T(level.resolution - 1);
    }
};

template <class T, int W>
__device__ Pack<T, W> load_row(const T* __restrict__ table, int64_t row, int num_features, int feature) {
    return load_pack<T, W>(table + row * num_features + feature);
}

// table -> [N, levels * features]: values, or slopes along each sample's direction.
template <class T, int W, bool kSlope>
__global__ void __launch_bounds__(kThreads, 2)
    encode(int64_t num_samples, const T* __restrict__ positions, const T* __restrict__ directions,
           const T* __restrict__ table, GridLayout grid, int stride, T* __restrict__ out) {
    TG_SHARED(T, tile);
    const int num_features = grid.num_features, num_outputs = grid.num_levels * num_features;
    const int64_t first = int64_t(blockIdx.x) * kSamples, sample = first + threadIdx.x;
    for (int base = 0; base < grid.num_levels; base += blockDim.y) {
        const int level = base + threadIdx.y;
        if (level < grid.num_levels && sample < num_samples) {
            const Touch<T, kSlope> touch(sample, positions, directions, grid.levels[level]);
            T* mine = tile + threadIdx.x * stride + threadIdx.y * num_features;
            TG_ROLLED
            for (int feature = 0; feature < num_features; feature += W) {
                T sum[W] = {};
                for (int k = 0; k < 4; ++k) {
                    const int64_t row = touch.cell.row[k];
                    const auto low = load_row<T, W>(table, row, num_features, feature);
                    const auto high = load_row<T, W>(table, row + 1, num_features, feature);
                    for (int w = 0; w < W; ++w)
                        sum[w] += touch.weights[k].low * low.of[w] + touch.weights[k].high * high.of[w];
                }
                for (int w = 0; w < W; ++w) mine[feature + w] = sum[w];
            }
        }
        __syncthreads();
        const int levels = smaller(int(blockDim.y), grid.num_levels - base), width = levels * num_features;
        for (int s = threadIdx.y; s < kSamples && first + s < num_samples; s += blockDim.y)
            for (int c = threadIdx.x; c < width; c += kSamples)
                out[(first + s) * num_outputs + int64_t(base) * num_features + c] = tile[s * stride + c];
        __syncthreads();
    }
}

// The block's part of [N, levels * features], of the levels from `base` on, into `tile`.
template <class T>
__device__ void load_tile(int64_t num_samples, const T* __restrict__ from, const GridLayout& grid, int base, int stride,
                          T* tile) {
    const int64_t first = int64_t(blockIdx.x) * kSamples;
    const int num_outputs = grid.num_levels * grid.num_features;
    const int width = smaller(int(blockDim.y), grid.num_levels - base) * grid.num_features;
    for (int s = threadIdx.y; s < kSamples && first + s < num_samples; s += blockDim.y)
        for (int c = threadIdx.x; c < width; c += kSamples)
            tile[s * stride + c] = from[(first + s) * num_outputs + int64_t(base) * grid.num_features + c];
}

// 2^k such that num_samples numbers of at most `bound` add up to less than 2^62 when each is multiplied by it.
template <class T>
__device__ double fixed_point_scale(T bound, int64_t num_samples) {
    int exponent_of_bound, exponent_of_count;
    frexp(double(bound), &exponent_of_bound);
    frexp(double(num_samples), &exponent_of_count);
    return ldexp(1.0, 62 - exponent_of_bound - exponent_of_count);
}

// Sums of whole numbers, which are the same in any order: each term in units of 1 / scale.
template <int W>
struct WholeSum {
    unsigned long long* table;
    double scale;

    template <class T>
    __device__ void add(int64_t index, const T (&values)[W]) const {
        for (int w = 0; w < W; ++w)
            atomicAdd(table + index + w, (unsigned long long)(llrint(double(values[w]) * scale)));
    }
};

// [N, levels * features] gradients -> the table's: of values, or of slopes along each sample's direction.
template <class T, int W, bool kSlope, class Sum>
__device__ void scatter(int64_t num_samples, const T* __restrict__ grad, const T* __restrict__ positions,
                        const T* __restrict__ directions, const GridLayout& grid, int stride, const Sum& sum) {
    TG_SHARED(T, tile);
    const int num_features = grid.num_features;
    const int64_t sample = int64_t(blockIdx.x) * kSamples + threadIdx.x;
    for (int base = 0; base < grid.num_levels; base += blockDim.y) {
        load_tile(num_samples, grad, grid, base, stride, tile);
        __syncthreads();
        const int level = base + threadIdx.y;
        if (level < grid.num_levels && sample < num_samples) {
            const T* mine = tile + threadIdx.x * stride + threadIdx.y * num_features;
            bool any = false;  // samples that no light reaches get none, and there are many of them
            for (int feature = 0; feature < num_features; ++feature) any = any || mine[feature] != 0;
            if (any) {
                const Touch<T, kSlope> touch(sample, positions, directions, grid.levels[level]);
                TG_ROLLED
                for (int feature = 0; feature < num_features; feature += W)
                    for (int k = 0; k < 4; ++k) {
                        const int64_t index = int64_t(touch.cell.row[k]) * num_features + feature;
                        T low[W], high[W];
                        for (int w = 0; w < W; ++w) {
                            low[w] = touch.weights[k].low * mine[feature + w];
                            high[w] = touch.weights[k].high * mine[feature + w];
                        }
                        sum.add(index, low);
                        sum.add(index + num_features, high);
                    }
            }
        }
        __syncthreads();
    }
}

template <class T, int W, bool kSlope>
__global__ void __launch_bounds__(kThreads, 2)
    scatter_real(int64_t num_samples, const T* __restrict__ grad, const T* __restrict__ positions,
                 const T* __restrict__ directions, GridLayout grid, int stride, T* __restrict__ grad_table) {
    scatter<T, W, kSlope>(num_samples, grad, positions, directions, grid, stride, RealSum<T, W>{grad_table});
}

template <class T, bool kSlope>
__global__ void __launch_bounds__(kThreads, 2)
    scatter_whole(int64_t num_samples, const T* __restrict__ grad, const T* __restrict__ positions,
                  const T* __restrict__ directions, GridLayout grid, int stride, const T* __restrict__ bound,
                  unsigned long long* __restrict__ sums) {
    const WholeSum<1> sum{sums, fixed_point_scale(*bound, num_samples)};
    scatter<T, 1, kSlope>(num_samples, grad, positions, directions, grid, stride, sum);
}

template <class T>
__global__ void real_from_whole(int64_t count, int64_t num_samples, const T* __restrict__ bound,
                                const int64_t* __restrict__ sums, T* __restrict__ out) {
    const int64_t i = thread_in_grid();
    if (i >= count) return;
    // a bound of infinity or nan: a gradient had no value, and none of the sums means anything
    const bool known = *bound - *bound == 0;
    out[i] = known ? T(double(sums[i]) / fixed_point_scale(*bound, num_samples)) : *bound - *bound;
}

// [N, levels * features] gradients -> the positions' [N, 3], levels added in their order.
template <class T, int W>
__global__ void __launch_bounds__(kThreads, 2)
    gradient_of_positions(int64_t num_samples, const T* __restrict__ grad, const T* __restrict__ positions,
                          const T* __restrict__ table, GridLayout grid, int stride, T* __restrict__ out) {
    TG_SHARED(T, tile);
    T* const vectors = tile + kSamples * stride;  // [warps][3][32]
    const int num_features = grid.num_features;
    const int64_t sample = int64_t(blockIdx.x) * kSamples + threadIdx.x;
    T sum[3] = {0, 0, 0};
    for (int base = 0; base < grid.num_levels; base += blockDim.y) {
        load_tile(num_samples, grad, grid, base, stride, tile);
        __syncthreads();
        const int level = base + threadIdx.y;
        if (level < grid.num_levels && sample < num_samples) {
            const T* at = positions + 3 * sample;
            const Cell<T> cell = cell_at(at[0], at[1], at[2], grid.levels[level]);
            const T* mine = tile + threadIdx.x * stride + threadIdx.y * num_features;
            T slope[3] = {0, 0, 0};
            for (int k = 0; k < 4; ++k) {
                T along = 0, between = 0;  // gradient times (high - low), and times the value between them
                TG_ROLLED
                for (int feature = 0; feature < num_features; feature += W) {
                    const auto low = load_row<T, W>(table, cell.row[k], num_features, feature);
                    const auto high = load_row<T, W>(table, int64_t(cell.row[k]) + 1, num_features, feature);
                    for (int w = 0; w < W; ++w) {
                        const T step = high.of[w] - low.of[w];
                        along += mine[feature + w] * step;
                        between += mine[feature + w] * (low.of[w] + cell.x * step);
                    }
                }
                slope[0] += cell.pair_weight(k) * along;
                slope[1] += cell.pair_weight_dy(k) * between;
                slope[2] += cell.pair_weight_dz(k) * between;
            }
            for (int axis = 0; axis < 3; ++axis)
                sum[axis] += slope[axis] * Touch<T, true>::slope_scale(at[axis], grid.levels[level]);
        }
        __syncthreads();
    }
    for (int axis = 0; axis < 3; ++axis) vectors[(threadIdx.y * 3 + axis) * kSamples + threadIdx.x] = sum[axis];
    __syncthreads();
    if (threadIdx.y != 0 || sample >= num_samples) return;
    for (int axis = 0; axis < 3; ++axis) {
        T total = 0;
        for (int warp = 0; warp < int(blockDim.y); ++warp) total += vectors[(warp * 3 + axis) * kSamples + threadIdx.x];
        out[3 * sample + axis] = total;
    }
}

// Calls `use` with the number of features that can be read at once, as a constant.
template <class Use>
int64_t with_pack_of(int num_features, Use&& use) {
    if (num_features % 4 == 0) return use(std::integral_constant<int, 4>());
    if (num_features % 2 == 0) return use(std::integral_constant<int, 2>());
    return use(std::integral_constant<int, 1>());
}

template <class T, bool kSlope>
int64_t run_encode(int64_t num_samples, const T* positions, const T* directions, const T* table, const GridLayout& grid,
                   T* out, void* stream) {
    const Shape shape = shape_of<T>(grid, false);
    return with_pack_of(grid.num_features, [&](auto pack) {
        return launch(encode<T, decltype(pack)::value, kSlope>, blocks_for(num_samples, kSamples),
                      dim3(kSamples, shape.warps), shape.bytes, stream, num_samples, positions, directions, table, grid,
                      shape.stride, out);
    });
}

template <class T, bool kSlope>
int64_t run_scatter(int64_t num_samples, const T* grad, const T* positions, const T* directions, const GridLayout& grid,
                    int64_t num_rows, const T* bound, int64_t* sums, T* grad_table, void* stream) {
    const Shape shape = shape_of<T>(grid, false);
    const int64_t blocks = blocks_for(num_samples, kSamples);
    const dim3 block(kSamples, shape.warps);
    if (!sums)
        return with_pack_of(grid.num_features, [&](auto pack) {
            return launch(scatter_real<T, decltype(pack)::value, kSlope>, blocks, block, shape.bytes, stream,
                          num_samples, grad, positions, directions, grid, shape.stride, grad_table);
        });
    const int64_t error = launch(scatter_whole<T, kSlope>, blocks, block, shape.bytes, stream, num_samples, grad,
                                 positions, directions, grid, shape.stride, bound,
                                 reinterpret_cast<unsigned long long*>(sums));
    const int64_t count = num_rows * grid.num_features;
    return error ? error
                 : launch(real_from_whole<T>, blocks_for(count, 256), 256, 0, stream, count, num_samples, bound, sums,
                          grad_table);
}

template <class T>
int64_t run_gradient_of_positions(int64_t num_samples, const T* grad, const T* positions, const T* table,
                                  const GridLayout& grid, T* out, void* stream) {
    const Shape shape = shape_of<T>(grid, true);
    return with_pack_of(grid.num_features, [&](auto pack) {
        return launch(gradient_of_positions<T, decltype(pack)::value>, blocks_for(num_samples, kSamples),
                      dim3(kSamples, shape.warps), shape.bytes, stream, num_samples, grad, positions, table, grid,
                      shape.stride, out);
    });
}

}  // namespace

// `levels`, on the host: resolution, first row and slot mask (0: dense) of each level. The table must lie at a multiple
// of 16 bytes. `directions` null: values; else slopes along each sample's direction.
//
// Table gradients are added to grad_table, which starts as zeros; or, where `sums` is given, [num_rows, features]
// zeros, summed there in whole numbers and written to grad_table: the same bits every time. `bound` is then a number on
// the device that no sample's part of a row's gradient exceeds.
#define TG_HASH_GRID(suffix, T)                                                                                        \
    TG_API int64_t tg_hash_grid_encode_##suffix(int64_t num_samples, const T* positions, const T* directions,          \
                                                const T* table, int64_t num_levels, int64_t num_features,              \
                                                const int64_t* levels, T* out, void* stream) {                         \
        const GridLayout grid = grid_layout(num_levels, num_features, levels);                                         \
        return directions ? run_encode<T, true>(num_samples, positions, directions, table, grid, out, stream)          \
                          : run_encode<T, false>(num_samples, positions, directions, table, grid, out, stream);        \
    }                                                                                                                  \
    TG_API int64_t tg_hash_grid_grad_table_##suffix(int64_t num_samples, const T* grad, const T* positions,            \
                                                    const T* directions, int64_t num_levels, int64_t num_features,     \
                                                    const int64_t* levels, int64_t num_rows, const T* bound,           \
                                                    int64_t* sums, T* grad_table, void* stream) {                      \
        const GridLayout grid = grid_layout(num_levels, num_features, levels);                                         \
        return directions ? run_scatter<T, true>(num_samples, grad, positions, directions, grid, num_rows, bound,      \
                                                 sums, grad_table, stream)                                             \
                          : run_scatter<T, false>(num_samples, grad, positions, directions, grid, num_rows, bound,     \
                                                  sums, grad_table, stream);                                           \
    }                                                                                                                  \
    TG_API int64_t tg_hash_grid_grad_positions_##suffix(int64_t num_samples, const T* grad, const T* positions,        \
                                                        const T* table, int64_t num_levels, int64_t num_features,      \
                                                        const int64_t* levels, T* out, void* stream) {                 \
        const GridLayout grid = grid_layout(num_levels, num_features, levels);                                         \
        return run_gradient_of_positions<T>(num_samples, grad, positions, table, grid, out, stream);                   \
    }
TG_HASH_GRID(f32, float)
TG_HASH_GRID(f64, double)
