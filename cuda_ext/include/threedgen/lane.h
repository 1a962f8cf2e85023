// Lanes: the maths in this folder is written once for a type V and used with
//   V = float, double   one CUDA thread, or one sample on a CPU (double for gradient checks)
//   V = f32x8, f32x16   eight or sixteen samples side by side on a CPU, through the compiler's vector extension
// `Lane<V>` names the matching integers; the functions below are all that the maths asks of V.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define TG_INLINE __host__ __device__ __forceinline__
#else
#define TG_INLINE inline __attribute__((always_inline))
#endif

namespace threedgen {

template <class V>
struct Lane;

template <>
struct Lane<float> {
    using Scalar = float;
    using UInt = uint32_t;
    static constexpr int width = 1;
};

template <>
struct Lane<double> {
    using Scalar = double;
    using UInt = uint32_t;
    static constexpr int width = 1;
};

template <class V, class S>
TG_INLINE V broadcast(S value) {
    return V(value);
}

// Conversions between a lane's numbers and its integers; arguments are never negative and below 2^31.
template <class V>
TG_INLINE typename Lane<V>::UInt to_uint(V x) {
    return (typename Lane<V>::UInt)x;
}
template <class V>
TG_INLINE V to_real(typename Lane<V>::UInt x) {
    return (V)x;
}

template <class V>
TG_INLINE V smaller(V a, V b) {
    return a < b ? a : b;
}
template <class V>
TG_INLINE V larger(V a, V b) {
    return a > b ? a : b;
}
template <class V>
TG_INLINE V clamp(V x, V low, V high) {
    return smaller(larger(x, low), high);
}

TG_INLINE float exp_of(float x) { return expf(x); }
TG_INLINE double exp_of(double x) { return exp(x); }
TG_INLINE float sqrt_of(float x) { return sqrtf(x); }
TG_INLINE double sqrt_of(double x) { return sqrt(x); }

#if !defined(__CUDACC__)

typedef float f32x8 __attribute__((vector_size(32)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef float f32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));

template <>
struct Lane<f32x8> {
    using Scalar = float;
    using UInt = u32x8;
    using Int = i32x8;
    static constexpr int width = 8;
};

template <>
struct Lane<f32x16> {
    using Scalar = float;
    using UInt = u32x16;
    using Int = i32x16;
    static constexpr int width = 16;
};

template <>
TG_INLINE f32x8 broadcast<f32x8, float>(float x) {
    return f32x8{x, x, x, x, x, x, x, x};
}
template <>
TG_INLINE f32x16 broadcast<f32x16, float>(float x) {
    return f32x16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}
template <>
TG_INLINE f32x8 broadcast<f32x8, int>(int x) {
    return broadcast<f32x8>(float(x));
}
template <>
TG_INLINE f32x16 broadcast<f32x16, int>(int x) {
    return broadcast<f32x16>(float(x));
}
template <>
TG_INLINE u32x8 to_uint<f32x8>(f32x8 x) {
    return (u32x8)__builtin_convertvector(x, i32x8);
}
template <>
TG_INLINE u32x16 to_uint<f32x16>(f32x16 x) {
    return (u32x16)__builtin_convertvector(x, i32x16);
}
template <>
TG_INLINE f32x8 to_real<f32x8>(u32x8 x) {
    return __builtin_convertvector((i32x8)x, f32x8);
}
template <>
TG_INLINE f32x16 to_real<f32x16>(u32x16 x) {
    return __builtin_convertvector((i32x16)x, f32x16);
}

TG_INLINE f32x8 load8(const float* from) {
    f32x8 v;
    memcpy(&v, from, sizeof v);
    return v;
}
TG_INLINE void store8(float* to, f32x8 v) { memcpy(to, &v, sizeof v); }

// e^x by Cody and Waite's reduction to |r| <= ln(2)/2 and the polynomial of Cephes' expf; relative error below 2e-7.
// Below -87 the result is that of -87, 1.6e-38: small enough to mean 0, never denormal.
template <class V>
TG_INLINE V exp_of_lanes(V x) {
    using Int = typename Lane<V>::Int;
    x = clamp(x, broadcast<V>(-87.0f), broadcast<V>(88.0f));
    const V scaled = x * 1.44269504f;
    const Int n = __builtin_convertvector(scaled + (scaled > 0.0f ? broadcast<V>(0.5f) : broadcast<V>(-0.5f)), Int);
    const V whole = __builtin_convertvector(n, V);
    const V r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    V p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const Int exponent = (n + 127) << 23;
    V power;
    memcpy(&power, &exponent, sizeof power);
    return p * power;
}
TG_INLINE f32x8 exp_of(f32x8 x) { return exp_of_lanes(x); }
TG_INLINE f32x16 exp_of(f32x16 x) { return exp_of_lanes(x); }

template <class V>
TG_INLINE V sqrt_of_lanes(V x) {
    V y;
    for (int i = 0; i < Lane<V>::width; ++i) y[i] = sqrtf(x[i]);  // one vsqrtps
    return y;
}
TG_INLINE f32x8 sqrt_of(f32x8 x) { return sqrt_of_lanes(x); }
TG_INLINE f32x16 sqrt_of(f32x16 x) { return sqrt_of_lanes(x); }

#endif
}  // namespace threedgen
