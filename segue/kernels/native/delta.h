// What the gated delta rule's operators have in common.
#pragma once

#include <cmath>

#include "vectors.h"

namespace segue {

constexpr float kL2Eps = 1e-6f;

template <class E>
inline float inverse_length(const E* x, long K) {
  Floats squares = {};
  for (long i = 0; i < K; i += kLanes) {
    Floats v = load_floats(x + i);
    squares += v * v;
  }
  return 1.0f / std::sqrt(sum(squares) + kL2Eps);
}

// A vector of length one, times `scale`.
template <class E>
inline void unit(const E* x, long K, float scale, float* out) {
  const float by = scale * inverse_length(x, K);
  for (long i = 0; i < K; i += kLanes) store(out + i, load_floats(x + i) * by);
}

// G key heads, H value heads, a head's state [K, V]; `row`: from one token to the next in q, k, v.
struct Shape {
  long G, H, K, V, row;
  long repeats() const { return H / G; }
  float query_scale() const { return 1.0f / std::sqrt(float(K)); }
};

constexpr long kChunk = 64;  // Tokens of a prompt whose corrections are solved for together.

// What is left in a chunk of what was there before: from the start to each token, from each token
// to the end, and between two tokens.
struct Decays {
  double elapsed[kChunk];  // Sums of logarithms: they reach hundreds, and small differences matter.
  float since_start[kChunk], until_end[kChunk];
  float whole;

  Decays(const float* log_decay, long stride, long tokens) {
    double total = 0;
    for (long i = 0; i < tokens; i++) elapsed[i] = total += log_decay[i * stride];
    for (long i = 0; i < tokens; i++) {
      since_start[i] = float(elapsed[i]);
      until_end[i] = float(total - elapsed[i]);
    }
    for (float* x : {since_start, until_end})
      for (long i = 0; i < tokens; i += kLanes)
        store_some(x + i, exp(load_some(x + i, tokens - i)), tokens - i);
    whole = std::exp(float(total));
  }

  // From tokens 0 to `i`, to token i.
  void between(long i, float* out) const {
    for (long j = 0; j <= i; j++) out[j] = float(elapsed[i] - elapsed[j]);
    for (long j = 0; j <= i; j += kLanes)
      store_some(out + j, exp(load_some(out + j, i + 1 - j)), i + 1 - j);
  }
};

// Row i of u less what rows j < i of it add through `system` [kChunk, kChunk]: `columns` vectors.
template <long columns>
inline void substitute(const float* system, float* u, long u_row, long first, long end) {
  for (long i = first + 1; i < end; i++) {
    Floats x[columns];
    for (long c = 0; c < columns; c++) x[c] = load_floats(u + i * u_row + c * kLanes);
    for (long j = first; j < i; j++) {
      const Floats by = splat(system[i * kChunk + j]);
#pragma GCC unroll 4
      for (long c = 0; c < columns; c++) x[c] -= load_floats(u + j * u_row + c * kLanes) * by;
    }
    for (long c = 0; c < columns; c++) store(u + i * u_row + c * kLanes, x[c]);
  }
}

}  // namespace segue
