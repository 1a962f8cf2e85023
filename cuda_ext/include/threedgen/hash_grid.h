// The multi-resolution hash grid (Mueller et al. 2022), in row form: a vertex (x, y, z) of a hashed level lies in slot
// hash(y, z) + x, so both x corners of a cell are neighbours and a cell is four reads of two rows.
#pragma once

#include "lane.h"

namespace threedgen {

constexpr int kMaxLevels = 64;

struct GridLevel {
    int32_t resolution;  // vertices along an edge, at least 2
    uint32_t first_row;  // of this level in the table
    uint32_t slot_mask;  // slots - 1 of a hashed level; 0: dense, row x + N y + N^2 z
};

struct GridLayout {
    int32_t num_levels;
    int32_t num_features;  // per level
    GridLevel levels[kMaxLevels];
};

// From the library's face: levels [num_levels, 3] = resolution, first row, slot mask.
inline GridLayout grid_layout(int64_t num_levels, int64_t num_features, const int64_t* levels) {
    GridLayout layout;
    layout.num_levels = int32_t(num_levels);
    layout.num_features = int32_t(num_features);
    for (int64_t i = 0; i < num_levels; ++i, levels += 3)
        layout.levels[i] = {int32_t(levels[0]), uint32_t(levels[1]), uint32_t(levels[2])};
    return layout;
}

// Where a point lies in its cell, along one axis.
template <class V>
struct Axis {
    typename Lane<V>::UInt corner;
    V along;  // 0..1 from the lower corner to the upper one
};

template <class V>
TG_INLINE Axis<V> locate(V position, int resolution) {
    const V lattice = clamp(position, broadcast<V>(0), broadcast<V>(1)) * broadcast<V>(float(resolution - 1));
    // the last vertex belongs to the cell below it
    const V lower = smaller(lattice, broadcast<V>(float(resolution) - 1.5f));
    Axis<V> axis;
    axis.corner = to_uint<V>(lower);
    axis.along = lattice - to_real<V>(axis.corner);
    return axis;
}

// A cell's four pairs of rows: pair k = (y offset k & 1, z offset k >> 1) is table rows row[k] and row[k] + 1.
template <class V>
struct Cell {
    typename Lane<V>::UInt row[4];  // counted from the table's first row
    V x, y, z;                      // 0..1 inside the cell

    TG_INLINE V pair_weight(int k) const {
        const V one = broadcast<V>(1);
        return (k & 1 ? y : one - y) * (k & 2 ? z : one - z);
    }
    // derivative of pair_weight(k) by y and by z, both inside the cell: times (resolution - 1) in the unit cube
    TG_INLINE V pair_weight_dy(int k) const {
        const V wz = k & 2 ? z : broadcast<V>(1) - z;
        return k & 1 ? wz : -wz;
    }
    TG_INLINE V pair_weight_dz(int k) const {
        const V wy = k & 1 ? y : broadcast<V>(1) - y;
        return k & 2 ? wy : -wy;
    }
};

template <class V>
TG_INLINE Cell<V> cell_at(V x, V y, V z, const GridLevel& level) {
    using U = typename Lane<V>::UInt;
    const Axis<V> ax = locate(x, level.resolution), ay = locate(y, level.resolution), az = locate(z, level.resolution);
    Cell<V> cell;
    cell.x = ax.along, cell.y = ay.along, cell.z = az.along;
    if (level.slot_mask) {
        const uint32_t prime_y = 2654435761u, prime_z = 805459861u;
        const U y0 = ay.corner * prime_y, y1 = y0 + prime_y, z0 = az.corner * prime_z, z1 = z0 + prime_z;
        cell.row[0] = (((y0 ^ z0) + ax.corner) & level.slot_mask) + level.first_row;
        cell.row[1] = (((y1 ^ z0) + ax.corner) & level.slot_mask) + level.first_row;
        cell.row[2] = (((y0 ^ z1) + ax.corner) & level.slot_mask) + level.first_row;
        cell.row[3] = (((y1 ^ z1) + ax.corner) & level.slot_mask) + level.first_row;
    } else {
        const uint32_t n = uint32_t(level.resolution);
        cell.row[0] = ax.corner + ay.corner * n + az.corner * (n * n) + level.first_row;
        cell.row[1] = cell.row[0] + n;
        cell.row[2] = cell.row[0] + n * n;
        cell.row[3] = cell.row[0] + (n * n + n);
    }
    return cell;
}

}  // namespace threedgen
