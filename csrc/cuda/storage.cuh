// Four elements of a storage type at a time; arithmetic is float32, or float64 for float64.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "../core/params.h"

namespace ebm_fast {
namespace {

template <class T> struct Storage {
    using Value = float;
};
template <> struct Storage<double> {
    using Value = double;
};

template <class T> struct alignas(sizeof(T) < 4 ? 8 : 16) Four {
    T at[4];
};

template <class V, class T> __device__ inline V widen(T a) { return static_cast<V>(a); }
template <class T, class V> __device__ inline T narrow(V a) { return static_cast<T>(a); }
template <> __device__ inline __nv_bfloat16 narrow(float a) { return __float2bfloat16_rn(a); }
template <> __device__ inline __half narrow(float a) { return __float2half_rn(a); }

// WHOLE: all four exist and p is aligned, one access (two for float64); otherwise `count` of them, one by one.
template <bool WHOLE, class T, class V>
__device__ inline void load4(const T* p, int count, V (&out)[4]) {
    if constexpr (WHOLE) {
        const Four<T> four = *reinterpret_cast<const Four<T>*>(p);
        for (int k = 0; k < 4; ++k) out[k] = widen<V>(four.at[k]);
    } else {
        for (int k = 0; k < 4; ++k) out[k] = k < count ? widen<V>(p[k]) : V(0);
    }
}

template <bool WHOLE, class T, class V>
__device__ inline void store4(T* p, int count, const V (&in)[4]) {
    if constexpr (WHOLE) {
        Four<T> four;
        for (int k = 0; k < 4; ++k) four.at[k] = narrow<T>(in[k]);
        *reinterpret_cast<Four<T>*>(p) = four;
    } else {
        for (int k = 0; k < 4; ++k)
            if (k < count) p[k] = narrow<T>(in[k]);
    }
}

template <class T> bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % alignof(Four<T>) == 0; }

}  // namespace
}  // namespace ebm_fast
