// A perturbed copy of one element; `sigma` holds the factor scale.
#pragma once
#include "value.h"

EBM_FAST_CORE_BEGIN

template <class V>
HD inline V perturbed(V x, V z, V sigma) {
    return fma(sigma, z, x);
}

EBM_FAST_CORE_END
