// The gated delta rule for a few tokens of many sequences, in float32; `reference.py` has the
// equations. One head's state is [K, V]; K and V are multiples of the vector's lanes.
#include <algorithm>
#include <vector>

#include "delta.h"
#include "operators.h"
#include "vectors.h"

namespace segue {
namespace {

constexpr long kColumns = 4;  // Vectors of a state's row that are done together.

// One token: from state `before` to `after`, which may be the same memory. `columns` vectors of V.
template <long columns>
inline void token(const float* before, float* after, const float* q, const float* k,
                  const float* v, float decay, float rate, float* out, long K, long V) {
  Floats recalled[columns] = {};
  for (long i = 0; i < K; i++)
    for (long c = 0; c < columns; c++)
      recalled[c] += load_floats(before + i * V + c * kLanes) * k[i];
  Floats correction[columns], result[columns] = {};
  for (long c = 0; c < columns; c++)
    correction[c] = (load_floats(v + c * kLanes) - recalled[c] * decay) * rate;
  for (long i = 0; i < K; i++)
    for (long c = 0; c < columns; c++) {
      Floats s = load_floats(before + i * V + c * kLanes) * decay + correction[c] * k[i];
      store(after + i * V + c * kLanes, s);
      result[c] += s * q[i];
    }
  for (long c = 0; c < columns; c++) store(out + c * kLanes, result[c]);
}

}  // namespace

template <class E>
int delta_decode(const E* q, const E* k, const E* v, const float* log_decay, const float* rate,
            float* state, float* out, const int64_t* slots_in, const int64_t* slots_out,
            const int64_t* round_sizes, long rounds, long G, long S, long H, long K, long V, long row,
            int threads) {
  long rows = 0;
  for (long j = 0; j < rounds; j++) rows += round_sizes[j];
  if (!are_within(slots_in, round_sizes[0], 0, S) || !are_within(slots_out, rows, 0, S)) return 1;
  const long sequences = round_sizes[0], head_size = K * V, slot = H * head_size;
  const float scale = 1.0f / std::sqrt(float(K));
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
  for (long d = 0; d < sequences; d++)
    for (long h = 0; h < H; h++) {
      std::vector<float> scratch(2 * K + V);
      float *query = scratch.data(), *key = query + K, *value = key + K;
      const long g = h / (H / G);
      const float* before = state + slots_in[d] * slot + h * head_size;
      long first = 0;
      for (long j = 0; j < rounds && d < round_sizes[j]; first += round_sizes[j++]) {
        const long t = first + d;
        float* after = state + slots_out[t] * slot + h * head_size;
        unit(q + t * row + g * K, K, scale, query);
        unit(k + t * row + g * K, K, 1.0f, key);
        for (long i = 0; i < V; i += kLanes)
          store(value + i, load_floats(v + t * row + h * V + i));
        const float decay = std::exp(log_decay[t * H + h]), b = rate[t * H + h];
        float* result = out + (t * H + h) * V;
        long c = 0;
        for (; c + kColumns * kLanes <= V; c += kColumns * kLanes)
          token<kColumns>(before + c, after + c, query, key, value + c, decay, b, result + c, K, V);
        for (; c < V; c += kLanes)
          token<1>(before + c, after + c, query, key, value + c, decay, b, result + c, K, V);
        before = after;
      }
    }
  return 0;
}

}  // namespace segue

SEGUE_EXPORT(delta_decode)
