// Projected splats in the tiles of an image, and the pixels that they are blended into, front to back.
#pragma once

#include "splats.h"

namespace threedgen {

// ---- Tiles --------------------------------------------------------------------------------------------------------

constexpr int kTile = 8;  // pixels

struct Tiles {
    int64_t height, width;  // pixels
    int64_t down, across;   // tiles

    TG_INLINE Tiles(int64_t height, int64_t width)
        : height(height), width(width), down((height + kTile - 1) / kTile), across((width + kTile - 1) / kTile) {}

    TG_INLINE int64_t count() const { return down * across; }
};

// The tiles of an image that the box around a visible splat meets.
struct TileBox {
    int64_t x_begin, x_end, y_begin, y_end;

    template <class T>
    TG_INLINE TileBox(const Tiles& tiles, const T* splat)
        : x_begin(tile_of(splat[kX] - splat[kReachX], tiles.across)),
          x_end(tile_of(splat[kX] + splat[kReachX], tiles.across) + 1),
          y_begin(tile_of(splat[kY] - splat[kReachY], tiles.down)),
          y_end(tile_of(splat[kY] + splat[kReachY], tiles.down) + 1) {}

    template <class T>
    TG_INLINE static int64_t tile_of(T pixel, int64_t count) {
        return int64_t(clamp(pixel * T(1.0 / kTile), T(0), T(count - 1)));
    }

    // The tiles of a box, row after row.
    TG_INLINE int64_t across() const { return x_end - x_begin; }
    TG_INLINE int64_t count() const { return (y_end - y_begin) * across(); }
    TG_INLINE int64_t tile_at(const Tiles& tiles, int64_t place) const {
        return (y_begin + place / across()) * tiles.across + x_begin + place % across();
    }
    TG_INLINE int64_t place_of(const Tiles& tiles, int64_t tile) const {
        return (tile / tiles.across - y_begin) * across() + tile % tiles.across - x_begin;
    }
};

template <class T>
TG_INLINE bool visible(const T* splat) {
    return splat[kReachX] > 0;
}

// ---- Pixels -------------------------------------------------------------------------------------------------------

constexpr int kSums = 5;  // red, green, blue, opacity, depth of a pixel

// square: of the distance from the splat's centre in standard deviations. 0 for a pixel that the splat does not touch.
template <class V>
TG_INLINE V splat_alpha(V opacity, V square) {
    using S = typename Lane<V>::Scalar;
    const V alpha = smaller(opacity * exp_of(square * S(-0.5)), broadcast<V>(S(kMaxAlpha)));
    return alpha < broadcast<V>(S(kMinAlpha)) ? broadcast<V>(0) : alpha;
}

// The light that is left behind a splat, 0 where the pixel is finished: the splat then does not count any more.
template <class V>
TG_INLINE V light_behind(V transmittance, V alpha) {
    using S = typename Lane<V>::Scalar;
    const V left = transmittance - alpha * transmittance;
    return left > broadcast<V>(S(kMinTransmittance)) ? left : broadcast<V>(0);
}

// dL/dweight of a splat at a pixel whose sums have the gradients g0 .. g4.
template <class V, class S>
TG_INLINE V weight_gradient(V g0, V g1, V g2, V g3, V g4, const S* splat) {
    return g0 * splat[kRed] + g1 * splat[kGreen] + g2 * splat[kBlue] + g3 + g4 * splat[kDepth];
}

// -2 dL/dsquare, which is alpha dL/dalpha unless alpha is cut off at kMaxAlpha. behind: sum of weight * dL/dweight of
// this splat and all that are behind it; then of those behind it alone.
template <class V>
TG_INLINE V square_gradient(V alpha, V weight, V of_weight, V& behind) {
    using S = typename Lane<V>::Scalar;
    const V zero = broadcast<V>(0), one = broadcast<V>(1);
    behind = behind - weight * of_weight;
    const V of_alpha = weight * of_weight - behind * alpha / (one - alpha);
    return (weight > zero) & (alpha < broadcast<V>(S(kMaxAlpha))) ? of_alpha : zero;
}

// What a splat's gradient is made of, summed over pixels: g is -2 dL/d(square), (dx, dy) the pixel's offset.
enum Moment { kG, kGx, kGy, kGxx, kGxy, kGyy, kGRed, kGGreen, kGBlue, kGDepth, kMoments };

// Moments -> dL/dsplat
template <class T>
TG_INLINE void splat_gradient(const T* splat, const T* m, T* grad) {
    const T xx = splat[kXX], xy = splat[kXY], yy = splat[kYY];
    const T along = xx * m[kGx] + xy * m[kGy];
    grad[kX] = xx * along;
    grad[kY] = xy * along + yy * yy * m[kGy];
    grad[kXX] = -(xx * m[kGxx] + xy * m[kGxy]);
    grad[kXY] = -(xx * m[kGxy] + xy * m[kGyy]);
    grad[kYY] = -yy * m[kGyy];
    grad[kOpacity] = visible(splat) ? m[kG] / splat[kOpacity] : T(0);
    for (int c = 0; c < 3; ++c) grad[kRed + c] = m[kGRed + c];
    grad[kDepth] = m[kGDepth];
    grad[kReachX] = grad[kReachY] = 0;
}

}  // namespace threedgen
