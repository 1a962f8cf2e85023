// Rendering of the radiance field: packed samples of rays -> field -> compositing, and back, without a detour through
// memory for anything but one (density, rgb) and the features in half precision for each sample.
#include "field.h"

#include "threedgen/compositing.h"

#include "api.h"

using namespace threedgen;

namespace {

// Samples that a piece of work has at least, if there are as many. Forward it is large enough for the waves of its
// rays to fill tiles, backward small enough for the gradients of its features to stay in a cache.
constexpr int64_t kPieceForward = 64 * kTile, kPieceBackward = 16 * kTile;
constexpr int64_t kWave = 8;  // samples of a ray that are evaluated before it is seen whether light is left

struct Rays {
    int64_t num_rays;
    const float *origins, *directions;
    const int64_t* offsets;  // [num_rays + 1] into the packed samples
    const float *t_starts, *t_ends;

    int64_t num_samples() const { return offsets[num_rays]; }
    float t_mid(int64_t i) const { return 0.5f * (t_starts[i] + t_ends[i]); }
    float length(int64_t i) const { return t_ends[i] - t_starts[i]; }
};

// What the forward pass leaves for the backward pass.
struct Saved {
    float* values;       // [4, S]: density, red, green, blue; 0 where nothing was evaluated
    uint16_t* features;  // [S, inputs], rows of samples that count
    int64_t* counts;     // [R] samples of a ray that count: its first ones
};

// Bounds of pieces of neighbouring rays with `num_samples` or a few more.
std::vector<int64_t> pieces(const Rays& rays, int64_t num_samples) {
    std::vector<int64_t> bounds{0};
    for (int64_t r = 0; r < rays.num_rays; ++r)
        if (rays.offsets[r + 1] - rays.offsets[bounds.back()] >= num_samples || r + 1 == rays.num_rays)
            bounds.push_back(r + 1);
    return bounds;
}

// Collects samples, evaluates the field for a tile of them at a time and puts the results where the samples are.
class Evaluation {
    struct Run {
        int64_t in_tile, sample, length;
    };

    const Rays& rays_;
    FieldTile tile_;
    alignas(64) float t_[kTile], lengths_[kTile];
    Run runs_[kTile];
    int num_runs_ = 0;
    float* const* values_;  // density, red, green, blue of sample `first_` on
    const int64_t first_;
    float* alpha_;        // [S]
    uint16_t* features_;  // [S, inputs] or null

public:
    Evaluation(const Field& field, const Rays& rays, float* const* values, int64_t first, float* alpha,
               uint16_t* features)
        : rays_(rays), tile_(field), values_(values), first_(first), alpha_(alpha), features_(features) {}

    // samples from..to of a ray
    void push(int64_t ray_index, int64_t from, int64_t to) {
        const Ray<float> ray = load_ray(rays_.origins, rays_.directions, ray_index);
        while (from < to) {
            const int64_t at = tile_.count, length = std::min(to - from, kTile - at);
            for (int64_t s = 0; s < length; ++s) t_[s] = rays_.t_mid(from + s);
            for (int64_t s = 0; s < length; ++s) lengths_[at + s] = rays_.length(from + s);
            tile_.set_positions_on_ray(at, length, ray, t_);
            if (num_runs_ && runs_[num_runs_ - 1].sample + runs_[num_runs_ - 1].length == from)
                runs_[num_runs_ - 1].length += length;
            else
                runs_[num_runs_++] = {at, from, length};
            tile_.count += length;
            from += length;
            if (tile_.count == kTile) flush();
        }
    }

    void flush() {
        if (!tile_.count) return;
        const int64_t row = saved_row(tile_.field);
        if (features_ && !kCopiesPastCaches)  // written when the tile is done: by then their lines are there
            for (int i = 0; i < num_runs_; ++i) fetch<true>(features_ + runs_[i].sample * row, runs_[i].length * row);
        for (int64_t s = tile_.count; s < tile_.rows(); ++s) lengths_[s] = 0;
        tile_.evaluate();
        for (int64_t s = 0; s < tile_.rows(); s += kWide)
            store_wide(lengths_ + s, opacity_of(load_wide(tile_.density + s) * load_wide(lengths_ + s)));
        for (int i = 0; i < num_runs_; ++i) {
            const Run& run = runs_[i];
            const size_t bytes = sizeof(float) * size_t(run.length);
            memcpy(values_[0] + run.sample - first_, tile_.density + run.in_tile, bytes);
            for (int c = 0; c < 3; ++c) memcpy(values_[1 + c] + run.sample - first_, tile_.rgb[c] + run.in_tile, bytes);
            memcpy(alpha_ + run.sample, lengths_ + run.in_tile, bytes);
            if (features_) tile_.save_features(run.in_tile, run.length, features_ + run.sample * row);
        }
        tile_.count = num_runs_ = 0;
    }
};

// Adds samples from..to of a ray, whose opacities are in `weights`, and leaves their weights there. Returns where it
// stopped: at `to`, or at the first sample that too little light reaches.
int64_t add_samples(const Rays& rays, int64_t from, int64_t to, float min_transmittance, const float* const values[4],
                    int64_t first, float* weights, RaySum<float>& sum) {
    int64_t end = from;
    for (; end < to && !(sum.transmittance < min_transmittance); ++end)
        weights[end] = sum.attenuate(weights[end]);
    f32x8 sums[5];
    for (auto& s : sums) s = zero8();
    int64_t i = from;
    for (; i + 8 <= end; i += 8) {
        const f32x8 weight = load8(weights + i), t_mid = 0.5f * (load8(rays.t_starts + i) + load8(rays.t_ends + i));
        for (int c = 0; c < 3; ++c) sums[c] += weight * load8(values[1 + c] + i - first);
        sums[3] += weight;
        sums[4] += weight * t_mid;
    }
    for (int c = 0; c < 3; ++c) sum.rgb[c] += sum_across(sums[c]);
    sum.opacity += sum_across(sums[3]);
    sum.depth += sum_across(sums[4]);
    for (; i < end; ++i) {
        const float colour[3] = {values[1][i - first], values[2][i - first], values[3][i - first]};
        sum.add_weighted(weights[i], colour, rays.t_mid(i));
    }
    return end;
}

void render_piece(const Field& field, const Rays& rays, int64_t begin, int64_t end, float min_transmittance, float* rgb,
                  float* opacity, float* depth, float* weights, const Saved& saved) {
    const int64_t first = saved.values ? 0 : rays.offsets[begin];
    const int64_t stride = saved.values ? rays.num_samples() : rays.offsets[end] - first;
    const Scratch<float> local = scratch<float>(saved.values ? 0 : 4 * stride);
    float* const all = saved.values ? saved.values : local.get();
    float* const values[4] = {all, all + stride, all + 2 * stride, all + 3 * stride};
    Evaluation evaluation(field, rays, values, first, weights, saved.features);

    std::vector<RaySum<float>> sums(end - begin);
    std::vector<int64_t> next(rays.offsets + begin, rays.offsets + end), live;
    for (int64_t r = begin; r < end; ++r)
        if (rays.offsets[r] < rays.offsets[r + 1]) live.push_back(r);
    const int64_t wave = min_transmittance > 0 ? kWave : rays.num_samples();
    const auto end_of_wave = [&](int64_t r) { return std::min(next[r - begin] + wave, rays.offsets[r + 1]); };
    while (!live.empty()) {
        for (const int64_t r : live) evaluation.push(r, next[r - begin], end_of_wave(r));
        evaluation.flush();
        size_t still = 0;
        for (const int64_t r : live) {
            RaySum<float>& sum = sums[r - begin];
            const int64_t stop = end_of_wave(r), last = rays.offsets[r + 1];
            const int64_t i = add_samples(rays, next[r - begin], stop, min_transmittance, values, first, weights, sum);
            next[r - begin] = i;
            if (i < last && !(sum.transmittance < min_transmittance)) {
                live[still++] = r;
                continue;
            }
            for (int64_t j = i; j < last; ++j) weights[j] = 0;
            if (saved.values)
                for (int k = 0; k < 4; ++k)
                    for (int64_t j = stop; j < last; ++j) values[k][j] = 0;
        }
        live.resize(still);
    }
    for (int64_t r = begin; r < end; ++r) {
        const RaySum<float>& sum = sums[r - begin];
        for (int c = 0; c < 3; ++c) rgb[3 * r + c] = sum.rgb[c];
        opacity[r] = sum.opacity;
        depth[r] = sum.depth;
        if (saved.counts) saved.counts[r] = next[r - begin] - rays.offsets[r];
    }
}

void render(const Field& field, const Rays& rays, float min_transmittance, float* rgb, float* opacity, float* depth,
            float* weights, const Saved& saved, int num_threads) {
    const std::vector<int64_t> bounds = pieces(rays, kPieceForward);
    parallel_for(int64_t(bounds.size()) - 1, num_threads, [&](int64_t i) {
        render_piece(field, rays, bounds[i], bounds[i + 1], min_transmittance, rgb, opacity, depth, weights,
                     saved);
    });
}

// Gradients that arrive; any of them may be null.
struct Arriving {
    const float *rgb, *opacity, *depth, *weights;

    RayGradient<float> of(int64_t ray) const {
        RayGradient<float> g{{0, 0, 0}, opacity ? opacity[ray] : 0.0f, depth ? depth[ray] : 0.0f};
        for (int c = 0; rgb && c < 3; ++c) g.rgb[c] = rgb[3 * ray + c];
        return g;
    }
};

// Collects samples with the gradients of their raw outputs, and takes a tile of them at a time through the network.
class Gradients {
    const uint16_t* features_;
    GradientChunk& out_;
    FieldTile tile_;
    Layers deltas_;
    alignas(64) float raw_gradient_[kOutputs][kTile];

public:
    Gradients(const Field& field, const uint16_t* features, GradientChunk& out)
        : features_(features), out_(out), tile_(field), deltas_(field.mlp) {}

    // `length` neighbouring samples of a ray; t and raw are those of the first and the others follow
    void push(int64_t sample, int64_t length, const Ray<float>& ray, const float* t, const float* const raw[kOutputs]) {
        for (int64_t done = 0; done < length;) {
            const int64_t at = tile_.count, n = std::min(length - done, kTile - at);
            tile_.set_positions_on_ray(at, n, ray, t + done);
            for (int out = 0; out < kOutputs; ++out)
                memcpy(raw_gradient_[out] + at, raw[out] + done, sizeof(float) * size_t(n));
            tile_.load_features(at, n, features_ + (sample + done) * saved_row(tile_.field));
            tile_.count += n;
            done += n;
            if (tile_.count < kTile) continue;
            // the next tile's, mostly, while this one goes through the network
            fetch<false>(features_ + (sample + done) * saved_row(tile_.field), kTile * saved_row(tile_.field));
            flush();
        }
    }

    void flush() {
        if (!tile_.count) return;
        for (int out = 0; out < kOutputs; ++out)
            for (int64_t s = tile_.count; s < tile_.rows(); ++s) raw_gradient_[out][s] = 0;
        tile_.place();
        hidden_layers(tile_.field.mlp, tile_.rows(), tile_.features.get(), tile_.hidden);
        mlp_backward(tile_.field.mlp, tile_.rows(), tile_.features.get(), tile_.hidden, raw_gradient_[0], deltas_,
                     out_.features_of_next(), out_.weights.get());
        out_.add(tile_);
        tile_.count = 0;
    }
};

// Arrays over the samples of a piece, counted from its first one; readable and writable for a vector behind the last.
struct PieceArrays {
    const int64_t stride;
    const Scratch<float> memory;

    PieceArrays(int64_t num_arrays, int64_t count)
        : stride(round_up(count, kWide) + kWide), memory(scratch<float>(num_arrays * stride)) {
        for (int64_t i = 0; i < num_arrays; ++i)
            memset((*this)[i] + count, 0, sizeof(float) * size_t(stride - count));
    }
    float* operator[](int64_t i) const { return memory.get() + i * stride; }
};

void gradients_of_piece(const Field& field, const Rays& rays, int64_t begin, int64_t end, const Arriving& arriving,
                        const float* weights, const Saved& saved, GradientChunk& out) {
    const int64_t first = rays.offsets[begin], count = rays.offsets[end] - first, num_samples = rays.num_samples();
    const PieceArrays arrays(12, count);
    float *const t = arrays[0], *const lengths = arrays[1], *const passed = arrays[2], *const of_weight = arrays[3];
    float* const raw[kOutputs] = {arrays[4], arrays[5], arrays[6], arrays[7]};
    float *const weight = arrays[8], *const colour[3] = {arrays[9], arrays[10], arrays[11]};
    const size_t bytes = sizeof(float) * size_t(count);
    memcpy(raw[0], saved.values + first, bytes);  // the density
    for (int c = 0; c < 3; ++c) memcpy(colour[c], saved.values + (1 + c) * num_samples + first, bytes);
    memcpy(weight, weights + first, bytes);
    for (int64_t i = 0; i < count; ++i) t[i] = rays.t_mid(first + i);
    for (int64_t i = 0; i < count; ++i) lengths[i] = rays.length(first + i);
    // of each sample: the part of the light that passes it, and d optical depth / d raw output
    for (int64_t i = 0; i < count; i += kWide) {
        const Wide density = load_wide(raw[0] + i), length = load_wide(lengths + i);
        store_wide(passed + i, exp_of(-density * length));
        store_wide(raw[0] + i, density_slope(density, field.density_scale) * length);
    }
    Gradients gradients(field, saved.features, out);
    for (int64_t r = begin; r < end; ++r) {
        const int64_t from = rays.offsets[r] - first, to = from + saved.counts[r];
        const Ray<float> ray = load_ray(rays.origins, rays.directions, r);
        const RayGradient<float> of_ray = arriving.of(r);
        for (int64_t i = from; i < to; i += kWide) {  // what this writes behind the ray's last sample is written again
            Wide sum = of_ray.opacity + of_ray.depth * load_wide(t + i);
            for (int c = 0; c < 3; ++c) {
                const Wide x = load_wide(colour[c] + i);
                sum += of_ray.rgb[c] * x;
                store_wide(raw[1 + c] + i, of_ray.rgb[c] * load_wide(weight + i) * x * (1.0f - x));
            }
            store_wide(of_weight + i, sum);
        }
        if (arriving.weights)
            for (int64_t i = from; i < to; ++i) of_weight[i] += arriving.weights[first + i];
        float transmittance = 1;
        for (int64_t i = from; i < to; ++i) {
            transmittance *= passed[i];
            if (transmittance < kDark) transmittance = 0;
            passed[i] = transmittance;
        }
        float behind = 0;
        for (int64_t i = to - 1; i >= from; --i)
            raw[0][i] *= optical_depth_gradient(passed[i], weight[i], of_weight[i], behind);
        // samples without a gradient are dropped; mostly there are none
        const auto matters = [&](int64_t i) {
            return raw[0][i] != 0 || raw[1][i] != 0 || raw[2][i] != 0 || raw[3][i] != 0;
        };
        for (int64_t i = from; i < to;) {
            int64_t stop = i;
            while (stop < to && matters(stop)) ++stop;
            const float* const at[kOutputs] = {raw[0] + i, raw[1] + i, raw[2] + i, raw[3] + i};
            gradients.push(first + i, stop - i, ray, t + i, at);
            for (i = stop; i < to && !matters(i);) ++i;
        }
    }
    gradients.flush();
}

void render_backward(const Field& field, const Rays& rays, const Arriving& arriving, const float* weights,
                     const Saved& saved, float* grad_table, float* grad_weights, int num_threads) {
    const std::vector<int64_t> bounds = pieces(rays, kPieceBackward);
    int64_t largest = 0;
    for (size_t i = 0; i + 1 < bounds.size(); ++i)
        largest = std::max(largest, rays.offsets[bounds[i + 1]] - rays.offsets[bounds[i]]);
    add_gradients(field, int64_t(bounds.size()) - 1, largest, false, grad_table, grad_weights, num_threads,
                  [&](int64_t chunk, GradientChunk& out) {
                      gradients_of_piece(field, rays, bounds[chunk], bounds[chunk + 1], arriving, weights, saved, out);
                  });
}

}  // namespace

TG_API void tg_render_field_f32(TG_FIELD_PARAMETERS, int64_t num_rays, const float* origins, const float* directions,
                                const int64_t* offsets, const float* t_starts, const float* t_ends,
                                float min_transmittance, float* rgb, float* opacity, float* depth,
                                float* sample_weights, float* values, uint16_t* features, int64_t* counts,
                                int64_t num_threads) {
    render(TG_FIELD, {num_rays, origins, directions, offsets, t_starts, t_ends}, min_transmittance, rgb, opacity, depth,
           sample_weights, {values, features, counts}, int(num_threads));
}
TG_API void tg_render_field_backward_f32(TG_FIELD_PARAMETERS, int64_t num_rays, const float* origins,
                                         const float* directions, const int64_t* offsets, const float* t_starts,
                                         const float* t_ends, const float* sample_weights, float* values,
                                         uint16_t* features, int64_t* counts, const float* grad_rgb,
                                         const float* grad_opacity, const float* grad_depth,
                                         const float* grad_sample_weights, float* grad_table, float* grad_weights,
                                         int64_t num_threads) {
    render_backward(TG_FIELD, {num_rays, origins, directions, offsets, t_starts, t_ends},
                    {grad_rgb, grad_opacity, grad_depth, grad_sample_weights}, sample_weights,
                    {values, features, counts}, grad_table, grad_weights, int(num_threads));
}
