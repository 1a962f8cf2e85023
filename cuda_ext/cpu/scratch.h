// Working memory of a kernel: aligned to cache lines, not initialised, freed at the end of the scope.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

namespace threedgen {

struct FreeMemory {
    void operator()(void* memory) const { free(memory); }
};

template <class T>
using Scratch = std::unique_ptr<T[], FreeMemory>;

template <class T>
Scratch<T> scratch(int64_t count) {
    const size_t bytes = (size_t(count) * sizeof(T) + 63) / 64 * 64;
    void* memory = aligned_alloc(64, bytes ? bytes : 64);
    if (!memory) throw std::bad_alloc();
    return Scratch<T>(static_cast<T*>(memory));
}

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace threedgen
