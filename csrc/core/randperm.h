// A keyed permutation of 0 ... size - 1: an alternating Feistel network on pairs (l, r), i = l b + r, a b >= size, walked along its
// cycle while it leads outside (Black and Rogaway 2002). Index i is mapped without the others, so n of them cost O(n).
#pragma once
#include "value.h"

EBM_FAST_CORE_BEGIN

constexpr int ROUNDS = 16;

// A bijection of words whose every output bit hangs on every input bit (Wellons's "lowbias32").
HD inline uint32_t mixed(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

// x + F(y) mod n for x < n
HD inline uint32_t turned(uint32_t x, uint32_t y, uint32_t key, uint32_t n) {
    x += static_cast<uint32_t>(static_cast<uint64_t>(mixed(y ^ key)) * n >> 32);
    return x < n ? x : x - n;
}

HD inline uint32_t permuted(uint32_t i, const uint32_t (&keys)[ROUNDS], uint32_t size, uint32_t a, uint32_t b) {
    do {
        uint32_t left = i / b, right = i - left * b;
        EBM_FAST_UNROLL
        for (int j = 0; j < ROUNDS; j += 2) {
            left = turned(left, right, keys[j], a);
            right = turned(right, left, keys[j + 1], b);
        }
        i = left * b + right;
    } while (i >= size);
    return i;
}

EBM_FAST_CORE_END
