// Random numbers as a function of (seed, counter): the same on every device, in any order, with nothing to store.
#pragma once

#include "lane.h"

namespace threedgen {

// O'Neill's PCG output function on a 32-bit counter (Jarzynski and Olano 2020, "Hash Functions for GPU Rendering").
TG_INLINE uint32_t pcg_hash(uint32_t value) {
    const uint32_t state = value * 747796405u + 2891336453u;
    const uint32_t word = ((state >> ((state >> 28) + 4)) ^ state) * 277803737u;
    return (word >> 22) ^ word;
}

// One of 2^24 even steps in [0, 1).
TG_INLINE float uniform(uint32_t seed, uint32_t counter) {
    return float(pcg_hash(counter ^ pcg_hash(seed)) >> 8) * (1.0f / 16777216.0f);
}

}  // namespace threedgen
