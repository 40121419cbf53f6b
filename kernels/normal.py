"""From 32-bit words to uniforms and normals: the arithmetic of csrc/core/normal.h, operation by operation.

`tl.randn`, `tl.log` and `tl.sin` are not used: what they round to differs between devices and versions.
"""
# mypy: allow-untyped-defs

import triton
import triton.language as tl


@triton.jit
def word_to_uniform(w):
    return tl.fma(w.to(tl.float32), 2.0**-32, 2.0**-33)


@triton.jit
def log_unit(u):
    i = u.to(tl.int32, bitcast=True)
    e = (i - 0x3F3504F3) >> 23
    f = (i - (e << 23)).to(tl.float32, bitcast=True) - 1.0
    k = e.to(tl.float32)
    q = tl.fma(f, -0.07673641502, 0.1272267279)
    q = tl.fma(q, f, -0.1312755565)
    q = tl.fma(q, f, 0.1420485595)
    q = tl.fma(q, f, -0.1662664563)
    q = tl.fma(q, f, 0.2000123446)
    q = tl.fma(q, f, -0.2500078124)
    q = tl.fma(q, f, 0.3333333003)
    q = tl.fma(q, f, -0.4999999765)
    hi = k * 0.693359375
    total = hi + f
    lost = tl.where(e != 0, f - (total - hi), 0.0)
    return total + tl.fma(f * f, q, tl.fma(k, -2.12194440e-4, lost))


@triton.jit
def cos_sin_turn(v):
    a = v.to(tl.int32, bitcast=True) >> 8
    q = (a + (1 << 21)) >> 22
    t = (a - (q << 22)).to(tl.float32) * 2.0**-22
    t2 = t * t
    s = tl.fma(t2, -0.004621966732, 0.07968703122)
    s = tl.fma(s, t2, -0.6459640198)
    sine = tl.fma(t, 1.57079637, t * tl.fma(s, t2, -4.37113883e-8))
    c = tl.fma(t2, 0.0009067398984, -0.02086152834)
    c = tl.fma(c, t2, 0.2536694104)
    c = tl.fma(c, t2, -1.233700549)
    cosine = tl.fma(c, t2, 1.0)
    odd = (q & 1) != 0
    cos = tl.where(odd, sine, cosine).to(tl.int32, bitcast=True) ^ (((q + 1) & 2) << 30)
    sin = tl.where(odd, cosine, sine).to(tl.int32, bitcast=True) ^ ((q & 2) << 30)
    return cos.to(tl.float32, bitcast=True), sin.to(tl.float32, bitcast=True)


@triton.jit
def box_muller(w, v):
    r = tl.sqrt_rn(log_unit(word_to_uniform(w)) * -2.0)
    cos, sin = cos_sin_turn(v)
    return r * cos, r * sin


@triton.jit
def normals(w0, w1, w2, w3):
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    return z0, z1, z2, z3
