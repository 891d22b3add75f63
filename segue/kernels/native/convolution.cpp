// The depthwise causal convolution with SiLU. Inputs before the first token come from a slot, oldest
// first, and the last inputs go to slots; a slot holds [C, W - 1].
#include <algorithm>
#include <vector>

#include "operators.h"
#include "vectors.h"

namespace segue {
namespace {

constexpr long kMaxWidth = 8;
constexpr long kBlock = 256;  // Channels that are done together, row by row.
constexpr long kAhead = 4;    // Rows.

// A block of channels of one sequence. Its inputs are rows of x, and rows of `past` before them.
template <class E>
struct Block {
  const E* x;
  E* out;
  E* state;
  const long C, W, x_stride, channel, count;
  float taps[kMaxWidth][kBlock];
  E past[kMaxWidth][kBlock];
  std::vector<long> rows;  // Of the sequence's tokens so far.

  Block(const E* x, const float* weight, E* state, E* out, long C, long W, long x_stride,
        long channel)
      : x(x), out(out), state(state), C(C), W(W), x_stride(x_stride), channel(channel),
        count(std::min(kBlock, C - channel)) {
    for (long tap = 0; tap < W; tap++)
      for (long i = 0; i < count; i++) taps[tap][i] = weight[(channel + i) * W + tap];
  }

  // No slot: zeros.
  void start(long slot) {
    rows.clear();
    for (long i = 0; i < count; i++)
      for (long tap = 0; tap + 1 < W; tap++)
        past[tap][i] = slot < 0 ? E{} : state[(slot * C + channel + i) * (W - 1) + tap];
  }

  // Input `back` tokens before the last one.
  const E* input(long back) const {
    const long at = long(rows.size()) - 1 - back;
    return at >= 0 ? x + rows[at] * x_stride + channel : past[W - 1 + at];
  }

  void step(long row) {
    rows.push_back(row);
    // The next rows lie on other pages of memory, for which the processor does not read ahead.
    for (long i = 0; i < count; i += 64 / long(sizeof(E))) {
      __builtin_prefetch(x + (row + kAhead) * x_stride + channel + i, 0, 2);
      __builtin_prefetch(out + (row + kAhead) * C + channel + i, 1, 2);
    }
    const E* inputs[kMaxWidth];
    for (long tap = 0; tap < W; tap++) inputs[tap] = input(W - 1 - tap);
    if (W == 4)
      convolve<4>(inputs, out + row * C + channel);
    else
      convolve<0>(inputs, out + row * C + channel);
  }

  // `Width` 0: any.
  template <long Width>
  void convolve(const E* const* inputs, E* to) const {
    const long width = Width ? Width : W;
    for (long i = 0; i < count; i += kLanes) {
      Floats total = load_some(inputs[0] + i, count - i) * load_floats(taps[0] + i);
      for (long tap = 1; tap < width; tap++)
        total = load_some(inputs[tap] + i, count - i) * load_floats(taps[tap] + i) + total;
      store_some(to + i, total * sigmoid(total), count - i);
    }
  }

  void finish(long slot) const {
    const E* inputs[kMaxWidth];
    for (long tap = 0; tap + 1 < W; tap++) inputs[tap] = input(W - 2 - tap);
    for (long i = 0; i < count; i++)
      for (long tap = 0; tap + 1 < W; tap++)
        state[(slot * C + channel + i) * (W - 1) + tap] = inputs[tap][i];
  }
};

template <class E>
int conv_prefill(const E* x, const float* weight, E* state, E* out, const int64_t* cu_tokens,
                 const int64_t* slots_out, const int64_t* cu_segments, const int64_t* slots_in,
                 long N, long C, long W, long x_stride, long S, int threads) {
  if (!are_within(slots_in, N, -1, S) || !are_within(slots_out, cu_segments[N], 0, S)) return 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (long channel = 0; channel < C; channel += kBlock) {
    Block<E> block(x, weight, state, out, C, W, x_stride, channel);
    for (long n = 0; n < N; n++) {
      block.start(slots_in[n]);
      for (long m = cu_segments[n]; m < cu_segments[n + 1]; m++) {
        for (long t = cu_tokens[m]; t < cu_tokens[m + 1]; t++) block.step(t);
        block.finish(slots_out[m]);
      }
    }
  }
  return 0;
}

}  // namespace

template <class E>
int conv_decode(const E* x, const float* weight, E* state, E* out, const int64_t* slots_in,
                const int64_t* slots_out, const int64_t* round_sizes, long rounds, long C, long W,
                long x_stride, long S, int threads) {
  long tokens = 0;
  for (long j = 0; j < rounds; j++) tokens += round_sizes[j];
  if (!are_within(slots_in, round_sizes[0], 0, S) || !are_within(slots_out, tokens, 0, S)) return 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (long channel = 0; channel < C; channel += kBlock) {
    Block<E> block(x, weight, state, out, C, W, x_stride, channel);
    for (long d = 0; d < round_sizes[0]; d++) {
      block.start(slots_in[d]);
      long first = 0;
      for (long j = 0; j < rounds && d < round_sizes[j]; first += round_sizes[j++]) {
        block.step(first + d);
        block.finish(slots_out[first + d]);
      }
    }
  }
  return 0;
}

}  // namespace segue

SEGUE_EXPORT(conv_prefill)
SEGUE_EXPORT(conv_decode)
