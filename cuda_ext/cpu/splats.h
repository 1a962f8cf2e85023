// What the CPU kernels of Gaussian splatting share.
#pragma once

#include <type_traits>

#include "threedgen/splat_blending.h"

namespace threedgen {

// Eight Gaussians or eight pixels at a time; one in float64.
template <class T>
using LaneOf = std::conditional_t<std::is_same_v<T, float>, f32x8, T>;

}  // namespace threedgen
