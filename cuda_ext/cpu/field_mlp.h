// The radiance field's network over a tile of samples: hidden layers with ReLU, then four numbers; no biases.
//
// Widths are padded to multiples of 8 with weights that are zero, which changes neither results nor gradients.
#pragma once

#include <vector>

#include "gemm.h"
#include "hash_grid_tile.h"
#include "scratch.h"
#include "vectors.h"

namespace threedgen {

constexpr int kOutputs = 4;

struct Mlp {
    std::vector<int64_t> sizes;  // as torch has them: inputs, hidden layers, 4
    std::vector<int64_t> widths;  // padded: inputs, hidden layers
    std::vector<int64_t> offsets;  // of each weight [outputs, inputs] among the padded ones
    Scratch<float> weights;        // padded
    std::vector<Scratch<float>> to_next, to_previous;  // of hidden layer i, packed for `product`
    Scratch<float> output_quads;  // of the last one, four inputs at a time: [inputs / 4, 4, 4]

    Mlp(int64_t num_weights, const int64_t* sizes_of_layers, const float* values)
        : sizes(sizes_of_layers, sizes_of_layers + num_weights + 1) {
        int64_t total = 0;
        for (int64_t i = 0; i < num_weights; ++i) {
            widths.push_back(round_up(sizes[i], 8));
            offsets.push_back(total);
            total += widths[i] * (i + 1 < num_weights ? round_up(sizes[i + 1], 8) : kOutputs);
        }
        offsets.push_back(total);
        weights = scratch<float>(total);
        memset(weights.get(), 0, sizeof(float) * size_t(total));
        for_weights([&](int64_t padded, int64_t plain) { weights[padded] = values[plain]; });
        for (int64_t i = 0; i < num_hidden(); ++i) {
            const int64_t inputs = widths[i], outputs = widths[i + 1];
            const float* w = weights.get() + offsets[i];
            to_next.push_back(scratch<float>(inputs * outputs));
            pack_panels(inputs, outputs, to_next[i].get(), [&](int64_t k, int64_t n) { return w[n * inputs + k]; });
            to_previous.push_back(scratch<float>(inputs * outputs));
            pack_panels(outputs, inputs, to_previous[i].get(), [&](int64_t k, int64_t n) { return w[k * inputs + n]; });
        }
        const int64_t inputs = widths.back();
        output_quads = scratch<float>(kOutputs * inputs);
        for (int64_t k = 0; k < inputs; ++k)
            for (int out = 0; out < kOutputs; ++out)
                output_quads[kOutputs * (k - k % 4) + 4 * out + k % 4] = output()[out * inputs + k];
    }

    int64_t num_hidden() const { return int64_t(widths.size()) - 1; }
    int64_t num_inputs() const { return widths[0]; }
    int64_t num_padded() const { return offsets.back(); }
    const float* output() const { return weights.get() + offsets[num_hidden()]; }

    // Calls visit(index among the padded weights, index among torch's) for every weight.
    template <class Visit>
    void for_weights(Visit visit) const {
        int64_t plain = 0;
        for (size_t layer = 0; layer < widths.size(); ++layer)
            for (int64_t out = 0; out < sizes[layer + 1]; ++out)
                for (int64_t in = 0; in < sizes[layer]; ++in)
                    visit(offsets[layer] + out * widths[layer] + in, plain++);
    }
};

// One [kTile, width] matrix for each hidden layer.
struct Layers {
    std::vector<Scratch<float>> of;

    explicit Layers(const Mlp& mlp) {
        for (int64_t i = 1; i <= mlp.num_hidden(); ++i) of.push_back(scratch<float>(kTile * mlp.widths[i]));
    }
    float* operator[](int64_t i) const { return of[i].get(); }
};

struct Unchanged {
    template <class V>
    TG_INLINE V operator()(V sum, int64_t, int64_t) const {
        return sum;
    }
};
struct Relu {
    template <class V>
    TG_INLINE V operator()(V sum, int64_t, int64_t) const {
        return larger(sum, broadcast<V>(0.0f));
    }
};
struct WherePositive {
    const float* hidden;
    int64_t width;
    template <class V>
    TG_INLINE V operator()(V sum, int64_t row, int64_t column) const {
        return load_as<V>(hidden + row * width + column) > 0.0f ? sum : broadcast<V>(0.0f);
    }
};

// features [rows, inputs] -> hidden layers
inline void hidden_layers(const Mlp& mlp, int64_t rows, const float* features, const Layers& hidden) {
    for (int64_t i = 0; i < mlp.num_hidden(); ++i)
        product(rows, mlp.widths[i + 1], mlp.widths[i], i ? hidden[i - 1] : features, mlp.to_next[i].get(), hidden[i],
                Relu());
}

// -> raw [4, kTile]. Four columns would waste most of a vector: a vector holds the products of four inputs, for each of
// several outputs.
inline void output_layer(const Mlp& mlp, int64_t rows, const float* features, const Layers& hidden, float* raw) {
    constexpr int kParts = 4 * kOutputs / kWide, kSamples = 8 / kParts;
    const int64_t last = mlp.num_hidden(), width = mlp.widths[last];
    const float* inputs = last ? hidden[last - 1] : features;
    for (int64_t s = 0; s < rows; s += kSamples, inputs += kSamples * width) {
        Wide sum[kParts][kSamples];
        for (int part = 0; part < kParts; ++part)
            for (int i = 0; i < kSamples; ++i) sum[part][i] = broadcast<Wide>(0.0f);
        for (int64_t k = 0; k < width; k += 4) {
            const float* weights = mlp.output_quads.get() + kOutputs * k;
            for (int i = 0; i < kSamples; ++i) {
                const Wide x = repeat4<Wide>(inputs + i * width + k);
                for (int part = 0; part < kParts; ++part) sum[part][i] += x * load_wide(weights + part * kWide);
            }
        }
        for (int part = 0; part < kParts; ++part)
            for (int i = 0; i < kSamples; i += 4) {
                const Wide totals = sums_of_quads(sum[part] + i);
                for (int quad = 0; quad < kWide / 4; ++quad)
                    memcpy(raw + (part * kWide / 4 + quad) * kTile + s + i, (const float*)&totals + 4 * quad, 16);
            }
    }
}

// raw_gradient [4, kTile], zero behind the tile's samples -> gradient of the output layer's inputs;
// grad_weights [4, width] += its own.
template <bool kRelu>
void output_layer_backward(const Mlp& mlp, int64_t rows, const float* inputs, const float* raw_gradient,
                           float* grad_inputs, float* grad_weights) {
    const int64_t width = mlp.widths.back();
    for_vectors(width, [&](auto zero, int64_t k) {
        using V = decltype(zero);
        zero = broadcast<V>(0.0f);
        V w[kOutputs], sum[kOutputs];
        for (int out = 0; out < kOutputs; ++out) {
            w[out] = load_as<V>(mlp.output() + out * width + k);
            sum[out] = load_as<V>(grad_weights + out * width + k);
        }
        for (int64_t s = 0; s < rows; ++s) {
            const V x = load_as<V>(inputs + s * width + k);
            V grad = zero;
            for (int out = 0; out < kOutputs; ++out) {
                const V g = broadcast<V>(raw_gradient[out * kTile + s]);
                grad += g * w[out];
                sum[out] += g * x;
            }
            store_as(grad_inputs + s * width + k, !kRelu ? grad : x > 0.0f ? grad : zero);
        }
        for (int out = 0; out < kOutputs; ++out) store_as(grad_weights + out * width + k, sum[out]);
    });
}

// From the gradient of the last layer's sums, in deltas[last - 1], down to that of the features; on the way
// visit(layer, its deltas, its inputs).
template <class Visit>
void hidden_layers_backward(const Mlp& mlp, int64_t rows, const float* features, const Layers& hidden,
                            const Layers& deltas, float* grad_features, Visit visit) {
    for (int64_t i = mlp.num_hidden() - 1; i >= 0; --i) {
        visit(i, deltas[i], i ? hidden[i - 1] : features);
        const int64_t inputs = mlp.widths[i], outputs = mlp.widths[i + 1];
        if (i)
            product(rows, inputs, outputs, deltas[i], mlp.to_previous[i].get(), deltas[i - 1],
                    WherePositive{hidden[i - 1], inputs});
        else
            product(rows, inputs, outputs, deltas[0], mlp.to_previous[0].get(), grad_features, Unchanged());
    }
}

// raw_gradient -> grad_features [rows, inputs]; grad_weights (padded) += that of every weight.
inline void mlp_backward(const Mlp& mlp, int64_t rows, const float* features, const Layers& hidden,
                         const float* raw_gradient, const Layers& deltas, float* grad_features, float* grad_weights) {
    const int64_t last = mlp.num_hidden();
    float* grad_output = grad_weights + mlp.offsets[last];
    if (!last) return output_layer_backward<false>(mlp, rows, features, raw_gradient, grad_features, grad_output);
    output_layer_backward<true>(mlp, rows, hidden[last - 1], raw_gradient, deltas[last - 1], grad_output);
    hidden_layers_backward(mlp, rows, features, hidden, deltas, grad_features,
                           [&](int64_t i, const float* delta, const float* inputs) {
                               add_outer(rows, mlp.widths[i + 1], mlp.widths[i], delta, inputs,
                                         grad_weights + mlp.offsets[i]);
                           });
}

// deltas and by_features [rows, inputs]: derivatives of the first output by the layers' sums and by the features.
inline void density_derivatives(const Mlp& mlp, int64_t rows, const float* features, const Layers& hidden,
                                const Layers& deltas, float* by_features) {
    const int64_t last = mlp.num_hidden(), width = mlp.widths[last];
    for (int64_t s = 0; s < rows; ++s)
        for (int64_t k = 0; k < width; k += 8) {
            const f32x8 w = load8(mlp.output() + k);
            if (last)
                store8(deltas[last - 1] + s * width + k, load8(hidden[last - 1] + s * width + k) > 0.0f ? w : zero8());
            else
                store8(by_features + s * width + k, w);
        }
    hidden_layers_backward(mlp, rows, features, hidden, deltas, by_features,
                           [](int64_t, const float*, const float*) {});
}

// grad_weights += the gradient of <d output 0 / d features, tangent> for a tangent [rows, inputs]; `deltas` are those
// of `density_derivatives`. One pass forward: the derivative of the first output along the tangent is
// w_out[0] . h', with h' = (h > 0) (W x') layer after layer.
inline void add_tangent_gradient(const Mlp& mlp, int64_t rows, const float* tangent, const Layers& hidden,
                                 const Layers& deltas, const Layers& moving, float* grad_weights) {
    const int64_t last = mlp.num_hidden(), width = mlp.widths[last];
    for (int64_t i = 0; i < last; ++i) {
        const int64_t inputs = mlp.widths[i], outputs = mlp.widths[i + 1];
        const float* x = i ? moving[i - 1] : tangent;
        add_outer(rows, outputs, inputs, deltas[i], x, grad_weights + mlp.offsets[i]);
        product(rows, outputs, inputs, x, mlp.to_next[i].get(), moving[i], WherePositive{hidden[i], outputs});
    }
    const float* x = last ? moving[last - 1] : tangent;
    float* grad_output = grad_weights + mlp.offsets[last];
    for (int64_t s = 0; s < rows; ++s)
        for (int64_t k = 0; k < width; k += 8)
            store8(grad_output + k, load8(grad_output + k) + load8(x + s * width + k));
}

}  // namespace threedgen
