// Kick and drift of one element (or one lane vector of elements) with whitened momentum: `kick` and `drift` hold the factor
// scale. V is float, double, or a lane vector of either.
#pragma once
#include "value.h"

EBM_FAST_CORE_BEGIN

template <class V>
HD inline V kicked(V p, V grad, V kick) {
    return fma(-kick, grad, p);
}

template <class V>
HD inline V drifted(V x, V p, V drift) {
    return fma(drift, p, x);
}

EBM_FAST_CORE_END
