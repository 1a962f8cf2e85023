// Gaussian splatting, second step: the splats of every tile. torch sorts, by depth before `list` and by tile after it.
#include "launch.h"

#include "threedgen/splat_blending.h"

using namespace threedgen;

namespace {

constexpr int kThreads = 128;

// How many tiles each splat meets.
template <class T>
__global__ void count(int64_t num_splats, Tiles tiles, const T* __restrict__ splats, int64_t* __restrict__ counts) {
    const int64_t i = thread_in_grid();
    if (i >= num_splats) return;
    const T* const splat = splats + kSplatNumbers * i;
    counts[i] = visible(splat) ? TileBox(tiles, splat).count() : 0;
}

// One thread a pair of a splat and a tile that it meets. Those of splat order[n], n = 0, 1, ..., are first[n] and on, so
// that many threads share the tiles of a large splat.
template <class T>
__global__ void list(int64_t num_gaussians, int64_t num_splats, Tiles tiles, const T* __restrict__ splats,
                     const int64_t* __restrict__ order, const int64_t* __restrict__ first, int64_t num_pairs,
                     int32_t* __restrict__ pair_tiles, int32_t* __restrict__ pair_ids) {
    const int64_t pair = thread_in_grid();
    if (pair >= num_pairs) return;
    int64_t low = 0, high = num_splats;  // first[low] <= pair < first[high]
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        (first[middle] <= pair ? low : high) = middle;
    }
    const int64_t i = order[low];
    const TileBox box(tiles, splats + kSplatNumbers * i);
    pair_tiles[pair] = int32_t(i / num_gaussians * tiles.count() + box.tile_at(tiles, pair - first[low]));
    pair_ids[pair] = int32_t(i % num_gaussians);
}

}  // namespace

#define TG_SPLAT_TILES(suffix, T)                                                                                      \
    TG_API int64_t tg_splat_count_##suffix(int64_t num_gaussians, int64_t num_cameras, int64_t height, int64_t width,  \
                                           const T* splats, int64_t* counts, void* stream) {                           \
        const int64_t num_splats = num_gaussians * num_cameras;                                                        \
        return launch(count<T>, blocks_for(num_splats, kThreads), kThreads, 0, stream, num_splats,                     \
                      Tiles(height, width), splats, counts);                                                           \
    }                                                                                                                  \
    TG_API int64_t tg_splat_list_##suffix(int64_t num_gaussians, int64_t num_cameras, int64_t height, int64_t width,   \
                                          const T* splats, const int64_t* order, const int64_t* first,                 \
                                          int64_t num_pairs, int32_t* pair_tiles, int32_t* pair_ids, void* stream) {   \
        return launch(list<T>, blocks_for(num_pairs, kThreads), kThreads, 0, stream, num_gaussians,                    \
                      num_gaussians * num_cameras, Tiles(height, width), splats, order, first, num_pairs, pair_tiles,  \
                      pair_ids);                                                                                       \
    }
TG_SPLAT_TILES(f32, float)
TG_SPLAT_TILES(f64, double)
