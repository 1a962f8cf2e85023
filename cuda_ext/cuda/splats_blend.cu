// Gaussian splatting, third step: one block a tile, one thread a pixel, the tile's splats in shared memory a batch at a
// time. On the way back each pair of a tile and a splat has a record of its own, which the block sums over its pixels;
// then one warp a splat sums its records. Nothing is added up in the order in which threads come by.
#include "launch.h"

#include "threedgen/splat_blending.h"

using namespace threedgen;

namespace {

constexpr int kThreads = kTile * kTile;  // also the splats of a batch
constexpr int kWarps = kThreads / 32;

// Projected splats and the lists of those that each tile meets, front to back.
template <class T>
struct TileLists {
    int64_t num_gaussians, num_cameras;
    Tiles tiles;
    const T* splats;
    const int64_t* offsets;
    const int32_t* ids;

    TG_INLINE int64_t num_tiles() const { return num_cameras * tiles.count(); }
    __device__ int64_t first_of_image(int64_t tile) const { return tile / tiles.count() * num_gaussians; }
};

template <class T>
struct alignas(16) Batch {
    T splats[kThreads][kSplatNumbers];
};

// Puts up to kThreads splats of a tile into `batch` and calls use(first, count), they being those of ids[first] and on,
// until there are no more or `light` is 0 for every pixel. All threads of the block take part.
template <class T, class Use>
__device__ void front_to_back(const TileLists<T>& lists, int64_t tile, const T& light, Batch<T>& batch, Use&& use) {
    constexpr int kPack = 16 / sizeof(T);
    const T* const of_image = lists.splats + lists.first_of_image(tile) * kSplatNumbers;
    const int64_t end = lists.offsets[tile + 1];
    for (int64_t first = lists.offsets[tile]; first < end; first += kThreads) {
        if (!__syncthreads_or(light > 0)) return;  // and all have read the batch before
        if (first + threadIdx.x < end) {
            const T* const splat = of_image + int64_t(lists.ids[first + threadIdx.x]) * kSplatNumbers;
            for (int n = 0; n < kSplatNumbers; n += kPack)
                *reinterpret_cast<Pack<T, kPack>*>(batch.splats[threadIdx.x] + n) = load_pack<T, kPack>(splat + n);
        }
        __syncthreads();
        use(first, int(smaller(end - first, int64_t(kThreads))));
    }
}

// This thread's pixel of a tile.
template <class T>
struct Pixel {
    T x, y;        // centre
    bool inside;   // the image
    int64_t at;    // its place in the images
    T light;       // that reaches the next splat; 0: finished, or outside of the image
    T dx, dy;      // from the centre of the splat that was drawn last

    __device__ Pixel(const Tiles& tiles, int64_t image_and_tile) {
        const int64_t image = image_and_tile / tiles.count(), tile = image_and_tile % tiles.count();
        const int64_t column = tile % tiles.across * kTile + threadIdx.x % kTile;
        const int64_t row = tile / tiles.across * kTile + threadIdx.x / kTile;
        x = T(column) + T(0.5);
        y = T(row) + T(0.5);
        inside = row < tiles.height && column < tiles.width;
        at = (image * tiles.height + row) * tiles.width + column;
        light = inside ? 1 : 0;
    }

    // Puts a splat behind those before it; returns whether it touches the pixel.
    __device__ bool draw(const T* splat, T& alpha, T& weight) {
        dx = x - splat[kX];
        dy = y - splat[kY];
        const T a = splat[kXX] * dx + splat[kXY] * dy, b = splat[kYY] * dy, square = a * a + b * b;
        const T reach = splat[kReachY] * splat[kYY];  // standard deviations
        if (light == 0 || square >= reach * reach) return false;
        alpha = splat_alpha(splat[kOpacity], square);
        const T before = light;
        light = light_behind(before, alpha);
        weight = light > 0 ? alpha * before : T(0);
        return weight > 0;
    }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    blend(TileLists<T> lists, T* __restrict__ rgb, T* __restrict__ opacity, T* __restrict__ depth) {
    TG_SHARED(Batch<T>, batch);
    Pixel<T> pixel(lists.tiles, blockIdx.x);
    T sum[kSums] = {0, 0, 0, 0, 0};
    front_to_back(lists, blockIdx.x, pixel.light, *batch, [&](int64_t, int count) {
        for (int j = 0; j < count && pixel.light > 0; ++j) {
            const T* const splat = batch->splats[j];
            T alpha, weight;
            if (!pixel.draw(splat, alpha, weight)) continue;
            for (int c = 0; c < 3; ++c) sum[c] += weight * splat[kRed + c];
            sum[3] += weight;
            sum[4] += weight * splat[kDepth];
        }
    });
    if (!pixel.inside) return;
    for (int c = 0; c < 3; ++c) rgb[3 * pixel.at + c] = sum[c];
    opacity[pixel.at] = sum[3];
    depth[pixel.at] = sum[4];
}

// Sums N numbers over the lanes of a warp, each step leaving a lane with half of them: 12 shuffles for 10 numbers
// instead of 50. Returns the total of number `number_of_lane<N>`.
template <int N, int kBit = 16, class T>
__device__ T sums_over_warp(const T (&numbers)[N], int lane) {
    constexpr int kHalf = (N + 1) / 2;
    const bool upper = lane & kBit;
    T kept[kHalf];
    for (int i = 0; i < kHalf; ++i) {
        const T low = numbers[i], high = i + kHalf < N ? numbers[(i + kHalf) % N] : T(0);
        kept[i] = (upper ? high : low) + __shfl_xor_sync(kAllLanes, upper ? low : high, kBit);
    }
    if constexpr (kBit == 1)
        return kept[0];
    else
        return sums_over_warp<kHalf, kBit / 2>(kept, lane);
}

// -1 for a lane that none is left with.
template <int N>
__device__ int number_of_lane(int lane) {
    int first = 0, count = N, size = N;
    for (int bit = 16; bit > 0; bit >>= 1) {
        size = (size + 1) / 2;
        if (lane & bit) first += size;
        count = lane & bit ? count - size : smaller(count, size);
    }
    return count > 0 ? first : -1;
}

template <class T>
struct Backward {
    Batch<T> batch;
    T sums[kWarps][kThreads][kMoments];
    int64_t record[kThreads];  // of each splat of the batch, for this tile
};

// first_record: of each splat, [B, N]; its records lie in the order of its box's tiles. `records` starts as zeros.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_pixels(TileLists<T> lists, const T* __restrict__ rgb, const T* __restrict__ opacity,
               const T* __restrict__ depth, const T* __restrict__ grad_rgb, const T* __restrict__ grad_opacity,
               const T* __restrict__ grad_depth, const int64_t* __restrict__ first_record, T* __restrict__ records) {
    TG_SHARED(Backward<T>, shared);
    const int64_t tile = blockIdx.x;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, number = number_of_lane<kMoments>(lane);
    Pixel<T> pixel(lists.tiles, tile);
    T g[kSums] = {0, 0, 0, 0, 0}, behind = 0;
    if (pixel.inside) {
        for (int c = 0; c < 3; ++c) g[c] = grad_rgb[3 * pixel.at + c];
        g[3] = grad_opacity[pixel.at];
        g[4] = grad_depth[pixel.at];
        for (int c = 0; c < 3; ++c) behind += rgb[3 * pixel.at + c] * g[c];
        behind += opacity[pixel.at] * g[3] + depth[pixel.at] * g[4];
    }
    front_to_back(lists, tile, pixel.light, shared->batch, [&](int64_t first, int count) {
        if (int(threadIdx.x) < count) {
            const TileBox box(lists.tiles, shared->batch.splats[threadIdx.x]);
            const int64_t i = lists.first_of_image(tile) + lists.ids[first + threadIdx.x];
            shared->record[threadIdx.x] = first_record[i] + box.place_of(lists.tiles, tile % lists.tiles.count());
        }
        TG_ROLLED
        for (int j = 0; j < count; ++j) {
            const T* const splat = shared->batch.splats[j];
            T alpha = 0, weight = 0;
            const bool touched = pixel.draw(splat, alpha, weight);
            if (!__any_sync(kAllLanes, touched)) {
                if (lane < kMoments) shared->sums[warp][j][lane] = 0;
                continue;
            }
            T of_square = 0;
            if (touched) {
                const T of_weight = weight_gradient(g[0], g[1], g[2], g[3], g[4], splat);
                of_square = square_gradient(alpha, weight, of_weight, behind);
            }
            T moments[kMoments];
            moments[kG] = of_square;
            moments[kGx] = of_square * pixel.dx;
            moments[kGy] = of_square * pixel.dy;
            moments[kGxx] = moments[kGx] * pixel.dx;
            moments[kGxy] = moments[kGx] * pixel.dy;
            moments[kGyy] = moments[kGy] * pixel.dy;
            for (int c = 0; c < 3; ++c) moments[kGRed + c] = weight * g[c];
            moments[kGDepth] = weight * g[4];
            const T sum = sums_over_warp(moments, lane);
            if (number >= 0) shared->sums[warp][j][number] = sum;
        }
        __syncthreads();
        for (int k = threadIdx.x; k < count * kMoments; k += kThreads) {
            const int j = k / kMoments, m = k % kMoments;
            T total = 0;
            for (int w = 0; w < kWarps; ++w) total += shared->sums[w][j][m];
            records[shared->record[j] * kMoments + m] = total;
        }
    });
}

// One warp a splat: 30 of its lanes take three records at a time.
template <class T>
__global__ void sum_records(int64_t num_splats, Tiles tiles, const T* __restrict__ splats,
                            const int64_t* __restrict__ first_record, const T* __restrict__ records,
                            T* __restrict__ grad) {
    constexpr int kAtOnce = 32 / kMoments;
    const int64_t i = thread_in_grid() >> 5;
    const int lane = threadIdx.x & 31;
    if (i >= num_splats) return;
    const T* const splat = splats + kSplatNumbers * i;
    const int64_t count = visible(splat) ? TileBox(tiles, splat).count() * kMoments : 0;
    const T* const mine = records + first_record[i] * kMoments;
    T sum = 0;
    if (lane < kAtOnce * kMoments)
        for (int64_t k = lane; k < count; k += kAtOnce * kMoments) sum += mine[k];
    T total = sum;
    for (int n = 1; n < kAtOnce; ++n) total += __shfl_down_sync(kAllLanes, sum, n * kMoments);
    T moments[kMoments], out[kSplatNumbers];
    for (int m = 0; m < kMoments; ++m) moments[m] = __shfl_sync(kAllLanes, total, m);
    splat_gradient(splat, moments, out);
    if (lane == 0)
        for (int n = 0; n < kSplatNumbers; ++n) grad[kSplatNumbers * i + n] = out[n];
}

template <class T>
int64_t blend_backward(const TileLists<T>& lists, const T* rgb, const T* opacity, const T* depth, const T* grad_rgb,
                       const T* grad_opacity, const T* grad_depth, const int64_t* first_record, T* records, T* grad,
                       void* stream) {
    constexpr int kSummers = 128;
    const int64_t num_splats = lists.num_gaussians * lists.num_cameras;
    const int64_t error = launch(sum_pixels<T>, lists.num_tiles(), kThreads, sizeof(Backward<T>), stream, lists, rgb,
                                 opacity, depth, grad_rgb, grad_opacity, grad_depth, first_record, records);
    if (error) return error;
    return launch(sum_records<T>, blocks_for(num_splats * 32, kSummers), kSummers, 0, stream, num_splats, lists.tiles,
                  lists.splats, first_record, records, grad);
}

}  // namespace

#define TG_SPLAT_BLEND(suffix, T)                                                                                      \
    TG_API int64_t tg_splat_blend_##suffix(int64_t num_gaussians, int64_t num_cameras, int64_t height, int64_t width,  \
                                           const T* splats, const int64_t* offsets, const int32_t* ids, T* rgb,        \
                                           T* opacity, T* depth, void* stream) {                                       \
        const TileLists<T> lists{num_gaussians, num_cameras, Tiles(height, width), splats, offsets, ids};              \
        return launch(blend<T>, lists.num_tiles(), kThreads, sizeof(Batch<T>), stream, lists, rgb, opacity, depth);    \
    }                                                                                                                  \
    TG_API int64_t tg_splat_blend_backward_##suffix(                                                                   \
        int64_t num_gaussians, int64_t num_cameras, int64_t height, int64_t width, const T* splats,                    \
        const int64_t* offsets, const int32_t* ids, const T* rgb, const T* opacity, const T* depth, const T* grad_rgb, \
        const T* grad_opacity, const T* grad_depth, const int64_t* first_record, T* records, T* grad, void* stream) {  \
        return blend_backward<T>({num_gaussians, num_cameras, Tiles(height, width), splats, offsets, ids}, rgb,        \
                                 opacity, depth, grad_rgb, grad_opacity, grad_depth, first_record, records, grad,      \
                                 stream);                                                                              \
    }
TG_SPLAT_BLEND(f32, float)
TG_SPLAT_BLEND(f64, double)
