// x Wᵀ for quantised weights: codes become numbers in registers. T rows of x, K inputs, N outputs.
//
// As for plain weights (products.cpp), few rows read each weight row once, and a row's sums have one
// order, whatever other rows there are. Many rows are the plain product's, with blocks of the weight
// converted.
#include <algorithm>

#include "coded_pairs.h"
#include "codes.h"
#include "dots.h"
#include "panels.h"

namespace segue {
namespace {

constexpr long kStep = 2 * kLanes;

// Rows of x in the order in which `F::read` gives columns.
template <class F, class E>
void arrange_floats(const E* x, float* out, long T, long K) {
  for (long t = 0; t < T; t++)
    for (long k = 0; k < K; k += kStep)
      for (long i = 0; i < std::min(kStep, K - k); i++) {
        const bool is_natural = F::kBits == 8 || k + kStep > K;
        out[t * K + k + (is_natural ? i : i / 2 + i % 2 * kLanes)] = to_float(x[t * K + k + i]);
      }
}

// R weight rows from row n times C rows of x. The next R rows are requested while these are read.
template <class F, int R, int C, class E>
inline void dots(const float* x, long K, const CodedRows<F>& w, long n, E* y, long N) {
  static_assert(R * C <= kLanes);
  const int shift = w.shift();
  Floats sums[kLanes] = {};
  long k = 0;
  for (; k + kStep <= K; k += kStep) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const uint8_t* at = w.row(n + r) + k * F::kBits / 8;
      __builtin_prefetch(at + R * w.row_bytes(), 0, 2);
      Floats first, second;
      F::read(at, first, second);
      const Floats scale = scales_at<F>(w.scales_of(n + r), k, shift);
      first *= scale;
      second *= scale;
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) {
        const float* from = x + c * K + k;
        Floats& sum = sums[c * R + r];
        sum = second * load_floats(from + kLanes) + (first * load_floats(from) + sum);
      }
    }
  }
  float totals[kLanes];
  store(totals, sums_of(sums));
  for (int c = 0; c < C; c++)
    for (int r = 0; r < R; r++) {
      float total = totals[c * R + r];
      for (long rest = k; rest < K; rest++)
        total += x[c * K + rest] * F::one(w.row(n + r), rest) *
                 scale_of(w.scales_of(n + r)[rest >> shift]);
      from_float(total * w.factor(n + r), y + c * N + n + r);
    }
}

#if defined(SEGUE_CODED_PAIRS)
using pairs::dots;
#endif

template <class F, int C, class A, class E>
inline void dots_with(const A* x, long stride, const CodedRows<F>& w, E* y, long first, long end,
                      long N) {
  constexpr int R = C == 3 ? kLanes / 4 : kLanes / C;
  long n = first;
  for (; n + R <= end; n += R) dots<F, R, C>(x, stride, w, n, y, N);
  for (; n < end; n++) dots<F, 1, C>(x, stride, w, n, y, N);
}

// T rows of x, `stride` numbers each, with all weight rows.
template <class F, class A, class E>
void dots_of_all(const A* x, long stride, const CodedRows<F>& w, E* y, long T, long N, int threads) {
  const long blocks = (N + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long b = 0; b < blocks; b++) {
    const long first = b * kLanes, end = std::min(first + kLanes, N);
    long t = 0;
    for (; t + kInputRows <= T; t += kInputRows)
      dots_with<F, kInputRows>(x + t * stride, stride, w, y + t * N, first, end, N);
    const A* from = x + t * stride;
    E* to = y + t * N;
    switch (T - t) {
      case 3: dots_with<F, (kInputRows > 3 ? 3 : 1)>(from, stride, w, to, first, end, N); break;
      case 2: dots_with<F, 2>(from, stride, w, to, first, end, N); break;
      case 1: dots_with<F, 1>(from, stride, w, to, first, end, N); break;
    }
  }
}

template <class F, class E>
void few(const E* x, const CodedRows<F>& w, E* y, long T, long N, int threads) {
#if defined(SEGUE_CODED_PAIRS)
  if constexpr (sizeof(E) == 2) {
    const long stride = (w.K + pairs::kChunk - 1) / pairs::kChunk * pairs::kChunk;
    auto arranged = aligned<Bf16>(T * stride);
    pairs::arrange_inputs<F>(x, arranged.get(), T, w.K, stride);
    return dots_of_all(arranged.get(), stride, w, y, T, N, threads);
  }
#endif
  auto arranged = aligned<float>(T * w.K);
  arrange_floats<F>(x, arranged.get(), T, w.K);
  dots_of_all(arranged.get(), w.K, w, y, T, N, threads);
}

// Neighbours from even and odd columns.
inline void interleave(Floats& first, Floats& second) {
  Ints lower, upper;
  for (long i = 0; i < kLanes; i++) {
    lower[i] = i / 2 + i % 2 * kLanes;
    upper[i] = lower[i] + kLanes / 2;
  }
  const Floats even = first, odd = second;
  first = __builtin_shuffle(even, odd, lower);
  second = __builtin_shuffle(even, odd, upper);
}

template <class F, class E>
void convert(const CodedRows<F>& w, E* out, long N, int threads) {
  const int shift = w.shift();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long n = 0; n < N; n++) {
    const float factor = w.factor(n);
    const auto* scales = w.scales_of(n);
    E* to = out + n * w.K;
    long k = 0;
    for (; k + kStep <= w.K; k += kStep) {
      Floats first, second;
      F::read(w.row(n) + k * F::kBits / 8, first, second);
      const Floats scale = scales_at<F>(scales, k, shift);
      first *= scale;
      second *= scale;
      if constexpr (F::kBits == 4) interleave(first, second);
      store_floats(to + k, first * factor);
      store_floats(to + k + kLanes, second * factor);
    }
    for (; k < w.K; k++)
      from_float(F::one(w.row(n), k) * scale_of(scales[k >> shift]) * factor, to + k);
  }
}

// The formats by the numbers that segue/kernels/quantized_product/native.py gives them.
template <class Do>
int with_format(int format, const uint8_t* codes, const void* scales, const float* row_scales, long K,
                long num_scales, const Do& act) {
#define SEGUE_FORMAT(NUMBER, F)                                                                   \
  case NUMBER:                                                                                    \
    act(CodedRows<F>{codes, (const F::Scale*)scales, row_scales, K, num_scales});                 \
    return 0;
  switch (format) {
    SEGUE_FORMAT(0, Int8) SEGUE_FORMAT(1, Fp8) SEGUE_FORMAT(2, Int4) SEGUE_FORMAT(3, Nvfp4)
  }
#undef SEGUE_FORMAT
  return 1;
}

template <class E>
int few_rows_coded(const E* x, const uint8_t* codes, const void* scales, const float* row_scales,
                   E* y, long T, long N, long K, long num_scales, int format, int threads) {
  return with_format(format, codes, scales, row_scales, K, num_scales,
                     [&](const auto& w) { few(x, w, y, T, N, threads); });
}

template <class E>
int converted(const uint8_t* codes, const void* scales, const float* row_scales, E* out, long N,
              long K, long num_scales, int format, int threads) {
  return with_format(format, codes, scales, row_scales, K, num_scales,
                     [&](const auto& w) { convert(w, out, N, threads); });
}

}  // namespace
}  // namespace segue

SEGUE_EXPORT(few_rows_coded)
SEGUE_EXPORT(converted)
