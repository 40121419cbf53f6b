"""One step of each sampler over events held in registers: the arithmetic of csrc/core/transition.h, chain for lane.

Events are tuples of dim tensors # (BLOCK,), as in user_energy.py; `scale` is the memory of sigma # (dim,) or None.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

import triton
import triton.language as tl

from .langevin import clamp, langevin_move
from .moments import quotient
from .normal import log_unit, normals, word_to_uniform
from .philox import tile_words
from .user_energy import evaluate

INF = tl.constexpr(float("inf"))
LARGEST_NORMAL = tl.constexpr(6.77)  # sqrt(66 ln 2), see normal.py
SHRUNK = tl.constexpr(2.0**-66)  # squares of what is shrunk so fit float32
LIMIT = tl.constexpr(3.4028234663852886e38 * 2.0**-66)


@triton.jit
def normal_event(chain, rng, seed, step, PURPOSE: tl.constexpr, chain_offset, DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Standard normals of each chain's event at a step."""
    purpose = tl.cast(PURPOSE, tl.int32)
    z = ()
    for block in tl.static_range((DIM + 3) // 4):
        a, b, c, d = tile_words(tl.full((BLOCK,), block, tl.uint32), chain, rng, seed, step, purpose, chain_offset)
        four = normals(a, b, c, d)
        for i in tl.static_range(4):
            if 4 * block + i < DIM:
                z = z + (four[i],)  # noqa: RUF005
    return z


@triton.jit
def sigma_at(scale, i: tl.constexpr):
    if scale is not None:
        sigma = tl.load(scale + i)
    else:
        sigma = 1.0
    return sigma


@triton.jit
def square_sum(x, BLOCK: tl.constexpr):
    """|x|^2 in float64."""
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    for i in tl.static_range(len(x)):
        wide = x[i].to(tl.float64)
        total = tl.fma(wide, wide, total)
    return total


@triton.jit
def chosen(mask, a, b):
    """a where mask, else b."""
    c = ()
    for i in tl.static_range(len(a)):
        c = c + (tl.where(mask, a[i], b[i]),)  # noqa: RUF005
    return c


@triton.jit
def negative(a):
    b = ()
    for i in tl.static_range(len(a)):
        b = b + (-a[i],)  # noqa: RUF005
    return b


@triton.jit
def kicked(p, g, kick, scale):
    """p - kick sigma g"""
    q = ()
    for i in tl.static_range(len(p)):
        q = q + (tl.fma(-(kick * sigma_at(scale, i)), g[i], p[i]),)  # noqa: RUF005
    return q


@triton.jit
def drifted(x, p, drift, scale):
    """x + drift sigma p"""
    y = ()
    for i in tl.static_range(len(x)):
        y = y + (tl.fma(drift * sigma_at(scale, i), p[i], x[i]),)  # noqa: RUF005
    return y


@triton.jit
def decide(
    e, e_new, before, after, beta, chain, rng, seed, step, PURPOSE: tl.constexpr, chain_offset, max_error, BLOCK: tl.constexpr,
):  # fmt: skip
    """a = beta (E - E') + K - K': accepted where log u <= a, probability, Hamiltonian kept, and whether it diverged."""
    b = beta.to(tl.float64)
    old = e.to(tl.float64)
    new = e_new.to(tl.float64)
    a = b * (old - new) + (before - after)
    fine = (tl.abs(new) < INF) & (after < INF) & (a == a)
    first = tl.zeros((BLOCK,), dtype=tl.uint32)
    word, _, _, _ = tile_words(first, chain, rng, seed, step, tl.cast(PURPOSE, tl.int32), chain_offset)
    accepted = fine & (log_unit(word_to_uniform(word)).to(tl.float64) <= a)
    probability = tl.where(fine, tl.exp(tl.where(a < 0.0, a, 0.0).to(tl.float32)), 0.0).to(tl.float64)
    hamiltonian = tl.where(accepted, b * new + after, b * old + before)
    return accepted, probability, hamiltonian, (fine == 0) | (a < -max_error)


@triton.jit
def random_walk_proposal(x, z, step_size, scale):
    """x + tau sigma z"""
    y = ()
    for i in tl.static_range(len(x)):
        y = y + (tl.fma(step_size * sigma_at(scale, i), z[i], x[i]),)  # noqa: RUF005
    return y


@triton.jit
def refreshed(p, z, persistence):
    """c p + sqrt(1 - c^2) z"""
    rest = tl.sqrt_rn(tl.fma(-persistence, persistence, 1.0))
    q = ()
    for i in tl.static_range(len(p)):
        q = q + (tl.fma(persistence, p[i], rest * z[i]),)  # noqa: RUF005
    return q


@triton.jit
def trajectory(x, p, g, q, step_size, beta, length, scale, ENERGY: tl.constexpr, BLOCK: tl.constexpr):
    """`length` leapfrog steps: the proposal, its momentum, energy and gradient."""
    kick = beta * step_size
    half = 0.5 * kick
    p = kicked(p, g, half, scale)
    y = drifted(x, p, step_size, scale)
    left = length - 1
    while left > 0:
        _, h = evaluate(y, q, ENERGY, BLOCK)
        p = kicked(p, h, kick, scale)
        y = drifted(y, p, step_size, scale)
        left -= 1
    e, h = evaluate(y, q, ENERGY, BLOCK)
    return y, kicked(p, h, half, scale), e, h


@triton.jit
def magnitude(x, BLOCK: tl.constexpr):
    """2^-66 |x|, which overflows where |x| is far beyond float32's range."""
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for i in tl.static_range(len(x)):
        small = x[i] * SHRUNK
        total = tl.fma(small, small, total)
    return tl.sqrt_rn(total)


@triton.jit
def largest_scale(scale, DIM: tl.constexpr):
    """max sigma, 1 without a scale."""
    if scale is not None:
        stretch = tl.load(scale)
        for i in tl.static_range(1, DIM):
            stretch = tl.maximum(stretch, tl.load(scale + i))
    else:
        stretch = 1.0
    return stretch


@triton.jit
def may_go_on(
    e, x, g, p, step_size, noise_std, stretch, grad_clip, grad_clip_norm, heavy_ball, prior_precision, BAOAB: tl.constexpr,
    MOMENTUM: tl.constexpr, CLIP: tl.constexpr, CLIP_NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Whether the energy is finite and no element of the next state can leave float32's range; all bounds are shrunk by 2^-66."""
    slope = magnitude(g, BLOCK)
    if CLIP:
        most = grad_clip * (len(x) ** 0.5) * SHRUNK
        slope = tl.where(slope > most, most, slope)
    if CLIP_NORM:
        most = grad_clip_norm * SHRUNK
        slope = tl.where((slope > most) & (slope <= LIMIT), most, slope)
    noise = (LARGEST_NORMAL * SHRUNK) * noise_std
    far = magnitude(x, BLOCK)
    move = step_size * stretch
    if BAOAB:
        reach = far + move * (magnitude(p, BLOCK) + move * slope + noise)
    else:
        square = move * stretch
        reach = far * (1.0 + square * tl.abs(prior_precision)) + square * slope + stretch * noise
        if MOMENTUM:
            reach += tl.abs(heavy_ball) * magnitude(p, BLOCK)
    return (e - e == 0.0) & (reach <= LIMIT)


@triton.jit
def shrink_of(norm, bound):
    """bound / max(norm, bound), 0 for a bound of 0"""
    floor = tl.where(bound > 0.0, bound, 1.0)
    return quotient(tl.zeros_like(norm) + bound, tl.where(norm < floor, floor, norm), tl.float32)


@triton.jit
def langevin_pass(
    x, g, v, z, step_size, noise_std, shrink, scale, heavy_ball, prior_precision, grad_clip, step_lo, step_hi, noise_lo,
    noise_hi, HEAVY: tl.constexpr, CLIP: tl.constexpr, CLIP_NORM: tl.constexpr, STEP_CLAMP: tl.constexpr,
    NOISE_CLAMP: tl.constexpr, GRAD: tl.constexpr, NOISE: tl.constexpr,
):  # fmt: skip
    """x <- clamp(clamp(x - s (clip(g) + p x)) + n z), or one of its two moves alone; and the velocity."""
    y = ()
    w = ()
    for i in tl.static_range(len(x)):
        a = x[i]
        b = x[i]
        sigma = sigma_at(scale, i)
        if GRAD:
            s = step_size * (sigma * sigma)
            if HEAVY:
                b = v[i]
            a, b = langevin_move(
                a, g[i], b, s, shrink, grad_clip, prior_precision, heavy_ball, CLIP, CLIP_NORM, HEAVY
            )
            if STEP_CLAMP:
                a = clamp(a, step_lo, step_hi)
        if NOISE:
            a = tl.fma(noise_std * sigma, z[i], a)
        if NOISE_CLAMP:
            a = clamp(a, noise_lo, noise_hi)
        y = y + (a,)  # noqa: RUF005
        w = w + (b,)  # noqa: RUF005
    return y, w


@triton.jit
def baoa(x, p, g, z, step_size, persistence, noise_std, scale):
    """B A O A: half kick, half drift, friction and noise, half drift."""
    half = 0.5 * step_size
    p = kicked(p, g, half, scale)
    x = drifted(x, p, half, scale)
    r = ()
    for i in tl.static_range(len(p)):
        r = r + (tl.fma(persistence, p[i], noise_std * z[i]),)  # noqa: RUF005
    return drifted(x, r, half, scale), r
