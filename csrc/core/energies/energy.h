// What every energy is to the chain: value and gradient of G x V chains at once (G lane vectors side by side on the CPU, one
// chain in a CUDA thread or a team of threads). x and g lie as [dim][G]. MODE says what is wanted; the gradient's bits do not
// depend on it. A thread writes the gradient of its share, may read all of x, and has the energy, as all its team.
#pragma once
#include "../chain.h"
#include "../math.h"
#include "../share.h"

EBM_FAST_CORE_BEGIN

enum Mode { VALUE = 1, GRAD = 2, BOTH = 3 };

// Parameters lie in the order of the descriptor's table, or as the energy's `pack` arranged them.
struct EnergyView {
    const float* p;
    int dim;
    const int64_t* integers;   // the descriptor's
    int precision;             // a Precision
    HD int n0() const { return static_cast<int>(integers[0]); }
    HD int n1() const { return static_cast<int>(integers[1]); }
};

template <class V, int G>
struct Sums {                  // one float64 sum a chain
    typename WideOf<V>::type at[G];
    HD Sums() {
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) at[g] = make_wide<V>(0.0);
    }
    HD void add(int g, V a) { at[g] += widen(a); }
    HD void add(int g, V a, V b) { at[g] += widen(a) * widen(b); }
};

// Rows of a matrix, packed in panels of PANEL rows: a[r / PANEL][k][r % PANEL], the last panel filled with zeros. Addresses in
// the inner loop are then one pointer and constants.
constexpr int PANEL = 6;
HD inline int64_t panels(int64_t rows) { return (rows + PANEL - 1) / PANEL; }

inline void pack_panels(const float* a, int64_t rows, int64_t columns, float* out) {
    for (int64_t r0 = 0; r0 < rows; r0 += PANEL, a += PANEL * columns) {
        const int64_t there = rows - r0;
        if (there >= PANEL) {
            for (int64_t k = 0; k < columns; ++k)
                for (int r = 0; r < PANEL; ++r) *out++ = a[r * columns + k];
        } else {
            for (int64_t k = 0; k < columns; ++k)
                for (int r = 0; r < PANEL; ++r) *out++ = r < there ? a[r * columns + k] : 0.0f;
        }
    }
}

// The panels of its transpose
inline void pack_transposed(const float* a, int64_t rows, int64_t columns, float* out) {
    for (int64_t k0 = 0; k0 < columns; k0 += PANEL) {
        const int64_t there = columns - k0;
        for (int64_t r = 0; r < rows; ++r, out += PANEL) {
            const float* const row = a + r * columns + k0;
            if (there >= PANEL) {
                for (int k = 0; k < PANEL; ++k) out[k] = row[k];
            } else {
                for (int k = 0; k < PANEL; ++k) out[k] = k < there ? row[k] : 0.0f;
            }
        }
    }
}

// acc[r][g] += sum_k panel[k][r] y[k][g], k ascending, of the first R rows. Inlined, or acc would travel through memory.
template <int R, class V, int G>
HD EBM_FAST_INLINE void panel_rows(const float* panel, const V* y, int columns, V (&acc)[PANEL][G]) {
    for (int k = 0; k < columns; ++k, panel += PANEL, y += G) {
        V v[G];
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) v[g] = y[g];
        EBM_FAST_UNROLL
        for (int r = 0; r < R; ++r) {
            const V a = broadcast<V>(panel[r]);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) acc[r][g] = fma(a, v[g], acc[r][g]);
        }
    }
}

// of `rows` rows, or some more
template <class V, int G>
HD EBM_FAST_INLINE void panel_product(const float* panel, const V* y, int columns, int rows, V (&acc)[PANEL][G]) {
    if (rows > 4) panel_rows<PANEL>(panel, y, columns, acc);
    else if (rows > 2) panel_rows<4>(panel, y, columns, acc);
    else panel_rows<2>(panel, y, columns, acc);
}

// y[k][g] += sum_r panel[k][r] v[r][g]: the transposed product with one panel
template <class V, int G>
HD inline void panel_transposed(const float* panel, const V (&v)[PANEL][G], int columns, V* y) {
    for (int k = 0; k < columns; ++k, panel += PANEL, y += G) {
        V sum[G];
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) sum[g] = y[g];
        EBM_FAST_UNROLL
        for (int r = 0; r < PANEL; ++r) {
            const V a = broadcast<V>(panel[r]);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) sum[g] = fma(a, v[r][g], sum[g]);
        }
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) y[g] = sum[g];
    }
}

EBM_FAST_CORE_END
