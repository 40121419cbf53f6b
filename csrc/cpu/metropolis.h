// The end of a trajectory: last kick and kinetic energy, decision, selection. Where events are short, a tile of chains is
// selected element by element without branches; where they are long, memory of rejected chains is not touched.
#pragma once
#include "../core/metropolis.h"
#include "walk.h"

EBM_FAST_CORE_BEGIN

struct ChainsOfTile {
    alignas(64) double energy[TILE_BLOCKS], proposal_energy[TILE_BLOCKS], kinetic[TILE_BLOCKS],
        proposal_kinetic[TILE_BLOCKS], log_ratio[TILE_BLOCKS], beta[TILE_BLOCKS], log_u[TILE_BLOCKS], accepted[TILE_BLOCKS],
        probability[TILE_BLOCKS], diverged[TILE_BLOCKS], hamiltonian[TILE_BLOCKS];
};

template <class T>
class Metropolis {
public:
    using V = typename Storage<T>::Vector;
    using Bits = decltype(V{} < V{});

    explicit Metropolis(const MetropolisParams& params)
        : p(params),
          key(make_counter(params.stream)),
          keys(key.keys),
          coefficients({params.kick}, params.scale, params.dim),
          kicks(params.momentum && params.proposal_grad && (params.kick.value != 0.0 || params.kick.at)) {}

    void chains(int64_t begin, int64_t end) {
        const int64_t most = chains_of_tile(p.dim), segments = segments_of_chain(p.dim);
        for (int64_t first = begin; first < end; first += most) {
            const int64_t count = end - first < most ? end - first : most;
            if (p.dim < LONG_EVENT) {
                short_events(first, count);
                continue;
            }
            for (int64_t k = 0; k < count; ++k) {
                sums[k] = 0.0;
                for (int64_t s = 0; s < segments; ++s) sums[k] += segment(first + k, s);
            }
            settle(first, count);
            for (int64_t k = 0; k < count; ++k) accepted[k] ? accept(first + k, 0, p.dim) : reject(first + k, 0, p.dim);
        }
    }

    // Sum of squares of the kicked momentum over one segment of a chain.
    double segment(int64_t chain, int64_t index) {
        if (!p.momentum) return 0.0;
        const int64_t size = tiles_of_segment(p.dim) * TILE, e = index * size;
        Kinetic<false, true> body{*this};
        coefficients.row(chain, e, p.dim - e < size ? p.dim - e : size, 0, body);
        return body.sum.total();
    }

    bool decide_alone(int64_t chain, double sum) {
        sums[0] = sum;
        settle(chain, 1);
        return accepted[0];
    }

    // Elements [e, e + count) of a chain
    void accept(int64_t chain, int64_t e, int64_t count) {
        const int64_t from = chain * p.dim + e;
        copy(static_cast<T*>(p.x) + from, static_cast<const T*>(p.proposal) + from, count);
        if (p.grad) copy(static_cast<T*>(p.grad) + from, static_cast<const T*>(p.proposal_grad) + from, count);
        if (p.momentum_before && kicks) {
            Kick body{*this};
            coefficients.row(chain, e, count, 0, body);
        }
    }
    void reject(int64_t chain, int64_t e, int64_t count) {
        if (!p.momentum_before) return;
        T* momentum = static_cast<T*>(p.momentum) + chain * p.dim + e;
        const T* before = static_cast<const T*>(p.momentum_before) + chain * p.dim + e;
        for (int64_t i = 0; i < count; ++i) momentum[i] = -before[i];
    }

private:
    static void copy(T* to, const T* from, int64_t count) {
        int64_t i = 0;
        for (; i + W <= count; i += W) store(to + i, load(from + i));
        if (i < count) store_part(to + i, load_part(from + i, count - i), count - i);
    }

    // Decisions, energies and counters of chains whose sums of squares are known.
    void settle(int64_t first, int64_t count) {
        fill_tile<LogUniformOf>(key, keys, 1, first, first + count, log_u);
        T* energy = static_cast<T*>(p.energy) + first;
        const T* proposal_energy = static_cast<const T*>(p.proposal_energy) + first;
        const T* beta = static_cast<const T*>(p.beta.at);
        ChainsOfTile c;
        for (int64_t k = 0; k < count; ++k) {
            c.energy[k] = energy[k];
            c.proposal_energy[k] = proposal_energy[k];
            c.kinetic[k] = p.kinetic ? p.kinetic[first + k] : 0.0;
            c.proposal_kinetic[k] = 0.5 * sums[k];
            c.log_ratio[k] = p.log_ratio ? p.log_ratio[first + k] : 0.0;
            c.beta[k] = beta ? beta[(first + k) * p.beta.stride] : p.beta.value;
            c.log_u[k] = log_u[k];
        }
        for (int64_t k = 0; k < count; k += W / 2) {
            const ChainEnd<H> end = {half(c.energy + k),           half(c.proposal_energy + k), half(c.kinetic + k),
                                     half(c.proposal_kinetic + k), half(c.log_ratio + k),       half(c.beta + k)};
            const Decision<H> decision = decide(end, half(c.log_u + k));
            put_half(c.accepted + k, decision.accepted ? broadcast<H>(1.0) : H{});
            if (!p.counters) continue;
            put_half(c.probability + k, decision.probability());
            put_half(c.diverged + k, decision.diverged(p.max_error) ? broadcast<H>(1.0) : H{});
            put_half(c.hamiltonian + k, decision.hamiltonian);
        }
        for (int64_t k = 0; k < count; ++k) {
            accepted[k] = c.accepted[k] != 0.0;
            energy[k] = accepted[k] ? proposal_energy[k] : energy[k];
        }
        if (!p.counters) return;
        double* counters = p.counters + 5 * first;
        for (int64_t k = 0; k < count; ++k, counters += 5) {
            counters[0] += c.probability[k];
            counters[1] += c.accepted[k];
            counters[2] += c.diverged[k];
            counters[3] = c.probability[k];
            counters[4] = c.hamiltonian[k];
        }
    }

    static H half(const double* from) {
        H a;
        std::memcpy(&a, from, sizeof a);
        return a;
    }
    static void put_half(double* to, H a) { std::memcpy(to, &a, sizeof a); }

    void short_events(int64_t first, int64_t count) {
        if (p.momentum) {
            Kinetic<true, false> body{*this};
            coefficients.chains(first, count, body);
            sums_of_squares(kicked_momentum, count, p.dim, sums);
        } else {
            for (int64_t k = 0; k < count; ++k) sums[k] = 0.0;
        }
        settle(first, count);
        for (int64_t k = 0; k < count; ++k) {
            const V flag = (V)(Bits{} - accepted[k]);      // all bits or none
            for (int64_t e = 0; e < p.dim; e += W)
                store(spread + k * p.dim + e, flag);   // the next chain overwrites what is beyond
        }
        const int64_t from = first * p.dim, elements = count * p.dim;
        int64_t i = 0;
        for (; i + W <= elements; i += W) select<false>(from + i, i, W);
        if (i < elements) select<true>(from + i, i, elements - i);
    }

    template <bool PART> EBM_FAST_INLINE void select(int64_t from, int64_t i, int64_t n) {
        const Bits mask = (Bits)load(spread + i);
        blend<PART>(mask, static_cast<T*>(p.x) + from, static_cast<const T*>(p.proposal) + from, n);
        if (p.grad) blend<PART>(mask, static_cast<T*>(p.grad) + from, static_cast<const T*>(p.proposal_grad) + from, n);
        if (p.momentum_before) {
            const V before = -get<PART>(static_cast<const T*>(p.momentum_before) + from, n);
            put<PART>(static_cast<T*>(p.momentum) + from, choose(mask, load(kicked_momentum + i), before), n);
        }
    }
    template <bool PART> static EBM_FAST_INLINE void blend(Bits mask, T* to, const T* from, int64_t n) {
        put<PART>(to, choose(mask, get<PART>(from, n), get<PART>(to, n)), n);
    }
    static EBM_FAST_INLINE V choose(Bits mask, V a, V b) { return (V)(((Bits)a & mask) | ((Bits)b & ~mask)); }

    template <bool STORE, bool SUM> struct Kinetic {
        Metropolis& op;
        LaneSum sum{};
        template <bool PART> EBM_FAST_INLINE void run(int64_t from, int64_t i, int64_t n, const V (&c)[1]) {
            V q = get<PART>(static_cast<const T*>(op.p.momentum) + from, n);
            if (op.kicks) q = kicked(q, get<PART>(static_cast<const T*>(op.p.proposal_grad) + from, n), c[0]);
            if constexpr (STORE) store(op.kicked_momentum + i, q);
            if constexpr (SUM) sum.add_square(q);
        }
    };
    struct Kick {
        Metropolis& op;
        template <bool PART> EBM_FAST_INLINE void run(int64_t from, int64_t, int64_t n, const V (&c)[1]) {
            T* momentum = static_cast<T*>(op.p.momentum) + from;
            put<PART>(momentum,
                      kicked(get<PART>(momentum, n), get<PART>(static_cast<const T*>(op.p.proposal_grad) + from, n), c[0]), n);
        }
    };

    const MetropolisParams& p;
    const Counter key;
    const KeyTable keys;
    Coefficients<T, 1, 1> coefficients;
    const bool kicks;
    alignas(64) float log_u[TILE_BLOCKS + SURPLUS];      // of a tile's chains, as are the next two
    alignas(64) double sums[TILE_BLOCKS];
    uint8_t accepted[TILE_BLOCKS];
    alignas(64) T kicked_momentum[TILE + W];             // of a tile's elements
    alignas(64) T spread[TILE + LONG_EVENT];
};

inline void metropolis_range(const MetropolisParams& p, int64_t begin, int64_t end) {
    if (p.dtype == DType::float64) Metropolis<double>(p).chains(begin, end);
    else Metropolis<float>(p).chains(begin, end);
}

// The same of one long chain in three steps, of which the first and the last may be shared among threads.
inline void metropolis_segments(const MetropolisParams& p, int64_t chain, int64_t begin, int64_t end, double* sums) {
    const auto run = [&](auto&& op) {
        for (int64_t s = begin; s < end; ++s) sums[s] = op.segment(chain, s);
    };
    if (p.dtype == DType::float64) run(Metropolis<double>(p));
    else run(Metropolis<float>(p));
}
inline bool metropolis_decide(const MetropolisParams& p, int64_t chain, double sum) {
    return p.dtype == DType::float64 ? Metropolis<double>(p).decide_alone(chain, sum)
                                     : Metropolis<float>(p).decide_alone(chain, sum);
}
inline void metropolis_select(const MetropolisParams& p, int64_t chain, bool accepted, int64_t begin, int64_t end) {
    const int64_t size = tiles_of_segment(p.dim) * TILE, from = begin * size, to = end * size < p.dim ? end * size : p.dim;
    const auto run = [&](auto&& op) { accepted ? op.accept(chain, from, to - from) : op.reject(chain, from, to - from); };
    if (p.dtype == DType::float64) run(Metropolis<double>(p));
    else run(Metropolis<float>(p));
}

EBM_FAST_CORE_END
