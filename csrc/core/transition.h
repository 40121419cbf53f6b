// One step of each sampler over G x V chains whose event lies as [dim][G]. `Machine` evaluates the energy and draws the noise:
//   evaluate<MODE>(x, grad, energy);  normals(out, t, purpose);  log_uniform(out, t)  (ln u of each chain's "accept" block);
//   share: the elements that this thread looks after (share.h);  stretch: the largest element of the scale.
// Arithmetic and random numbers are those of the ops of the same names composed (ebm_fast/reference/).
#pragma once
#include <cmath>
#include "chain.h"
#include "energies/energy.h"
#include "langevin.h"
#include "share.h"

EBM_FAST_CORE_BEGIN

enum Purpose : uint32_t { PURPOSE_LANGEVIN = 1, PURPOSE_ACCEPT = 2, PURPOSE_MOMENTUM = 3, PURPOSE_PROPOSAL = 10 };

template <class V, class Row = V*>
struct Arrays {                  // each # [dim][G], or null
    Row x, grad, momentum, proposal, proposal_grad, before;
    const float* scale;          // # [dim] or null
};

template <class V, int G>
struct Numbers {                 // of the step at hand, one a chain
    V step_size[G], noise_std[G], beta[G], persistence[G];
};

template <class V, int G>
struct Status {
    using Wide = typename WideOf<V>::type;
    using Mask = typename Bits<V>::Mask;
    V energy[G];
    Wide probability_sum[G], accepted[G], divergent[G], probability[G], hamiltonian[G];
    Wide norm_sum[G];
    Mask frozen[G];
    bool any_frozen;
};

template <class V, class Share> HD inline V scale_at(const Share& share, const float* scale, int i) {
    return scale ? share.template load<V>(scale, i) : broadcast<V>(1.0f);
}

// p -= kick sigma g;  x += drift sigma p
template <class V>
struct Leap {
    V x, p;
};
template <class V>
HD inline Leap<V> leap(V sigma, V kick, V drift, V x, V p, V grad) {
    const V moved = fma(-(kick * sigma), grad, p);
    return {fma(drift * sigma, moved, x), moved};
}
template <class V, int G, class Share, class Row>
HD inline void leapfrog(const Share& share, const float* scale, const V (&kick)[G], const V (&drift)[G], Row x, Row p, Row grad) {
    if constexpr (Share::BLOCK > 1) {
        static_assert(G == 1);
        by_blocks(
            share, [&](int i) { return leap<V>(scale_at<V>(share, scale, i), kick[0], drift[0], x[i], p[i], grad[i]); },
            [&](int i, const Leap<V>& to) { p[i] = to.p, x[i] = to.x; });
    } else {
        EBM_FAST_EACH(i, share) {
            const V sigma = scale_at<V>(share, scale, i);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) {
                const int at = i * G + g;
                const Leap<V> to = leap<V>(sigma, kick[g], drift[g], x[at], p[at], grad[at]);
                p[at] = to.p, x[at] = to.x;
            }
        }
    }
}

// a = beta (E - E') + K - K', decided; the kept state's energy and the counters.
template <class V, int G, class Machine>
HD inline void decide(Machine& machine, int64_t t, double max_error, const V (&beta)[G], const Sums<V, G>& before,
                      const Sums<V, G>& after, const V (&proposal_energy)[G], Status<V, G>& status,
                      typename Bits<V>::Mask (&accepted)[G]) {
    V log_u[G];
    machine.log_uniform(log_u, t);
    EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) {
        const auto b = widen(beta[g]), old = b * widen(status.energy[g]), next = b * widen(proposal_energy[g]);
        const auto zero = make_wide<V>(0.0), one = make_wide<V>(1.0);
        const auto a = b * (widen(status.energy[g]) - widen(proposal_energy[g])) + (before.at[g] - after.at[g]);
        const auto fine = finite_value(proposal_energy[g]) & finite(after.at[g]) & lesser_or_equal(a, a);
        accepted[g] = fine & lesser_or_equal(widen(log_u[g]), a);
        const auto down = select(lesser_or_equal(a, zero), a, zero);
        const auto probability = select(fine, widen(exp(narrow(down))), zero);
        const auto good = fine & lesser_or_equal(make_wide<V>(-max_error), a);
        status.probability_sum[g] = status.probability_sum[g] + probability;
        status.accepted[g] = status.accepted[g] + select(accepted[g], one, zero);
        status.divergent[g] = status.divergent[g] + select(good, zero, one);
        status.probability[g] = probability;
        status.hamiltonian[g] = select(accepted[g], next + after.at[g], old + before.at[g]);
        status.energy[g] = select(accepted[g], proposal_energy[g], status.energy[g]);
    }
}

template <class V, int G, class Share, class Row>
HD inline void keep(const Share& share, const typename Bits<V>::Mask (&accepted)[G], Row x, Row proposal) {
    EBM_FAST_EACH(i, share) EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) x[i * G + g] = select(accepted[g], proposal[i * G + g], x[i * G + g]);
}

// x' = x + tau sigma z, accepted or not
template <class V, int G, class Machine, class Row>
HD inline void random_walk_step(Machine& machine, const ChainParams& c, const Arrays<V, Row>& a, const Numbers<V, G>& now,
                                int64_t t, Status<V, G>& status) {
    const auto& share = machine.share;
    machine.normals(a.proposal, t, PURPOSE_PROPOSAL);
    EBM_FAST_EACH(i, share) {
        const V sigma = scale_at<V>(share, a.scale, i);
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) a.proposal[i * G + g] = fma(now.step_size[g] * sigma, a.proposal[i * G + g], a.x[i * G + g]);
    }
    V energy[G];
    machine.template evaluate<VALUE>(a.proposal, a.proposal_grad, energy);
    typename Bits<V>::Mask accepted[G];
    const Sums<V, G> none;
    decide<V, G>(machine, t, c.max_error, now.beta, none, none, energy, status, accepted);
    keep<V, G>(share, accepted, a.x, a.proposal);
}

// A Hamiltonian trajectory of `leapfrogs` steps with fresh or persistent momentum, accepted or not
template <class V, int G, class Machine, class Row>
HD inline void hmc_step(Machine& machine, const ChainParams& c, const Arrays<V, Row>& a, const Numbers<V, G>& now, int64_t t,
                        int leapfrogs, Status<V, G>& status) {
    const auto& share = machine.share;
    V half[G], kick[G];
    EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) kick[g] = now.beta[g] * now.step_size[g], half[g] = broadcast<V>(0.5f) * kick[g];
    const Row p = a.momentum;
    machine.normals(a.proposal, t, PURPOSE_MOMENTUM);
    Sums<V, G> before, after;
    EBM_FAST_EACH(i, share) {
        const V sigma = scale_at<V>(share, a.scale, i);
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            V fresh = a.proposal[i * G + g];
            if (c.flip) {
                const V persistence = now.persistence[g];
                fresh = fma(persistence, p[i * G + g], sqrt(fma(-persistence, persistence, broadcast<V>(1.0f))) * fresh);
                a.before[i * G + g] = fresh;
            }
            before.add(g, fresh, fresh);
            const V moved = fma(-(half[g] * sigma), a.grad[i * G + g], fresh);
            p[i * G + g] = moved;
            a.proposal[i * G + g] = fma(now.step_size[g] * sigma, moved, a.x[i * G + g]);
        }
    }
    V energy[G];
    EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) before.at[g] = 0.5 * share.sum(before.at[g]);
    for (int l = 1; l < leapfrogs; ++l) {
        machine.template evaluate<GRAD>(a.proposal, a.proposal_grad, energy);
        leapfrog<V, G>(share, a.scale, kick, now.step_size, a.proposal, p, a.proposal_grad);
    }
    machine.template evaluate<BOTH>(a.proposal, a.proposal_grad, energy);
    EBM_FAST_EACH(i, share) {
        const V sigma = scale_at<V>(share, a.scale, i);
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            const V last = fma(-(half[g] * sigma), a.proposal_grad[i * G + g], p[i * G + g]);
            after.add(g, last, last);
            if (c.momentum) p[i * G + g] = last;
        }
    }
    EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) after.at[g] = 0.5 * share.sum(after.at[g]);
    typename Bits<V>::Mask accepted[G];
    decide<V, G>(machine, t, c.max_error, now.beta, before, after, energy, status, accepted);
    keep<V, G>(share, accepted, a.x, a.proposal);
    keep<V, G>(share, accepted, a.grad, a.proposal_grad);
    if (c.flip)
        EBM_FAST_EACH(i, share) EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) p[i * G + g] = select(accepted[g], p[i * G + g], -a.before[i * G + g]);
}

// How far from zero the next state can be: |x'| <= (1 + s p) |x| + s |g| + m |v| + 6.77 n of Langevin, and for BAOAB
// |x| + e (|p| + e |g| + 6.77 n); with a scale, s sigma^2, n sigma and e sigma of its largest element. x, slope, speed: norms.
HD inline double reach(const ChainParams& c, double stretch, double s, double noise_std, double x, double slope, double speed) {
    constexpr double LARGEST_NORMAL = 6.77;  // sqrt(66 ln 2), see core/normal.h
    const double noise = LARGEST_NORMAL * noise_std;
    if (c.grad_clip < __builtin_inf()) {
        const double most = c.grad_clip * ::sqrt(static_cast<double>(c.dim));
        slope = slope > most ? most : slope;
    } else if (c.grad_clip_norm < __builtin_inf() && slope - slope == 0.0) {
        slope = slope > c.grad_clip_norm ? c.grad_clip_norm : slope;
    }
    if (c.transition == TransitionKind::baoab) return x + s * stretch * (speed + s * stretch * slope + noise);
    const double area = s * stretch * stretch, drag = c.prior_precision < 0.0 ? -c.prior_precision : c.prior_precision;
    return x * (1.0 + area * drag) + area * slope + (c.heavy_ball < 0.0 ? -c.heavy_ball : c.heavy_ball) * speed + stretch * noise;
}

// Langevin's and BAOAB's guard: chains whose energy is not finite, or whose next state could leave float32's range, are frozen.
// Where all elements and coefficients are far from that range nothing more is looked at.
template <class V, int G, class Machine, class Row>
HD inline void freeze(Machine& machine, const ChainParams& c, const Arrays<V, Row>& a, const Numbers<V, G>& now, int64_t t,
                      Status<V, G>& status) {
    const auto& share = machine.share;
    using I = typename Bits<V>::type;
    I most[G] = {};
    EBM_FAST_EACH(i, share) EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) {
        const I bx = float_to_bits(a.x[i * G + g]) & 0x7FFFFFFF, bg = float_to_bits(a.grad[i * G + g]) & 0x7FFFFFFF;
        most[g] = bx > most[g] ? bx : most[g];
        most[g] = bg > most[g] ? bg : most[g];
        if (c.momentum) {
            const I bp = float_to_bits(a.momentum[i * G + g]) & 0x7FFFFFFF;
            most[g] = bp > most[g] ? bp : most[g];
        }
    }
    bool doubt = machine.stretch > 1e3 || c.prior_precision > 1e3 || c.prior_precision < -1e3 || c.heavy_ball > 1e3;
    EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) {
        const auto small = (most[g] < 0x58635FA9) & finite_value(status.energy[g]) & (now.step_size[g] < broadcast<V>(1e3f)) &
                           (now.noise_std[g] < broadcast<V>(1e9f));      // 1e15 in the bits of a float
        doubt = doubt || any(small == 0);
    }
    if (share.any(doubt)) machine.freeze_exactly(a, now, t, status);
}

template <class V, int G, class Share, class Row>
HD inline void add_norms(const Share& share, Row grad, bool of_frozen, Status<V, G>& status, V (&norm)[G]) {
    Sums<V, G> squares;
    EBM_FAST_EACH(i, share) EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) squares.add(g, grad[i * G + g], grad[i * G + g]);
    EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) {
        norm[g] = root(share.sum(squares.at[g]));
        const auto seen = widen(norm[g]);
        status.norm_sum[g] = status.norm_sum[g] + (of_frozen ? seen : select(status.frozen[g], make_wide<V>(0.0), seen));
    }
}

// Whether a step of Langevin is x - s sigma^2 g + n sigma z and nothing more
HD inline bool is_plain(const ChainParams& c) {
    const double inf = __builtin_inf();
    return !c.momentum && !(c.prior_precision != 0.0) && c.grad_clip == inf && c.step_lo == -inf && c.step_hi == inf &&
           c.noise_lo == -inf && c.noise_hi == inf && c.grad_clip_norm == inf;
}

// x <- clamp(clamp(x - s (clip(g) + p x)) + n z), or one of its two moves alone; z = a.proposal
template <class V, int G, class Share, class Row>
HD inline void langevin_move(const Share& share, const ChainParams& c, const Arrays<V, Row>& a, bool moved, bool noisy,
                             const Numbers<V, G>& now, const V (&shrink)[G], const Status<V, G>& status) {
    const double inf = __builtin_inf();
    if (moved && !status.any_frozen && is_plain(c)) {
        EBM_FAST_EACH(i, share) {
            const V sigma = scale_at<V>(share, a.scale, i);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) {
                const V y = fma(-(now.step_size[g] * (sigma * sigma)), a.grad[i * G + g], a.x[i * G + g]);
                a.x[i * G + g] = noisy ? fma(now.noise_std[g] * sigma, a.proposal[i * G + g], y) : y;
            }
        }
        return;
    }
    LangevinCoefficients<V> k = {};
    k.momentum = broadcast<V>(c.heavy_ball), k.prior_precision = broadcast<V>(c.prior_precision);
    k.grad_clip = broadcast<V>(c.grad_clip);
    k.step_lo = broadcast<V>(moved ? c.step_lo : -inf), k.step_hi = broadcast<V>(moved ? c.step_hi : inf);
    k.noise_lo = broadcast<V>(!moved || !c.noise_first ? c.noise_lo : -inf);
    k.noise_hi = broadcast<V>(!moved || !c.noise_first ? c.noise_hi : inf);
    EBM_FAST_EACH(i, share) {
        const V sigma = scale_at<V>(share, a.scale, i);
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            const int at = i * G + g;
            k.step_size = now.step_size[g] * (sigma * sigma), k.noise_std = now.noise_std[g] * sigma, k.grad_scale = shrink[g];
            const V noise = noisy ? a.proposal[at] : broadcast<V>(0.0f), old = a.x[at];
            V next;
            if (!moved) {
                next = langevin_noise(old, noise, k);
            } else if (c.momentum) {
                V speed = a.momentum[at];
                next = langevin_update_heavy_ball(old, a.grad[at], noise, speed, k);
                a.momentum[at] = select(status.frozen[g], a.momentum[at], speed);
            } else {
                next = langevin_update(old, a.grad[at], noise, k);
            }
            a.x[at] = select(status.frozen[g], old, next);
        }
    }
}

// The gradient-first step needs energy and gradient at x (and leaves them behind: see the driver); noise-first evaluates inside.
template <class V, int G, class Machine, class Row>
HD inline void langevin_step(Machine& machine, const ChainParams& c, const Arrays<V, Row>& a, const Numbers<V, G>& now,
                             bool noisy, int64_t t, Status<V, G>& status) {
    const auto& share = machine.share;
    V shrink[G], norm[G];
    EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) shrink[g] = broadcast<V>(1.0f);
    if (noisy) machine.normals(a.proposal, t, PURPOSE_LANGEVIN);
    if (c.noise_first) {
        langevin_move<V, G>(share, c, a, false, noisy, now, shrink, status);
        if (c.guard) machine.template evaluate<BOTH>(a.x, a.grad, status.energy);
        else machine.template evaluate<GRAD>(a.x, a.grad, status.energy);
        noisy = false;
    }
    if (c.guard) freeze<V, G>(machine, c, a, now, t, status);
    if (c.norm_sum || c.grad_clip_norm < __builtin_inf()) {
        add_norms<V, G>(share, a.grad, false, status, norm);
        if (c.grad_clip_norm < __builtin_inf()) {
            const V bound = broadcast<V>(c.grad_clip_norm), floor = broadcast<V>(c.grad_clip_norm > 0.0 ? c.grad_clip_norm : 1.0);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) shrink[g] = bound / (norm[g] < floor ? floor : norm[g]);
        }
    }
    langevin_move<V, G>(share, c, a, true, noisy, now, shrink, status);
}

// B A O A B: kick, drift, friction and noise, drift, kick
template <class V, int G, class Machine, class Row>
HD inline void baoab_step(Machine& machine, const ChainParams& c, const Arrays<V, Row>& a, const Numbers<V, G>& now, int64_t t,
                          Status<V, G>& status) {
    const auto& share = machine.share;
    machine.normals(a.proposal, t, PURPOSE_MOMENTUM);
    if (c.guard) freeze<V, G>(machine, c, a, now, t, status);
    V half[G], norm[G];
    if (c.norm_sum) add_norms<V, G>(share, a.grad, false, status, norm);
    EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) half[g] = broadcast<V>(0.5f) * now.step_size[g];
    EBM_FAST_EACH(i, share) {
        const V sigma = scale_at<V>(share, a.scale, i);
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            const int at = i * G + g;
            const V move = half[g] * sigma, kicked = fma(-move, a.grad[at], a.momentum[at]), middle = fma(move, kicked, a.x[at]);
            const V refreshed = fma(now.persistence[g], kicked, now.noise_std[g] * a.proposal[at]);
            a.momentum[at] = select(status.frozen[g], a.momentum[at], refreshed);
            a.x[at] = select(status.frozen[g], a.x[at], fma(move, refreshed, middle));
        }
    }
    machine.template evaluate<BOTH>(a.x, a.grad, status.energy);
    EBM_FAST_EACH(i, share) {
        const V sigma = scale_at<V>(share, a.scale, i);
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            const int at = i * G + g;
            a.momentum[at] = select(status.frozen[g], a.momentum[at], fma(-(half[g] * sigma), a.grad[at], a.momentum[at]));
        }
    }
}

// Whether a chain's energy and gradient must be known when it begins.
HD inline bool needs_grad(const ChainParams& c, TransitionKind kind) {
    return kind != TransitionKind::random_walk && !(kind == TransitionKind::langevin && c.noise_first);
}

// Step t of the call, whose last one ends in front of `end`; `finish`: energy and gradient are wanted then.
template <class V, int G, class Machine, class Row>
HD inline void take_step(TransitionKind kind, Machine& machine, const ChainParams& c, const Arrays<V, Row>& a,
                         const Numbers<V, G>& now, int64_t t, int64_t end, bool finish, bool recorded, Status<V, G>& status) {
    switch (kind) {
        case TransitionKind::langevin: {
            const bool energy = recorded && c.energies, last = t + 1 == end;
            langevin_step<V, G>(machine, c, a, now, c.noise_std.at || c.noise_std.value != 0.0, t, status);
            if (c.noise_first) {
                if (energy || (last && finish)) machine.template evaluate<VALUE>(a.x, a.grad, status.energy);
            } else if (c.guard || last || energy) {
                if (!last || finish || energy) machine.template evaluate<BOTH>(a.x, a.grad, status.energy);
            } else {
                machine.template evaluate<GRAD>(a.x, a.grad, status.energy);
            }
            break;
        }
        case TransitionKind::random_walk: random_walk_step<V, G>(machine, c, a, now, t, status); break;
        case TransitionKind::hmc:
            hmc_step<V, G>(machine, c, a, now, t, static_cast<int>(c.leapfrogs_at ? c.leapfrogs_at[t] : c.leapfrogs), status);
            break;
        case TransitionKind::baoab: baoab_step<V, G>(machine, c, a, now, t, status); break;
    }
}

// The Hamiltonian that is recorded: of BAOAB the one at the present momentum.
template <class V, int G, class Machine, class Row>
HD inline void hamiltonian_now(TransitionKind kind, const Machine& machine, const Arrays<V, Row>& a, Status<V, G>& status) {
    if (kind != TransitionKind::baoab) return;
    Sums<V, G> squares;
    EBM_FAST_EACH(i, machine.share) EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) squares.add(g, a.momentum[i * G + g], a.momentum[i * G + g]);
    EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) status.hamiltonian[g] = widen(status.energy[g]) + 0.5 * machine.share.sum(squares.at[g]);
}

template <class V, int G, class Share, class Row>
HD inline void update_moments(const Share& share, int64_t states, Row x, Row mean, Row squares) {
    const V count = broadcast<V>(static_cast<double>(states));
    EBM_FAST_EACH(i, share) EBM_FAST_UNROLL
    for (int g = 0; g < G; ++g) {
        const int at = i * G + g;
        const V off = x[at] - mean[at];
        mean[at] = mean[at] + off / count;
        squares[at] = fma(off, x[at] - mean[at], squares[at]);
    }
}

EBM_FAST_CORE_END
