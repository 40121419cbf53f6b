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
    // Coefficients: a scalar, or a tensor in the arithmetic's type (float64 for a float64 state, else float32).
    double step_size, noise_std;
    const void* step_size_at; // # () with stride 0 or (n,) with stride 1, or null
    const void* noise_std_at;
    const void* grad_scale;   // # (n,) or null
    const uint8_t* active;    // # (n,) or null: chains with 0 are left alone
    int64_t step_size_stride, noise_std_stride;
    double momentum, prior_precision, grad_clip;   // grad_clip = inf: none
    double step_lo, step_hi, noise_lo, noise_hi;   // -inf, inf: none
};

// norm_i = sqrt(sum_d x_id^2), summed in float64 in a fixed order.
struct NormParams {
    int64_t chains, dim;
    DType dtype;
    const void* x;            // # (n, *event)
    void* out;                // # (n,) float32, or float64 for a float64 x
};

}  // namespace ebm_fast
