// Which elements of a chain's event a thread looks after, and what it must do to hear of the others. One thread has the whole
// event on the CPU and, for a few elements known to the compiler, on a GPU; elsewhere a team of threads has it (cuda/team.cuh).
// A value V holds one element of each of its chains, or on the CPU a row of neighbouring elements of one chain (cpu/spread.h).
//   dim;  rows(): values in an event;  first(), next(i): its rows in order, in runs that begin at head(i), and in blocks of BLOCK
//   rows beside each other (the last of an event may be cut);  owns(e);
//   index(), size(): of the thread in its team;
//   sum, any: over the event;  sync: what the team has written can be read.
// Element by element, as energies need it, of row i:
//   load<V>(p, i): its parameters;  inside(i, a): a, and 0 where a row reaches beyond the event;
//   pick(i, e, a, b): a at element e, b elsewhere;  beside<G>(x, i, g, by): the elements `by` places on, around the event's end;
//   at<G>(x, e, g), put<G>(x, e, g, a): element e.
#pragma once
#include "value.h"

#define EBM_FAST_EACH(i, share) EBM_FAST_UNROLL_EVENT for (int i = (share).first(); i < (share).rows(); i = (share).next(i))

EBM_FAST_CORE_BEGIN

// store(i, load(i)) for the rows of a thread, a block's loads before its stores: the compiler, which cannot know that these are
// of other rows, would wait for each in turn.
template <class Share, class Load, class Store>
HD inline void by_blocks(const Share& share, const Load& load, const Store& store) {
    constexpr int BLOCK = Share::BLOCK;
    EBM_FAST_UNROLL_EVENT
    for (int first = share.first(); first < share.rows(); first = share.next(first + BLOCK - 1)) {
        decltype(load(first)) a[BLOCK];
        EBM_FAST_UNROLL
        for (int k = 0; k < BLOCK; ++k)
            if (k == 0 || first + k < share.rows()) a[k] = load(first + k);
        EBM_FAST_UNROLL
        for (int k = 0; k < BLOCK; ++k)
            if (k == 0 || first + k < share.rows()) store(first + k, a[k]);
    }
}

// Rows are elements.
template <class Share>
struct ByElement {
    HD constexpr const Share& share() const { return *static_cast<const Share*>(this); }
    HD constexpr int rows() const { return share().dim; }
    template <class V> HD static V load(const float* p, int i) { return broadcast<V>(p[i]); }
    template <class V> HD static V inside(int, V a) { return a; }
    template <class V> HD static V pick(int i, int e, V a, V b) { return i == e ? a : b; }
    template <int G, class Row> HD auto beside(Row x, int i, int g, int by) const {
        const int e = i + by;
        return at<G>(x, e < 0 ? e + share().dim : e < share().dim ? e : e - share().dim, g);
    }
    template <int G, class Row> HD static auto at(Row x, int e, int g) { return x[e * G + g]; }
    template <int G, class Row, class V> HD void put(Row x, int e, int g, V a) const {
        if (share().owns(e)) x[e * G + g] = a;
    }
};

template <class Share>
struct Alone : ByElement<Share> {
    static constexpr bool SPLIT = false;
    static constexpr int BLOCK = 1;
    HD static constexpr int first() { return 0; }
    HD static constexpr int next(int i) { return i + 1; }
    HD static constexpr int head(int) { return 0; }
    HD static constexpr bool owns(int) { return true; }
    HD static constexpr int index() { return 0; }
    HD static constexpr int size() { return 1; }
    template <class T> HD static T sum(T a) { return a; }
    HD static bool any(bool a) { return a; }
    HD static void sync() {}
};

struct Whole : Alone<Whole> {
    int dim;
    HD explicit Whole(int n) : dim(n) {}
};

template <int D>
struct Exactly : Alone<Exactly<D>> {
    static constexpr int dim = D;
};

EBM_FAST_CORE_END
