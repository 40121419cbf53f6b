// Welford's update of one element's mean and sum of squared deviations (1962).
#pragma once
#include "value.h"

EBM_FAST_CORE_BEGIN

template <class V>
HD inline void welford(V x, V& mean, V& squares, V one_over_count) {
    const V difference = x - mean;
    mean = fma(difference, one_over_count, mean);
    squares = fma(difference, x - mean, squares);
}

EBM_FAST_CORE_END
