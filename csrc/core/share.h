// Which elements of a chain's event a thread looks after, and what it must do to hear of the others. One thread has the whole
// event on the CPU and, for a few elements known to the compiler, on a GPU; elsewhere a team of threads shares it (cuda/team.cuh).
//   dim;  first(), next(i): its elements in order, in runs that begin at head(i);  owns(i);  index(), size(): of the thread in
//   its team;
//   sum, any: over the team;  sync: what the team has written can be read.
#pragma once
#include "macros.h"

#define EBM_FAST_EACH(i, share) EBM_FAST_UNROLL_EVENT for (int i = (share).first(); i < (share).dim; i = (share).next(i))

EBM_FAST_CORE_BEGIN

struct Alone {
    static constexpr bool SPLIT = false;
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

struct Whole : Alone {
    int dim;
    HD explicit Whole(int n) : dim(n) {}
};

template <int D>
struct Exactly : Alone {
    static constexpr int dim = D;
};

EBM_FAST_CORE_END
