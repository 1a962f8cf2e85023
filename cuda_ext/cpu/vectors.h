// What the CPU kernels need of vectors beyond lane.h: four and two lanes, halves, sums across lanes, half precision.
#pragma once

#include "threedgen/lane.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace threedgen {

typedef float f32x2 __attribute__((vector_size(8)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));

template <class To, class From>
TG_INLINE To load_as(const From* from) {
    To to;
    memcpy(&to, from, sizeof to);
    return to;
}
template <class From, class To>
TG_INLINE void store_as(To* to, From value) {
    memcpy(to, &value, sizeof value);
}

// Asks for the cache lines of `count` numbers; an address that nothing is at does no harm.
template <bool kToWrite, class T>
TG_INLINE void fetch(const T* from, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(from + i, kToWrite);
}

// The widest vector that the processor computes with at once: results are the same with each, lane by lane.
#if defined(__AVX512F__)
using Wide = f32x16;
#else
using Wide = f32x8;
#endif
constexpr int64_t kWide = Lane<Wide>::width;

TG_INLINE f32x8 zero8() { return broadcast<f32x8>(0.0f); }

// Lane i of the result is the sum of all lanes of v[i].
TG_INLINE f32x8 sums_across(const f32x8 v[8]) {
    f32x8 pairs[4], quads[2];
    for (int i = 0; i < 4; ++i) {
        const f32x8 a = v[2 * i], b = v[2 * i + 1];
        pairs[i] = f32x8{a[0], b[0], a[1], b[1], a[4], b[4], a[5], b[5]} +
                   f32x8{a[2], b[2], a[3], b[3], a[6], b[6], a[7], b[7]};
    }
    for (int i = 0; i < 2; ++i) {
        const f32x8 a = pairs[2 * i], b = pairs[2 * i + 1];
        quads[i] = f32x8{a[0], a[1], b[0], b[1], a[4], a[5], b[4], b[5]} +
                   f32x8{a[2], a[3], b[2], b[3], a[6], a[7], b[6], b[7]};
    }
    const f32x8 a = quads[0], b = quads[1];
    return f32x8{a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]} +
           f32x8{a[4], a[5], a[6], a[7], b[4], b[5], b[6], b[7]};
}

// To IEEE half precision, rounded to nearest even, and back.
#if defined(__F16C__)

TG_INLINE u16x8 to_half(f32x8 x) { return (u16x8)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT); }
TG_INLINE f32x8 from_half(u16x8 h) { return (f32x8)_mm256_cvtph_ps((__m128i)h); }

#else

TG_INLINE u16x8 to_half(f32x8 x) {
    u32x8 bits = load_as<u32x8>(&x);
    const u32x8 sign = bits & 0x80000000u;
    bits ^= sign;
    // below 2^-14 a half is a multiple of 2^-24: adding 1/2 rounds to one, and leaves it in the last bits
    const f32x8 shifted = load_as<f32x8>(&bits) + 0.5f;
    const u32x8 tiny = load_as<u32x8>(&shifted) - 0x3f000000u;
    const u32x8 normal = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
    const u32x8 special = bits > 0x7f800000u ? u32x8{} + 0x7e00u : u32x8{} + 0x7c00u;
    const u32x8 half = bits < 0x38800000u ? tiny : bits >= 0x47800000u ? special : normal;
    return __builtin_convertvector(half | (sign >> 16), u16x8);
}
TG_INLINE f32x8 from_half(u16x8 h) {
    const u32x8 wide = __builtin_convertvector(h, u32x8);
    const u32x8 bits = (wide & 0x7fffu) << 13, exponent = bits & 0x0f800000u;
    const u32x8 subnormal_bits = bits + 0x38800000u;
    const f32x8 subnormal = load_as<f32x8>(&subnormal_bits) - 6.103515625e-05f;  // 2^-14
    const u32x8 normal = bits + (exponent == 0x0f800000u ? u32x8{} + 0x70000000u : u32x8{} + 0x38000000u);
    const u32x8 value = (exponent == 0u ? load_as<u32x8>(&subnormal) : normal) | ((wide & 0x8000u) << 16);
    return load_as<f32x8>(&value);
}

#endif
}  // namespace threedgen
