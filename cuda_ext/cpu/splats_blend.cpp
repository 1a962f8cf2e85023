// Gaussian splatting, third step: the tiles' pixels, and the way back to the projected splats.
#include <algorithm>

#include "api.h"
#include "parallel.h"
#include "scratch.h"
#include "splats.h"
#include "vectors.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

using namespace threedgen;

namespace {

constexpr int kPixels = kTile * kTile;

TG_INLINE bool any(bool b) { return b; }
TG_INLINE bool any(i32x8 mask) {
#if defined(__AVX__)
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    int64_t words[4];
    memcpy(words, &mask, sizeof mask);
    return (words[0] | words[1] | words[2] | words[3]) != 0;
#endif
}

// Projected splats and the lists of those that each tile meets, front to back.
template <class T>
struct TileLists {
    int64_t num_gaussians, num_cameras;
    Tiles tiles;
    const T* splats;
    const int64_t* offsets;
    const int32_t* ids;

    int64_t num_tiles() const { return num_cameras * tiles.count(); }

    // Calls use(id, splat) for the splats of a tile until finished(), which is asked now and then.
    template <class Finished, class Use>
    TG_INLINE void front_to_back(int64_t tile, Finished&& finished, Use&& use) const {
        constexpr int64_t ahead = 8, between_questions = 16;
        const T* of_image = splats + tile / tiles.count() * num_gaussians * kSplatNumbers;
        const int64_t begin = offsets[tile], end = offsets[tile + 1];
        for (int64_t p = begin; p < end; ++p) {
            if ((p - begin + 1) % between_questions == 0 && finished()) return;
            const T* later = of_image + int64_t(ids[std::min(p + ahead, end - 1)]) * kSplatNumbers;
            __builtin_prefetch(later);
            __builtin_prefetch(later + kSplatNumbers - 1);
            use(ids[p], of_image + int64_t(ids[p]) * kSplatNumbers);
        }
    }
};

// The pixels of one tile, as vectors of lanes.
template <class V>
struct TilePixels {
    using S = typename Lane<V>::Scalar;
    static constexpr int across = kTile / Lane<V>::width;  // vectors in a row

    int64_t first_y, rows, columns;  // those inside the image
    int64_t image_width, first_pixel;
    V x[across];                     // centres
    V transmittance[kTile][across];  // 0: finished, or outside of the image

    TilePixels(const Tiles& tiles, int64_t image_and_tile) {
        const int64_t image = image_and_tile / tiles.count(), tile = image_and_tile % tiles.count();
        const int64_t first_x = tile % tiles.across * kTile;
        first_y = tile / tiles.across * kTile;
        rows = std::min<int64_t>(kTile, tiles.height - first_y);
        columns = std::min<int64_t>(kTile, tiles.width - first_x);
        image_width = tiles.width;
        first_pixel = (image * tiles.height + first_y) * tiles.width + first_x;
        S centres[kTile], light[kTile][kTile];
        for (int i = 0; i < kTile; ++i) {
            centres[i] = S(first_x + i) + S(0.5);
            for (int r = 0; r < kTile; ++r) light[r][i] = r < rows && i < columns ? 1 : 0;
        }
        memcpy(x, centres, sizeof x);
        memcpy(transmittance, light, sizeof light);
    }

    bool finished() const {
        V most = transmittance[0][0];
        for (const auto& row : transmittance)
            for (const V& light : row) most = larger(most, light);
        return !any(most > broadcast<V>(0));
    }

    // Puts a splat behind those before it: visit(r, k, dy, alpha, weight) for the vectors of pixels that it may touch.
    template <class Visit>
    TG_INLINE void draw(const S* splat, Visit&& visit) {
        const S top = splat[kY] - splat[kReachY] - S(first_y) - S(0.5), bottom = top + 2 * splat[kReachY];
        const int begin = top > 0 ? int(top) : 0, end = bottom < S(kTile - 1) ? int(bottom) + 1 : kTile;
        const S reach = splat[kReachY] * splat[kYY];  // standard deviations
        const V opacity = broadcast<V>(splat[kOpacity]), limit = broadcast<V>(reach * reach), zero = broadcast<V>(0);
        for (int k = 0; k < across; ++k) {
            const V dx = x[k] - splat[kX];
            for (int r = begin; r < end; ++r) {
                const S dy = S(first_y + r) + S(0.5) - splat[kY], b = splat[kYY] * dy;
                const V a = splat[kXX] * dx + splat[kXY] * dy, square = a * a + b * b;
                const V before = transmittance[r][k];
                if (!any((square < limit) & (before > zero))) continue;
                const V alpha = splat_alpha(opacity, square), after = light_behind(before, alpha);
                transmittance[r][k] = after;
                visit(r, k, dy, alpha, after > zero ? alpha * before : zero);
            }
        }
    }

    // Between an image with `channels` numbers a pixel and planes of the tile's pixels, 0 outside of the image.
    void read(const S* image, int channels, S (*planes)[kPixels]) const {
        memset(planes, 0, sizeof(S) * channels * kPixels);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < columns; ++i)
                for (int c = 0; c < channels; ++c)
                    planes[c][r * kTile + i] = image[(first_pixel + r * image_width + i) * channels + c];
    }
    void write(S* image, int channels, const S (*planes)[kPixels]) const {
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < columns; ++i)
                for (int c = 0; c < channels; ++c)
                    image[(first_pixel + r * image_width + i) * channels + c] = planes[c][r * kTile + i];
    }
};

template <class T>
void blend(const TileLists<T>& lists, T* rgb, T* opacity, T* depth, int num_threads) {
    using V = LaneOf<T>;
    parallel_for(lists.num_tiles(), num_threads, [&](int64_t tile) {
        TilePixels<V> pixels(lists.tiles, tile);
        V sums[kSums][kTile][TilePixels<V>::across];
        memset(&sums, 0, sizeof sums);
        lists.front_to_back(
            tile, [&] { return pixels.finished(); },
            [&](int32_t, const T* splat) {
                pixels.draw(splat, [&](int r, int k, T, V, V weight) {
                    for (int c = 0; c < 3; ++c) sums[c][r][k] += weight * splat[kRed + c];
                    sums[3][r][k] += weight;
                    sums[4][r][k] += weight * splat[kDepth];
                });
            });
        T planes[kSums][kPixels];
        memcpy(planes, sums, sizeof planes);
        pixels.write(rgb, 3, planes);
        pixels.write(opacity, 1, planes + 3);
        pixels.write(depth, 1, planes + 4);
    });
}

// Adds the sums over the lanes of each of them.
TG_INLINE void add_sums(const double (&totals)[kMoments], double* to) {
    for (int m = 0; m < kMoments; ++m) to[m] += totals[m];
}
TG_INLINE void add_sums(const f32x8 (&totals)[kMoments], float* to) {
    const f32x8 rest[8] = {totals[8], totals[9]}, last = sums_across(rest);
    store8(to, load8(to) + sums_across(totals));
    to[8] += last[0];
    to[9] += last[1];
}

// What a loss says about images: the images and dL/d(each of them).
template <class T>
struct ImageGradients {
    const T *rgb, *opacity, *depth, *grad_rgb, *grad_opacity, *grad_depth;

    void read(const TilePixels<LaneOf<T>>& pixels, T (*images)[kPixels], T (*grads)[kPixels]) const {
        pixels.read(rgb, 3, images);
        pixels.read(opacity, 1, images + 3);
        pixels.read(depth, 1, images + 4);
        pixels.read(grad_rgb, 3, grads);
        pixels.read(grad_opacity, 1, grads + 3);
        pixels.read(grad_depth, 1, grads + 4);
    }
};

// Adds the moments of a tile's splats to record(id).
template <class T, class Record>
void add_tile_moments(int64_t tile, const TileLists<T>& lists, const ImageGradients<T>& loss, Record&& record) {
    using V = LaneOf<T>;
    constexpr int across = TilePixels<V>::across;
    TilePixels<V> pixels(lists.tiles, tile);
    T images[kSums][kPixels], grads[kSums][kPixels], totals[kPixels] = {};
    loss.read(pixels, images, grads);
    for (int c = 0; c < kSums; ++c)
        for (int i = 0; i < kPixels; ++i) totals[i] += images[c][i] * grads[c][i];
    V g[kSums][kTile][across], behind[kTile][across];  // behind: sum of weight * dL/dweight of the splats to come
    memcpy(&g, grads, sizeof g);
    memcpy(&behind, totals, sizeof behind);

    lists.front_to_back(
        tile, [&] { return pixels.finished(); },
        [&](int32_t id, const T* splat) {
            const V zero = broadcast<V>(0);
            V sum[kMoments], sum_g[across], sum_gy[across], sum_gyy[across];
            for (V& v : sum) v = zero;
            for (int k = 0; k < across; ++k) sum_g[k] = sum_gy[k] = sum_gyy[k] = zero;
            pixels.draw(splat, [&](int r, int k, T dy, V alpha, V weight) {
                const V of_weight =
                    weight_gradient(g[0][r][k], g[1][r][k], g[2][r][k], g[3][r][k], g[4][r][k], splat);
                const V of_square = square_gradient(alpha, weight, of_weight, behind[r][k]);
                sum_g[k] += of_square;
                sum_gy[k] += of_square * dy;
                sum_gyy[k] += of_square * (dy * dy);
                for (int c = 0; c < 3; ++c) sum[kGRed + c] += weight * g[c][r][k];
                sum[kGDepth] += weight * g[4][r][k];
            });
            for (int k = 0; k < across; ++k) {
                const V dx = pixels.x[k] - splat[kX];
                sum[kG] += sum_g[k];
                sum[kGx] += sum_g[k] * dx;
                sum[kGy] += sum_gy[k];
                sum[kGxx] += sum_g[k] * dx * dx;
                sum[kGxy] += sum_gy[k] * dx;
                sum[kGyy] += sum_gyy[k];
            }
            add_sums(sum, record(id));
        });
}

// A splat has one record of moments for every row of tiles that it meets. A row is worked on from left to right by one
// thread; a splat's records are then summed from the top down.
template <class T>
void blend_backward(const TileLists<T>& lists, const ImageGradients<T>& loss, T* grad_splats, int num_threads) {
    const Tiles& tiles = lists.tiles;
    const int64_t num_splats = lists.num_cameras * lists.num_gaussians;
    const Scratch<int64_t> first_record = scratch<int64_t>(num_splats);  // less the first row
    int64_t num_records = 0;
    for (int64_t i = 0; i < num_splats; ++i) {
        const T* splat = lists.splats + i * kSplatNumbers;
        if (!visible(splat)) continue;
        const TileBox box(tiles, splat);
        first_record[i] = num_records - box.y_begin;
        num_records += box.y_end - box.y_begin;
    }
    const Scratch<T> moments = scratch<T>(num_records * kMoments);
    parallel_ranges(num_records, 1 << 12, num_threads, [&](int64_t begin, int64_t end) {
        std::fill(moments.get() + begin * kMoments, moments.get() + end * kMoments, T(0));
    });
    parallel_for(lists.num_cameras * tiles.down, num_threads, [&](int64_t row) {
        const int64_t* first = first_record.get() + row / tiles.down * lists.num_gaussians;
        for (int64_t x = 0; x < tiles.across; ++x)
            add_tile_moments(row * tiles.across + x, lists, loss, [&](int32_t id) {
                return moments.get() + (first[id] + row % tiles.down) * kMoments;
            });
    });
    parallel_ranges(num_splats, 1 << 10, num_threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const T* splat = lists.splats + i * kSplatNumbers;
            T sums[kMoments] = {};
            if (visible(splat)) {
                const TileBox box(tiles, splat);
                for (int64_t y = box.y_begin; y < box.y_end; ++y)
                    for (int m = 0; m < kMoments; ++m) sums[m] += moments[(first_record[i] + y) * kMoments + m];
            }
            splat_gradient(splat, sums, grad_splats + i * kSplatNumbers);
        }
    });
}

}  // namespace

#define TG_SPLAT_BLEND(suffix, T)                                                                                      \
    TG_API void tg_splat_blend_##suffix(int64_t num_gaussians, int64_t num_cameras, int64_t height, int64_t width,     \
                                        const T* splats, const int64_t* offsets, const int32_t* ids, T* rgb,           \
                                        T* opacity, T* depth, int64_t num_threads) {                                   \
        blend<T>({num_gaussians, num_cameras, Tiles(height, width), splats, offsets, ids}, rgb, opacity, depth,        \
                 int(num_threads));                                                                                    \
    }                                                                                                                  \
    TG_API void tg_splat_blend_backward_##suffix(                                                                      \
        int64_t num_gaussians, int64_t num_cameras, int64_t height, int64_t width, const T* splats,                    \
        const int64_t* offsets, const int32_t* ids, const T* rgb, const T* opacity, const T* depth, const T* grad_rgb, \
        const T* grad_opacity, const T* grad_depth, T* grad_splats, int64_t num_threads) {                             \
        blend_backward<T>({num_gaussians, num_cameras, Tiles(height, width), splats, offsets, ids},                    \
                          {rgb, opacity, depth, grad_rgb, grad_opacity, grad_depth}, grad_splats, int(num_threads));   \
    }
TG_SPLAT_BLEND(f32, float)
TG_SPLAT_BLEND(f64, double)
