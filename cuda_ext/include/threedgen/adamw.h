// AdamW (Loshchilov and Hutter 2019, algorithm 2) for one parameter.
#pragma once

#include "lane.h"

namespace threedgen {

// keep = 1 - lr * weight_decay; step_size = lr / (1 - beta1^step); correction = 1 / sqrt(1 - beta2^step)
template <class V>
TG_INLINE void adamw(V& param, V grad, V& mean, V& square, V keep, V beta1, V beta2, V step_size, V correction, V eps) {
    mean = mean + (broadcast<V>(1) - beta1) * (grad - mean);
    square = square * beta2 + (broadcast<V>(1) - beta2) * grad * grad;
    param = param * keep - step_size * mean / (sqrt_of(square) * correction + eps);
}

}  // namespace threedgen
