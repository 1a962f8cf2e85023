// What the CPU kernels need of vectors beyond lane.h: four and two lanes, the widest ones, halves, sums across lanes, half
// precision.
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

// The halves of a vector, and a vector of two halves.
TG_INLINE f32x2 lower_half(f32x4 v) { return f32x2{v[0], v[1]}; }
TG_INLINE f32x2 upper_half(f32x4 v) { return f32x2{v[2], v[3]}; }
TG_INLINE f32x4 joined(f32x2 a, f32x2 b) { return f32x4{a[0], a[1], b[0], b[1]}; }
TG_INLINE f32x4 lower_half(f32x8 v) { return f32x4{v[0], v[1], v[2], v[3]}; }
TG_INLINE f32x4 upper_half(f32x8 v) { return f32x4{v[4], v[5], v[6], v[7]}; }
TG_INLINE f32x8 joined(f32x4 a, f32x4 b) { return f32x8{a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]}; }
#if defined(__AVX512F__)
TG_INLINE f32x8 lower_half(f32x16 v) { return (f32x8)_mm512_castps512_ps256((__m512)v); }
TG_INLINE f32x8 upper_half(f32x16 v) { return (f32x8)_mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)); }
TG_INLINE f32x16 joined(f32x8 a, f32x8 b) {
    return (f32x16)_mm512_insertf64x4((__m512d)_mm512_castps256_ps512((__m256)a), _mm256_castps_pd((__m256)b), 1);
}
#endif

// The widest vector that the processor computes with at once: results are the same with each, lane by lane.
#if defined(__AVX512F__)
using Wide = f32x16;
#else
using Wide = f32x8;
#endif
constexpr int64_t kWide = Lane<Wide>::width;

TG_INLINE Wide load_wide(const float* from) { return load_as<Wide>(from); }
TG_INLINE void store_wide(float* to, Wide v) { store_as(to, v); }

TG_INLINE f32x8 zero8() { return broadcast<f32x8>(0.0f); }

// The same four numbers in every quad of lanes.
template <class V>
TG_INLINE V repeat4(const float* from);
template <>
TG_INLINE f32x8 repeat4<f32x8>(const float* v) {
    return f32x8{v[0], v[1], v[2], v[3], v[0], v[1], v[2], v[3]};
}

// Of every quad of lanes: the first two of a and b in turn, the last two in turn, the first two of each, the last two.
TG_INLINE f32x8 low_in_turn(f32x8 a, f32x8 b) { return f32x8{a[0], b[0], a[1], b[1], a[4], b[4], a[5], b[5]}; }
TG_INLINE f32x8 high_in_turn(f32x8 a, f32x8 b) { return f32x8{a[2], b[2], a[3], b[3], a[6], b[6], a[7], b[7]}; }
TG_INLINE f32x8 low_of_both(f32x8 a, f32x8 b) { return f32x8{a[0], a[1], b[0], b[1], a[4], a[5], b[4], b[5]}; }
TG_INLINE f32x8 high_of_both(f32x8 a, f32x8 b) { return f32x8{a[2], a[3], b[2], b[3], a[6], a[7], b[6], b[7]}; }

#if defined(__AVX512F__)
template <>
TG_INLINE f32x16 repeat4<f32x16>(const float* from) {
    return (f32x16)_mm512_broadcast_f32x4(_mm_loadu_ps(from));
}
TG_INLINE f32x16 low_in_turn(f32x16 a, f32x16 b) { return (f32x16)_mm512_unpacklo_ps((__m512)a, (__m512)b); }
TG_INLINE f32x16 high_in_turn(f32x16 a, f32x16 b) { return (f32x16)_mm512_unpackhi_ps((__m512)a, (__m512)b); }
TG_INLINE f32x16 low_of_both(f32x16 a, f32x16 b) { return (f32x16)_mm512_shuffle_ps((__m512)a, (__m512)b, 0x44); }
TG_INLINE f32x16 high_of_both(f32x16 a, f32x16 b) { return (f32x16)_mm512_shuffle_ps((__m512)a, (__m512)b, 0xee); }
#endif

// Lane i of every quad of the result is the sum of that quad of v[i].
template <class V>
TG_INLINE V sums_of_quads(const V v[4]) {
    const V a = low_in_turn(v[0], v[1]) + high_in_turn(v[0], v[1]);
    const V b = low_in_turn(v[2], v[3]) + high_in_turn(v[2], v[3]);
    return low_of_both(a, b) + high_of_both(a, b);
}

// Lane i of the result is the sum of all lanes of v[i].
TG_INLINE f32x8 sums_across(const f32x8 v[8]) {
    const f32x8 a = sums_of_quads(v), b = sums_of_quads(v + 4);
    return f32x8{a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]} +
           f32x8{a[4], a[5], a[6], a[7], b[4], b[5], b[6], b[7]};
}

// Samples side by side: a vector of floats, one double.
template <class T>
struct SideBySide;
template <>
struct SideBySide<float> {
    using V = Wide;
};
template <>
struct SideBySide<double> {
    using V = double;
};

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

#if defined(__AVX512F__)

typedef uint16_t u16x16 __attribute__((vector_size(32)));
using WideHalf = u16x16;
TG_INLINE u16x16 to_half(f32x16 x) { return (u16x16)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT); }
TG_INLINE f32x16 from_half(u16x16 h) { return (f32x16)_mm512_cvtph_ps((__m256i)h); }

#else

using WideHalf = u16x8;

#endif

// Writes the indices 0 <= i < count of numbers that are not 0 to `to`, and whatever behind them, up to a vector more than
// `count`; returns how many they are.
TG_INLINE int64_t indices_of_set(const uint32_t* numbers, int64_t count, int32_t* to) {
    int64_t found = 0;
#if defined(__AVX512F__)
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int64_t i = 0; i < count; i += 16, index = _mm512_add_epi32(index, _mm512_set1_epi32(16))) {
        const __mmask16 inside = count - i < 16 ? __mmask16((1u << (count - i)) - 1) : __mmask16(0xffff);
        const __m512i those = _mm512_maskz_loadu_epi32(inside, numbers + i);
        const __mmask16 set = _mm512_test_epi32_mask(those, those);
        _mm512_storeu_si512(to + found, _mm512_maskz_compress_epi32(set, index));
        found += __builtin_popcount(set);
    }
#else
    for (int64_t i = 0; i < count; ++i) {
        to[found] = int32_t(i);  // written always: a branch would be guessed wrongly
        found += numbers[i] != 0;
    }
#endif
    return found;
}
}  // namespace threedgen
