// The OpenMP runtime that torch carries is already in the process, its threads warm and pinned as the user asked. A second
// runtime would fight it for the cores, so we link none and call torch's by its C entry point (the same in libgomp, LLVM's and
// Intel's). Where there is none, plain threads do.
#include "parallel.h"

#include <dlfcn.h>
#include <pthread.h>
#include <thread>
#include <vector>

namespace ebm_fast {
namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
using ThreadNumber = int (*)();

struct Runtime {
    GompParallel parallel = nullptr;
    ThreadNumber thread_number = nullptr, team_size = nullptr;
    Runtime() {
        parallel = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
        thread_number = reinterpret_cast<ThreadNumber>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
        team_size = reinterpret_cast<ThreadNumber>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
        if (!thread_number || !team_size) parallel = nullptr;
    }
};

const Runtime& runtime() {
    static const Runtime found;
    return found;
}

// libgomp's workers do not survive a fork and a child that waits for them hangs: children run serially.
bool forked = false;
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked = true; });

struct Team {
    int64_t count, align;
    RangeBody body;
    void* context;

    void run(int64_t member, int64_t size) const {
        const int64_t units = (count + align - 1) / align;
        const int64_t begin = units * member / size * align, end = units * (member + 1) / size * align;
        if (begin < count) body(context, begin, end < count ? end : count);
    }
};

void gomp_member(void* argument) {
    const Team& team = *static_cast<const Team*>(argument);
    team.run(runtime().thread_number(), runtime().team_size());      // a team may come out smaller than asked for
}

}  // namespace

void parallel_ranges(int64_t count, int64_t grain, int64_t align, int threads, RangeBody body, void* context) {
    if (count <= 0) return;
    int64_t wanted = count / grain;
    wanted = wanted > threads ? threads : wanted;
    if (wanted <= 1 || forked) return body(context, 0, count);
    Team team{count, align, body, context};
    if (runtime().parallel) return runtime().parallel(gomp_member, &team, static_cast<unsigned>(wanted), 0);
    std::vector<std::thread> members;
    for (int64_t i = 1; i < wanted; ++i) members.emplace_back([&team, i, wanted] { team.run(i, wanted); });
    team.run(0, wanted);
    for (std::thread& member : members) member.join();
}

const char* thread_runtime() { return forked ? "serial" : runtime().parallel ? "openmp" : "threads"; }

}  // namespace ebm_fast
