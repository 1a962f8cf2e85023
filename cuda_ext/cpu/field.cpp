// The radiance field at given points, and the refresh of the occupancy grid.
#include "field.h"

#include "threedgen/random.h"

#include "api.h"

using namespace threedgen;

namespace {

constexpr int64_t kPiece = 8 * kTile;

// features [n, inputs] may be null
void evaluate(const Field& field, int64_t n, const float* positions, float* density, float* rgb, uint16_t* features,
              int num_threads) {
    const int64_t row = saved_row(field);
    parallel_ranges(n, kPiece, num_threads, [&](int64_t begin, int64_t end) {
        FieldTile tile(field);
        for (int64_t first = begin; first < end; first += kTile) {
            tile.count = std::min(kTile, end - first);
            tile.set_positions(positions + 3 * first);
            tile.evaluate();
            memcpy(density + first, tile.density, sizeof(float) * size_t(tile.count));
            for (int64_t s = 0; s < tile.count; ++s)
                for (int c = 0; c < 3; ++c) rgb[3 * (first + s) + c] = tile.rgb[c][s];
            if (features) tile.save_features(0, tile.count, features + first * row);
        }
    });
}

void evaluate_backward(const Field& field, int64_t n, const float* positions, const float* density, const float* rgb,
                       const uint16_t* features, const float* grad_density, const float* grad_rgb, float* grad_table,
                       float* grad_weights, int num_threads) {
    const int64_t row = saved_row(field);
    add_gradients(field, (n + kPiece - 1) / kPiece, kPiece, false, grad_table, grad_weights, num_threads,
                  [&](int64_t chunk, GradientChunk& out) {
                      FieldTile tile(field);
                      const Layers deltas(field.mlp);
                      alignas(64) float raw_gradient[kOutputs][kTile];
                      const int64_t end = std::min(n, (chunk + 1) * kPiece);
                      for (int64_t first = chunk * kPiece; first < end; first += kTile) {
                          tile.count = std::min(kTile, end - first);
                          memset(raw_gradient, 0, sizeof raw_gradient);
                          for (int64_t s = 0; s < tile.count; ++s) {
                              const int64_t i = first + s;
                              tile.set_position(s, positions[3 * i], positions[3 * i + 1], positions[3 * i + 2]);
                              raw_gradient[0][s] = grad_density[i] * density_slope(density[i], field.density_scale);
                              for (int c = 0; c < 3; ++c)
                                  raw_gradient[1 + c][s] = grad_rgb[3 * i + c] * rgb[3 * i + c] * (1 - rgb[3 * i + c]);
                          }
                          tile.place();
                          tile.load_features(0, tile.count, features + first * row);
                          hidden_layers(tile.field.mlp, tile.rows(), tile.features.get(), tile.hidden);
                          mlp_backward(field.mlp, tile.rows(), tile.features.get(), tile.hidden, raw_gradient[0],
                                       deltas, out.features_of_next(), out.weights.get());
                          out.add(tile);
                      }
                  });
}

void refresh_occupancy(const Field& field, int64_t resolution, const float* opacity, const uint8_t* occupied,
                       uint32_t seed, float decay, bool all_cells, float* refreshed, int num_threads) {
    const float width = 2.0f * field.radius / float(resolution);
    parallel_ranges(resolution * resolution * resolution, kPiece, num_threads, [&](int64_t begin, int64_t end) {
        FieldTile tile(field);
        int64_t cells[kTile];
        const auto flush = [&] {
            if (!tile.count) return;
            tile.evaluate();
            for (int64_t s = 0; s < tile.count; s += 8)
                store8(tile.density + s, opacity_of(load8(tile.density + s) * width));
            for (int64_t s = 0; s < tile.count; ++s)
                refreshed[cells[s]] = std::max(opacity[cells[s]] * decay, tile.density[s]);
            tile.count = 0;
        };
        for (int64_t c = begin; c < end; ++c) {
            const uint32_t counter = 4 * uint32_t(c);
            if (!all_cells && !occupied[c] && !(uniform(seed, counter + 3) < 0.5f)) {
                refreshed[c] = opacity[c];
                continue;
            }
            const float x = float(c / (resolution * resolution)), y = float(c / resolution % resolution),
                        z = float(c % resolution);
            tile.set_position(tile.count, (x + uniform(seed, counter)) * width - field.radius,
                              (y + uniform(seed, counter + 1)) * width - field.radius,
                              (z + uniform(seed, counter + 2)) * width - field.radius);
            cells[tile.count++] = c;
            if (tile.count == kTile) flush();
        }
        flush();
    });
}

}  // namespace

TG_API void tg_evaluate_field_f32(TG_FIELD_PARAMETERS, int64_t n, const float* positions, float* density, float* rgb,
                                  uint16_t* features, int64_t num_threads) {
    evaluate(TG_FIELD, n, positions, density, rgb, features, int(num_threads));
}
TG_API void tg_evaluate_field_backward_f32(TG_FIELD_PARAMETERS, int64_t n, const float* positions, const float* density,
                                           const float* rgb, const uint16_t* features, const float* grad_density,
                                           const float* grad_rgb, float* grad_table, float* grad_weights,
                                           int64_t num_threads) {
    evaluate_backward(TG_FIELD, n, positions, density, rgb, features, grad_density, grad_rgb, grad_table, grad_weights,
                      int(num_threads));
}
TG_API void tg_refresh_occupancy_f32(TG_FIELD_PARAMETERS, int64_t resolution, const float* opacity,
                                     const uint8_t* occupied, int64_t seed, float decay, int64_t all_cells,
                                     float* refreshed, int64_t num_threads) {
    refresh_occupancy(TG_FIELD, resolution, opacity, occupied, uint32_t(seed), decay, all_cells != 0, refreshed,
                      int(num_threads));
}
