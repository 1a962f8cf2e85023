// AdamW in one pass over the parameters.
#include "launch.h"

#include "threedgen/adamw.h"

using namespace threedgen;

namespace {

constexpr int kThreads = 256;

__global__ void step(int64_t count, float* __restrict__ param, const float* __restrict__ grad, float* __restrict__ mean,
                     float* __restrict__ square, float keep, float beta1, float beta2, float step_size,
                     float correction, float eps) {
    const int64_t i = thread_in_grid();
    if (i < count) adamw(param[i], grad[i], mean[i], square[i], keep, beta1, beta2, step_size, correction, eps);
}

}  // namespace

// the numbers as in threedgen/adamw.h
TG_API int64_t tg_adamw_f32(int64_t count, float* param, const float* grad, float* mean, float* square, float keep,
                            float beta1, float beta2, float step_size, float correction, float eps, void* stream) {
    return launch(step, blocks_for(count, kThreads), kThreads, 0, stream, count, param, grad, mean, square, keep, beta1,
                  beta2, step_size, correction, eps);
}
