// What the kernels of Gaussian splatting share: lanes, and the tiles of 8 x 8 pixels that images are drawn in.
#pragma once

#include <type_traits>

#include "threedgen/splats.h"

namespace threedgen {

// Eight Gaussians or eight pixels at a time; one in float64.
template <class T>
using LaneOf = std::conditional_t<std::is_same_v<T, float>, f32x8, T>;

constexpr int kTile = 8;  // pixels

struct Tiles {
    int64_t height, width;  // pixels
    int64_t down, across;   // tiles

    Tiles(int64_t height, int64_t width)
        : height(height), width(width), down((height + kTile - 1) / kTile), across((width + kTile - 1) / kTile) {}

    int64_t count() const { return down * across; }
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
};

template <class T>
TG_INLINE bool visible(const T* splat) {
    return splat[kReachX] > 0;
}

}  // namespace threedgen
