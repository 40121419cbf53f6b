// Multilayer perceptrons in float32.
#include "chain_mlp.cuh"

namespace ebm_fast {
namespace {

struct ExactProduct {
    static constexpr int FILL = 4, CHAINS = 4;
    static HD int64_t forward_size(int64_t rows, int64_t columns) { return up_to_four(rows) * columns; }
    static HD int64_t backward_size(int64_t rows, int64_t columns) { return rows * up_to_four(columns); }
    static HD float packed_at(const float* from, int64_t rows, int64_t columns, bool backward, int64_t i) {
        return filled_up(from, rows, columns, !backward, i);
    }
    template <class Start, class Sink>
    static __device__ void run(const Tile& tile, const float* w, int rows, int columns, const float* in, const Start& start,
                               const Sink& sink, bool) {
        const auto four = [&](int r, int) {
            const float a = start(r);
            return float4{a, a, a, a};
        };
        tile_product(tile, w, rows, columns, in, four, sink);
    }
};

}  // namespace

const ChainEnergy mlp_chain = chain_energy<Perceptrons<ExactProduct>>();

}  // namespace ebm_fast
