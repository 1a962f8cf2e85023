// Gradients of density and colour -> of the table and of the network, in one kernel.
//
// A warp takes 16 samples at a time, and leaves them at once where none has a gradient. Their hidden numbers are
// computed again from the saved features. Gradients are half precision in the products alone, times a power of two that
// brings the largest of the 16 samples to between 1 and 2: whatever the loss's scale is, none of them vanishes beside
// another sixteen's. The sums are float, and so is the table's gradient: what adding to it costs are the sectors of 32
// bytes that are touched (1.25 for a pair of rows of two floats, 1.125 in half precision), and a tenth of them is not
// worth a scale for the whole loss and a sum of thousands of terms with eleven bits.
//
// Then a lane looks after one column of one level, on one side (low or high in x) of the cells, so that neighbouring
// lanes add to neighbouring numbers, and goes from sample to sample. Samples that follow each other in one cell, as
// along a ray on the coarse levels, are added up before they leave its registers. The coarsest levels, as far as they
// fit, are added up in the block's shared memory and then to the table.
#include "atomics.h"
#include "field_network.h"

using namespace threedgen;

namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
template <int K, int H>
constexpr int kBlocks = K * H > 1024 ? 3 : 4;  // that a multiprocessor holds: registers keep sums for all weights
constexpr int kTile = 16;                      // samples
template <int K>
constexpr int kTileStride = K + 8;  // of a sample's gradients of features, and then its position

struct Gradients {
    const float *density, *rgb, *grad_density, *grad_rgb;
    float density_scale;

    // Of the network's first or last two numbers.
    __device__ float2 of(int64_t sample, bool last) const {
        if (!last)
            return {grad_of_logit(density[sample], grad_density[sample], density_scale), channel(3 * sample)};
        return {channel(3 * sample + 1), channel(3 * sample + 2)};
    }
    __device__ float channel(int64_t i) const { return grad_of_channel(rgb[i], grad_rgb[i]); }
};

// The power of two that brings a finite `size` to between 1 and 2; 1 where there is none.
__device__ float scale_to_one(float size) {
    if (!(size > 0.0f) || size - size != 0.0f) return 1.0f;
    int exponent;
    frexpf(size, &exponent);
    return ldexpf(1.0f, smaller(1 - exponent, 120));
}

// Where gradients of rows go: those of the first rows to shared memory.
struct Sums {
    float* table;
    float* gathered;
    uint32_t num_gathered;  // rows

    __device__ void add(uint32_t row, int num_features, int column, const float (&values)[2], int count) const {
        if (row < num_gathered)
            for (int i = 0; i < count; ++i) atomicAdd(gathered + row * num_features + column + i, values[i]);
        else if (count == 2)
            RealSum<float, 2>{table}.add(int64_t(row) * num_features + column, values);
        else
            atomicAdd(table + int64_t(row) * num_features + column, values[0]);
    }
};

// Saved features of 16 samples into shared memory, zeros where there are no more of either.
template <int K>
__device__ void load_rows(const HalfPair* __restrict__ saved, int64_t begin, int64_t num_samples, int pairs, int lane,
                          HalfPair* rows) {
    using Four = Pack<HalfPair, 4>;
    for (int i = lane; i < kTile * (K / 2 / 4); i += 32) {
        const int row = i / (K / 2 / 4), pair = i % (K / 2 / 4) * 4;
        const bool is_there = begin + row < num_samples && pair < pairs;
        *reinterpret_cast<Four*>(rows + row * kStride<K> + pair) =
            is_there ? load_pack<HalfPair, 4>(saved + (begin + row) * pairs + pair) : Four{};
    }
}

// The features' gradients of a tile [16][kTileStride<K>], each sample's position behind them -> the table's.
template <int F, int K>
__device__ void scatter(const float* tile, unsigned known, const GridLayout& grid, int lane, const Sums& sums) {
    const int count = added_at_once(), columns = F / count, num_units = grid.num_levels * 2 * columns;
    for (int unit = lane; unit < num_units; unit += 32) {
        const int number = unit / (2 * columns), high = unit / columns % 2, column = unit % columns * count;
        const GridLevel level = grid.levels[number];
        uint32_t rows[4] = {};
        float values[4][2] = {};
        bool any = false;
        const auto leave = [&] {
            for (int k = 0; k < 4; ++k) {
                sums.add(rows[k] + high, F, column, values[k], count);
                values[k][0] = values[k][1] = 0.0f;
            }
        };
        TG_ROLLED
        for (int s = 0; s < kTile; ++s) {
            if (!(known >> s & 1)) continue;
            const float* const mine = tile + s * kTileStride<K>;
            const Cell<float> cell = cell_at(mine[K], mine[K + 1], mine[K + 2], level);
            bool same = true;
            for (int k = 0; k < 4; ++k) same = same && rows[k] == cell.row[k];
            if (any && !same) leave();
            any = true;
            const float side = high ? cell.x : 1.0f - cell.x;
            for (int k = 0; k < 4; ++k) {
                rows[k] = cell.row[k];
                const float weight = side * cell.pair_weight(k);
                for (int i = 0; i < count; ++i) values[k][i] += weight * mine[number * F + column + i];
            }
        }
        if (any) leave();
    }
}

template <int K, int H>
struct Weights {
    HalfPair *first, *first_transposed, *second_transposed;  // [H][inputs], [inputs][H], [H][4]

    static constexpr int kPairs = H * kStride<K> + K * kStride<H> + H * 2;
};

// A warp's sums of the gradients of both matrices, as products leave them: [H][inputs] and [H][outputs]. The outputs
// stand twice in a product's eight columns; the left ones count for the even blocks of hidden numbers, the right ones
// for the odd blocks, which halves the registers.
template <int K, int H>
struct WeightSums {
    float first[H / 16][K / 8][4], second[H / 32][4];

    static constexpr int kFloats = H * (K + kOutputs);

    __device__ static bool counts(int block, int lane) { return lane / 2 % 2 == block % 2; }

    // to [H][inputs], then [H][outputs]
    template <class Add>
    __device__ void each(int lane, Add&& add) const {
        for (int block = 0; block < H / 16; ++block)
            for (int i = 0; i < 4; ++i) {
                const int row = block * 16 + i / 2 * 8 + lane / 4, column = lane % 4 * 2 + i % 2;
                for (int j = 0; j < K / 8; ++j) add(row * K + j * 8 + column, first[block][j][i]);
                if (counts(block, lane)) add(H * K + row * kOutputs + column % kOutputs, second[block / 2][i]);
            }
    }
};

// [samples, hidden] -> [hidden, samples]
__device__ inline void turn(HalfPair (&a)[4]) {
    const HalfPair above = transposed(a[2]), below = transposed(a[1]);
    a[0] = transposed(a[0]), a[1] = above, a[2] = below, a[3] = transposed(a[3]);
}

// The scaled gradients of 16 samples' outputs, `grad` [16, 16], of which the first four columns count and stand again
// behind themselves -> those of their features (times the scale), and of the weights. Transposes have samples as the
// index that is summed over.
template <int K, int H>
__device__ void through_network(const HalfPair* rows, const HalfPair (&grad)[4], float inverse,
                                const Weights<K, H>& weights, int lane, WeightSums<K, H>& sums,
                                float (&of_features)[K / 8][4]) {
    HalfPair features[K / 16][4], features_turned[K / 8][2];
    load_features<K>(rows, lane, features);
    for (int j = 0; j < K / 8; ++j)
        for (int half = 0; half < 2; ++half) features_turned[j][half] = transposed(features[j / 2][j % 2 * 2 + half]);
    const HalfPair grad_turned[2] = {transposed(grad[0]), transposed(grad[1])};
    TG_UNROLLED
    for (int block = 0; block < H / 16; ++block) {
        float hidden[2][4] = {}, of_hidden[2][4] = {};
        hidden_sums<K>(features, weights.first + block * 16 * kStride<K>, lane, hidden);
        for (int half = 0; half < 2; ++half) {
            const int column = block * 16 + half * 8 + lane / 4;
            add_product(of_hidden[half], grad,
                        lane % 4 < 2 ? weights.second_transposed[2 * column + lane % 4] : HalfPair(0), HalfPair(0));
            for (int i = 0; i < 4; ++i) {
                of_hidden[half][i] = hidden[half][i] > 0.0f ? of_hidden[half][i] : 0.0f;
                hidden[half][i] = larger(hidden[half][i], 0.0f);
            }
        }
        HalfPair rounded[4];
        round_sums(hidden[0], hidden[1], rounded);
        turn(rounded);
        float of_second[4] = {};
        add_product(of_second, rounded, grad_turned[0], grad_turned[1]);
        for (int i = 0; i < 4; ++i)
            sums.second[block / 2][i] += WeightSums<K, H>::counts(block, lane) ? inverse * of_second[i] : 0.0f;
        round_sums(of_hidden[0], of_hidden[1], rounded);
        for (int j = 0; j < K / 8; ++j)
            add_product(of_features[j], rounded, weights.first_transposed + j * 8 * kStride<H> + block * 8,
                        kStride<H>, lane);
        turn(rounded);
        for (int j = 0; j < K / 8; ++j) {
            float of_first[4] = {};
            add_product(of_first, rounded, features_turned[j][0], features_turned[j][1]);
            for (int i = 0; i < 4; ++i) sums.first[block][j][i] += inverse * of_first[i];
        }
    }
}

template <int F, int K, int H>
__global__ void __launch_bounds__(kThreads, kBlocks<K, H>)
    evaluate_backward(int64_t num_samples, const float* __restrict__ positions, const HalfPair* __restrict__ saved,
                      Gradients gradients, GridLayout grid, Network net, FieldNumbers field, uint32_t num_gathered,
                      float* __restrict__ grad_table, float* __restrict__ grad_weights) {
    TG_SHARED(HalfPair, shared);
    const Weights<K, H> weights{shared, shared + H * kStride<K>,
                             shared + H * kStride<K> + K * kStride<H>};
    float* const tiles = reinterpret_cast<float*>(shared + Weights<K, H>::kPairs);  // [warps], later the weights' sums
    const int tile_floats = larger(kWarps * kTile * kTileStride<K>, WeightSums<K, H>::kFloats);
    const Sums sums{grad_table, tiles + tile_floats, num_gathered};
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
    float* const tile = tiles + warp * kTile * kTileStride<K>;

    fill_matrix(weights.first, H, K / 2, kStride<K>,
                [&](int row, int column) { return net.first(row, column); });
    fill_matrix(weights.first_transposed, K, H / 2, kStride<H>,
                [&](int row, int column) { return net.first(column, row); });
    fill_matrix(weights.second_transposed, H, 2, 2, [&](int row, int column) { return net.second(column, row); });
    for (int i = threadIdx.x; i < int(num_gathered) * F; i += kThreads) sums.gathered[i] = 0.0f;
    __syncthreads();

    WeightSums<K, H> of_weights = {};
    for (int64_t begin = (int64_t(blockIdx.x) * kWarps + warp) * kTile; begin < num_samples;
         begin += int64_t(gridDim.x) * kWarps * kTile) {
        float2 of_outputs[2] = {{0.0f, 0.0f}, {0.0f, 0.0f}};
        for (int below = 0; below < 2; ++below)
            if (const int64_t i = begin + below * 8 + group; i < num_samples)
                of_outputs[below] = gradients.of(i, t % 2);
        unsigned known = 0;  // a bit for each sample that has a gradient
        float largest = 0.0f;
        for (int below = 0; below < 2; ++below) {
            const float2 mine = of_outputs[below];
            const unsigned votes = __ballot_sync(kAllLanes, mine.x != 0.0f || mine.y != 0.0f);
            for (int i = 0; i < 8; ++i) known |= unsigned((votes >> 4 * i & 15u) != 0) << (below * 8 + i);
            largest = larger(largest, larger(fabsf(mine.x), fabsf(mine.y)));
        }
        if (known == 0) continue;
        for (int bits = 16; bits > 0; bits >>= 1) largest = larger(largest, __shfl_xor_sync(kAllLanes, largest, bits));
        const float scale = scale_to_one(largest);

        HalfPair* const rows = reinterpret_cast<HalfPair*>(tile);
        load_rows<K>(saved, begin, num_samples, saved_pairs(grid), lane, rows);
        __syncwarp();
        const HalfPair grad[4] = {half_pair(scale * of_outputs[0].x, scale * of_outputs[0].y),
                                  half_pair(scale * of_outputs[1].x, scale * of_outputs[1].y), 0, 0};
        float of_features[K / 8][4] = {};
        const float inverse = 1.0f / scale;
        through_network<K, H>(rows, grad, inverse, weights, lane, of_weights, of_features);
        __syncwarp();

        for (int j = 0; j < K / 8; ++j)
            for (int i = 0; i < 4; ++i)
                tile[(i / 2 * 8 + group) * kTileStride<K> + j * 8 + t * 2 + i % 2] = inverse * of_features[j][i];
        if (lane < kTile && begin + lane < num_samples)
            for (int axis = 0; axis < 3; ++axis)
                tile[lane * kTileStride<K> + K + axis] =
                    field.in_unit_cube(positions[3 * (begin + lane) + axis]);
        __syncwarp();
        scatter<F, K>(tile, known, grid, lane, sums);
        __syncwarp();
    }

    __syncthreads();
    for (int i = threadIdx.x; i < int(num_gathered) * F; i += kThreads)
        if (sums.gathered[i] != 0.0f) atomicAdd(grad_table + i, sums.gathered[i]);
    for (int turn = 0; turn < kWarps; ++turn) {
        if (warp == turn)
            of_weights.each(lane, [&](int i, float value) { tiles[i] = turn == 0 ? value : tiles[i] + value; });
        __syncthreads();
    }
    for (int i = threadIdx.x; i < net.hidden * net.inputs; i += kThreads)
        atomicAdd(grad_weights + i, tiles[i / net.inputs * K + i % net.inputs]);
    for (int i = threadIdx.x; i < net.hidden * kOutputs; i += kThreads)
        atomicAdd(grad_weights + net.hidden * net.inputs + i,
                  tiles[H * K + i % net.hidden * kOutputs + i / net.hidden]);
}

// Rows of the first levels, as long as these are dense and fit into so many bytes.
uint32_t rows_that_fit(const GridLayout& grid, int64_t bytes) {
    int64_t rows = 0;
    for (int i = 0; i < grid.num_levels; ++i) {
        const int64_t edge = grid.levels[i].resolution, end = rows + edge * edge * edge;
        if (grid.levels[i].slot_mask || 4 * end * grid.num_features > bytes) break;
        rows = end;
    }
    return uint32_t(rows);
}

}  // namespace

// The sizes and results of tg_evaluate_field_f32, and gradients of density [N] and rgb [N, 3] -> added to grad_table
// and to grad_weights (as `weights`), which start as zeros. At most so many bytes of a block's shared
// memory gather the first rows.
TG_API int64_t tg_evaluate_field_backward_f32(int64_t num_levels, int64_t num_features, const int64_t* levels,
                                              int64_t hidden, const float* weights, float radius, float density_scale,
                                              int64_t num_samples, const float* positions, const float* density,
                                              const float* rgb, const HalfPair* saved, const float* grad_density,
                                              const float* grad_rgb, int64_t gathered_bytes, float* grad_table,
                                              float* grad_weights, void* stream) {
    const GridLayout grid = grid_layout(num_levels, num_features, levels);
    const Network net{weights, int(num_levels * num_features), int(hidden)};
    const FieldNumbers field{radius, 0.0f, 1.0f, density_scale};
    const Gradients gradients{density, rgb, grad_density, grad_rgb, density_scale};
    return with_sizes(num_features, net, [&](auto features, auto inputs, auto width) {
        constexpr int F = decltype(features)::value, K = decltype(inputs)::value, H = decltype(width)::value;
        const Device device = current_device();
        const int64_t resident = kBlocks<K, H> * device.multiprocessors;
        const int64_t blocks = smaller(blocks_for(num_samples, kWarps * kTile), resident);
        const int64_t tile_floats = larger(kWarps * kTile * kTileStride<K>, WeightSums<K, H>::kFloats);
        const int64_t bytes = 4 * (Weights<K, H>::kPairs + tile_floats);
        // what is left when every block of a multiprocessor has its own and the kilobyte that CUDA keeps
        const int64_t room = device.shared_bytes / kBlocks<K, H> - 1024 - bytes;
        const uint32_t rows = rows_that_fit(grid, smaller(room, gathered_bytes));
        return launch(evaluate_backward<F, K, H>, blocks, kThreads, bytes + 4 * int64_t(rows) * F, stream, num_samples,
                      positions, saved, gradients, grid, net, field, rows, grad_table, grad_weights);
    });
}
