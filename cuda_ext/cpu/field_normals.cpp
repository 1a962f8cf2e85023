// The radiance field with its normals n = -g / |g|, where g is the gradient of the density's logit by the position.
//
// Backward, the part of a loss that arrives through g is <g, v> with a constant v for each sample. With network N and
// encoding E, g = dE/dx^T dN/dE, so <g, v> = dN/dE . X' for the tangent X' = dE/dx v: its gradients are those of one
// pass forward with X' (see `add_tangent_gradient`) and one scatter with the derivatives of the weights.
#include "field.h"

#include "api.h"

using namespace threedgen;

namespace {

constexpr int64_t kPiece = 8 * kTile;

// The blob's part of the logit's gradient at p: -blob_density / blob_radius p / |p|.
float blob_slope(const Field& field, const float* p) {
    const float length = std::sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]);
    return length > 0 ? -field.blob_density / (field.blob_radius * length) : 0.0f;
}

// d unit / d world: outside of the cube, where positions are clamped, features do not change.
float unit_slope(const Field& field, float unit) { return unit >= 0 && unit <= 1 ? 0.5f / field.radius : 0.0f; }

// features and gradients [n, 3] of the logit may be null
void evaluate(const Field& field, int64_t n, const float* positions, float* density, float* rgb, float* normals,
              uint16_t* features, float* gradients, int num_threads) {
    const int64_t row = saved_row(field);
    parallel_ranges(n, kPiece, num_threads, [&](int64_t begin, int64_t end) {
        FieldTile tile(field);
        const Layers deltas(field.mlp);
        const Scratch<float> by_features = scratch<float>(kTile * row);
        alignas(32) float by_unit[3][kTile];
        float* const axes[3] = {by_unit[0], by_unit[1], by_unit[2]};
        for (int64_t first = begin; first < end; first += kTile) {
            tile.count = std::min(kTile, end - first);
            tile.set_positions(positions + 3 * first);
            tile.evaluate();
            density_derivatives(field.mlp, tile.rows(), tile.features.get(), tile.hidden, deltas, by_features.get());
            memset(by_unit, 0, sizeof by_unit);
            with_grid_tile(field.grid, 0.0f, [&](const auto& grid) {
                grid.gradient_of_points(field.table, tile.points(), tile.rows(), by_features.get(), row, axes);
            });
            memcpy(density + first, tile.density, sizeof(float) * size_t(tile.count));
            for (int64_t s = 0; s < tile.count; ++s) {
                const int64_t i = first + s;
                const float *p = positions + 3 * i, slope = blob_slope(field, p);
                float g[3];
                for (int a = 0; a < 3; ++a)
                    g[a] = by_unit[a][s] * unit_slope(field, tile.unit[a][s]) + slope * p[a];
                const float length = std::sqrt(g[0] * g[0] + g[1] * g[1] + g[2] * g[2]);
                for (int a = 0; a < 3; ++a) {
                    rgb[3 * i + a] = tile.rgb[a][s];
                    normals[3 * i + a] = length > 0 ? -g[a] / length : 0.0f;
                    if (gradients) gradients[3 * i + a] = g[a];
                }
            }
            if (features) tile.save_features(0, tile.count, features + first * row);
        }
    });
}

struct Arriving {
    const float *density, *rgb, *normals;
};

void backward(const Field& field, int64_t n, const float* positions, const float* density, const float* rgb,
              const uint16_t* features, const float* gradients, const Arriving& arriving, float* grad_table,
              float* grad_weights, int num_threads) {
    const int64_t row = saved_row(field);
    add_gradients(
        field, (n + kPiece - 1) / kPiece, kPiece, true, grad_table, grad_weights, num_threads,
        [&](int64_t chunk, GradientChunk& out) {
            FieldTile tile(field);
            const Layers deltas(field.mlp), moving(field.mlp);
            const Scratch<float> tangent = scratch<float>(kTile * row);
            memset(tangent.get(), 0, sizeof(float) * size_t(kTile * row));  // columns that pad stay zero
            alignas(64) float raw_gradient[kOutputs][kTile], along[3][kTile];
            const int64_t end = std::min(n, (chunk + 1) * kPiece);
            for (int64_t first = chunk * kPiece; first < end; first += kTile) {
                tile.count = std::min(kTile, end - first);
                tile.set_positions(positions + 3 * first);
                tile.place();
                memset(raw_gradient, 0, sizeof raw_gradient);
                memset(along, 0, sizeof along);
                for (int64_t s = 0; s < tile.count; ++s) {
                    const int64_t i = first + s;
                    raw_gradient[0][s] = arriving.density[i] * density_slope(density[i], field.density_scale);
                    for (int c = 0; c < 3; ++c)
                        raw_gradient[1 + c][s] = arriving.rgb[3 * i + c] * rgb[3 * i + c] * (1 - rgb[3 * i + c]);
                    // dL/dg = (n <n, dL/dn> - dL/dn) / |g|
                    const float *g = gradients + 3 * i, *arrives = arriving.normals + 3 * i;
                    const float squared = g[0] * g[0] + g[1] * g[1] + g[2] * g[2];
                    if (!(squared > 0)) continue;
                    const float inverse = 1 / std::sqrt(squared);
                    const float dot = (g[0] * arrives[0] + g[1] * arrives[1] + g[2] * arrives[2]) / squared;
                    for (int a = 0; a < 3; ++a)
                        along[a][s] = (g[a] * dot - arrives[a]) * inverse * unit_slope(field, tile.unit[a][s]);
                }
                tile.load_features(0, tile.count, features + first * row);
                hidden_layers(tile.field.mlp, tile.rows(), tile.features.get(), tile.hidden);
                const int64_t rows = tile.rows();
                const Points<float> directions{along[0], along[1], along[2]};
                float* by_features = out.by_features.get() + out.count * row;
                density_derivatives(field.mlp, rows, tile.features.get(), tile.hidden, deltas, by_features);
                with_grid_tile(field.grid, 0.0f, [&](const auto& grid) {
                    grid.tangent(field.table, tile.points(), directions, rows, tangent.get(), row);
                });
                add_tangent_gradient(field.mlp, rows, tangent.get(), tile.hidden, deltas, moving,
                                     out.weights.get());
                mlp_backward(field.mlp, rows, tile.features.get(), tile.hidden, raw_gradient[0], deltas,
                             out.features_of_next(), out.weights.get());
                for (int a = 0; a < 3; ++a)
                    memcpy(out.along.get() + a * out.capacity + out.count, along[a], sizeof(float) * size_t(rows));
                out.add(tile);
            }
        });
}

}  // namespace

TG_API void tg_field_with_normals_f32(TG_FIELD_PARAMETERS, int64_t n, const float* positions, float* density,
                                      float* rgb, float* normals, uint16_t* features, float* gradients,
                                      int64_t num_threads) {
    evaluate(TG_FIELD, n, positions, density, rgb, normals, features, gradients, int(num_threads));
}
TG_API void tg_field_with_normals_backward_f32(TG_FIELD_PARAMETERS, int64_t n, const float* positions,
                                               const float* density, const float* rgb, const uint16_t* features,
                                               const float* gradients, const float* grad_density, const float* grad_rgb,
                                               const float* grad_normals, float* grad_table, float* grad_weights,
                                               int64_t num_threads) {
    backward(TG_FIELD, n, positions, density, rgb, features, gradients, {grad_density, grad_rgb, grad_normals},
             grad_table, grad_weights, int(num_threads));
}
