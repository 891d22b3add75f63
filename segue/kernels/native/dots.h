// Dot products of rows with rows: few of one kind with many of the other, which are read once.
#pragma once

#include <algorithm>

#include "vectors.h"

namespace segue {

// As many sums at a time as one vector has lanes: `sums_of` then adds up all of them at once.
constexpr int kInputRows = kLanes == 16 ? 4 : 2;

// R weight rows times C input rows, over all of K. The next block of weight rows is requested while
// this one is read.
template <class E, class Out, int R, int C>
inline void dots(const E* x, const E* w, long K, Out* y, long N) {
  static_assert(R * C <= kLanes);
  typedef typename Dot<E>::Vector Vector;
  constexpr long step = Dot<E>::kStep;
  Floats sums[kLanes] = {};
  long k = 0;
  for (; k + step <= K; k += step) {
    Vector inputs[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) inputs[c] = load_as<Vector>(x + c * K + k);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const E* at = w + r * K + k;
      __builtin_prefetch(at + R * K, 0, 2);
      Vector weights = load_as<Vector>(at);
#pragma GCC unroll 4
      for (int c = 0; c < C; c++)
        sums[c * R + r] = Dot<E>::add(sums[c * R + r], weights, inputs[c]);
    }
  }
  float totals[kLanes];
  store(totals, sums_of(sums));
  for (int c = 0; c < C; c++)
    for (int r = 0; r < R; r++) {
      float total = totals[c * R + r];
      for (long rest = k; rest < K; rest++)
        total += to_float(x[c * K + rest]) * to_float(w[r * K + rest]);
      from_float(total, y + c * N + r);
    }
}

// Weight rows first to end, as many at a time as there are sums for.
template <int C, class E, class Out>
inline void dots_with(const E* x, const E* w, Out* y, long first, long end, long N, long K) {
  constexpr int R = C == 3 ? kLanes / 4 : kLanes / C;
  long n = first;
  for (; n + R <= end; n += R) dots<E, Out, R, C>(x, w + n * K, K, y + n, N);
  for (; n < end; n++) dots<E, Out, 1, C>(x, w + n * K, K, y + n, N);
}

// T rows of x with weight rows first to end: y [T, N]. For one block of weight rows, which stays in
// the first cache.
template <class E, class Out>
inline void dots_of_rows(const E* x, const E* w, Out* y, long T, long first, long end, long N,
                         long K) {
  long t = 0;
  for (; t + kInputRows <= T; t += kInputRows)
    dots_with<kInputRows>(x + t * K, w, y + t * N, first, end, N, K);
  switch (T - t) {
    case 3: return dots_with<(kInputRows > 3 ? 3 : 1)>(x + t * K, w, y + t * N, first, end, N, K);
    case 2: return dots_with<2>(x + t * K, w, y + t * N, first, end, N, K);
    case 1: return dots_with<1>(x + t * K, w, y + t * N, first, end, N, K);
  }
}

}  // namespace segue
