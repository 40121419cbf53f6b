// Tensor cores: products of numbers rounded to tf32 or bfloat16, sums in float32. A kind of number has
//   DEPTH: columns of one product of 16 x DEPTH and DEPTH x 8;  pack(low, high): a word of a factor, of PER_WORD numbers;
//   part_of(a, part): the nearest, the nearest to what that leaves, ...;  parts that are multiplied: LEFT of the left factor, RIGHT of
//   the right one, STATE of a right one that is not rounded.
// The layout of the fragments is that of PTX's mma.m16n8k8 (tf32) and mma.m16n8k16 (bf16).
#pragma once
#include "team.cuh"
#include "../core/value.h"

namespace ebm_fast {
namespace {

HD inline uint32_t word_of(float a) { return static_cast<uint32_t>(float_to_bits(a)); }

#if defined(EBM_FAST_ON_CPU)  // the tests that run this source there
struct Fragments {
    uint32_t a[4], b[2];
};

// What mma does
template <int DEPTH, int HALF, class Value>
inline void multiply_by_lanes(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Value& value) {
    const int lane = threadIdx.x % 32, per_word = HALF / 4;
    const Fragments* of = lanes_of_warp(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}});
    for (int k = 0; k < DEPTH; ++k) {
        const int at = k % HALF / per_word, part = k % per_word;
        const bool upper = k >= HALF;
        for (int j = 0; j < 4; ++j) {
            const float left = value(of[lane / 4 * 4 + at].a[j / 2 + 2 * upper], part);
            d[j] = fma(left, value(of[(lane % 4 * 2 + j % 2) * 4 + at].b[upper], part), d[j]);
        }
    }
    __syncwarp();
}
#endif

// Rounded to 10 bits behind the point, ties away from zero
HD inline uint32_t to_tf32(float a) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t word;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(a));
    return word;
#else
    return a - a == 0.0f ? (word_of(a) + 0x1000u) & 0xFFFFE000u : word_of(a);
#endif
}
// To nearest, ties to even, in the upper half
HD inline uint32_t to_bfloat16(float a) {
    const uint32_t bits = word_of(a);
    return (a == a ? bits + 0x7FFFu + ((bits >> 16) & 1u) : bits | 0x400000u) & 0xFFFF0000u;
}

template <class Kind>
HD inline float part_of_number(float a, int part) {
    for (int k = 0; k < part; ++k) a = a - Kind::rounded(a);
    return a;
}

// With two PARTS a product is that of float32 numbers to 2^-22, of three on the tensor cores.
template <int PARTS>
struct Tf32 {
    static constexpr int DEPTH = 8, PER_WORD = 1, LEFT = PARTS, RIGHT = PARTS, STATE = 2;
    static HD float rounded(float a) { return bits_to_float(to_signed(to_tf32(a))); }
    static HD float part_of(float a, int part) { return part_of_number<Tf32>(a, part); }
    static HD uint32_t pack(float a, float) { return to_tf32(a); }
    static __device__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__)
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif defined(EBM_FAST_ON_CPU)
        multiply_by_lanes<8, 4>(d, a, b0, b1, [](uint32_t word, int) { return bits_to_float(to_signed(word)); });
#endif
    }
};

struct BFloat16 {
    static constexpr int DEPTH = 16, PER_WORD = 2, LEFT = 1, RIGHT = 1, STATE = 3;
    static HD float rounded(float a) { return bits_to_float(to_signed(to_bfloat16(a))); }
    static HD float part_of(float a, int part) { return part_of_number<BFloat16>(a, part); }
    static HD uint32_t pack(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        uint32_t word;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
        return word;
#else
        return to_bfloat16(low) >> 16 | to_bfloat16(high);
#endif
    }
    static __device__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif defined(EBM_FAST_ON_CPU)
        multiply_by_lanes<16, 8>(d, a, b0, b1, [](uint32_t word, int part) {
            return bits_to_float(to_signed(part ? word & 0xFFFF0000u : word << 16));
        });
#endif
    }
};

}  // namespace
}  // namespace ebm_fast
