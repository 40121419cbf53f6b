// The OpenMP runtime that torch carries is already in the process, its threads warm and pinned as the user asked. A second
// runtime would fight it for the cores, so we link none and call torch's by its C entry point (the same in libgomp, LLVM's and
// Intel's). Where there is none, plain threads do.
#include "parallel.h"

#include <dlfcn.h>
#include <pthread.h>
#include <atomic>
#include <thread>
#include <vector>

namespace ebm_fast {
namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
GompParallel runtime() {
    static const auto found = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
}

// libgomp's workers do not survive a fork and a child that waits for them hangs: children run serially.
bool forked = false;
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// Members take pieces as they come, about eight each: a core that another process or virtual machine slows down takes fewer.
struct Team {
    int64_t count, piece;
    RangeBody body;
    void* context;
    std::atomic<int64_t> next{0};

    void run() {
        for (int64_t begin; (begin = next.fetch_add(1, std::memory_order_relaxed) * piece) < count;)
            body(context, begin, begin + piece < count ? begin + piece : count);
    }
};

void gomp_member(void* team) { static_cast<Team*>(team)->run(); }

}  // namespace

void parallel_ranges(int64_t count, int64_t grain, int64_t align, int threads, RangeBody body, void* context) {
    if (count <= 0) return;
    int64_t wanted = count / grain;
    wanted = wanted > threads ? threads : wanted;
    if (wanted <= 1 || forked) return body(context, 0, count);
    const int64_t pieces = wanted * 8, units = (count + align - 1) / align;
    Team team{count, (units + pieces - 1) / pieces * align, body, context};
    if (runtime()) return runtime()(gomp_member, &team, static_cast<unsigned>(wanted), 0);
    std::vector<std::thread> members;
    for (int64_t i = 1; i < wanted; ++i) members.emplace_back([&team] { team.run(); });
    team.run();
    for (std::thread& member : members) member.join();
}

const char* thread_runtime() { return forked ? "serial" : runtime() ? "openmp" : "threads"; }

}  // namespace ebm_fast
