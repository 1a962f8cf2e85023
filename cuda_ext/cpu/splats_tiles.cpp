// Gaussian splatting, second step: the splats of every tile, front to back.
#include <algorithm>
#include <vector>

#include "api.h"
#include "parallel.h"
#include "splats.h"

using namespace threedgen;

namespace {

// counts: [B, tiles], how many splats each tile meets.
template <class T>
void count_tiles(int64_t num_gaussians, int64_t num_cameras, const Tiles& tiles, const T* splats, int64_t* counts,
                 int num_threads) {
    parallel_for(num_cameras, num_threads, [&](int64_t b) {
        int64_t* mine = counts + b * tiles.count();
        std::fill(mine, mine + tiles.count(), 0);
        const T* splat = splats + b * num_gaussians * kSplatNumbers;
        for (int64_t i = 0; i < num_gaussians; ++i, splat += kSplatNumbers)
            if (visible(splat)) {
                const TileBox box(tiles, splat);
                for (int64_t y = box.y_begin; y < box.y_end; ++y)
                    for (int64_t x = box.x_begin; x < box.x_end; ++x) ++mine[y * tiles.across + x];
            }
    });
}

// The bits of a positive number are ordered as the number is.
TG_INLINE uint32_t sort_key(float depth) {
    uint32_t key;
    memcpy(&key, &depth, sizeof key);
    return key;
}
TG_INLINE uint64_t sort_key(double depth) {
    uint64_t key;
    memcpy(&key, &depth, sizeof key);
    return key;
}

// The splats that can be seen, nearest first; of equally near ones that with the lower index. A radix sort.
template <class T>
std::vector<int32_t> depth_order(int64_t num_gaussians, const T* splats) {
    using Key = decltype(sort_key(T()));
    struct Entry {
        Key key;
        int32_t index;
    };
    constexpr int kBits = 11, kBuckets = 1 << kBits, kPasses = (8 * sizeof(Key) + kBits - 1) / kBits;
    std::vector<Entry> entries, sorted;
    entries.reserve(num_gaussians);
    std::vector<int32_t> starts(kPasses * kBuckets, 0);
    for (int64_t i = 0; i < num_gaussians; ++i) {
        const T* splat = splats + i * kSplatNumbers;
        if (!visible(splat)) continue;
        const Key key = sort_key(splat[kDepth]);
        entries.push_back({key, int32_t(i)});
        for (int pass = 0; pass < kPasses; ++pass)
            ++starts[pass * kBuckets + ((key >> (pass * kBits)) & (kBuckets - 1))];
    }
    sorted.resize(entries.size());
    for (int pass = 0; pass < kPasses; ++pass) {
        int32_t* start = starts.data() + pass * kBuckets;
        for (int32_t bucket = 0, total = 0; bucket < kBuckets; ++bucket) {
            const int32_t count = start[bucket];
            start[bucket] = total;
            total += count;
        }
        for (const Entry& entry : entries) sorted[start[(entry.key >> (pass * kBits)) & (kBuckets - 1)]++] = entry;
        entries.swap(sorted);
    }
    std::vector<int32_t> order(entries.size());
    for (size_t i = 0; i < entries.size(); ++i) order[i] = entries[i].index;
    return order;
}

// ids: the splats of tile t of image b are ids[offsets[b * tiles + t]] and on, front to back.
template <class T>
void fill_tiles(int64_t num_gaussians, int64_t num_cameras, const Tiles& tiles, const T* splats, const int64_t* offsets,
                int32_t* ids, int num_threads) {
    parallel_for(num_cameras, num_threads, [&](int64_t b) {
        const T* mine = splats + b * num_gaussians * kSplatNumbers;
        std::vector<int64_t> next(offsets + b * tiles.count(), offsets + (b + 1) * tiles.count());
        for (const int32_t i : depth_order(num_gaussians, mine)) {
            const TileBox box(tiles, mine + int64_t(i) * kSplatNumbers);
            for (int64_t y = box.y_begin; y < box.y_end; ++y)
                for (int64_t x = box.x_begin; x < box.x_end; ++x) ids[next[y * tiles.across + x]++] = i;
        }
    });
}

}  // namespace

#define TG_SPLAT_TILES(suffix, T)                                                                                      \
    TG_API void tg_splat_count_tiles_##suffix(int64_t num_gaussians, int64_t num_cameras, int64_t height,              \
                                              int64_t width, const T* splats, int64_t* counts, int64_t num_threads) {  \
        count_tiles<T>(num_gaussians, num_cameras, Tiles(height, width), splats, counts, int(num_threads));            \
    }                                                                                                                  \
    TG_API void tg_splat_fill_tiles_##suffix(int64_t num_gaussians, int64_t num_cameras, int64_t height,               \
                                             int64_t width, const T* splats, const int64_t* offsets, int32_t* ids,     \
                                             int64_t num_threads) {                                                    \
        fill_tiles<T>(num_gaussians, num_cameras, Tiles(height, width), splats, offsets, ids, int(num_threads));       \
    }
TG_SPLAT_TILES(f32, float)
TG_SPLAT_TILES(f64, double)
