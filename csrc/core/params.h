// The one plain struct of each native op. Every launcher, on every backend, takes it by value or const reference.
// Shapes are written as in Python: `# (n, *event)`, flattened to n chains of `dim` elements, contiguous.
#pragma once
#include <cstdint>

namespace ebm_fast {

enum class DType : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3, int32 = 4 };

enum class NoiseKind : int { bits = 0, uniform = 1, normal = 2, rademacher = 3 };

// Where in the counter space an op draws: see core/philox.h.
struct Stream {
    uint64_t seed;
    uint64_t step;
    uint32_t purpose;         // low 8 bits of the fourth counter word
    uint32_t chain_offset;    // global index of chain 0
    const int64_t* rng;       // (2,) device tensor [seed, step]; then `seed` is unused and `step` is added to rng[1]
};

// A number, or a tensor in the state's type: () with stride 0 or (n,) with stride 1.
struct Coefficient {
    double value;
    const void* at;           // null: `value`
    int64_t stride;
};

struct NoiseParams {
    Stream stream;
    int64_t chains, dim;
    DType dtype;
    NoiseKind kind;
    void* out;                // # (n, *event)
};

// y = x - s * (scale_i * clip(g, c) + p x)          [with velocity: v = m v - s * (...), y = x + v]
// y = min(max(y, step_lo), step_hi);  y += n z;  x = min(max(y, noise_lo), noise_hi)
struct LangevinParams {
    Stream stream;
    int64_t chains, dim;
    DType dtype;
    void* x;                  // # (n, *event), updated in place
    const void* grad;         // # (n, *event) or null: no gradient part
    void* velocity;           // # (n, *event) or null: no heavy ball
    double* norm_sum;  // # (n,) or null: += |grad| of active chains; on a CPU alone, where a thread sums a chain by itself
    // Coefficients: a scalar, or a tensor in the arithmetic's type (float64 for a float64 state, else float32).
    double step_size, noise_std;
    const void* step_size_at;  // # () with stride 0 or (n,) with stride 1, or null
    const void* noise_std_at;
    const void* grad_scale;  // # (n,) or null
    const uint8_t* active;  // # (n,) or null: chains with 0 are left alone
    const void* scale;  // # (*event) or null: s scale^2 and n scale in place of s and n
    int64_t step_size_stride, noise_std_stride;
    double momentum, prior_precision, grad_clip;  // grad_clip = inf: none
    double step_lo, step_hi, noise_lo, noise_hi;  // -inf, inf: none
};

// norm_i = sqrt(sum_d x_id^2), summed in float64 in a fixed order.
struct NormParams {
    int64_t chains, dim;
    DType dtype;
    const void* x;  // # (n, *event)
    void* out;  // # (n,) float32, or float64 for a float64 x
};

// Chains whose energy is not finite, or whose next state could leave the range of its type (see guard.h), are frozen; the
// gradient norms of the others are summed.
struct GuardParams {
    int64_t chains, dim;
    DType dtype;
    const void* x;  // # (n, *event)
    const void* grad;  // # (n, *event)
    const void* momentum;  // # (n, *event) or null: BAOAB's momentum, or the heavy ball's velocity
    const void* energy;  // # (n,) in the arithmetic's type; null without divergence_step
    int64_t* divergence_step;  // # (n,) or null: nothing is looked for
    uint8_t* active;  // # (n,) or null: written, 0 for frozen chains
    double* norm_sum;  // # (n,) or null: += |g|
    Coefficient step_size, noise_std, stretch;  // stretch: the largest element of the scale
    double heavy_ball, prior_precision, grad_clip, grad_clip_norm;  // inf: no clip
    int kinetic;  // BAOAB's bound, else Langevin's
    int64_t step;  // what is entered in divergence_step
    const int64_t* rng;  // (2,) or null: then step is added to rng[1]
};

// p = c p + n z, n = sqrt(1 - c^2);  K = |p|^2 / 2;  p -= kick scale g;  proposal = x + drift scale p
// With a factor R': K = |z|^2 / 2;  v = R z;  v -= kick g;  proposal = x + drift v
struct ProposalParams {
    Stream stream;
    int64_t chains, dim;
    DType dtype;  // float32 or float64, here and below
    const void* x;  // # (n, *event)
    void* proposal;  // # (n, *event) or null
    void* momentum;  // # (n, *event) or null
    const void* grad;  // # (n, *event) or null: no kick
    const void* scale;  // # (*event) or null: 1
    const void* factor;  // # (d, d) or null: upper triangular, what lies below the diagonal is not used
    double* kinetic;  // # (n,) or null
    Coefficient kick, drift, persistence, fresh;  // fresh: sqrt(1 - c^2)
};

// p -= kick scale g;  x += drift scale p
struct LeapfrogParams {
    int64_t chains, dim;
    DType dtype;
    void* x;  // # (n, *event)
    void* momentum;  // # (n, *event)
    const void* grad;  // # (n, *event)
    const void* scale;  // # (*event) or null
    Coefficient kick, drift;
};

// p' = p - kick scale g';  a = beta (E - E') + K - |p'|^2 / 2 + r;  where log u <= a: x, E, g = x', E', g'
struct MetropolisParams {
    Stream stream;
    int64_t chains, dim;
    DType dtype;
    void* x;  // # (n, *event)
    const void* proposal;  // # (n, *event)
    void* energy;  // # (n,)
    const void* proposal_energy;  // # (n,)
    void* grad;  // # (n, *event) or null
    const void* proposal_grad;  // # (n, *event) or null
    void* momentum;  // # (n, *event) or null: no kinetic energy
    const void* momentum_before;  // # (n, *event) or null: momentum is left alone
    const double* kinetic;  // # (n,) or null: 0
    const void* scale;  // # (*event) or null
    const double* log_ratio;  // # (n,) or null: 0
    double* counters;  // # (n, 5) or null
    Coefficient kick, beta;
    double max_error;
};

// p -= kick scale g (`kicks` times);  x += drift scale p;  p = persistence p + noise_std z;  x += drift scale p
struct BaoabParams {
    Stream stream;
    int64_t chains, dim;
    DType dtype;
    void* x;  // # (n, *event)
    void* momentum;  // # (n, *event)
    const void* grad;  // # (n, *event)
    const void* scale;  // # (*event) or null
    const uint8_t* active;  // # (n,) or null
    Coefficient kick, drift, persistence, noise_std;
    int kicks;
};

// Replicas j and j + 1 change places where log u_j <= (beta_j - beta_{j+1}) (E_j - E_{j+1}), for j = parity, parity + 2, ...
struct SwapParams {
    Stream stream;
    int64_t chains, replicas, dim;
    DType dtype;
    void* x;  // # (n, r, *event)
    void* energy;  // # (n, r)
    const double* betas;  // # (r,)
    void* grad;  // # (n, r, *event) or null
    int64_t* labels;  // # (n, r) or null
    double* counters;  // # (n, r - 1, 2) or null
    int parity;
};

// d = x - mean;  mean += d / count;  squares += d (x - mean)
struct MomentsParams {
    int64_t chains, dim;
    DType dtype;
    const void* x;  // # (n, *event)
    void* mean;  // # (n, *event)
    void* squares;  // # (n, *event)
    const int64_t* count_at;  // # () or null
    int64_t count;
};

// What a warm-up learns from one proposal of all chains: step size, diagonal mass, trajectory length; each null where it stays.
struct AdaptParams {
    int64_t chains, dim;
    DType dtype;
    const void* x;  // # (n, *event): the states after the decision
    const double* counters;  // # (n, 5), of metropolis_: the fourth is the acceptance probability
    double* average;  // # (4, groups): log e, its average, mean error, mu; chain i belongs to group i mod groups
    double* average_count;  // # ()
    void* step_size;  // # () of one group, else (n,), in x's type
    int64_t groups;
    double target, shrinkage;
    double least;  // probabilities count as at least this in the harmonic mean of a group; 0: the plain mean
    double* mean;  // # (*event)
    double* squares;  // # (*event)
    double* count;  // # (): states in mean and squares
    double* search;  // # (4,): log T, its average, second moment of the slope, count
    double* length;  // # (): T
    void* before;  // # (n, *event): the states before the proposal; becomes x
    const void* proposal;  // # (n, *event)
    const void* momentum;  // # (n, *event): at the proposal, whitened
    const void* scale;  // # (*event) or null
    double* space;  // # (n + 3 dim,) or null where `search` is
    double fraction;  // h: the trajectory had the length h T
    double longest;  // steps of a trajectory
};

// y_i = x_{i / copies} + sigma_i scale z_i;  noise = z
struct PerturbParams {
    Stream stream;
    int64_t chains, dim;
    DType dtype;
    void* out;  // # (n copies, *event)
    void* noise;  // # (n copies, *event) or null
    const void* x;  // # (n, *event)
    const void* scale;  // # (*event) or null
    Coefficient sigma;
    int64_t copies;
};

// k_i = g size + P_g(index_i mod size), P_g a permutation of 0 ... size - 1, g = group_i
struct RandpermParams {
    Stream stream;
    int64_t chains, size;
    int64_t across;  // a >= sqrt(size): indices are pairs below a and below size / a
    int64_t* out;  // # (n,)
    const int64_t* index;  // # (n,) or null: i
    const int64_t* group;  // # (n,) or null: 0
};

// x_i = source[slots_i], or where u_i <= rate a new state: shift + spread u, shift + spread z, or a row of `rows`
struct GatherParams {
    Stream stream;  // of new states
    uint32_t coin;  // purpose of u_i
    int64_t chains, dim, size;
    DType dtype;
    NoiseKind kind;  // uniform, normal; bits: which of `count` rows
    void* out;  // # (n, *event)
    const void* source;  // # (size, *event)
    const int64_t* slots;  // # (n,)
    const void* rows;  // # (count, *event) or null
    int64_t count;
    uint8_t* fresh;  // # (n,) or null
    double rate, shift, spread;
};

// target[slots_i] = x_i where every element of x_i is finite
struct ScatterParams {
    int64_t chains, dim, size;
    DType dtype;
    void* target;  // # (size, *event)
    const int64_t* slots;  // # (n,)
    const void* x;  // # (n, *event)
};

}  // namespace ebm_fast
