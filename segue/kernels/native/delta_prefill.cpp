// The gated delta rule for prompts, chunk by chunk; `reference.py` has the equations. One head's
// state is [K, V]; K and V are multiples of the vector's lanes.
#include "delta_floats.h"
#include "delta_pairs.h"

namespace segue {
namespace {

template <class E>
struct ChunksOf {
  typedef FloatChunks<E> Type;
};
#if defined(__AVX512BF16__)
template <>
struct ChunksOf<Bf16> {
  typedef PairChunks Type;
};
#endif

template <class E>
int delta_prefill(const E* q, const E* k, const E* v, const float* log_decay, const float* rate,
                  float* state, float* out, const int64_t* cu_tokens, const int64_t* slots_out,
                  const int64_t* cu_segments, const int64_t* slots_in, long N, long G, long S,
                  long H, long K, long V, long row, int threads) {
  if (!are_within(slots_in, N, -1, S) || !are_within(slots_out, cu_segments[N], 0, S)) return 1;
  const Shape s{G, H, K, V, row};
  const long group = s.repeats() * K * V, slot = H * K * V;
#pragma omp parallel num_threads(threads)
  {
    typename ChunksOf<E>::Type chunks(s);
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (long n = 0; n < N; n++)
      for (long g = 0; g < G; g++) {
        chunks.load(slots_in[n] < 0 ? nullptr : state + slots_in[n] * slot + g * group);
        for (long m = cu_segments[n]; m < cu_segments[n + 1]; m++) {
          for (long t = cu_tokens[m]; t < cu_tokens[m + 1]; t += kChunk) {
            const long tokens = std::min(kChunk, cu_tokens[m + 1] - t);
            chunks.start(q + t * row + g * K, k + t * row + g * K, tokens);
            for (long r = 0; r < s.repeats(); r++) {
              const long h = g * s.repeats() + r;
              chunks.head(r, v + t * row + h * V, log_decay + t * H + h, rate + t * H + h,
                          out + (t * H + h) * V, tokens);
            }
          }
          chunks.save(state + slots_out[m] * slot + g * group);
        }
      }
  }
  return 0;
}

}  // namespace
}  // namespace segue

SEGUE_EXPORT(delta_prefill)
