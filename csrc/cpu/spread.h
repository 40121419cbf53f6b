// Lane = element: one long event over the lanes, element i W + l in lane l of row i, as it lies in memory. The core's arithmetic is
// that of lane = chain; where a row reaches beyond the event, states, gradients and noise are zeros.
#pragma once
#include "../core/energies/shapes.h"
#include "rows.h"

EBM_FAST_CORE_BEGIN

template <int... l> inline I lane_indices(Index<l...>) { return I{l...}; }
inline I lane_indices() { return lane_indices(typename MakeIndex<W>::type{}); }

struct Spread {
    int dim;
    explicit Spread(int elements) : dim(elements) {}

    static constexpr int BLOCK = 1;
    int rows() const { return (dim + W - 1) / W; }
    static int first() { return 0; }
    static int next(int i) { return i + 1; }
    static int head(int i) { return i; }  // what lies before a row's elements is not in the row before
    static bool any(bool a) { return a; }

    // Over a fixed tree; every lane has it.
    static Wide sum(Wide a) {
        double part[W / 2];
        const DHalf both = a.lo + a.hi;
        std::memcpy(part, &both, sizeof part);
        for (int width = W / 4; width > 0; width /= 2)
            for (int k = 0; k < width; ++k) part[k] += part[k + width];
        return make_wide<F>(part[0]);
    }

    template <class V> V load(const float* p, int i) const {
        const int left = dim - i * W;
        return left >= W ? ebm_fast::load(p + i * W) : load_part(p + i * W, left);
    }
    template <class V> V inside(int i, V a) const {
        const int left = dim - i * W;
        return left >= W ? a : select(lane_indices() < left, a, V{});
    }
    template <class V> static V pick(int i, int e, V a, V b) {
        const int lane = e - i * W;
        return lane < 0 || lane >= W ? b : select(lane_indices() == lane, a, b);
    }
    template <int G> static F at(const F* x, int e, int) { return broadcast<F>(reinterpret_cast<const float*>(x)[e]); }
    template <int G> static void put(F* x, int e, int, F a) { reinterpret_cast<float*>(x)[e] = a[0]; }

    // W elements from `e` on, -dim <= e, around the event's end. Up to a vector in front of a row is read, and dropped.
    F around(const F* x, int e) const {
        const float* from = reinterpret_cast<const float*>(x);
        if (e >= 0 && e + W <= dim) return ebm_fast::load(from + e);
        if (e + W <= 0) return ebm_fast::load(from + e + dim);
        if (e >= dim) return ebm_fast::load(from + e - dim);
        const int end = e < 0 ? 0 : dim, before = e < 0 ? e + dim : e, after = e < 0 ? e : e - dim;
        return select(lane_indices() < end - e, ebm_fast::load(from + before), ebm_fast::load(from + after));
    }
    template <int G> F beside(const F* x, int i, int, int by) const { return around(x, i * W + by); }
};

template <>
struct Site<Spread> {
    const Spread& share;
    const int height, width;
    I remainder;  // of the lanes, modulo width
    int here, j;  // the row's first site and its column
    bool inner;  // all neighbours lie between the event's ends
    Site(const Spread& event, int h, int w) : share(event), height(h), width(w), here(-W), j(-(W % w)), inner(false) {
        for (int l = 0; l < W; ++l) remainder[l] = l % w;
    }
    void move_to(int) {
        here += W, j += W % width;
        j -= j >= width ? width : 0;
        inner = here >= width && here + W + width <= share.dim;
    }
    I column() const {
        const I at = remainder + j;
        return at - ((at >= width) & width);
    }
    F at(const F* x, int by) const {
        return inner ? ebm_fast::load(reinterpret_cast<const float*>(x) + here + by) : share.around(x, here + by);
    }
    template <int G> F left(const F* x, int) const {
        const F before = at(x, -1);
        return j == 0 || j + W > width ? select(column() == 0, at(x, width - 1), before) : before;
    }
    template <int G> F right(const F* x, int) const {
        const F after = at(x, 1);
        return j + W >= width ? select(column() == width - 1, at(x, 1 - width), after) : after;
    }
    template <int G> F up(const F* x, int) const { return at(x, -width); }
    template <int G> F down(const F* x, int) const { return at(x, width); }
};

inline void trim(const Spread& share, F* row) {
    const int last = share.rows() - 1;
    row[last] = share.inside(last, row[last]);
}

// In the first two rounds of Philox one of the two products is that of numbers which all blocks of a chain share.
inline void normal_rows(const Spread& share, const KeyTable& keys, uint32_t step, uint32_t tag, const U (&chains)[1], F* out) {
    constexpr uint32_t M0 = 0xD2511F53u, M1 = 0xCD9E8D57u;
    const uint64_t of_step = uint64_t{step} * M1;
    const uint32_t chain = static_cast<uint32_t>(of_step >> 32) ^ chains[0][0] ^ static_cast<uint32_t>(keys.first(0));
    const uint64_t of_chain = uint64_t{chain} * M0;
    const Words second = to_words(static_cast<uint32_t>(of_step)), third = to_words(tag);
    const Words high = to_words(static_cast<uint32_t>(of_chain >> 32)), low = to_words(static_cast<uint32_t>(of_chain));
    const int blocks = static_cast<int>(blocks_per_chain(share.dim));
    for (int at = 0; at < blocks; at += LANES, out += 4 * GROUPS) {
        U block[GROUPS];
        for (int k = 0; k < GROUPS; ++k) block[k] = (U)(lane_indices() + (at + k * W));
        Words counter[4], high_of_block, high_of_third;
        mulhilo(to_words(block), M0, high_of_block, counter[3]);
        mulhilo(xor3(high_of_block, third, keys.second(0)), M1, high_of_third, counter[1]);
        counter[0] = xor3(high_of_third, second, keys.first(1)), counter[2] = xor3(high, counter[3], keys.second(1)),
        counter[3] = low;
        philox4x32_10<2>(counter, keys);
        for (int k = 0; k < GROUPS && at + k * W < blocks; ++k) {
            const U words[4] = {group_of(counter[0], k), group_of(counter[1], k), group_of(counter[2], k),
                                group_of(counter[3], k)};
            I normal[4], packed[4];
            NormalOf::make(words, normal);
            interleave4(normal, packed);
            std::memcpy(out + 4 * k, packed, sizeof packed);
        }
    }
    trim(share, out - (blocks + LANES - 1) / LANES * 4 * GROUPS);
}

inline void load_rows(const Spread& share, const TileIndex<1>& tile, const float* from, F* rows) {
    rows[share.rows() - 1] = F{};
    std::memcpy(rows, from + tile.first * share.dim, static_cast<size_t>(share.dim) * 4);
}
inline void store_rows(const Spread& share, const TileIndex<1>& tile, const F* rows, float* to) {
    std::memcpy(to + tile.first * share.dim, rows, static_cast<size_t>(share.dim) * 4);
}

template <int G> inline double square_norm(const Spread& share, const F* row, int) {
    double sum = 0.0;
    for (int i = 0; i < share.dim; ++i) {
        const double a = reinterpret_cast<const float*>(row)[i];
        sum += a * a;
    }
    return sum;
}

inline int64_t row_space(const Spread& share) { return share.rows() + 4; }  // noise is drawn in four rows at a time

EBM_FAST_CORE_END
