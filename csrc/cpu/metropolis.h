// The end of a trajectory: last kick and kinetic energy, decision, selection. Where events are short, a tile of chains is
// selected element by element without branches; where they are long, memory of rejected chains is not touched.
#pragma once
#include "../core/metropolis.h"
#include "walk.h"

EBM_FAST_CORE_BEGIN

template <class T>
class Metropolis {
public:
    using V = typename Storage<T>::Vector;
    using Mask = decltype(V{} < V{});

    explicit Metropolis(const MetropolisParams& params)
        : p(params),
          key(make_counter(params.stream)),
          keys(key.keys),
          coefficients({params.kick}, params.scale, params.dim),
          kicks(params.momentum && params.proposal_grad && (params.kick.value != 0.0 || params.kick.at)) {}

    void chains(int64_t begin, int64_t end) {
        const int64_t most = chains_of_tile(p.dim);
        for (int64_t first = begin; first < end; first += most) {
            const int64_t count = end - first < most ? end - first : most;
            fill_tile<LogUniformOf>(key, keys, 1, first, first + count, log_u);
            if (p.dim < LONG_EVENT) short_events(first, count);
            else
                for (int64_t k = 0; k < count; ++k) {
                    double sum = 0.0;
                    for (int64_t s = 0; s < segments_of_chain(p.dim); ++s) sum += segment(first + k, s);
                    if (settle(first + k, sum, log_u[k])) accept(first + k, 0, p.dim);
                    else reject(first + k, 0, p.dim);
                }
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
        fill_tile<LogUniformOf>(key, keys, 1, chain, chain + 1, log_u);
        return settle(chain, sum, log_u[0]);
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

    bool settle(int64_t chain, double sum, float log_u) {
        T* energy = static_cast<T*>(p.energy) + chain;
        const T proposal_energy = static_cast<const T*>(p.proposal_energy)[chain];
        const ChainEnd chain_end = {*energy,
                                    proposal_energy,
                                    p.kinetic ? p.kinetic[chain] : 0.0,
                                    0.5 * sum,
                                    p.log_ratio ? p.log_ratio[chain] : 0.0,
                                    p.beta.at ? static_cast<const T*>(p.beta.at)[chain * p.beta.stride] : p.beta.value};
        const Decision decision = decide(chain_end, log_u);
        if (p.counters) count(decision, p.max_error, p.counters + 5 * chain);
        if (decision.accepted) *energy = proposal_energy;
        return decision.accepted;
    }

    void short_events(int64_t first, int64_t count) {
        double sums[TILE_BLOCKS] = {};
        if (p.momentum) {
            Kinetic<true, false> body{*this};
            coefficients.chains(first, count, body);
            sums_of_squares(kicked_momentum, count, p.dim, sums);
        }
        T* spread = accepted;
        for (int64_t k = 0; k < count; ++k) {
            const T flag = settle(first + k, sums[k], log_u[k]);
            for (int64_t e = 0; e < p.dim; ++e) *spread++ = flag;
        }
        const int64_t from = first * p.dim, elements = count * p.dim;
        int64_t i = 0;
        for (; i + W <= elements; i += W) select<false>(from + i, i, W);
        if (i < elements) select<true>(from + i, i, elements - i);
    }

    template <bool PART> EBM_FAST_INLINE void select(int64_t from, int64_t i, int64_t n) {
        const Mask mask = load(accepted + i) != 0;
        blend<PART>(mask, static_cast<T*>(p.x) + from, static_cast<const T*>(p.proposal) + from, n);
        if (p.grad) blend<PART>(mask, static_cast<T*>(p.grad) + from, static_cast<const T*>(p.proposal_grad) + from, n);
        if (p.momentum_before) {
            const V before = get<PART>(static_cast<const T*>(p.momentum_before) + from, n), after = load(kicked_momentum + i);
            put<PART>(static_cast<T*>(p.momentum) + from, mask ? after : -before, n);
        }
    }
    template <bool PART> static EBM_FAST_INLINE void blend(const Mask& mask, T* to, const T* from, int64_t n) {
        put<PART>(to, mask ? get<PART>(from, n) : get<PART>(to, n), n);
    }

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
    alignas(64) float log_u[TILE_BLOCKS + SURPLUS];
    alignas(64) T kicked_momentum[TILE + W];
    alignas(64) T accepted[TILE + W];
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
