// The depthwise causal convolution with SiLU. Inputs before the first token come from a slot, oldest
// first, and the last inputs go to slots; a slot holds [C, W - 1].
#include <algorithm>

#include "vectors.h"

namespace segue {
namespace {

constexpr long kMaxWidth = 8;

// One block of up to kLanes channels, one token after another.
template <class E>
struct Window {
  Floats taps[kMaxWidth], inputs[kMaxWidth];
  const long C, W, channel, count;

  Window(const float* weight, long C, long W, long channel)
      : C(C), W(W), channel(channel), count(std::min(kLanes, C - channel)) {
    for (long tap = 0; tap < W; tap++) {
      taps[tap] = Floats{};
      for (long i = 0; i < count; i++) taps[tap][i] = weight[(channel + i) * W + tap];
    }
  }

  // No state: zeros.
  void read(const E* state) {
    for (long tap = 0; tap + 1 < W; tap++) {
      inputs[tap] = Floats{};
      if (state)
        for (long i = 0; i < count; i++)
          inputs[tap][i] = to_float(state[(channel + i) * (W - 1) + tap]);
    }
  }

  void write(E* state) const {
    float parts[kMaxWidth][kLanes];
    for (long tap = 0; tap + 1 < W; tap++) store(parts[tap], inputs[tap]);
    for (long i = 0; i < count; i++)
      for (long tap = 0; tap + 1 < W; tap++)
        from_float(parts[tap][i], state + (channel + i) * (W - 1) + tap);
  }

  void step(const E* x, E* out) {
    inputs[W - 1] = load_some(x + channel, count);
    Floats total = inputs[0] * taps[0];
    for (long tap = 1; tap < W; tap++) total = inputs[tap] * taps[tap] + total;
    store_some(out + channel, total * sigmoid(total), count);
    for (long tap = 0; tap + 1 < W; tap++) inputs[tap] = inputs[tap + 1];
  }
};

template <class E>
int conv_prefill(const E* x, const float* weight, E* state, E* out, const int64_t* cu_tokens,
             const int64_t* slots_out, const int64_t* cu_segments, const int64_t* slots_in, long N,
             long C, long W, long x_stride, long S, int threads) {
  const long slot = C * (W - 1);
  if (!are_within(slots_in, N, -1, S) || !are_within(slots_out, cu_segments[N], 0, S)) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long channel = 0; channel < C; channel += kLanes) {
    Window<E> window(weight, C, W, channel);
    for (long n = 0; n < N; n++) {
      window.read(slots_in[n] < 0 ? nullptr : state + slots_in[n] * slot);
      for (long m = cu_segments[n]; m < cu_segments[n + 1]; m++) {
        for (long t = cu_tokens[m]; t < cu_tokens[m + 1]; t++)
          window.step(x + t * x_stride, out + t * C);
        window.write(state + slots_out[m] * slot);
      }
    }
  }
  return 0;
}

template <class E>
int conv_decode(const E* x, const float* weight, E* state, E* out, const int64_t* slots_in,
            const int64_t* slots_out, const int64_t* round_sizes, long rounds, long C, long W,
            long x_stride, long S, int threads) {
  const long slot = C * (W - 1);
  long rows = 0;
  for (long j = 0; j < rounds; j++) rows += round_sizes[j];
  if (!are_within(slots_in, round_sizes[0], 0, S) || !are_within(slots_out, rows, 0, S)) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long channel = 0; channel < C; channel += kLanes) {
    Window<E> window(weight, C, W, channel);
    for (long d = 0; d < round_sizes[0]; d++) {
      window.read(state + slots_in[d] * slot);
      long first = 0;
      for (long j = 0; j < rounds && d < round_sizes[j]; first += round_sizes[j++]) {
        const long t = first + d;
        window.step(x + t * x_stride, out + t * C);
        window.write(state + slots_out[t] * slot);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace segue

SEGUE_EXPORT(conv_prefill)
SEGUE_EXPORT(conv_decode)
