// What `gather_` and `scatter_` do to one element: where a new state lies, and what is finite.
#pragma once
#include "value.h"

EBM_FAST_CORE_BEGIN

template <class V>
HD inline V placed(V noise, V shift, V spread) {
    return noise * spread + shift;
}

// 0, or NaN where a is not finite
template <class V>
HD inline V not_finite(V a) {
    return a - a;
}

HD inline int64_t row_of(uint32_t word, int64_t count) {
    return static_cast<int64_t>(static_cast<uint64_t>(word) * static_cast<uint64_t>(count) >> 32);
}

EBM_FAST_CORE_END
