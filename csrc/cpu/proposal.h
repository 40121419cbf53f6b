// The start of a trajectory: a tile of noise in L1, refreshed momentum and its kinetic energy, kick and drift in one pass.
#pragma once
#include "../core/proposal.h"
#include "product.h"
#include "walk.h"

EBM_FAST_CORE_BEGIN

template <class T>
class Proposal {
public:
    using V = typename Storage<T>::Vector;

    explicit Proposal(const ProposalParams& params)
        : p(params),
          key(make_counter(params.stream)),
          keys(key.keys),
          coefficients({params.kick, params.drift, params.persistence, params.fresh}, params.scale, params.dim),
          keeps(params.persistence.at || params.persistence.value != 0.0) {}

    void units(int64_t begin, int64_t end) {
        Finish<false, false> body{*this};
        coefficients.units(begin, end, body,
                           [this](int64_t b, int64_t e, int64_t from, int64_t count) { draw(b, e, from, count); });
    }

    // The same of whole chains, with their kinetic energies.
    void chains(int64_t begin, int64_t end) {
        if (p.dim > TILE) {
            for (int64_t chain = begin; chain < end; ++chain) {
                double sum = 0.0;
                for (int64_t s = 0; s < segments_of_chain(p.dim); ++s) sum += segment(chain, s);
                p.kinetic[chain] = 0.5 * sum;
            }
            return;
        }
        const int64_t most = chains_of_tile(p.dim), per_chain = blocks_per_chain(p.dim);
        for (int64_t first = begin; first < end; first += most) {
            const int64_t count = end - first < most ? end - first : most;
            draw(first * per_chain, (first + count) * per_chain, first * p.dim, count * p.dim);
            if (p.dim < LONG_EVENT) {
                Finish<true, false> body{*this};
                coefficients.chains(first, count, body);
                sums_of_squares(fresh, count, p.dim, p.kinetic + first);
                for (int64_t k = first; k < first + count; ++k) p.kinetic[k] *= 0.5;
            } else {
                for (int64_t k = 0; k < count; ++k) {
                    Finish<false, true> body{*this};
                    coefficients.row(first + k, 0, p.dim, k * p.dim, body);
                    p.kinetic[first + k] = 0.5 * body.sum.total();
                }
            }
        }
    }

    // Sum of squares of the refreshed momentum over one segment of a long chain.
    double segment(int64_t chain, int64_t index) {
        const int64_t first = index * tiles_of_segment(p.dim), all = tiles_of_chain(p.dim);
        const int64_t last = first + tiles_of_segment(p.dim) < all ? first + tiles_of_segment(p.dim) : all;
        Finish<false, true> body{*this};
        for (int64_t tile = first; tile < last; ++tile) {
            const int64_t e = tile * TILE, count = p.dim - e < TILE ? p.dim - e : TILE;
            const int64_t block = chain * blocks_per_chain(p.dim) + tile * TILE_BLOCKS;
            draw(block, block + blocks_per_chain(count), chain * p.dim + e, count);
            coefficients.row(chain, e, count, 0, body);
        }
        return body.sum.total();
    }

private:
    void draw(int64_t begin, int64_t end, int64_t from, int64_t count) {
        fill_tile<NormalOf>(key, keys, p.dim, begin, end, noise,
                            Ahead(from, count, static_cast<const T*>(p.x), static_cast<const T*>(p.grad)));
    }

    template <bool STORE, bool SUM>      // the refreshed momentum: stored in `fresh`, or its squares summed
    struct Finish {
        Proposal& op;
        LaneSum sum{};
        template <bool PART> EBM_FAST_INLINE void run(int64_t from, int64_t i, int64_t n, const V (&c)[4]) {
            const ProposalParams& p = op.p;
            T* momentum = static_cast<T*>(p.momentum) + from;
            V q = __builtin_convertvector(get<PART>(op.noise + i, n), V);
            if (op.keeps) q = refreshed(get<PART>(momentum, n), q, c[2], c[3]);
            if constexpr (STORE) store(op.fresh + i, q);
            if constexpr (SUM) sum.add_square(q);
            if (p.grad) q = kicked(q, get<PART>(static_cast<const T*>(p.grad) + from, n), c[0]);
            if (p.momentum) put<PART>(momentum, q, n);
            if (p.proposal)
                put<PART>(static_cast<T*>(p.proposal) + from, drifted(get<PART>(static_cast<const T*>(p.x) + from, n), q, c[1]),
                          n);
        }
    };

    const ProposalParams& p;
    const Counter key;
    const KeyTable keys;
    Coefficients<T, 4, 2> coefficients;
    const bool keeps;
    alignas(64) float noise[TILE + SURPLUS];
    alignas(64) T fresh[TILE + W];
};

// Chains of a tile that is multiplied by a factor: enough that each row of it is used many times.
constexpr int64_t PRODUCT_TILE = 4 * TILE;
inline int64_t chains_of_product(int64_t dim) {
    const int64_t most = dim < LONG_EVENT ? chains_of_tile(dim) : PRODUCT_TILE / (4 * blocks_per_chain(dim));
    return most > 1 ? most : 1;
}

// The start with a factor: normals and velocities of a tile of whole chains, up to PRODUCT_TILE elements each, stay in cache.
template <class T>
class DenseProposal {
public:
    using V = typename Storage<T>::Vector;

    explicit DenseProposal(const ProposalParams& params)
        : p(params),
          key(make_counter(params.stream)),
          keys(key.keys),
          coefficients({params.kick, params.drift}, nullptr, params.dim) {}

    void chains(int64_t begin, int64_t end) {
        const int64_t most = chains_of_product(p.dim), per_chain = blocks_per_chain(p.dim);
        for (int64_t first = begin; first < end; first += most) {
            const int64_t count = end - first < most ? end - first : most, all = count * p.dim;
            fill_tile<NormalOf>(key, keys, p.dim, first * per_chain, (first + count) * per_chain, noise,
                                Ahead(first * p.dim, all, static_cast<const T*>(p.x), static_cast<const T*>(p.grad)));
            const T* z = normals(all);
            if (p.kinetic) kinetic(z, first, count);
            upper_product(z, static_cast<const T*>(p.factor), count, p.dim, velocity);
            coefficients.chains(first, count, *this);
        }
    }

    template <bool PART> EBM_FAST_INLINE void run(int64_t from, int64_t i, int64_t n, const V (&c)[2]) {
        V v = get<PART>(velocity + i, n);
        if (p.grad) v = kicked(v, get<PART>(static_cast<const T*>(p.grad) + from, n), c[0]);
        if (p.momentum) put<PART>(static_cast<T*>(p.momentum) + from, v, n);
        if (p.proposal)
            put<PART>(static_cast<T*>(p.proposal) + from, drifted(get<PART>(static_cast<const T*>(p.x) + from, n), v, c[1]), n);
    }

private:
    const T* normals(int64_t count) {
        if constexpr (sizeof(T) == 4) return noise;
        else {
            for (int64_t i = 0; i < count; i += W) store(wide + i, __builtin_convertvector(load(noise + i), V));
            return wide;
        }
    }

    void kinetic(const T* z, int64_t first, int64_t count) {
        if (p.dim < LONG_EVENT) sums_of_squares(z, count, p.dim, p.kinetic + first);
        for (int64_t k = 0; k < count; ++k) {
            if (p.dim >= LONG_EVENT) {
                LaneSum sum{};
                const T* row = z + k * p.dim;
                int64_t i = 0;
                for (; i + W <= p.dim; i += W) sum.add_square(load(row + i));
                if (i < p.dim) sum.add_square(load_part(row + i, p.dim - i));
                p.kinetic[first + k] = sum.total();
            }
            p.kinetic[first + k] *= 0.5;
        }
    }

    const ProposalParams& p;
    const Counter key;
    const KeyTable keys;
    Coefficients<T, 2, 0> coefficients;
    alignas(64) float noise[PRODUCT_TILE + SURPLUS];
    alignas(64) T wide[sizeof(T) == 4 ? W : PRODUCT_TILE + W];
    alignas(64) T velocity[PRODUCT_TILE + W];
};

// Units are chains where there is a kinetic energy to sum or a factor, else those of Coefficients::units.
inline void proposal_range(const ProposalParams& p, int64_t begin, int64_t end) {
    if (p.factor)
        return p.dtype == DType::float64 ? DenseProposal<double>(p).chains(begin, end)
                                         : DenseProposal<float>(p).chains(begin, end);
    const auto run = [&](auto&& op) { p.kinetic ? op.chains(begin, end) : op.units(begin, end); };
    if (p.dtype == DType::float64) run(Proposal<double>(p));
    else run(Proposal<float>(p));
}

inline void proposal_segments(const ProposalParams& p, int64_t chain, int64_t begin, int64_t end, double* sums) {
    const auto run = [&](auto&& op) {
        for (int64_t s = begin; s < end; ++s) sums[s] = op.segment(chain, s);
    };
    if (p.dtype == DType::float64) run(Proposal<double>(p));
    else run(Proposal<float>(p));
}

EBM_FAST_CORE_END
