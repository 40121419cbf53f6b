// The whole-chain op: K steps of one sampler on one structured energy in one call. The plain struct of its arguments.
#pragma once
#include "params.h"

namespace ebm_fast {

enum class EnergyKind : int {
    gaussian_diagonal,
    gaussian_dense,
    mixture,
    gamma,
    double_well,
    rosenbrock,
    funnel,
    ring,
    phi_four,
    logistic_regression,
    eight_schools,
    mlp
};

enum class Precision : int { float32, tf32, bfloat16 };      // of an MLP's products

enum class TransitionKind : int { langevin, random_walk, hmc, baoab };

constexpr int COUNTERS = 5;      // as ops/metropolis.py

// A number, or float32 values for each chain or step: that of chain i at step t is at[i * chain_stride + t * step_stride].
struct Schedule {
    double value;
    const float* at;  // or null
    int64_t chain_stride, step_stride;
};

struct ChainParams {
    Stream stream;  // step: of the call's first step; purpose: unused
    int64_t chains, dim, steps;
    EnergyKind energy_kind;
    TransitionKind transition;
    int64_t integers[8];  // the descriptor's
    const float* parameters;  // the descriptor's, float32
    float* x;  // # (n, *event), replaced by the state after the last step
    double offset;  // E = native value + offset
    float* energy;  // # (n,) or null: E at x
    float* grad;  // # (n, *event) or null: gradient at x
    float* momentum;  // # (n, *event) or null: whitened momentum, or the heavy ball's velocity
    float* proposal;  // # (n, *event) or null: where the last trajectory ended, with `momentum` (hmc without flip: written only)
    const float* scale;  // # (*event) or null: sigma
    bool carried;  // energy and grad hold the values at x when the call begins
    bool finish;  // energy and grad are wanted when the call ends (accept/reject samplers have them anyway)
    Schedule step_size, noise_std, beta, persistence;
    int64_t leapfrogs;
    const int32_t* leapfrogs_at;  // # (steps,) or null: length of each trajectory
    bool flip;  // momentum persists: -p on rejection (generalised HMC)
    double max_error;
    // Langevin
    bool noise_first;
    double heavy_ball, prior_precision, grad_clip, grad_clip_norm, step_lo, step_hi, noise_lo, noise_hi;
    bool guard;  // chains that cannot go on are frozen, their step is written to divergence_step
    int64_t* divergence_step;  // # (n,), -1: none; or null without guard
    double* norm_sum;  // # (n,) or null: += |grad| of each step
    int64_t thin, count;  // steps thin, 2 thin, ... are recorded; count: states in the moments before this call
    float* samples;  // # (steps // thin, n, *event) or null
    float* energies;  // # (steps // thin, n) or null
    double* hamiltonians;  // # (steps // thin, n) or null
    double* counters;  // # (n, 5) or null, as metropolis_'s
    float* mean;  // # (n, *event) or null: streaming moments of every step, as moments_'s
    float* squares;
    int precision;  // a Precision
};

}  // namespace ebm_fast
