// The ingredients of a Langevin step, each alone and at the machine's own pace: compiled and timed by ceilings.py. The numbers
// are in registers or in the first cache, neighbouring iterations depend on each other nowhere but in the accumulators of
// `multiply_adds`, and nothing is called, packed, loaded from further away or stored for good.
//
// A repeat is 16 W multiply-adds (W lanes in a register), or a draw or function for each of 4 W chains.
#include "../csrc/core/math.h"
#include "../csrc/cpu/rows.h"

using namespace ebm_fast;

namespace {

constexpr int G = 4, SUMS = 16, LONGEST = 64;

// What is computed must be there, whether anybody reads it or not.
void keep(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

template <class Function>
void rows(int count, int64_t repeats, const Function& function) {
    F x[8 * G], y[8 * G];
    for (int i = 0; i < count * G; ++i) x[i] = broadcast<F>(-0.37f * static_cast<float>(i + 1));
    for (int64_t r = 0; r < repeats; ++r) {
        keep(x);
        for (int i = 0; i < count * G; ++i) y[i] = function(x[i]);
        keep(y);
    }
}

}  // namespace

extern "C" {

int lanes() { return W; }

void multiply_adds(int64_t repeats) {
    F sum[SUMS], a = broadcast<F>(0.999f), b = broadcast<F>(0.001f);
    for (int k = 0; k < SUMS; ++k) sum[k] = broadcast<F>(static_cast<float>(k));
    for (int64_t r = 0; r < repeats; ++r) {
        EBM_FAST_UNROLL
        for (int k = 0; k < SUMS; ++k) sum[k] = fma(sum[k], a, b);
    }
    keep(sum);
}

// normals of an event of `dim` <= 64 numbers, as rows
void normals(int dim, int64_t repeats) {
    F out[LONGEST * G];
    U chains[G];
    for (int g = 0; g < G; ++g)
        for (int k = 0; k < W; ++k) chains[g][k] = static_cast<uint32_t>(g * W + k);
    const KeyTable keys(KeySchedule{1, 2});
    const Whole share(dim);
    for (int64_t r = 0; r < repeats; ++r) {
        normal_rows<G>(share, keys, static_cast<uint32_t>(r), 7, chains, out);
        keep(out);
    }
}

// 8 a chain
void exponentials(int64_t repeats) { rows(8, repeats, [](F a) { return exp2_weight(a); }); }
void tanhs(int64_t repeats) { rows(8, repeats, [](F a) { return ebm_fast::tanh(a); }); }

}
