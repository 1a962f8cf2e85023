// The hash grid over a tile of samples. Cells are found for a vector of samples at a time (one, in double precision); then
// the rows of each sample are read, a vector holding the features of a row or of both rows of a pair.
//
// With pairs k = 0..3 of rows (low_k, high_k), their weights w_k(y, z) and the place x between low and high, a level's
// features are f = mix(sum_k w_k pair_k), mix(pair) = low + x (high - low), and
//     df/dx = sum_k w_k (high_k - low_k),   df/dy = sum_k dw_k/dy mix(pair_k),   df/dz likewise.
#pragma once

#include "threedgen/hash_grid.h"

#include "vectors.h"

namespace threedgen {

// Both rows of a pair, which are neighbours, as one vector: low's features, then high's.
template <class Both, class Row>
struct PairInOne {
    using Scalar = float;
    using Features = Row;
    Both both;

    static constexpr int64_t kFeatures = sizeof(Row) / sizeof(float);  // of a row
    static constexpr int64_t kStep = kFeatures;                        // of them in a vector
    TG_INLINE static PairInOne load(const float* row, int64_t) { return {load_as<Both>(row)}; }
    TG_INLINE void store(float* row, int64_t) const { store_as(row, both); }
    TG_INLINE PairInOne operator+(PairInOne b) const { return {both + b.both}; }
    TG_INLINE PairInOne operator*(float w) const { return {both * w}; }
    TG_INLINE Row low() const { return lower_half(both); }
    TG_INLINE Row slope() const { return upper_half(both) - low(); }
    TG_INLINE Row mix(float x) const { return low() + slope() * x; }
    TG_INLINE static PairInOne of(Row low, Row high) { return {joined(low, high)}; }
};
using Pair2 = PairInOne<f32x4, f32x2>;
using Pair4 = PairInOne<f32x8, f32x4>;

#if defined(__AVX512F__)

using Pair8 = PairInOne<f32x16, f32x8>;

#else

// Both rows of a pair of 8 features.
struct Pair8 {
    using Scalar = float;
    using Features = f32x8;
    f32x8 low, high;

    static constexpr int64_t kFeatures = 8;
    static constexpr int64_t kStep = 8;
    TG_INLINE static Pair8 load(const float* row, int64_t) { return {load8(row), load8(row + 8)}; }
    TG_INLINE void store(float* row, int64_t) const { store8(row, low), store8(row + 8, high); }
    TG_INLINE Pair8 operator+(Pair8 b) const { return {low + b.low, high + b.high}; }
    TG_INLINE Pair8 operator*(float w) const { return {low * w, high * w}; }
    TG_INLINE f32x8 mix(float x) const { return low + (high - low) * x; }
    TG_INLINE f32x8 slope() const { return high - low; }
    TG_INLINE static Pair8 of(f32x8 low, f32x8 high) { return {low, high}; }
};

#endif

// One feature of a pair of rows of any length.
template <class T>
struct PairOfAny {
    using Scalar = T;
    using Features = T;
    T low, high;

    static constexpr int64_t kFeatures = 0;  // known at run time
    static constexpr int64_t kStep = 1;
    TG_INLINE static PairOfAny load(const T* row, int64_t length) { return {row[0], row[length]}; }
    TG_INLINE void store(T* row, int64_t length) const { row[0] = low, row[length] = high; }
    TG_INLINE PairOfAny operator+(PairOfAny b) const { return {low + b.low, high + b.high}; }
    TG_INLINE PairOfAny operator*(T w) const { return {low * w, high * w}; }
    TG_INLINE T mix(T x) const { return low + (high - low) * x; }
    TG_INLINE T slope() const { return high - low; }
    TG_INLINE static PairOfAny of(T low, T high) { return {low, high}; }
};

TG_INLINE float sum_across(float v) { return v; }
TG_INLINE double sum_across(double v) { return v; }
TG_INLINE float sum_across(f32x2 v) { return v[0] + v[1]; }
TG_INLINE float sum_across(f32x4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
TG_INLINE float sum_across(f32x8 v) { return sum_across(load_as<f32x4>(&v) + load_as<f32x4>((const float*)&v + 4)); }

// Points of the unit cube (or directions), axis after axis; their arrays are readable up to a multiple of the lanes.
template <class T>
struct Points {
    const T *x, *y, *z;

    Points from(int64_t first) const { return {x + first, y + first, z + first}; }
};

constexpr int64_t kTile = 96;  // samples: a multiple of the lanes, and of the rows of the network's products (gemm.h)

constexpr int64_t kPrefetchedLevel = 1 << 18;  // bytes: half of a common second-level cache

template <class Pair>
class GridTile {
    using T = typename Pair::Scalar;
    using V = typename SideBySide<T>::V;
    using Features = typename Pair::Features;
    static constexpr int kLanes = Lane<V>::width;

    // The cells of up to kTile points in one level. All are found before any row is read: finding one takes long, and
    // so the rows' addresses are there when a processor that looks ahead wants them.
    struct Cells {
        alignas(64) uint32_t row[4][kTile];
        alignas(64) T weight[4][kTile];
        alignas(64) T x[kTile], y[kTile], z[kTile];
        int32_t starts[kTile + kWide];  // of the runs of points in the same rows, and where the last one ends
        int64_t num_runs = 0;

        TG_INLINE Cells(Points<T> at, int64_t n, const GridLevel& level) {
            for (int64_t s = 0; s < n; s += kLanes) {
                const Cell<V> cell = cell_at(load_as<V>(at.x + s), load_as<V>(at.y + s), load_as<V>(at.z + s), level);
                for (int k = 0; k < 4; ++k) {
                    store_as(row[k] + s, cell.row[k]);
                    store_as(weight[k] + s, cell.pair_weight(k));
                }
                store_as(x + s, cell.x), store_as(y + s, cell.y), store_as(z + s, cell.z);
            }
        }

        void find_runs(int64_t n) {
            alignas(64) uint32_t changes[kTile];
            changes[0] = 1;
            for (int64_t s = 1; s < n; ++s) {
                changes[s] = 0;
                for (int k = 0; k < 4; ++k) changes[s] |= row[k][s] ^ row[k][s - 1];
            }
            num_runs = indices_of_set(changes, n, starts);
            starts[num_runs] = int32_t(n);
        }

        // Calls visit(first, end) for the runs of points in the same rows.
        template <class Visit>
        TG_INLINE void for_runs(Visit visit) const {
            for (int64_t i = 0; i < num_runs; ++i) visit(int64_t(starts[i]), int64_t(starts[i + 1]));
        }
    };

    // Whether a level does not fit into the nearer caches: then its rows are asked for all at once, not one after the other.
    TG_INLINE bool is_far(const GridLevel& level) const {
        const int64_t resolution = level.resolution;
        const int64_t num_rows = level.slot_mask ? level.slot_mask + int64_t(2) : resolution * resolution * resolution;
        return num_rows * num_features() * int64_t(sizeof(T)) >= kPrefetchedLevel;
    }
    TG_INLINE void prefetch(const T* table, const Cells& cells) const {
        const int64_t pair = 2 * num_features();
        for (int64_t i = 0; i < cells.num_runs; ++i)
            for (int k = 0; k < 4; ++k) {
                const T* rows = table + size_t(cells.row[k][cells.starts[i]]) * num_features();
                __builtin_prefetch(rows);
                __builtin_prefetch(rows + pair - 1);
            }
    }

    // The cells of n points; their rows in `table` are on their way.
    TG_INLINE Cells cells_of(const T* table, Points<T> at, int64_t n, const GridLevel& level) const {
        Cells cells(at, n, level);
        if (is_far(level)) cells.find_runs(n), prefetch(table, cells);
        return cells;
    }

    // Derivatives of the weights along a direction given for each point.
    struct Motion {
        alignas(64) T weight[4][kTile];
        alignas(64) T x[kTile];

        TG_INLINE Motion(const Cells& cells, Points<T> along, int64_t n, const GridLevel& level) {
            const V scale = broadcast<V>(T(level.resolution - 1));
            Cell<V> cell;
            for (int64_t s = 0; s < n; s += kLanes) {
                cell.y = load_as<V>(cells.y + s), cell.z = load_as<V>(cells.z + s);
                const V vy = load_as<V>(along.y + s) * scale, vz = load_as<V>(along.z + s) * scale;
                for (int k = 0; k < 4; ++k)
                    store_as(weight[k] + s, cell.pair_weight_dy(k) * vy + cell.pair_weight_dz(k) * vz);
                store_as(x + s, load_as<V>(along.x + s) * scale);
            }
        }
    };

    const GridLayout& layout_;
    const int64_t num_features_;

    TG_INLINE int64_t num_features() const { return Pair::kFeatures ? Pair::kFeatures : num_features_; }
    // Calls visit(first feature) for every vector of features of a row.
    template <class Visit>
    TG_INLINE void for_features(Visit visit) const {
        for (int64_t f = 0; f < num_features(); f += Pair::kStep) visit(f);
    }
    TG_INLINE Pair load(const T* table, uint32_t row, int64_t f) const {
        return Pair::load(table + size_t(row) * num_features() + f, num_features());
    }
    TG_INLINE Pair weighted(const T* table, const Cells& cells, const T (*weight)[kTile], int64_t s, int64_t f) const {
        Pair sum = load(table, cells.row[0][s], f) * weight[0][s];
        for (int k = 1; k < 4; ++k) sum = sum + load(table, cells.row[k][s], f) * weight[k][s];
        return sum;
    }
    // Calls work(first, n) for the tiles of n points.
    template <class Work>
    TG_INLINE static void for_tiles(int64_t n, Work work) {
        for (int64_t first = 0; first < n; first += kTile) work(first, n - first < kTile ? n - first : kTile);
    }

public:
    explicit TG_INLINE GridTile(const GridLayout& layout) : layout_(layout), num_features_(layout.num_features) {}

    // In all that follows rows of features, gradients and so on are `stride` apart.

    // features [n, stride] of n <= kTile points
    void encode(const T* table, Points<T> at, int64_t n, T* features, int64_t stride) const {
        for (int level = 0; level < layout_.num_levels; ++level) {
            const Cells cells = cells_of(table, at, n, layout_.levels[level]);
            T* out = features + level * num_features();
            for (int64_t s = 0; s < n; ++s, out += stride)
                for_features([&](int64_t f) {
                    store_as(out + f, weighted(table, cells, cells.weight, s, f).mix(cells.x[s]));
                });
        }
    }

    // grad_table += the transpose of `encode` for one level and any number of points
    void scatter(int level, Points<T> points, int64_t num_points, const T* gradient, int64_t stride,
                 T* grad_table) const {
        const T* in = gradient + level * num_features();
        for_tiles(num_points, [&](int64_t first, int64_t n) {
            Cells cells(points.from(first), n, layout_.levels[level]);
            cells.find_runs(n);
            if (is_far(layout_.levels[level])) prefetch(grad_table, cells);
            cells.for_runs([&](int64_t begin, int64_t end) {
                for_features([&](int64_t f) {
                    Pair sum[4] = {};
                    for (int64_t s = begin; s < end; ++s) {
                        const Features g = load_as<Features>(in + s * stride + f), high = g * cells.x[s];
                        const Pair both = Pair::of(g - high, high);
                        for (int k = 0; k < 4; ++k) sum[k] = sum[k] + both * cells.weight[k][s];
                    }
                    for (int k = 0; k < 4; ++k) {
                        T* row = grad_table + size_t(cells.row[k][begin]) * num_features() + f;
                        (Pair::load(row, num_features()) + sum[k]).store(row, num_features());
                    }
                });
            });
            in += n * stride;
        });
    }

    // along[axis][s] += d <features, direction> / d point, for n <= kTile points
    void gradient_of_points(const T* table, Points<T> at, int64_t n, const T* direction, int64_t stride,
                            T* const along[3]) const {
        for (int level = 0; level < layout_.num_levels; ++level) {
            const Cells cells = cells_of(table, at, n, layout_.levels[level]);
            const T* in = direction + level * num_features();
            const T scale = T(layout_.levels[level].resolution - 1);
            for (int64_t s = 0; s < n; ++s, in += stride)
                for_features([&](int64_t f) {
                    Features mixed[4];
                    for (int k = 0; k < 4; ++k) mixed[k] = load(table, cells.row[k][s], f).mix(cells.x[s]);
                    const T y = cells.y[s], z = cells.z[s];
                    const Features by_x = weighted(table, cells, cells.weight, s, f).slope();
                    const Features by_y = (mixed[1] - mixed[0]) * (1 - z) + (mixed[3] - mixed[2]) * z;
                    const Features by_z = (mixed[2] - mixed[0]) * (1 - y) + (mixed[3] - mixed[1]) * y;
                    const Features d = load_as<Features>(in + f) * scale;
                    along[0][s] += sum_across(d * by_x);
                    along[1][s] += sum_across(d * by_y);
                    along[2][s] += sum_across(d * by_z);
                });
        }
    }

    // tangent [n, stride]: how the features of n <= kTile points change along a direction given for each
    void tangent(const T* table, Points<T> at, Points<T> along, int64_t n, T* tangent, int64_t stride) const {
        for (int level = 0; level < layout_.num_levels; ++level) {
            const Cells cells = cells_of(table, at, n, layout_.levels[level]);
            const Motion motion(cells, along, n, layout_.levels[level]);
            T* out = tangent + level * num_features();
            for (int64_t s = 0; s < n; ++s, out += stride)
                for_features([&](int64_t f) {
                    const Features by_yz = weighted(table, cells, motion.weight, s, f).mix(cells.x[s]);
                    const Features by_x = weighted(table, cells, cells.weight, s, f).slope() * motion.x[s];
                    store_as(out + f, by_x + by_yz);
                });
        }
    }

    // grad_table += the transpose of `encode` applied to `gradient`, and of `tangent` applied to `direction`
    void scatter_with_tangent(int level, Points<T> points, Points<T> along, int64_t num_points, const T* gradient,
                              const T* direction, int64_t stride, T* grad_table) const {
        const T *g_in = gradient + level * num_features(), *d_in = direction + level * num_features();
        for_tiles(num_points, [&](int64_t first, int64_t n) {
            const Cells cells = cells_of(grad_table, points.from(first), n, layout_.levels[level]);
            const Motion motion(cells, along.from(first), n, layout_.levels[level]);
            for (int64_t s = 0; s < n; ++s, g_in += stride, d_in += stride)
                for_features([&](int64_t f) {
                    const Features g = load_as<Features>(g_in + f), d = load_as<Features>(d_in + f);
                    const Features g_high = g * cells.x[s], d_high = d * cells.x[s], by_x = d * motion.x[s];
                    const Pair still = Pair::of(g - g_high - by_x, g_high + by_x);
                    const Pair moving = Pair::of(d - d_high, d_high);
                    for (int k = 0; k < 4; ++k) {
                        T* row = grad_table + size_t(cells.row[k][s]) * num_features() + f;
                        (Pair::load(row, num_features()) + still * cells.weight[k][s] + moving * motion.weight[k][s])
                            .store(row, num_features());
                    }
                });
        });
    }
};

// Calls work(tile) with the GridTile for this table.
template <class Work>
void with_grid_tile(const GridLayout& layout, float, Work&& work) {
    switch (layout.num_features) {
        case 8: return work(GridTile<Pair8>(layout));
        case 4: return work(GridTile<Pair4>(layout));
        case 2: return work(GridTile<Pair2>(layout));
        default: return work(GridTile<PairOfAny<float>>(layout));
    }
}
template <class Work>
void with_grid_tile(const GridLayout& layout, double, Work&& work) {
    work(GridTile<PairOfAny<double>>(layout));
}

}  // namespace threedgen
