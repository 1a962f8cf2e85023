// A field in one kernel: the network, its weights in half precision in shared memory, and what its passes share. The
// network has one hidden layer. Its sizes are padded with zeros, which change no result: features to K, hidden numbers
// to H, the four outputs to the eight columns of a product.
#pragma once

#include "tensor_cores.h"

#include "threedgen/activations.h"
#include "threedgen/hash_grid.h"

namespace threedgen {

constexpr int kOutputs = 4;
// Rows of `Size` numbers in shared memory lie so many pairs apart that eight groups of four lanes read from different
// banks, and that a row begins at a multiple of 16 bytes.
template <int Size>
constexpr int kStride = Size / 2 + 4;

struct Network {
    const float* weights;  // [hidden, inputs], then [4, hidden]
    int inputs, hidden;

    __device__ float first(int out, int in) const {
        return out < hidden && in < inputs ? weights[out * inputs + in] : 0.0f;
    }
    __device__ float second(int out, int in) const {
        return out < kOutputs && in < hidden ? weights[hidden * inputs + out * hidden + in] : 0.0f;
    }
};

// What a field is besides its learned numbers, see `FieldLayout` in threedgen/ops/types.py.
struct FieldNumbers {
    float radius, blob_density, blob_radius, density_scale;

    __device__ float in_unit_cube(float position) const { return (position + radius) / (2.0f * radius); }
};

// Pairs in a row of saved features: of whole 16 bytes.
__host__ __device__ inline int saved_pairs(const GridLayout& grid) {
    return (grid.num_levels * grid.num_features + 7) / 8 * 4;
}

// at(row, column) of a matrix as [rows][stride] pairs, by the whole block.
template <class At>
__device__ void fill_matrix(HalfPair* to, int rows, int pairs, int stride, At&& at) {
    for (int i = threadIdx.x; i < rows * pairs; i += blockDim.x) {
        const int row = i / pairs, pair = i % pairs;
        to[row * stride + pair] = half_pair(at(row, 2 * pair), at(row, 2 * pair + 1));
    }
}

// sum += a b of sixteen numbers of k, of which `columns` holds b's transpose: a row each column, from its first of them
__device__ inline void add_product(float (&sum)[4], const HalfPair (&a)[4], const HalfPair* columns, int stride,
                                   int lane) {
    const HalfPair* const mine = columns + lane / 4 * stride + lane % 4;
    add_product(sum, a, mine[0], mine[4]);
}

// Two neighbouring sums, rounded, as the first factor of the next product.
__device__ inline void round_sums(const float (&left)[4], const float (&right)[4], HalfPair (&a)[4]) {
    a[0] = half_pair(left[0], left[1]), a[1] = half_pair(left[2], left[3]);
    a[2] = half_pair(right[0], right[1]), a[3] = half_pair(right[2], right[3]);
}

// Features [16, K], rows of a tile in shared memory, as the first factor of a product: sixteen columns each.
template <int K>
__device__ void load_features(const HalfPair* rows, int lane, HalfPair (&features)[K / 16][4]) {
    const HalfPair* const mine = rows + lane / 4 * kStride<K> + lane % 4;
    for (int step = 0; step < K / 16; ++step)
        for (int i = 0; i < 4; ++i) features[step][i] = mine[i % 2 * 8 * kStride<K> + step * 8 + i / 2 * 4];
}

// Sixteen hidden numbers of sixteen samples, before ReLU: `weights` begins with their rows of the first matrix.
template <int K>
__device__ void hidden_sums(const HalfPair (&features)[K / 16][4], const HalfPair* weights, int lane,
                            float (&sums)[2][4]) {
    for (int half = 0; half < 2; ++half)
        for (int step = 0; step < K / 16; ++step)
            add_product(sums[half], features[step], weights + half * 8 * kStride<K> + step * 8, kStride<K>, lane);
}

// Calls `use` with a level's number of features and with the padded sizes K and H, as constants. Returns CUDA's error
// for an invalid value where there are no kernels for these sizes: the registers of the backward pass hold the sums of
// 32 x 64 or 48 x 32 weights.
template <class Use>
int64_t with_sizes(int64_t num_features, const Network& net, Use&& use) {
    const auto with_features = [&](auto features) -> int64_t {
        using std::integral_constant;
        if (net.inputs <= 32 && net.hidden <= 32)
            return use(features, integral_constant<int, 32>(), integral_constant<int, 32>());
        if (net.inputs <= 32 && net.hidden <= 64)
            return use(features, integral_constant<int, 32>(), integral_constant<int, 64>());
        if (net.inputs <= 48 && net.hidden <= 32)
            return use(features, integral_constant<int, 48>(), integral_constant<int, 32>());
        return 1;
    };
    switch (num_features) {
        case 2: return with_features(std::integral_constant<int, 2>());
        case 4: return with_features(std::integral_constant<int, 4>());
        case 8: return with_features(std::integral_constant<int, 8>());
        default: return 1;
    }
}

}  // namespace threedgen
