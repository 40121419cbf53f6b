// A walk over a tile of elements, W at a time, with coefficients that may differ from chain to chain and be scaled element by
// element. A tile is several whole chains, or (where events are long) a part of one.
#pragma once
#include "noise.h"
#include "tiles.h"

EBM_FAST_CORE_BEGIN

constexpr int64_t LONG_EVENT = 2 * W;         // from here on, looping chain by chain beats spreading coefficients

template <bool PART, class T> EBM_FAST_INLINE auto get(const T* p, int64_t count) {
    if constexpr (PART) return load_part(p, count);
    else return load(p);
}
template <bool PART, class T, class V> EBM_FAST_INLINE void put(T* p, V a, int64_t count) {
    if constexpr (PART) store_part(p, a, count);
    else store(p, a);
}

// N coefficients, of which the first SCALED are multiplied by scale_e.
template <class T, int N, int SCALED>
class Coefficients {
public:
    using V = typename Storage<T>::Vector;

    Coefficients(const Coefficient (&source)[N], const void* scale, int64_t dim, const uint8_t* active = nullptr)
        : scale_(static_cast<const T*>(scale)), active_(active), dim_(dim), differs_(false), spread_chains_(0) {
        for (int n = 0; n < N; ++n) {
            source_[n] = source[n];
            differs_ = differs_ || (source[n].at && source[n].stride);
        }
        set_chain(0);
    }

    // A tile of chains of one event each. body.run<PART>(from, i, count, coefficients): element `from` in memory, `i` in the tile.
    template <class Body> void chains(int64_t first, int64_t chains, Body& body) {
        const int64_t from = first * dim_;
        if (active_) {
            for (int64_t k = 0; k < chains; ++k)
                if (active_[first + k]) row(first + k, 0, dim_, k * dim_, body);
            return;
        }
        if (!differs_ && !scale_) return flat<false>(from, chains * dim_, body);
        if (dim_ < LONG_EVENT) {
            if (differs_ || spread_chains_ < chains) spread(first, chains);
            return flat<true>(from, chains * dim_, body);
        }
        for (int64_t k = 0; k < chains; ++k) row(first + k, 0, dim_, k * dim_, body);
    }

    // Units [begin, end): chains, or tiles where events are long. before(block, end_block, from, count) sees each tile first.
    template <class Body, class Before> void units(int64_t begin, int64_t end, Body& body, const Before& before) {
        const int64_t per_chain = blocks_per_chain(dim_);
        if (dim_ > TILE) {
            const int64_t tiles = tiles_of_chain(dim_);
            for (int64_t unit = begin; unit < end; ++unit) {
                const int64_t chain = unit / tiles;
                if (active_ && !active_[chain]) continue;
                const int64_t e = unit % tiles * TILE, count = dim_ - e < TILE ? dim_ - e : TILE;
                const int64_t block = chain * per_chain + e / 4;
                before(block, block + blocks_per_chain(count), chain * dim_ + e, count);
                row(chain, e, count, 0, body);
            }
            return;
        }
        const int64_t most = chains_of_tile(dim_);
        for (int64_t first = begin; first < end; first += most) {
            const int64_t count = end - first < most ? end - first : most;
            before(first * per_chain, (first + count) * per_chain, first * dim_, count * dim_);
            chains(first, count, body);
        }
    }

    // Elements [e, e + count) of one chain, which are [i, i + count) in the tile.
    template <class Body> void row(int64_t chain, int64_t e, int64_t count, int64_t i, Body& body) {
        if (differs_) set_chain(chain);
        if (scale_) part_of_row<true>(chain * dim_ + e, e, count, i, body);
        else part_of_row<false>(chain * dim_ + e, e, count, i, body);
    }

private:
    T value(int n, int64_t chain) const {
        const Coefficient& c = source_[n];
        return c.at ? static_cast<const T*>(c.at)[chain * c.stride] : static_cast<T>(c.value);
    }
    void set_chain(int64_t chain) {
        for (int n = 0; n < N; ++n) row_[n] = broadcast<V>(value(n, chain));
    }

    void spread(int64_t first, int64_t chains) {
        V factor[LONG_EVENT / W];
        for (int i = 0; i < LONG_EVENT / W; ++i) {
            const int64_t left = dim_ - i * W;
            factor[i] = !scale_ || left <= 0 ? broadcast<V>(1)
                        : left < W           ? load_part(scale_ + i * W, left)
                                             : load(scale_ + i * W);
        }
        for (int n = 0; n < N; ++n)
            for (int64_t k = 0; k < chains; ++k) {
                const V a = broadcast<V>(value(n, first + k));
                for (int i = 0; i * W < dim_; ++i)  // what goes beyond the chain is overwritten by the next
                    store(tile_[n] + k * dim_ + i * W, n < SCALED ? a * factor[i] : a);
            }
        spread_chains_ = chains;
    }

    template <bool SPREAD, class Body> void flat(int64_t from, int64_t count, Body& body) {
        V c[N];
        for (int n = 0; n < N; ++n) c[n] = row_[n];
        int64_t i = 0;
        for (; i + W <= count; i += W) {
            if constexpr (SPREAD)
                for (int n = 0; n < N; ++n) c[n] = load(tile_[n] + i);
            body.template run<false>(from + i, i, W, c);
        }
        if (i < count) {
            if constexpr (SPREAD)
                for (int n = 0; n < N; ++n) c[n] = load(tile_[n] + i);
            body.template run<true>(from + i, i, count - i, c);
        }
    }

    template <bool SCALE, class Body> void part_of_row(int64_t from, int64_t e, int64_t count, int64_t i, Body& body) {
        V c[N];
        for (int n = 0; n < N; ++n) c[n] = row_[n];
        int64_t k = 0;
        for (; k + W <= count; k += W) {
            if constexpr (SCALE)
                for (int n = 0; n < SCALED; ++n) c[n] = row_[n] * load(scale_ + e + k);
            body.template run<false>(from + k, i + k, W, c);
        }
        if (k < count) {
            if constexpr (SCALE)
                for (int n = 0; n < SCALED; ++n) c[n] = row_[n] * load_part(scale_ + e + k, count - k);
            body.template run<true>(from + k, i + k, count - k, c);
        }
    }

    Coefficient source_[N];
    const T* scale_;
    const uint8_t* active_;  // # (n,) or null: chains with 0 are left alone
    int64_t dim_;
    bool differs_;
    int64_t spread_chains_;
    V row_[N];
    alignas(64) T tile_[N][TILE + LONG_EVENT];
};

// Sums of squares in float64: of a tile's short events one after the other, of a long event in lanes. Either order depends on
// the event alone.
template <class T>
inline void sums_of_squares(const T* tile, int64_t chains, int64_t dim, double* out) {
    constexpr int TOGETHER = 8;  // chains side by side hide the latency of each other's additions
    int64_t k = 0;
    for (; k + TOGETHER <= chains; k += TOGETHER) {
        double sum[TOGETHER] = {};
        for (int64_t e = 0; e < dim; ++e)
            for (int j = 0; j < TOGETHER; ++j) {
                const double a = tile[(k + j) * dim + e];
                sum[j] += a * a;
            }
        for (int j = 0; j < TOGETHER; ++j) out[k + j] = sum[j];
    }
    for (; k < chains; ++k) {
        double sum = 0.0;
        for (int64_t e = 0; e < dim; ++e) sum += static_cast<double>(tile[k * dim + e]) * static_cast<double>(tile[k * dim + e]);
        out[k] = sum;
    }
}

struct LaneSum {
    D sum{};
    template <class V> EBM_FAST_INLINE void add_square(V a) {
        const D wide = __builtin_convertvector(a, D);
        sum += wide * wide;
    }
    double total() const {
        double a = 0.0;
        for (int k = 0; k < W; ++k) a += sum[k];
        return a;
    }
};

EBM_FAST_CORE_END
