// The emulation of what tensor cores do, in the layouts of the PTX ISA ("Matrix fragments for mma.m16n8k16" and of
// movmatrix). Lane l is number t = l % 4 of group l / 4 of its warp. Numbers of half precision are pairs in a register,
// the first in its low bits.
#pragma once

#include "cuda_emu.h"

namespace emulated {

// IEEE half precision, rounded to nearest even, and back.
inline uint16_t half_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u;
    if (x != x) return uint16_t(sign | 0x7e00u);
    const double size = fabs(double(x));
    if (size >= 65520.0) return uint16_t(sign | 0x7c00u);
    int exponent;
    frexp(size, &exponent);
    if (size == 0.0) exponent = -24;
    const double unit = ldexp(1.0, std::max(exponent - 11, -24));  // of the last bit
    const uint32_t count = uint32_t(nearbyint(size / unit));       // up to 2^11
    if (unit == ldexp(1.0, -24)) return uint16_t(sign | count);    // below 2^-13 the bits count units of 2^-24
    return uint16_t(sign | (uint32_t(exponent + 13) * 1024 + count));
}

inline float of_half(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? ldexpf(float(fraction), -24)
                                       : ldexpf(float(1024 + fraction), exponent - 25);
    return half & 0x8000 ? -size : size;
}

inline float half_in(uint32_t pair, int which) { return of_half(uint16_t(pair >> 16 * which)); }

// Waits for the whole warp in this kind of operation; a lane that left makes the launch fail.
inline void whole_warp(Wait kind) {
    wait_at(kind, ~0u);
    for (int i = 0; i < kWarp; ++i)
        if (self().seen[i] == ~uint64_t(0)) machine.failure = place(machine.current) + " works with matrices alone";
}

// sum [16, 8] += a [16, 16] b [16, 8].
//   sum: rows group, group + 8 (2, 3); columns 2 t, 2 t + 1
//   a:   rows group, group + 8 (1, 3); columns 2 t, 2 t + 1 and 8 more (2, 3)
//   b:   column group; rows 2 t, 2 t + 1 and 8 more (b1)
inline void product(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Thread& me = self();
    const int turn = me.turn ^= 1, warp = machine.current / kWarp * kWarp, lane = machine.current % kWarp;
    // nobody can be two products ahead of another, so the place of the last but one is free
    for (int i = 0; i < 4; ++i) me.operands[turn][i] = a[i];
    me.operands[turn][4] = b0, me.operands[turn][5] = b1;
    me.given = 0;
    whole_warp(Wait::product);
    const auto operand = [&](int of_lane, int i) { return machine.threads[warp + of_lane].operands[turn][i]; };
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4, column = lane % 4 * 2 + i % 2, below = i / 2;
        for (int k = 0; k < 16; ++k) {
            const int place = k % 8 / 2, later = k / 8;
            sum[i] += half_in(operand(row * 4 + place, 2 * later + below), k % 2) *
                      half_in(operand(column * 4 + place, 4 + later), k % 2);
        }
    }
}

// Row group, columns 2 t and 2 t + 1 of an [8, 8] block in each lane -> the same of the block's transpose.
inline uint32_t transpose(uint32_t pair) {
    self().given = pair;
    whole_warp(Wait::transpose);
    const int lane = machine.current % kWarp, row = lane / 4, column = lane % 4 * 2;
    const auto element = [&](int i, int j) { return uint32_t(self().seen[i * 4 + j / 2]) >> 16 * (j % 2) & 0xffffu; };
    return element(column, row) | element(column + 1, row) << 16;
}

}  // namespace emulated
