// Replica exchange over a range of blocks of the sequence of all replicas: a block holds the words of four neighbouring ones, and
// each pair belongs to the block of its first.
#pragma once
#include "../core/swap.h"
#include "noise.h"

EBM_FAST_CORE_BEGIN

template <class T>
inline void swap_rows(T* a, int64_t dim) {  // with the row behind it
    T* b = a + dim;
    int64_t i = 0;
    for (; i + W <= dim; i += W) {
        const auto first = load(a + i), second = load(b + i);
        store(a + i, second);
        store(b + i, first);
    }
    for (; i < dim; ++i) {
        const T first = a[i];
        a[i] = b[i];
        b[i] = first;
    }
}

template <class T>
inline void swap_pair(const SwapParams& p, int64_t chain, int64_t j, float log_u) {
    const int64_t at = chain * p.replicas + j;
    T* energy = static_cast<T*>(p.energy) + at;
    const SwapDecision decision = decide_swap(energy[0], energy[1], p.betas[j], p.betas[j + 1], log_u);
    if (p.counters) count(decision, p.counters + 2 * (chain * (p.replicas - 1) + j));
    if (!decision.swapped) return;
    swap_rows(energy, 1);
    swap_rows(static_cast<T*>(p.x) + at * p.dim, p.dim);
    if (p.grad) swap_rows(static_cast<T*>(p.grad) + at * p.dim, p.dim);
    if (p.labels) {
        const int64_t label = p.labels[at];
        p.labels[at] = p.labels[at + 1];
        p.labels[at + 1] = label;
    }
}

template <class T>
inline void swap_blocks(const SwapParams& p, int64_t begin, int64_t end) {
    alignas(64) float log_u[TILE + SURPLUS];
    const Counter key = make_counter(p.stream);
    const KeyTable keys(key.keys);
    for (int64_t at = begin; at < end; at += TILE_BLOCKS) {
        const int64_t stop = at + TILE_BLOCKS < end ? at + TILE_BLOCKS : end;
        fill_tile<LogUniformOf>(key, keys, p.replicas, at, stop, log_u);
        const int64_t from = first_element(at, p.replicas), count = first_element(stop, p.replicas) - from;
        int64_t chain = from / p.replicas, j = from % p.replicas;
        for (int64_t i = 0; i < count; ++i) {
            if (j % 2 == p.parity && j + 1 < p.replicas) swap_pair<T>(p, chain, j, log_u[i]);
            if (++j == p.replicas) j = 0, ++chain;
        }
    }
}

inline void swap_range(const SwapParams& p, int64_t begin, int64_t end) {
    if (p.dtype == DType::float64) swap_blocks<double>(p, begin, end);
    else swap_blocks<float>(p, begin, end);
}

EBM_FAST_CORE_END
