// Memory that is asked for ahead, and memory that is written past the caches.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace threedgen {

// Asks for the cache lines of `count` numbers; an address that nothing is at does no harm.
template <bool kToWrite, class T>
inline void fetch(const T* from, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(from + i, kToWrite);
}

// Copies numbers that will not be read for a while. Where a store writes a whole cache line, lines go past the caches: they
// are not read first, and push nothing out. `settle_copies` before another thread may read them.
#if defined(__AVX512F__)
constexpr bool kCopiesPastCaches = true;
inline void copy_past_caches(uint16_t* to, const uint16_t* from, int64_t count) {
    constexpr int64_t kLine = 64 / sizeof(uint16_t);
    const int64_t begin = int64_t(-(uintptr_t(to) / sizeof(uint16_t)) & (kLine - 1)), head = begin < count ? begin : count;
    const int64_t end = count - (count - head) % kLine;
    memcpy(to, from, sizeof(uint16_t) * size_t(head));
    for (int64_t i = head; i < end; i += kLine) _mm512_stream_si512((__m512i*)(to + i), _mm512_loadu_si512(from + i));
    memcpy(to + end, from + end, sizeof(uint16_t) * size_t(count - end));
}
inline void settle_copies() { _mm_sfence(); }
#else
constexpr bool kCopiesPastCaches = false;
inline void copy_past_caches(uint16_t* to, const uint16_t* from, int64_t count) {
    memcpy(to, from, sizeof(uint16_t) * size_t(count));
}
inline void settle_copies() {}
#endif

}  // namespace threedgen
