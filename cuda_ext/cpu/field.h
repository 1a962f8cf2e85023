// The radiance field on tiles of samples: positions -> hash grid -> network -> density and colour, and back.
#pragma once

#include <algorithm>

#include "threedgen/activations.h"
#include "threedgen/rays.h"

#include "cache_lines.h"
#include "field_mlp.h"
#include "hash_grid_tile.h"
#include "pipeline.h"

namespace threedgen {

struct Field {
    GridLayout grid;
    const float* table;
    Mlp mlp;
    float radius, blob_density, blob_radius, density_scale;
};

// How a field arrives at the library's face (`ops.types.FieldLayout` says what its numbers mean).
#define TG_FIELD_PARAMETERS                                                                                     \
    int64_t num_levels, int64_t num_features, const int64_t *levels, const float *table, int64_t num_weights,   \
        const int64_t *widths, const float *weights, float radius, float blob_density, float blob_radius,       \
        float density_scale
#define TG_FIELD                                                                                                \
    (threedgen::Field{threedgen::grid_layout(num_levels, num_features, levels), table,                          \
                      threedgen::Mlp(num_weights, widths, weights), radius, blob_density, blob_radius, density_scale})

// Half-precision features are kept from the forward pass for the backward pass: a quarter of what recomputing them
// reads. The forward pass goes on with the rounded ones, so that gradients are those of what was computed.
inline int64_t saved_row(const Field& field) { return field.mlp.num_inputs(); }

// Working memory for the samples of one tile. Only the first `count` samples mean something: those behind them are some
// points of the cube, whose gradients are zero.
struct FieldTile {
    const Field& field;
    alignas(64) float world[3][kTile], unit[3][kTile];
    alignas(64) float raw[kOutputs][kTile];
    alignas(64) float density[kTile], rgb[3][kTile];
    Scratch<float> features;  // [kTile, inputs]
    Scratch<uint16_t> halves;  // the same
    Layers hidden;
    int64_t count = 0;

    explicit FieldTile(const Field& of)
        : field(of), features(scratch<float>(kTile * saved_row(of))), halves(scratch<uint16_t>(kTile * saved_row(of))),
          hidden(of.mlp) {
        memset(features.get(), 0, sizeof(float) * size_t(kTile * saved_row(of)));  // columns that pad stay zero
    }

    ~FieldTile() { settle_copies(); }  // of `save_features`

    int64_t rows() const { return round_up(count, 48); }  // a multiple of the lanes, and of the rows of a product
    Points<float> points() const { return {unit[0], unit[1], unit[2]}; }

    // the `count` first ones, [count, 3]
    void set_positions(const float* positions) {
        for (int64_t s = 0; s < count; ++s, positions += 3) set_position(s, positions[0], positions[1], positions[2]);
    }
    void set_position(int64_t s, float x, float y, float z) { world[0][s] = x, world[1][s] = y, world[2][s] = z; }

    // the samples `at` .. at + length - 1, on one ray
    void set_positions_on_ray(int64_t at, int64_t length, const Ray<float>& ray, const float* t) {
        for (int axis = 0; axis < 3; ++axis)
            for (int64_t s = 0; s < length; ++s)
                world[axis][at + s] = ray.origin[axis] + t[s] * ray.direction[axis];
    }

    // world -> unit; samples behind the last become the cube's centre
    void place() {
        const float scale = 0.5f / field.radius;
        for (int axis = 0; axis < 3; ++axis) {
            for (int64_t s = count; s < rows(); ++s) world[axis][s] = 0;
            for (int64_t s = 0; s < rows(); s += kWide)
                store_wide(unit[axis] + s, (load_wide(world[axis] + s) + field.radius) * scale);
        }
    }

    // positions -> features, rounded to half precision
    void encode() {
        with_grid_tile(field.grid, 0.0f, [&](const auto& grid) {
            grid.encode(field.table, points(), rows(), features.get(), saved_row(field));
        });
        const int64_t end = rows() * saved_row(field);
        float* x = features.get();
        for (int64_t i = 0; i < end; i += kWide) {
            const WideHalf rounded = to_half(load_wide(x + i));
            store_as(halves.get() + i, rounded);
            store_wide(x + i, from_half(rounded));
        }
    }

    // writes the features of `length` samples from `first` on in half precision
    void save_features(int64_t first, int64_t length, uint16_t* to) const {
        copy_past_caches(to, halves.get() + first * saved_row(field), length * saved_row(field));
    }

    // the inverse
    void load_features(int64_t first, int64_t length, const uint16_t* from) {
        float* to = features.get() + first * saved_row(field);
        int64_t i = 0, end = length * saved_row(field);
        for (; i + kWide <= end; i += kWide) store_wide(to + i, from_half(load_as<WideHalf>(from + i)));
        if (i < end) store8(to + i, from_half(load_as<u16x8>(from + i)));
    }

    // world positions -> density and colour
    void evaluate() {
        place();
        encode();
        hidden_layers(field.mlp, rows(), features.get(), hidden);
        output_layer(field.mlp, rows(), features.get(), hidden, raw[0]);
        for (int64_t s = 0; s < rows(); s += kWide) {
            store_wide(density + s, softplus(load_wide(raw[0] + s) + blob(s)) * field.density_scale);
            for (int c = 0; c < 3; ++c) store_wide(rgb[c] + s, sigmoid(load_wide(raw[1 + c] + s)));
        }
    }

    Wide blob(int64_t s) const {
        const Wide x = load_wide(world[0] + s), y = load_wide(world[1] + s), z = load_wide(world[2] + s);
        return (1.0f - sqrt_of(x * x + y * y + z * z) * (1.0f / field.blob_radius)) * field.blob_density;
    }
};

// Gradients by the network's outputs, given those by density and colour:
// d density / d raw0 = scale sigmoid = scale (1 - e^(-density / scale)), d rgb / d raw = rgb (1 - rgb).
template <class V>
TG_INLINE V density_slope(V density, float density_scale) {
    return opacity_of(density * (1.0f / density_scale)) * density_scale;
}

// What the samples of a chunk add to the gradients: filled tile by tile, then scattered into the table level by level.
struct GradientChunk {
    const Field& field;
    const int64_t capacity;
    int64_t count = 0;
    Scratch<float> unit, features, weights;
    // only for losses on normals: directions in the unit cube, and derivatives of the first output by the features
    Scratch<float> along, by_features;

    GradientChunk(const Field& of, int64_t num_samples, bool with_normals)
        : field(of), capacity(round_up(num_samples, kTile) + kTile), unit(scratch<float>(3 * capacity)),
          features(scratch<float>(capacity * saved_row(of))), weights(scratch<float>(of.mlp.num_padded())),
          along(scratch<float>(with_normals ? 3 * capacity : 0)),
          by_features(scratch<float>(with_normals ? capacity * saved_row(of) : 0)) {}

    void clear() {
        count = 0;
        memset(weights.get(), 0, sizeof(float) * size_t(field.mlp.num_padded()));
    }
    Points<float> points() const { return at(unit.get()); }
    Points<float> directions() const { return at(along.get()); }
    float* features_of_next() const { return features.get() + count * saved_row(field); }

    // The tile's features' gradients were written to features_of_next().
    void add(const FieldTile& tile) {
        for (int axis = 0; axis < 3; ++axis)
            memcpy(unit.get() + axis * capacity + count, tile.unit[axis], sizeof(float) * size_t(tile.rows()));
        count += tile.count;
    }

private:
    Points<float> at(const float* axes) const { return {axes, axes + capacity, axes + 2 * capacity}; }
};

// Makes the gradient chunks and adds them up, chunk after chunk, so that sums do not depend on the number of threads.
// make(chunk, GradientChunk&); grad_weights in torch's order. Both gradients are added to.
template <class Make>
void add_gradients(const Field& field, int64_t num_chunks, int64_t samples_per_chunk, bool with_normals,
                   float* grad_table, float* grad_weights, int num_threads, Make make) {
    const int64_t num_slots = std::min<int64_t>(num_chunks, num_threads > 1 ? 2 * num_threads : 1);
    std::vector<GradientChunk> slots;
    for (int64_t i = 0; i < num_slots; ++i) slots.emplace_back(field, samples_per_chunk, with_normals);
    const int64_t num_levels = field.grid.num_levels, row = saved_row(field);
    std::vector<float> weights(field.mlp.num_padded(), 0.0f);
    const auto add_level = [&](int level, const GradientChunk& from) {
        with_grid_tile(field.grid, 0.0f, [&](const auto& grid) {
            if (with_normals)
                grid.scatter_with_tangent(level, from.points(), from.directions(), from.count, from.features.get(),
                                          from.by_features.get(), row, grad_table);
            else
                grid.scatter(level, from.points(), from.count, from.features.get(), row, grad_table);
        });
    };
    const auto add_weights = [&](const GradientChunk& from) {
        for (size_t i = 0; i < weights.size(); ++i) weights[i] += from.weights[i];
    };
    const int64_t num_takers = std::min<int64_t>(num_levels, 8);  // of levels, several each if there are many
    Pipeline(num_chunks, num_takers + 1, num_slots)
        .run(
            num_threads,
            [&](int64_t chunk, int64_t slot) {
                slots[slot].clear();
                make(chunk, slots[slot]);
            },
            [&](int64_t taker, int64_t slot) {
                if (taker == num_takers) return add_weights(slots[slot]);
                for (int64_t level = taker; level < num_levels; level += num_takers) add_level(int(level), slots[slot]);
            });
    field.mlp.for_weights([&](int64_t padded, int64_t plain) { grad_weights[plain] += weights[padded]; });
}

}  // namespace threedgen
