// parallel_for(count, grain, align, threads, body): body(begin, end) over [0, count) on at most `threads` threads, each with at
// least `grain` units, cut at multiples of `align`. What a range computes never depends on the cut.
#pragma once
#include <cstdint>

namespace ebm_fast {

using RangeBody = void (*)(void* context, int64_t begin, int64_t end);
void parallel_ranges(int64_t count, int64_t grain, int64_t align, int threads, RangeBody body, void* context);
const char* thread_runtime();      // "openmp" (the one torch has loaded), "threads", or "serial" (a forked child)

template <class Body>
void parallel_for(int64_t count, int64_t grain, int64_t align, int threads, const Body& body) {
    parallel_ranges(
        count, grain, align, threads, [](void* context, int64_t b, int64_t e) { (*static_cast<const Body*>(context))(b, e); },
        const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace ebm_fast
