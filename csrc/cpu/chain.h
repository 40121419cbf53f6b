// The whole chain on the CPU: a tile of G x W chains with short events, or one chain with a long event, is taken into the cache and
// stays there through all steps. Lane = chain, or lane = element (spread.h). What a chain computes depends on nothing but its index.
#pragma once
#include "../core/energies/bayes.h"
#include "../core/energies/gaussian.h"
#include "../core/energies/mlp.h"
#include "../core/energies/shapes.h"
#include "../core/transition.h"
#include <type_traits>
#include "chain_kernels.h"
#include "spread.h"

EBM_FAST_CORE_BEGIN

using Evaluate = void (*)(const EnergyView&, const F* x, F* grad, F* energy, F* scratch);

template <int G>
struct EnergyEntry {
    Evaluate of[4];  // by Mode
    int64_t (*scratch)(const EnergyView&);
};

template <int G, class Share, class E, int MODE>
void evaluate_by(const EnergyView& q, const F* x, F* grad, F* energy, F* scratch) {
    E::template evaluate<F, G, MODE>(q, Share(q.dim), const_cast<F*>(x), grad, energy, scratch);
}

template <int G, class E, class Share = Whole>
constexpr EnergyEntry<G> entry() {
    return {{nullptr, evaluate_by<G, Share, E, VALUE>, evaluate_by<G, Share, E, GRAD>, evaluate_by<G, Share, E, BOTH>},
            E::scratch};
}

// Energies that are matrix products: a GPU has its own loops for them.
template <int G, class E>
constexpr EnergyEntry<G> matrix_entry() {
    return {{nullptr, E::template evaluate<F, G, VALUE>, E::template evaluate<F, G, GRAD>, E::template evaluate<F, G, BOTH>},
            E::scratch};
}

// An MLP's rows are long: four groups of them would fill the first cache, and two already keep the multipliers busy.
constexpr int MOST_MLP_GROUPS = 2;

template <int G>
constexpr EnergyEntry<G> mlp_entry() {
    if constexpr (G <= MOST_MLP_GROUPS) return matrix_entry<G, Mlp>();
    else return {};
}

// in the order of EnergyKind
template <int G, class Share>
constexpr EnergyEntry<G> ENERGIES[] = {entry<G, GaussianDiagonal>(), matrix_entry<G, GaussianDense>(),
                                       entry<G, Mixture>(),          entry<G, Gamma>(),
                                       entry<G, DoubleWell>(),       entry<G, Rosenbrock>(),
                                       entry<G, Funnel>(),           entry<G, Ring>(),
                                       entry<G, PhiFour>(),          matrix_entry<G, LogisticRegression>(),
                                       entry<G, EightSchools>(),     mlp_entry<G>()};

// Matrix products and mixtures read each of their many parameters once for a whole tile of chains: they keep to lane = chain.
template <>
constexpr EnergyEntry<1> ENERGIES<1, Spread>[] = {entry<1, GaussianDiagonal, Spread>(),
                                                  {},
                                                  {},
                                                  entry<1, Gamma, Spread>(),
                                                  entry<1, DoubleWell, Spread>(),
                                                  entry<1, Rosenbrock, Spread>(),
                                                  entry<1, Funnel, Spread>(),
                                                  entry<1, Ring, Spread>(),
                                                  entry<1, PhiFour, Spread>(),
                                                  {},
                                                  {},
                                                  {}};

// Whether a chain has the lanes to itself: a question of its event alone, so that a batch may be cut anywhere. From some length on
// that costs no more where chains are many (docs/performance.md), and far less where they are few.
constexpr int64_t LONG_CHAIN_EVENT = 768;
inline bool in_lanes(EnergyKind kind, int64_t dim) {
    return dim >= LONG_CHAIN_EVENT && ENERGIES<1, Spread>[static_cast<int>(kind)].scratch;
}

inline EnergyView energy_view(const ChainParams& c) { return {c.parameters, static_cast<int>(c.dim), c.integers, c.precision}; }

// Parameters in the order in which the inner loops read them; 0: as they are.
inline int64_t packed_size(const ChainParams& c) {
    const EnergyView view = energy_view(c);
    switch (c.energy_kind) {
        case EnergyKind::gaussian_dense: return GaussianDense::packed_size(view);
        case EnergyKind::logistic_regression: return LogisticRegression::packed_size(view);
        case EnergyKind::mlp: return Mlp::packed_size(view);
        case EnergyKind::mixture: return Mixture::packed_size(view);
        default: return 0;
    }
}
inline void pack_parameters(const ChainParams& c, float* out) {
    const EnergyView view = energy_view(c);
    switch (c.energy_kind) {
        case EnergyKind::gaussian_dense: return GaussianDense::pack(view, out);
        case EnergyKind::logistic_regression: return LogisticRegression::pack(view, out);
        case EnergyKind::mlp: return Mlp::pack(view, out);
        case EnergyKind::mixture: return Mixture::pack(view, out);
        default: return;
    }
}

template <int G>
inline void store_numbers(const TileIndex<G>& tile, const F* values, float* to) {
    std::memcpy(to + tile.first, values, static_cast<size_t>(tile.count) * 4);
}

template <int G>
inline void store_numbers(const TileIndex<G>& tile, const Wide* values, double* to, int64_t stride) {
    const double* from = reinterpret_cast<const double*>(values);
    for (int64_t i = 0; i < tile.count; ++i) to[(tile.first + i) * stride] = from[i];
}

template <int G>
inline void load_numbers(const TileIndex<G>& tile, const double* from, int64_t stride, Wide* values) {
    double* to = reinterpret_cast<double*>(values);
    for (int lane = 0; lane < G * W; ++lane) to[lane] = from[tile.chain(lane) * stride];
}

template <int G, class Share>
struct ChainTile {
    static constexpr int CHAINS = std::is_same<Share, Spread>::value ? 1 : G * W;
    const ChainParams& c;
    const TileIndex<G> index;
    const EnergyView view;
    const EnergyEntry<G>& energy;
    const MlpKernels* const mlp;
    const KeyTable& keys;
    const Counter key;
    F* scratch;
    double stretch = 1.0;  // largest element of the scale
    const Share share;
    U chains[G];
    Numbers<F, G> now;

    ChainTile(const ChainParams& params, const EnergyView& energy_params, const MlpKernels* kernels, const KeyTable& table,
              const Counter& counter, int64_t tile, F* space)
        : c(params),
          index{tile * CHAINS, params.chains - tile * CHAINS < CHAINS ? params.chains - tile * CHAINS : CHAINS},
          view(energy_params),
          energy(ENERGIES<G, Share>[static_cast<int>(params.energy_kind)]),
          mlp(kernels),
          keys(table),
          key(counter),
          scratch(space),
          share(view.dim) {
        uint32_t lanes[G * W];
        for (int lane = 0; lane < G * W; ++lane) lanes[lane] = static_cast<uint32_t>(index.chain(lane)) + key.chain_offset;
        std::memcpy(chains, lanes, sizeof chains);
        if (c.scale) {
            stretch = 0.0;
            for (int64_t i = 0; i < c.dim; ++i) stretch = c.scale[i] > stretch ? c.scale[i] : stretch;
        }
    }

    // The machine of core/transition.h
    template <int MODE> void evaluate(F* x, F* grad, F* e) {
        trim(share, x);  // clamps move zeros too
        if (CHAINS > 1 && G <= 2 && mlp) {
            mlp->evaluate[G / 2 % 2][MODE](c, view.p, reinterpret_cast<const float*>(x), reinterpret_cast<float*>(grad),
                                           reinterpret_cast<float*>(e), reinterpret_cast<float*>(scratch));
        } else {
            energy.of[MODE](view, x, grad, e, scratch);
        }
        if (MODE & GRAD) trim(share, grad);
        if (MODE & VALUE)
            for (int g = 0; g < G; ++g) e[g] += broadcast<F>(c.offset);
    }
    static uint32_t low(uint64_t step) { return static_cast<uint32_t>(step); }
    uint64_t step_of(int64_t t) const { return first_step() + static_cast<uint64_t>(t); }
    uint64_t first_step() const { return c.stream.rng ? static_cast<uint64_t>(c.stream.rng[1]) + c.stream.step : c.stream.step; }
    static uint32_t tag(uint64_t step, uint32_t purpose) {
        return purpose | static_cast<uint32_t>((step >> 32) & 0xFFFFFFu) << 8;
    }
    void normals(F* out, int64_t t, uint32_t purpose) {
        normal_rows(share, keys, low(step_of(t)), tag(step_of(t), purpose), chains, out);
    }
    void log_uniform(F* out, int64_t t) {
        for (int g = 0; g < G; g += GROUPS) {
            U block[GROUPS] = {}, chain[GROUPS];
            for (int k = 0; k < GROUPS; ++k) chain[k] = chains[(g + k) % G];
            Words counter[4] = {to_words(block), to_words(chain), to_words(low(step_of(t))),
                                to_words(tag(step_of(t), PURPOSE_ACCEPT))};
            philox4x32_10(counter, keys);
            for (int k = 0; k < GROUPS && g + k < G; ++k)
                out[g + k] = log_unit<F, I>(word_to_uniform<F, U>(group_of(counter[0], k)));
        }
    }
    // Rare: norms in float64, chain by chain.
    void freeze_exactly(const Arrays<F>& a, const Numbers<F, G>& at, int64_t t, Status<F, G>& status) {
        for (int lane = 0; lane < CHAINS; ++lane) {
            const int g = lane / W, k = lane % W;
            if (status.frozen[g][k]) continue;
            const double x = square_norm<G>(share, a.x, lane), slope = square_norm<G>(share, a.grad, lane);
            const double speed = c.momentum ? square_norm<G>(share, a.momentum, lane) : 0.0;
            const double most = reach(c, stretch, at.step_size[g][k], at.noise_std[g][k], __builtin_sqrt(x),
                                      __builtin_sqrt(slope), __builtin_sqrt(speed));
            const float e = status.energy[g][k];
            if (e - e == 0.0f && most <= 3.4028234663852886e38) continue;
            for (int l = k; l < (CHAINS == 1 ? W : k + 1); ++l) status.frozen[g][l] = -1;
            status.any_frozen = true;
            if (lane < index.count) c.divergence_step[index.first + lane] = static_cast<int64_t>(step_of(t));
        }
    }

    void numbers(const Schedule& from, int64_t t, F (&to)[G]) const {
        if (!from.at) {
            for (int g = 0; g < G; ++g) to[g] = broadcast<F>(from.value);
            return;
        }
        for (int lane = 0; lane < G * W; ++lane)
            to[lane / W][lane % W] = from.at[index.chain(lane) * from.chain_stride + t * from.step_stride];
    }
    void numbers_at(int64_t t) {
        const Schedule* from[] = {&c.step_size, &c.noise_std, &c.beta, &c.persistence};
        F(*to[])[G] = {&now.step_size, &now.noise_std, &now.beta, &now.persistence};
        for (int k = 0; k < 4; ++k)
            if (t == 0 || (from[k]->at && from[k]->step_stride)) numbers(*from[k], t, *to[k]);
    }

    // event arrays in the order in which `run` lays them out
    static int64_t space(const ChainParams& params, const MlpKernels* mlp) {
        const EnergyEntry<G>& entry = ENERGIES<G, Share>[static_cast<int>(params.energy_kind)];
        const int64_t row = row_space(Share(static_cast<int>(params.dim)));
        return 1 + (row * 8 + (mlp ? mlp->scratch(params) : entry.scratch(energy_view(params)))) * G;
    }

    void run(F* memory) {
        F* const space = memory + 1;  // see Spread::around
        const int64_t rows = row_space(share) * G;
        const bool langevin = c.transition == TransitionKind::langevin, walk = c.transition == TransitionKind::random_walk;
        const bool with_grad = needs_grad(c, c.transition);
        Arrays<F> a = {space,
                       space + rows,
                       c.momentum || !langevin ? space + 2 * rows : nullptr,
                       space + 3 * rows,
                       space + 4 * rows,
                       space + 5 * rows,
                       c.scale};
        F *mean = space + 6 * rows, *squares = space + 7 * rows;
        scratch = space + 8 * rows;
        Status<F, G> status{};
        load_rows(share, index, c.x, a.x);
        if (c.momentum) load_rows(share, index, c.momentum, a.momentum);
        if (c.mean) load_rows(share, index, c.mean, mean), load_rows(share, index, c.squares, squares);
        if (c.guard)
            for (int lane = 0; lane < G * W; ++lane)
                if (c.divergence_step[index.chain(lane)] >= 0) status.frozen[lane / W][lane % W] = -1, status.any_frozen = true;
        if (c.counters) {
            Wide* to[] = {status.probability_sum, status.accepted, status.divergent, status.probability, status.hamiltonian};
            for (int k = 0; k < COUNTERS; ++k) load_numbers(index, c.counters + k, COUNTERS, to[k]);
        }
        if (c.norm_sum) load_numbers(index, c.norm_sum, 1, status.norm_sum);
        if (c.carried) {
            for (int lane = 0; lane < G * W; ++lane) status.energy[lane / W][lane % W] = c.energy[index.chain(lane)];
            if (with_grad) load_rows(share, index, c.grad, a.grad);
        } else if (with_grad) {
            evaluate<BOTH>(a.x, a.grad, status.energy);
        } else if (walk) {
            evaluate<VALUE>(a.x, a.grad, status.energy);
        }
        int64_t kept = 0;
        for (int64_t t = 0; t < c.steps; ++t) {
            numbers_at(t);
            const bool recorded = (t + 1) % c.thin == 0;
            take_step<F, G>(c.transition, *this, c, a, now, t, c.steps, c.finish, recorded, status);
            if (c.mean) update_moments<F, G>(share, c.count + t + 1, a.x, mean, squares);
            if (recorded) record(kept++, a, status);
        }
        store_rows(share, index, a.x, c.x);
        if (c.momentum) store_rows(share, index, a.momentum, c.momentum);
        if (c.proposal) store_rows(share, index, a.proposal, c.proposal);
        if (c.mean) store_rows(share, index, mean, c.mean), store_rows(share, index, squares, c.squares);
        if (c.energy) store_numbers(index, status.energy, c.energy);
        if (c.grad && with_grad) store_rows(share, index, a.grad, c.grad);
        if (c.counters) {
            const Wide* from[] = {status.probability_sum, status.accepted, status.divergent, status.probability,
                                  status.hamiltonian};
            for (int k = 0; k < COUNTERS; ++k) store_numbers(index, from[k], c.counters + k, COUNTERS);
        }
        if (c.norm_sum) store_numbers(index, status.norm_sum, c.norm_sum, 1);
    }

    void record(int64_t row, const Arrays<F>& a, Status<F, G>& status) const {
        if (c.samples) store_rows(share, index, a.x, c.samples + row * c.chains * c.dim);
        if (c.energies) store_numbers(index, status.energy, c.energies + row * c.chains);
        if (!c.hamiltonians) return;
        hamiltonian_now<F, G>(c.transition, *this, a, status);
        store_numbers(index, status.hamiltonian, c.hamiltonians + row * c.chains, 1);
    }
};

template <int G, class Share = Whole>
inline void chain_tiles(const ChainParams& c, const MlpKernels* mlp, const float* packed, int64_t begin, int64_t end,
                        void* space) {
    const Counter key = make_counter(c.stream);
    const KeyTable keys(key.keys);
    EnergyView view = energy_view(c);
    if (packed) view.p = packed;
    for (int64_t tile = begin; tile < end; ++tile)
        ChainTile<G, Share>(c, view, mlp, keys, key, tile, nullptr).run(static_cast<F*>(space));
}

constexpr int MOST_GROUPS = W == 16 ? 4 : 2;

inline int most_groups(const ChainParams& c) {
    return in_lanes(c.energy_kind, c.dim) ? 0 : c.energy_kind == EnergyKind::mlp ? MOST_MLP_GROUPS : MOST_GROUPS;
}

inline void chain_range(const ChainParams& c, const MlpKernels* mlp, int groups, const float* packed, int64_t begin, int64_t end,
                        void* space) {
    if (groups == 0) return chain_tiles<1, Spread>(c, mlp, packed, begin, end, space);
    if (groups == 1) return chain_tiles<1>(c, mlp, packed, begin, end, space);
    if (groups == 2 || MOST_GROUPS == 2) return chain_tiles<2>(c, mlp, packed, begin, end, space);
    chain_tiles<MOST_GROUPS>(c, mlp, packed, begin, end, space);
}

inline int64_t chain_space(const ChainParams& c, const MlpKernels* mlp, int groups) {
    const int64_t vectors = groups == 0                       ? ChainTile<1, Spread>::space(c, mlp)
                            : groups == 1                     ? ChainTile<1, Whole>::space(c, mlp)
                            : groups == 2 || MOST_GROUPS == 2 ? ChainTile<2, Whole>::space(c, mlp)
                                                              : ChainTile<MOST_GROUPS, Whole>::space(c, mlp);
    return vectors * static_cast<int64_t>(sizeof(F));
}

// For tests: one function of core/math.h over n numbers, W at a time.
inline void math_range(int function, const float* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; i += W) {
        const F a = n - i >= W ? load(x + i) : load_part(x + i, n - i);
        F value, other;
        switch (function) {
            case 0: value = exp(a); break;
            case 1: value = log(a); break;
            case 2: sincos(a, value, other); break;
            case 3: sincos(a, other, value); break;
            case 4: value = tanh(a); break;
            case 5: softplus(a, value, other); break;
            case 6: value = sigmoid(a); break;
            default: value = exp2_weight(a); break;
        }
        n - i >= W ? store(y + i, value) : store_part(y + i, value, n - i);
    }
}

EBM_FAST_CORE_END
