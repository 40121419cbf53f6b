// Densities with a shape: Gamma, double well, Rosenbrock, funnel, ring, phi-four.
#pragma once
#include "energy.h"

EBM_FAST_CORE_BEGIN

// E = sum_d r_d x_d - (k_d - 1) log x_d, +inf where an x_d <= 0 (with gradient 0 there);  parameters k(d), r(d)
struct Gamma {
    static HD int64_t scratch(const EnergyView&) { return 0; }
    template <class V, int G, int MODE, class Share, class Row, class Scratch>
    static HD void evaluate(const EnergyView& q, const Share& share, Row x, Row grad, V* energy, Scratch) {
        Sums<V, G> sum;
        const V zero = broadcast<V>(0.0f), infinity = broadcast<V>(__builtin_inff());
        V outside[G] = {};
        EBM_FAST_EACH(i, share) {
            const V shape = share.template load<V>(q.p, i) - broadcast<V>(1.0f);
            const V rate = share.template load<V>(q.p + share.dim, i);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) {
                const V y = x[i * G + g];
                if constexpr (MODE & GRAD) grad[i * G + g] = select(y <= zero, zero, rate - shape / y);
                if constexpr (MODE & VALUE) {
                    sum.add(g, fma(rate, y, -(shape * log(select(y <= zero, broadcast<V>(1.0f), y)))));
                    outside[g] = outside[g] + share.inside(i, select(y <= zero, infinity, zero));
                }
            }
        }
        if constexpr (MODE & VALUE)
            for (int g = 0; g < G; ++g) energy[g] = narrow(share.sum(sum.at[g])) + narrow(share.sum(widen(outside[g])));
    }
};

// E = h sum_d (x_d^2 - b^2)^2;  parameters h, b
struct DoubleWell {
    static HD int64_t scratch(const EnergyView&) { return 0; }
    template <class V, int G, int MODE, class Share, class Row, class Scratch>
    static HD void evaluate(const EnergyView& q, const Share& share, Row x, Row grad, V* energy, Scratch) {
        Sums<V, G> sum;
        const V h4 = broadcast<V>(4.0f * q.p[0]), b2 = broadcast<V>(-q.p[1] * q.p[1]);
        EBM_FAST_EACH(i, share) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            const V y = x[i * G + g], t = fma(y, y, b2);
            if constexpr (MODE & GRAD) grad[i * G + g] = h4 * y * t;
            if constexpr (MODE & VALUE) sum.add(g, share.inside(i, t), t);
        }
        if constexpr (MODE & VALUE)
            for (int g = 0; g < G; ++g) energy[g] = narrow(static_cast<double>(q.p[0]) * share.sum(sum.at[g]));
    }
};

// E = (x_0 - a)^2 + b sum_{i>=1} (x_i - x_{i-1}^2)^2;  parameters a, b
struct Rosenbrock {
    static HD int64_t scratch(const EnergyView&) { return 0; }
    template <class V, int G, int MODE, class Share, class Row, class Scratch>
    static HD void evaluate(const EnergyView& q, const Share& share, Row x, Row grad, V* energy, Scratch) {
        const V b2 = broadcast<V>(2.0f * q.p[1]), two = broadcast<V>(2.0f), zero = broadcast<V>(0.0f);
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            Sums<V, 1> bends;
            const V shift = share.template at<G>(x, 0, g) - broadcast<V>(q.p[0]);
            V slope = two * shift;      // of what lies before the element at hand
            EBM_FAST_EACH(i, share) {
                const V y = x[i * G + g];
                if (i == share.head(i)) {
                    const V before = share.template beside<G>(x, i, g, -1);
                    slope = share.pick(i, 0, two * shift, b2 * fma(-before, before, y));
                }
                const V u = share.pick(i, share.dim - 1, zero, fma(-y, y, share.template beside<G>(x, i, g, 1)));
                if constexpr (MODE & GRAD) grad[i * G + g] = fma(-b2 * u, two * y, slope);
                if constexpr (MODE & VALUE) {
                    const V bend = share.inside(i, u);
                    bends.add(0, bend, bend);
                }
                slope = b2 * u;
            }
            if constexpr (MODE & VALUE)
                energy[g] = narrow(widen(shift) * widen(shift) + static_cast<double>(q.p[1]) * share.sum(bends.at[0]));
        }
    }
};

// E = v^2 / (2 s^2) + 1/2 e^-v sum x_i^2 + (d - 1) v / 2, v = x_0;  parameter s
struct Funnel {
    static HD int64_t scratch(const EnergyView&) { return 0; }
    template <class V, int G, int MODE, class Share, class Row, class Scratch>
    static HD void evaluate(const EnergyView& q, const Share& share, Row x, Row grad, V* energy, Scratch) {
        const float s = q.p[0];
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            Sums<V, 1> squares;
            const V v = share.template at<G>(x, 0, g), precision = exp(-v);
            EBM_FAST_EACH(i, share) {
                const V y = share.pick(i, 0, broadcast<V>(0.0f), x[i * G + g]);
                squares.add(0, y, y);
                if constexpr (MODE & GRAD) grad[i * G + g] = precision * y;
            }
            const auto half = widen(broadcast<V>(0.5f) * precision) * share.sum(squares.at[0]);
            const auto wide_v = widen(v);
            const double quadratic = 0.5 / (static_cast<double>(s) * s), linear = 0.5 * (share.dim - 1);
            if constexpr (MODE & GRAD)
                share.template put<G>(grad, 0, g, narrow(2.0 * quadratic * wide_v - half + make_wide<V>(linear)));
            if constexpr (MODE & VALUE) energy[g] = narrow(quadratic * (wide_v * wide_v) + half + linear * wide_v);
        }
    }
};

// E = (|x| - R)^2 / (2 w^2);  parameters R, w
struct Ring {
    static HD int64_t scratch(const EnergyView&) { return 0; }
    template <class V, int G, int MODE, class Share, class Row, class Scratch>
    static HD void evaluate(const EnergyView& q, const Share& share, Row x, Row grad, V* energy, Scratch) {
        const V radius = broadcast<V>(q.p[0]), precision = broadcast<V>(1.0f / (q.p[1] * q.p[1])), zero = broadcast<V>(0.0f);
        Sums<V, G> squares;
        EBM_FAST_EACH(i, share) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) squares.add(g, x[i * G + g], x[i * G + g]);
        V pull[G];
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            const V r = sqrt(narrow(share.sum(squares.at[g]))), off = r - radius;
            if constexpr (MODE & VALUE) energy[g] = broadcast<V>(0.5f) * precision * off * off;
            pull[g] = select(r > zero, precision * off / r, zero);
        }
        if constexpr (MODE & GRAD)
            EBM_FAST_EACH(i, share) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) grad[i * G + g] = pull[g] * x[i * G + g];
    }
};

// A site of a periodic lattice and its neighbours, from row to row.
template <class Share>
struct Site {
    const int dim, height, width;
    int row, above, below, j;      // of the site at hand
    HD Site(const Share& share, int h, int w)
        : dim(share.dim), height(h), width(w), row(0), above((h - 1) * w), below(h > 1 ? w : 0), j(-1) {}
    HD void move_to([[maybe_unused]] int at) {
        if constexpr (Share::SPLIT) {
            const int i = at / width;
            row = i * width, j = at - row;
            above = (i ? i - 1 : height - 1) * width, below = (i + 1 < height ? i + 1 : 0) * width;
        } else if (++j == width) {
            j = 0, above = row, row = below;
            below = row + width < dim ? row + width : 0;
        }
    }
    template <int G, class Row> HD auto left(Row x, int g) const { return x[(row + (j ? j - 1 : width - 1)) * G + g]; }
    template <int G, class Row> HD auto right(Row x, int g) const { return x[(row + (j + 1 < width ? j + 1 : 0)) * G + g]; }
    template <int G, class Row> HD auto up(Row x, int g) const { return x[(above + j) * G + g]; }
    template <int G, class Row> HD auto down(Row x, int g) const { return x[(below + j) * G + g]; }
};

// E = sum 1/2 sum_mu (phi_{x+mu} - phi_x)^2 + 1/2 m2 phi^2 + l phi^4 on a periodic lattice of n0 x n1;  parameters m2, l
struct PhiFour {
    static HD int64_t scratch(const EnergyView&) { return 0; }
    template <class V, int G, int MODE, class Share, class Row, class Scratch>
    static HD void evaluate(const EnergyView& q, const Share& share, Row x, Row grad, V* energy, Scratch) {
        const V mass = broadcast<V>(q.p[0]), l = broadcast<V>(q.p[1]), l4 = broadcast<V>(4.0f * q.p[1]);
        Sums<V, G> sum;
        Site<Share> site(share, q.n0(), q.n1());
        EBM_FAST_EACH(at, share) {
            site.move_to(at);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) {
                const V y = x[at * G + g], r = site.template right<G>(x, g), d = site.template down<G>(x, g), y2 = y * y;
                if constexpr (MODE & GRAD) {
                    const V around = (y - r) + (y - site.template left<G>(x, g)) + (y - d) + (y - site.template up<G>(x, g));
                    grad[at * G + g] = fma(fma(l4, y2, mass), y, around);
                }
                if constexpr (MODE & VALUE) {
                    const V to_right = r - y, to_below = d - y;
                    const V kinetic = fma(to_right, to_right, to_below * to_below);
                    sum.add(g, share.inside(at, fma(broadcast<V>(0.5f), fma(mass, y2, kinetic), l * y2 * y2)));
                }
            }
        }
        if constexpr (MODE & VALUE)
            for (int g = 0; g < G; ++g) energy[g] = narrow(share.sum(sum.at[g]));
    }
};

EBM_FAST_CORE_END
