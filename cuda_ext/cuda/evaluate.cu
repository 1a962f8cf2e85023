// Positions -> density and colour in one kernel: hash grid, network on tensor cores, activations.
//
// A warp takes 32 samples at a time, a lane each while it reads the table, level after level, so that neighbouring
// samples read neighbouring rows. The features go through shared memory to the layout of the products, and never leave
// the chip but for the backward pass, which needs them. The table is read in half precision: with the paper's grid it
// is then 25 MB, which the L2 cache of an A100 or H100 holds beside the rest.
#include "field_network.h"

using namespace threedgen;

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kBlocks = 3;  // blocks that a multiprocessor holds

// One sample's features, rounded, into its row of the tile.
template <int F, int K>
__device__ void encode(const float (&at)[3], const HalfPair* __restrict__ table, const GridLayout& grid,
                       HalfPair* row) {
    for (int level = 0; level < grid.num_levels; ++level) {
        const Cell<float> cell = cell_at(at[0], at[1], at[2], grid.levels[level]);
        float sums[F] = {};
        for (int k = 0; k < 4; ++k) {
            const HalfPair* const rows = table + int64_t(cell.row[k]) * (F / 2);
            const auto low = load_pack<HalfPair, F / 2>(rows), high = load_pack<HalfPair, F / 2>(rows + F / 2);
            const float weight = cell.pair_weight(k), of_high = weight * cell.x, of_low = weight * (1.0f - cell.x);
            for (int f = 0; f < F / 2; ++f) {
                const float2 one = floats_of(low.of[f]), other = floats_of(high.of[f]);
                sums[2 * f] += of_low * one.x + of_high * other.x;
                sums[2 * f + 1] += of_low * one.y + of_high * other.y;
            }
        }
        for (int f = 0; f < F / 2; ++f) row[level * (F / 2) + f] = half_pair(sums[2 * f], sums[2 * f + 1]);
    }
    for (int f = grid.num_levels * (F / 2); f < K / 2; ++f) row[f] = 0;
}

// Features [16, K] of the tile's rows from `rows` on -> the network's outputs [16, 8], of which four count.
template <int K, int H>
__device__ void network(const HalfPair* rows, const HalfPair* first, const HalfPair* second, int lane,
                        float (&raw)[4]) {
    HalfPair features[K / 16][4];
    load_features<K>(rows, lane, features);
    for (int base = 0; base < H; base += 16) {
        float hidden[2][4] = {};
        hidden_sums<K>(features, first + base * kStride<K>, lane, hidden);
        for (int half = 0; half < 2; ++half)
            for (int i = 0; i < 4; ++i) hidden[half][i] = larger(hidden[half][i], 0.0f);
        HalfPair rounded[4];
        round_sums(hidden[0], hidden[1], rounded);
        add_product(raw, rounded, second + base / 2, kStride<H>, lane);
    }
}

template <int F, int K, int H>
__global__ void __launch_bounds__(kThreads, kBlocks)
    evaluate(int64_t num_samples, const float* __restrict__ positions, const HalfPair* __restrict__ table,
             GridLayout grid, Network net, FieldNumbers field, float* __restrict__ density, float* __restrict__ rgb,
             HalfPair* __restrict__ saved) {
    TG_SHARED(HalfPair, first);  // [H][inputs]
    HalfPair* const second = first + H * kStride<K>;  // [8][hidden]
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    HalfPair* const tile = second + 8 * kStride<H> + warp * 32 * kStride<K>;
    fill_matrix(first, H, K / 2, kStride<K>, [&](int row, int column) { return net.first(row, column); });
    fill_matrix(second, 8, H / 2, kStride<H>, [&](int row, int column) { return net.second(row, column); });
    __syncthreads();
    for (int64_t begin = (int64_t(blockIdx.x) * kWarps + warp) * 32; begin < num_samples;
         begin += int64_t(gridDim.x) * kThreads) {
        const int64_t sample = smaller(begin + lane, num_samples - 1);
        float at[3];
        for (int axis = 0; axis < 3; ++axis) at[axis] = field.in_unit_cube(positions[3 * sample + axis]);
        encode<F, K>(at, table, grid, tile + lane * kStride<K>);
        __syncwarp();
        if (saved) {
            using Four = Pack<HalfPair, 4>;
            const int fours = saved_pairs(grid) / 4, count = int(smaller(num_samples - begin, int64_t(32))) * fours;
            for (int i = lane; i < count; i += 32)
                reinterpret_cast<Four*>(saved)[begin * fours + i] =
                    load_pack<HalfPair, 4>(tile + i / fours * kStride<K> + i % fours * 4);
        }
        for (int half = 0; half < 2; ++half) {
            __syncwarp();
            float raw[4] = {};
            network<K, H>(tile + half * 16 * kStride<K>, first, second, lane, raw);
            // lanes 0 and 1 of a group have the four numbers of a sample, and of the one eight below it
            for (int below = 0; below < 2; ++below) {
                const int64_t i = begin + half * 16 + below * 8 + lane / 4;
                if (lane % 4 > 1 || i >= num_samples) continue;
                const float one = raw[2 * below], other = raw[2 * below + 1];
                if (lane % 4 == 0) {
                    float square = 0.0f;
                    for (int axis = 0; axis < 3; ++axis) square += positions[3 * i + axis] * positions[3 * i + axis];
                    const float blob = blob_at(sqrt_of(square), field.blob_density, field.blob_radius);
                    density[i] = field.density_scale * softplus(one + blob);
                    rgb[3 * i] = sigmoid(other);
                } else {
                    rgb[3 * i + 1] = sigmoid(one);
                    rgb[3 * i + 2] = sigmoid(other);
                }
            }
        }
        __syncwarp();
    }
}

}  // namespace

// World positions [N, 3] -> density [N], rgb [N, 3] and, unless `saved` is null, features [N, saved_pairs]. The table
// is in half precision; `levels`, on the host, as in hash_grid.cu. `with_sizes` has the sizes that are
// supported.
TG_API int64_t tg_evaluate_field_f32(int64_t num_levels, int64_t num_features, const int64_t* levels,
                                     const HalfPair* table, int64_t hidden, const float* weights, float radius,
                                     float blob_density, float blob_radius, float density_scale, int64_t num_samples,
                                     const float* positions, float* density, float* rgb, HalfPair* saved,
                                     void* stream) {
    const GridLayout grid = grid_layout(num_levels, num_features, levels);
    const Network net{weights, int(num_levels * num_features), int(hidden)};
    const FieldNumbers field{radius, blob_density, blob_radius, density_scale};
    return with_sizes(num_features, net, [&](auto features, auto inputs, auto width) {
        constexpr int F = decltype(features)::value, K = decltype(inputs)::value, H = decltype(width)::value;
        const int64_t pairs = H * kStride<K> + 8 * kStride<H> + kThreads * kStride<K>;
        const int64_t blocks = smaller(blocks_for(num_samples, kThreads), kBlocks * current_device().multiprocessors);
        return launch(evaluate<F, K, H>, blocks, kThreads, 4 * pairs, stream, num_samples, positions, table, grid, net,
                      field, density, rgb, saved);
    });
}
