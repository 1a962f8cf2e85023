// AdamW (Loshchilov and Hutter 2019) in one pass over the parameters.
#include "threedgen/adamw.h"

#include "api.h"
#include "parallel.h"

using namespace threedgen;

namespace {

constexpr int64_t kPiece = 1 << 14;

}  // namespace

// the numbers as in threedgen/adamw.h
TG_API void tg_adamw_f32(int64_t count, float* param, const float* grad, float* mean, float* square, float keep,
                         float beta1, float beta2, float step_size, float correction, float eps, int64_t num_threads) {
    const auto all = [](float x) { return broadcast<f32x8>(x); };
    parallel_ranges(count, kPiece, int(num_threads), [&](int64_t i, int64_t end) {
        for (; i + 8 <= end; i += 8) {
            f32x8 p = load8(param + i), m = load8(mean + i), s = load8(square + i);
            adamw<f32x8>(p, load8(grad + i), m, s, all(keep), all(beta1), all(beta2), all(step_size), all(correction),
                         all(eps));
            store8(param + i, p);
            store8(mean + i, m);
            store8(square + i, s);
        }
        for (; i < end; ++i)
            adamw<float>(param[i], grad[i], mean[i], square[i], keep, beta1, beta2, step_size, correction, eps);
    });
}
