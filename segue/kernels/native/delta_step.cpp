// A Gated Delta Net's decode step between its projections: its four operators, called at once.
//
// What lies between them stays in a core's cache, and each call from Python costs some 17
// microseconds, with checks, allocations and the GIL: more than the smaller ones compute.
#include <vector>

#include "operators.h"
#include "vectors.h"

namespace segue {
namespace {

// Memory of this thread's last call, for whichever step is next.
float* scratch(size_t count) {
  thread_local std::vector<float> memory;
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

// qkv: rows of G K, G K and H V columns. Rates and dt have the same stride.
template <class E>
int delta_step(const E* qkv, const E* gate, const E* rate, const E* dt, const float* conv_weight,
               const float* minus_a, const float* dt_bias, const float* norm, float* state, E* conv,
               E* out, const int64_t* slots_in, const int64_t* slots_out,
               const int64_t* round_sizes, long rounds, long G, long S, long H, long K, long V,
               long W, long qkv_stride, long gate_stride, long dt_stride, float eps, int threads) {
  long T = 0;
  for (long j = 0; j < rounds; j++) T += round_sizes[j];
  const long C = 2 * G * K + H * V;
  float* log_decay = scratch(T * H * (V + 2) + T * C);
  float *rates = log_decay + T * H, *result = rates + T * H;
  E* mixed = (E*)(result + T * H * V);
  if (conv_decode(qkv, conv_weight, conv, mixed, slots_in, slots_out, round_sizes, rounds, C, W,
                  qkv_stride, S, threads))
    return 1;
  decay_and_rate(dt, rate, minus_a, dt_bias, log_decay, rates, T, H, dt_stride, threads);
  if (delta_decode(mixed, mixed + G * K, mixed + 2 * G * K, log_decay, rates, state, result,
                   slots_in, slots_out, round_sizes, rounds, G, S, H, K, V, C, threads))
    return 1;
  return gated_rms_norm(result, gate, norm, out, T, H, V, gate_stride, eps, threads);
}

}  // namespace
}  // namespace segue

SEGUE_EXPORT(delta_step)
