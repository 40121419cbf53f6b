// How the chains of a tensor are cut into pieces of work; the same on every instruction set.
#pragma once
#include "../core/macros.h"

EBM_FAST_CORE_BEGIN

constexpr int64_t TILE_BLOCKS = 512;      // 2048 elements: 8 KiB of noise stay in L1
constexpr int64_t TILE = 4 * TILE_BLOCKS;

inline int64_t blocks_per_chain(int64_t dim) { return (dim + 3) / 4; }
inline int64_t tiles_of_chain(int64_t dim) { return (dim + TILE - 1) / TILE; }

// Short events: a tile is this many whole chains.
inline int64_t chains_of_tile(int64_t dim) {
    const int64_t most = dim > 0 ? TILE_BLOCKS / blocks_per_chain(dim) : TILE_BLOCKS;
    return most > 1 ? most : 1;
}

// A long event is cut into at most MOST_SEGMENTS segments of whole tiles. Sums over the event add the segments' sums in order,
// whoever computed them.
constexpr int64_t MOST_SEGMENTS = 1024;
inline int64_t tiles_of_segment(int64_t dim) { return (tiles_of_chain(dim) + MOST_SEGMENTS - 1) / MOST_SEGMENTS; }
inline int64_t segments_of_chain(int64_t dim) {
    const int64_t tiles = tiles_of_chain(dim);
    return tiles > 0 ? (tiles + tiles_of_segment(dim) - 1) / tiles_of_segment(dim) : 0;
}

EBM_FAST_CORE_END
