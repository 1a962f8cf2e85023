// Numbers as tensors hold them, in words of 32 bits: float, half precision, bfloat16. They are computed with in float.
#pragma once

#include "tensor_cores.h"

namespace threedgen {

__device__ inline float float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
__device__ inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

struct Float {
    static constexpr int kInWord = 1;
    __device__ static void read(uint32_t word, float* to) { to[0] = float_of_bits(word); }
    __device__ static uint32_t word(const float* from) { return bits_of(from[0]); }
};

struct Half {
    static constexpr int kInWord = 2;
    __device__ static void read(uint32_t word, float* to) {
        const float2 pair = floats_of(word);
        to[0] = pair.x, to[1] = pair.y;
    }
    __device__ static uint32_t word(const float* from) { return half_pair(from[0], from[1]); }
};

struct Bfloat {
    static constexpr int kInWord = 2;
    __device__ static void read(uint32_t word, float* to) {
        to[0] = float_of_bits(word << 16), to[1] = float_of_bits(word & 0xffff0000u);
    }
    __device__ static uint32_t word(const float* from) { return rounded(from[0]) | rounded(from[1]) << 16; }

private:
    // to nearest even; a nan stays one
    __device__ static uint32_t rounded(float x) {
        const uint32_t bits = bits_of(x);
        return x != x ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    }
};

// How many numbers 16 bytes hold: what a thread reads at once.
template <class S>
constexpr int kWidth = 4 * S::kInWord;

// `number`, of tensors at an address that is a multiple of 16 bytes, is a multiple of kWidth.
template <class S>
__device__ void load_numbers(const uint32_t* from, int64_t number, float (&to)[kWidth<S>]) {
    const auto words = load_pack<uint32_t, 4>(from + number / S::kInWord);
    for (int i = 0; i < 4; ++i) S::read(words.of[i], to + i * S::kInWord);
}
template <class S>
__device__ void store_numbers(uint32_t* to, int64_t number, const float (&from)[kWidth<S>]) {
    Pack<uint32_t, 4> words;
    for (int i = 0; i < 4; ++i) words.of[i] = S::word(from + i * S::kInWord);
    *reinterpret_cast<Pack<uint32_t, 4>*>(to + number / S::kInWord) = words;
}
template <class S>
__device__ float load_number(const uint32_t* from, int64_t number) {
    float read[S::kInWord];
    S::read(from[number / S::kInWord], read);
    return number % S::kInWord == 0 ? read[0] : read[S::kInWord - 1];
}

}  // namespace threedgen
