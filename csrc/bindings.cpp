// Python bindings: raw pointers, sizes, a thread count or a stream. No logic; validation is Python's.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#if defined(__linux__)
#include <sys/uio.h>
#include <unistd.h>
#include <cerrno>
#endif

#include "cpu/launch.h"
#include "cpu/parallel.h"
#ifdef EBM_FAST_WITH_CUDA
#include "cuda/launch.h"
#endif

namespace py = pybind11;
using namespace ebm_fast;

namespace {

using Pointer = uintptr_t;      // tensor.data_ptr(), 0 for none
template <class T> T* at(Pointer p) { return reinterpret_cast<T*>(p); }

// The arguments of each op up to its params struct are the same on every device; `where` is threads or (stream).
NoiseParams noise_params(Pointer out, int64_t chains, int64_t dim, int dtype, int kind, uint64_t seed, uint64_t step,
                         uint32_t purpose, uint32_t chain_offset, Pointer rng) {
    return {{seed, step, purpose, chain_offset, at<const int64_t>(rng)},
            chains,
            dim,
            static_cast<DType>(dtype),
            static_cast<NoiseKind>(kind),
            at<void>(out)};
}

LangevinParams langevin_params(Pointer x, Pointer grad, Pointer velocity, Pointer norm_sum, int64_t chains, int64_t dim,
                               int dtype, double step_size, double noise_std, Pointer step_size_at, int64_t step_size_stride,
                               Pointer noise_std_at, int64_t noise_std_stride, Pointer grad_scale, Pointer active, Pointer scale,
                               double momentum, double prior_precision, double grad_clip, double step_lo, double step_hi,
                               double noise_lo, double noise_hi, uint64_t seed, uint64_t step, uint32_t purpose,
                               uint32_t chain_offset, Pointer rng) {
    LangevinParams p{};
    p.stream = {seed, step, purpose, chain_offset, at<const int64_t>(rng)};
    p.chains = chains, p.dim = dim, p.dtype = static_cast<DType>(dtype);
    p.x = at<void>(x), p.grad = at<const void>(grad), p.velocity = at<void>(velocity), p.norm_sum = at<double>(norm_sum);
    p.step_size = step_size, p.noise_std = noise_std;
    p.step_size_at = at<const void>(step_size_at), p.step_size_stride = step_size_stride;
    p.noise_std_at = at<const void>(noise_std_at), p.noise_std_stride = noise_std_stride;
    p.grad_scale = at<const void>(grad_scale), p.active = at<const uint8_t>(active), p.scale = at<const void>(scale);
    p.momentum = momentum, p.prior_precision = prior_precision, p.grad_clip = grad_clip;
    p.step_lo = step_lo, p.step_hi = step_hi, p.noise_lo = noise_lo, p.noise_hi = noise_hi;
    return p;
}

NormParams norm_params(Pointer x, Pointer out, int64_t chains, int64_t dim, int dtype) {
    return {chains, dim, static_cast<DType>(dtype), at<const void>(x), at<void>(out)};
}

ProposalParams proposal_params(Pointer x, Pointer proposal, Pointer momentum, Pointer grad, Pointer scale, Pointer factor,
                               Pointer kinetic, int64_t chains, int64_t dim, int dtype, double kick, Pointer kick_at,
                               int64_t kick_stride, double drift, Pointer drift_at, int64_t drift_stride, double persistence,
                               Pointer persistence_at, int64_t persistence_stride, double fresh, Pointer fresh_at,
                               int64_t fresh_stride, uint64_t seed, uint64_t step, uint32_t purpose, uint32_t chain_offset,
                               Pointer rng) {
    ProposalParams p{};
    p.stream = {seed, step, purpose, chain_offset, at<const int64_t>(rng)};
    p.chains = chains, p.dim = dim, p.dtype = static_cast<DType>(dtype);
    p.x = at<const void>(x), p.proposal = at<void>(proposal), p.momentum = at<void>(momentum);
    p.grad = at<const void>(grad), p.scale = at<const void>(scale), p.factor = at<const void>(factor);
    p.kinetic = at<double>(kinetic);
    p.kick = {kick, at<const void>(kick_at), kick_stride}, p.drift = {drift, at<const void>(drift_at), drift_stride};
    p.persistence = {persistence, at<const void>(persistence_at), persistence_stride};
    p.fresh = {fresh, at<const void>(fresh_at), fresh_stride};
    return p;
}

LeapfrogParams leapfrog_params(Pointer x, Pointer momentum, Pointer grad, Pointer scale, int64_t chains, int64_t dim, int dtype,
                               double kick, Pointer kick_at, int64_t kick_stride, double drift, Pointer drift_at,
                               int64_t drift_stride) {
    LeapfrogParams p{};
    p.chains = chains, p.dim = dim, p.dtype = static_cast<DType>(dtype);
    p.x = at<void>(x), p.momentum = at<void>(momentum), p.grad = at<const void>(grad), p.scale = at<const void>(scale);
    p.kick = {kick, at<const void>(kick_at), kick_stride}, p.drift = {drift, at<const void>(drift_at), drift_stride};
    return p;
}

MetropolisParams metropolis_params(Pointer x, Pointer proposal, Pointer energy, Pointer proposal_energy, Pointer grad,
                                   Pointer proposal_grad, Pointer momentum, Pointer momentum_before, Pointer kinetic,
                                   Pointer scale, Pointer log_ratio, Pointer counters, int64_t chains, int64_t dim, int dtype,
                                   double kick, Pointer kick_at, int64_t kick_stride, double beta, Pointer beta_at,
                                   int64_t beta_stride, double max_error, uint64_t seed, uint64_t step, uint32_t purpose,
                                   uint32_t chain_offset, Pointer rng) {
    MetropolisParams p{};
    p.stream = {seed, step, purpose, chain_offset, at<const int64_t>(rng)};
    p.chains = chains, p.dim = dim, p.dtype = static_cast<DType>(dtype);
    p.x = at<void>(x), p.proposal = at<const void>(proposal);
    p.energy = at<void>(energy), p.proposal_energy = at<const void>(proposal_energy);
    p.grad = at<void>(grad), p.proposal_grad = at<const void>(proposal_grad);
    p.momentum = at<void>(momentum), p.momentum_before = at<const void>(momentum_before);
    p.kinetic = at<const double>(kinetic), p.scale = at<const void>(scale), p.log_ratio = at<const double>(log_ratio);
    p.counters = at<double>(counters);
    p.kick = {kick, at<const void>(kick_at), kick_stride}, p.beta = {beta, at<const void>(beta_at), beta_stride};
    p.max_error = max_error;
    return p;
}

BaoabParams baoab_params(Pointer x, Pointer momentum, Pointer grad, Pointer scale, Pointer active, int64_t chains, int64_t dim,
                         int dtype, double kick, Pointer kick_at, int64_t kick_stride, double drift, Pointer drift_at,
                         int64_t drift_stride, double persistence, Pointer persistence_at, int64_t persistence_stride,
                         double noise_std, Pointer noise_std_at, int64_t noise_std_stride, int kicks, uint64_t seed,
                         uint64_t step, uint32_t purpose, uint32_t chain_offset, Pointer rng) {
    BaoabParams p{};
    p.stream = {seed, step, purpose, chain_offset, at<const int64_t>(rng)};
    p.chains = chains, p.dim = dim, p.dtype = static_cast<DType>(dtype);
    p.x = at<void>(x), p.momentum = at<void>(momentum), p.grad = at<const void>(grad), p.scale = at<const void>(scale);
    p.active = at<const uint8_t>(active);
    p.kick = {kick, at<const void>(kick_at), kick_stride}, p.drift = {drift, at<const void>(drift_at), drift_stride};
    p.persistence = {persistence, at<const void>(persistence_at), persistence_stride};
    p.noise_std = {noise_std, at<const void>(noise_std_at), noise_std_stride}, p.kicks = kicks;
    return p;
}

SwapParams swap_params(Pointer x, Pointer energy, Pointer betas, Pointer grad, Pointer labels, Pointer counters, int64_t chains,
                       int64_t replicas, int64_t dim, int dtype, int parity, uint64_t seed, uint64_t step, uint32_t purpose,
                       uint32_t chain_offset, Pointer rng) {
    SwapParams p{};
    p.stream = {seed, step, purpose, chain_offset, at<const int64_t>(rng)};
    p.chains = chains, p.replicas = replicas, p.dim = dim, p.dtype = static_cast<DType>(dtype);
    p.x = at<void>(x), p.energy = at<void>(energy), p.betas = at<const double>(betas), p.grad = at<void>(grad);
    p.labels = at<int64_t>(labels), p.counters = at<double>(counters), p.parity = parity;
    return p;
}

MomentsParams moments_params(Pointer x, Pointer mean, Pointer squares, int64_t chains, int64_t dim, int dtype, Pointer count_at,
                             int64_t count) {
    return {
        chains, dim, static_cast<DType>(dtype), at<const void>(x), at<void>(mean), at<void>(squares), at<const int64_t>(count_at),
        count};
}

GuardParams guard_params(Pointer x, Pointer grad, Pointer momentum, Pointer energy, Pointer divergence_step, Pointer active,
                         Pointer norm_sum, int64_t chains, int64_t dim, int dtype, double step_size, Pointer step_size_at,
                         int64_t step_size_stride, double noise_std, Pointer noise_std_at, int64_t noise_std_stride,
                         double stretch, Pointer stretch_at, int64_t stretch_stride, double heavy_ball, double prior_precision,
                         double grad_clip, double grad_clip_norm, int kinetic, int64_t step, Pointer rng) {
    GuardParams p{};
    p.chains = chains, p.dim = dim, p.dtype = static_cast<DType>(dtype);
    p.x = at<const void>(x), p.grad = at<const void>(grad), p.momentum = at<const void>(momentum);
    p.energy = at<const void>(energy), p.divergence_step = at<int64_t>(divergence_step);
    p.active = at<uint8_t>(active), p.norm_sum = at<double>(norm_sum);
    p.step_size = {step_size, at<const void>(step_size_at), step_size_stride};
    p.noise_std = {noise_std, at<const void>(noise_std_at), noise_std_stride};
    p.stretch = {stretch, at<const void>(stretch_at), stretch_stride};
    p.heavy_ball = heavy_ball, p.prior_precision = prior_precision;
    p.grad_clip = grad_clip, p.grad_clip_norm = grad_clip_norm, p.kinetic = kinetic;
    p.step = step, p.rng = at<const int64_t>(rng);
    return p;
}

PerturbParams perturb_params(Pointer out, Pointer noise, Pointer x, Pointer scale, int64_t chains, int64_t dim, int dtype,
                             double sigma, Pointer sigma_at, int64_t sigma_stride, int64_t copies, uint64_t seed, uint64_t step,
                             uint32_t purpose, uint32_t chain_offset, Pointer rng) {
    return {{seed, step, purpose, chain_offset, at<const int64_t>(rng)},
            chains,
            dim,
            static_cast<DType>(dtype),
            at<void>(out),
            at<void>(noise),
            at<const void>(x),
            at<const void>(scale),
            {sigma, at<const void>(sigma_at), sigma_stride},
            copies};
}

RandpermParams randperm_params(Pointer out, Pointer index, Pointer group, int64_t chains, int64_t size, int64_t across,
                               uint64_t seed, uint64_t step, uint32_t purpose, uint32_t chain_offset, Pointer rng) {
    return {{seed, step, purpose, chain_offset, at<const int64_t>(rng)},
            chains,
            size,
            across,
            at<int64_t>(out),
            at<const int64_t>(index),
            at<const int64_t>(group)};
}

GatherParams gather_params(Pointer out, Pointer source, Pointer slots, Pointer rows, Pointer fresh, int64_t chains, int64_t dim,
                           int64_t size, int64_t count, int dtype, int kind, double rate, double shift, double spread,
                           uint64_t seed, uint64_t step, uint32_t coin, uint32_t purpose, uint32_t chain_offset, Pointer rng) {
    GatherParams p{};
    p.stream = {seed, step, purpose, chain_offset, at<const int64_t>(rng)};
    p.coin = coin, p.chains = chains, p.dim = dim, p.size = size, p.count = count;
    p.dtype = static_cast<DType>(dtype), p.kind = static_cast<NoiseKind>(kind);
    p.out = at<void>(out), p.source = at<const void>(source), p.slots = at<const int64_t>(slots);
    p.rows = at<const void>(rows), p.fresh = at<uint8_t>(fresh);
    p.rate = rate, p.shift = shift, p.spread = spread;
    return p;
}

ScatterParams scatter_params(Pointer target, Pointer slots, Pointer x, int64_t chains, int64_t dim, int64_t size, int dtype) {
    return {chains, dim, size, static_cast<DType>(dtype), at<void>(target), at<const int64_t>(slots), at<const void>(x)};
}

AdaptParams adapt_params(Pointer x, Pointer counters, Pointer average, Pointer average_count, Pointer step_size, Pointer mean,
                         Pointer squares, Pointer count, Pointer search, Pointer length, Pointer before, Pointer proposal,
                         Pointer momentum, Pointer scale, Pointer space, int64_t chains, int64_t dim, int dtype, int64_t groups,
                         double target, double shrinkage, double least, double fraction, double longest) {
    AdaptParams p{};
    p.chains = chains, p.dim = dim, p.dtype = static_cast<DType>(dtype);
    p.x = at<const void>(x), p.counters = at<const double>(counters);
    p.average = at<double>(average), p.average_count = at<double>(average_count), p.step_size = at<void>(step_size);
    p.groups = groups, p.target = target, p.shrinkage = shrinkage, p.least = least;
    p.mean = at<double>(mean), p.squares = at<double>(squares), p.count = at<double>(count);
    p.search = at<double>(search), p.length = at<double>(length), p.before = at<void>(before);
    p.proposal = at<const void>(proposal), p.momentum = at<const void>(momentum), p.scale = at<const void>(scale);
    p.space = at<double>(space), p.fraction = fraction, p.longest = longest;
    return p;
}

Schedule schedule(double value, Pointer values, int64_t chain_stride, int64_t step_stride) {
    return {value, at<const float>(values), chain_stride, step_stride};
}

ChainParams chain_params(Pointer x, Pointer parameters, Pointer energy, Pointer grad, Pointer momentum, Pointer proposal,
                         Pointer scale, Pointer leapfrogs_at, Pointer divergence_step, Pointer norm_sum, Pointer samples,
                         Pointer energies, Pointer hamiltonians, Pointer counters, Pointer mean, Pointer squares, Pointer rng,
                         Schedule step_size, Schedule noise_std, Schedule beta, Schedule persistence, int64_t chains, int64_t dim,
                         int energy_kind, std::vector<int64_t> integers, int transition, int64_t steps, int64_t thin,
                         int64_t count, int64_t leapfrogs, bool carried, bool finish, bool flip, bool noise_first, bool guard,
                         std::vector<double> numbers, uint64_t seed, uint64_t step, uint32_t chain_offset, int precision) {
    ChainParams p{};
    p.stream = {seed, step, 0, chain_offset, at<const int64_t>(rng)};
    p.chains = chains, p.dim = dim, p.steps = steps;
    p.energy_kind = static_cast<EnergyKind>(energy_kind), p.transition = static_cast<TransitionKind>(transition);
    for (size_t i = 0; i < integers.size() && i < 8; ++i) p.integers[i] = integers[i];
    p.parameters = at<const float>(parameters), p.x = at<float>(x), p.energy = at<float>(energy), p.grad = at<float>(grad);
    p.momentum = at<float>(momentum), p.proposal = at<float>(proposal), p.scale = at<const float>(scale);
    p.leapfrogs_at = at<const int32_t>(leapfrogs_at);
    p.divergence_step = at<int64_t>(divergence_step), p.norm_sum = at<double>(norm_sum), p.samples = at<float>(samples);
    p.energies = at<float>(energies), p.hamiltonians = at<double>(hamiltonians), p.counters = at<double>(counters);
    p.mean = at<float>(mean), p.squares = at<float>(squares);
    p.step_size = step_size, p.noise_std = noise_std, p.beta = beta, p.persistence = persistence;
    p.thin = thin, p.count = count, p.leapfrogs = leapfrogs;
    p.carried = carried, p.finish = finish, p.flip = flip, p.noise_first = noise_first, p.guard = guard;
    const double* n = numbers.data();
    p.max_error = n[0], p.heavy_ball = n[1], p.prior_precision = n[2], p.grad_clip = n[3], p.grad_clip_norm = n[4];
    p.step_lo = n[5], p.step_hi = n[6], p.noise_lo = n[7], p.noise_hi = n[8], p.offset = n[9];
    p.precision = precision;
    return p;
}

// Whether both ends of a buffer can be written: the kernel copies a byte onto itself and reports EFAULT where a store of ours
// would end the process. Where it cannot tell (no such call, or not permitted), the answer is yes.
bool is_writable(Pointer p, int64_t bytes) {
#if defined(__linux__)
    for (const Pointer end : {p, p + static_cast<Pointer>(bytes > 0 ? bytes - 1 : 0)}) {
        iovec byte{at<void>(end), 1};
        if (p && process_vm_readv(getpid(), &byte, 1, &byte, 1, 0) < 0 && errno == EFAULT) return false;
    }
#endif
    return true;
}

// Binds `make` (arguments -> params) followed by one more argument, `run`'s second.
template <class Params, class Where, class... Args>
void bind(py::module_& m, const char* name, Params (*make)(Args...), void (*run)(const Params&, Where)) {
    m.def(name, [make, run](Args... args, Where where) {
        const Params params = make(args...);
        py::gil_scoped_release release;
        run(params, where);
    });
}

// arguments -> params -> what `ask` says of them
template <class Params, class Result, class... Args>
auto with_params(Params (*make)(Args...), Result (*ask)(const Params&)) {
    return [make, ask](Args... args) { return ask(make(args...)); };
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    bind(m, "noise_cpu", noise_params, noise_cpu);
    bind(m, "langevin_cpu", langevin_params, langevin_cpu);
    bind(m, "norm_cpu", norm_params, norm_cpu);
    bind(m, "proposal_cpu", proposal_params, proposal_cpu);
    bind(m, "leapfrog_cpu", leapfrog_params, leapfrog_cpu);
    bind(m, "metropolis_cpu", metropolis_params, metropolis_cpu);
    bind(m, "baoab_cpu", baoab_params, baoab_cpu);
    bind(m, "swap_cpu", swap_params, swap_cpu);
    bind(m, "moments_cpu", moments_params, moments_cpu);
    bind(m, "guard_cpu", guard_params, guard_cpu);
    bind(m, "perturb_cpu", perturb_params, perturb_cpu);
    bind(m, "randperm_cpu", randperm_params, randperm_cpu);
    bind(m, "gather_cpu", gather_params, gather_cpu);
    bind(m, "scatter_cpu", scatter_params, scatter_cpu);
    bind(m, "adapt_cpu", adapt_params, adapt_cpu);
    py::class_<Schedule>(m, "Schedule").def(py::init(&schedule)).def_property_readonly("fields", [](const Schedule& s) {
        return py::make_tuple(s.value, reinterpret_cast<Pointer>(s.at), s.chain_stride, s.step_stride);
    });
    bind(m, "chain_cpu", chain_params, chain_cpu);
    m.def("chain_in_lanes", [](int kind, int64_t dim) { return chain_in_lanes(static_cast<EnergyKind>(kind), dim); });
    m.def("math_cpu",
          [](int function, Pointer x, Pointer y, int64_t n) { math_cpu(function, at<const float>(x), at<float>(y), n); });
    m.def("available_isas", available_isas);
    m.def("current_isa", current_isa);
    m.def("force_isa", force_isa);
    m.def("thread_runtime", thread_runtime);
    m.def("is_writable", is_writable);
#ifdef EBM_FAST_WITH_CUDA
    bind(m, "noise_cuda", noise_params, noise_cuda);
    bind(m, "langevin_cuda", langevin_params, langevin_cuda);
    bind(m, "norm_cuda", norm_params, norm_cuda);
    bind(m, "proposal_cuda", proposal_params, proposal_cuda);
    bind(m, "leapfrog_cuda", leapfrog_params, leapfrog_cuda);
    bind(m, "metropolis_cuda", metropolis_params, metropolis_cuda);
    bind(m, "baoab_cuda", baoab_params, baoab_cuda);
    bind(m, "swap_cuda", swap_params, swap_cuda);
    bind(m, "moments_cuda", moments_params, moments_cuda);
    bind(m, "guard_cuda", guard_params, guard_cuda);
    bind(m, "perturb_cuda", perturb_params, perturb_cuda);
    bind(m, "randperm_cuda", randperm_params, randperm_cuda);
    bind(m, "gather_cuda", gather_params, gather_cuda);
    bind(m, "scatter_cuda", scatter_params, scatter_cuda);
    bind(m, "adapt_cuda", adapt_params, adapt_cuda);
    py::class_<CudaPlace>(m, "CudaPlace").def(py::init<uintptr_t, uintptr_t>());
    bind(m, "chain_cuda", chain_params, chain_cuda);
    m.def("chain_cuda_space", with_params(chain_params, chain_cuda_space));
    m.def("force_chain_steps", force_chain_steps);
    m.attr("cuda_architectures") = EBM_FAST_CUDA_ARCHS;
#else
    m.attr("cuda_architectures") = "";
#endif
}
