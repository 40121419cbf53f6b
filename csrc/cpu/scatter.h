// Rows written back over a range of chains: looked at, then copied while they are still in the cache.
#pragma once
#include "../core/gather.h"
#include "storage.h"

EBM_FAST_CORE_BEGIN

template <class T>
inline bool all_finite(const T* x, int64_t dim) {
    using V = typename Storage<T>::Vector;
    V sum{};
    int64_t i = 0;
    for (; i + W <= dim; i += W) sum += not_finite(load(x + i));
    if (i < dim) sum += not_finite(load_part(x + i, dim - i));
    bool fine = true;
    for (int k = 0; k < W; ++k) fine = fine && sum[k] == 0;
    return fine;
}

template <class T>
inline void scatter_rows(const ScatterParams& p, int64_t begin, int64_t end) {
    for (int64_t chain = begin; chain < end; ++chain) {
        const int64_t slot = p.slots[chain];
        const T* x = static_cast<const T*>(p.x) + chain * p.dim;
        if (slot < 0 || slot >= p.size || !all_finite(x, p.dim)) continue;
        std::memcpy(static_cast<T*>(p.target) + slot * p.dim, x, static_cast<size_t>(p.dim) * sizeof(T));
    }
}

inline void scatter_range(const ScatterParams& p, int64_t begin, int64_t end) {
    switch (p.dtype) {
        case DType::float32: return scatter_rows<float>(p, begin, end);
        case DType::float64: return scatter_rows<double>(p, begin, end);
        case DType::bfloat16: return scatter_rows<BFloat16>(p, begin, end);
        case DType::float16: return scatter_rows<Half>(p, begin, end);
        case DType::int32: return;
    }
}

EBM_FAST_CORE_END
