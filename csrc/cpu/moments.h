// Streaming moments over a range of elements.
#pragma once
#include "../core/moments.h"
#include "storage.h"

EBM_FAST_CORE_BEGIN

template <class T>
inline void moments_elements(const MomentsParams& p, int64_t begin, int64_t end) {
    using V = typename Storage<T>::Vector;
    const T* x = static_cast<const T*>(p.x);
    T* mean = static_cast<T*>(p.mean);
    T* squares = static_cast<T*>(p.squares);
    const V one_over_count = broadcast<V>(1.0 / static_cast<double>(p.count_at ? *p.count_at : p.count));
    int64_t i = begin;
    for (; i + W <= end; i += W) {
        V m = load(mean + i), s = load(squares + i);
        welford(load(x + i), m, s, one_over_count);
        store(mean + i, m);
        store(squares + i, s);
    }
    if (i < end) {
        V m = load_part(mean + i, end - i), s = load_part(squares + i, end - i);
        welford(load_part(x + i, end - i), m, s, one_over_count);
        store_part(mean + i, m, end - i);
        store_part(squares + i, s, end - i);
    }
}

inline void moments_range(const MomentsParams& p, int64_t begin, int64_t end) {
    if (p.dtype == DType::float64) moments_elements<double>(p, begin, end);
    else moments_elements<float>(p, begin, end);
}

EBM_FAST_CORE_END
