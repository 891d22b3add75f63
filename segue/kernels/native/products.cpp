// x Wᵀ for a weight as it is stored, [N, K] by rows: T rows of x, K inputs, N outputs.
//
// Few rows are bound by reading the weight, so each weight row is read once, for all rows of x. Many
// rows are bound by arithmetic: panels of the weight are brought into the order in which the inner
// loop reads them, in a core's own cache, and used for all rows of x. Sums are float32 and run
// through K in an order that does not depend on T within each of the two.
#include <algorithm>
#include <cstdlib>
#include <memory>

#include "dots.h"
#include "vectors.h"

namespace segue {
namespace {

// ---- few rows ----

template <class E>
void few(const E* x, const E* w, E* y, long T, long N, long K, int threads) {
  const long blocks = (N + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long b = 0; b < blocks; b++)
    dots_of_rows(x, w, y, T, b * kLanes, std::min((b + 1) * kLanes, N), N, K);
}

// ---- many rows ----

// What the inner loop multiplies: pairs of bfloat16 by their own instruction, or floats.
struct Pairs {
  typedef uint32_t Input;  // Two neighbours of a row of x.
  static Floats add(Floats sum, Input a, Words b) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(Words{} + a), (__m512bh)b);
#else
    return sum;  // Never called: `Floats32` takes its place.
#endif
  }
};

struct Singles {
  typedef float Input;
  static Floats add(Floats sum, Input a, Words b) { return splat(a) * (Floats)b + sum; }
};

constexpr int kVectors = SEGUE_VECTOR_BYTES == 64 ? 4 : 2;
constexpr int kRows = 6;
constexpr long kPanel = kVectors * kLanes;  // Outputs of a panel.
constexpr long kPanelBytes = 256 << 10;     // Of a panel, which stays in a core's second cache.

// C rows of x times one panel of `words` steps, added to what is in `sums` or in place of it.
template <class M, int C>
inline void panel_product(const typename M::Input* x, long x_stride, const uint32_t* panel,
                          long words, float* sums, bool adds) {
  Floats acc[C][kVectors];
  for (int c = 0; c < C; c++)
    for (int v = 0; v < kVectors; v++)
      acc[c][v] = adds ? load_as<Floats>(sums + c * kPanel + v * kLanes) : Floats{};
  for (long k = 0; k < words; k++) {
    Words weights[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++)
      weights[v] = load_as<Words>(panel + k * kPanel + v * kLanes);
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
      typename M::Input input = x[c * x_stride + k];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; v++) acc[c][v] = M::add(acc[c][v], input, weights[v]);
    }
  }
  for (int c = 0; c < C; c++)
    for (int v = 0; v < kVectors; v++) store(sums + c * kPanel + v * kLanes, acc[c][v]);
}

template <class M>
inline void panel_rows(int rows, const typename M::Input* x, long x_stride, const uint32_t* panel,
                       long words, float* sums, bool adds) {
  switch (rows) {
    case 6: return panel_product<M, 6>(x, x_stride, panel, words, sums, adds);
    case 5: return panel_product<M, 5>(x, x_stride, panel, words, sums, adds);
    case 4: return panel_product<M, 4>(x, x_stride, panel, words, sums, adds);
    case 3: return panel_product<M, 3>(x, x_stride, panel, words, sums, adds);
    case 2: return panel_product<M, 2>(x, x_stride, panel, words, sums, adds);
    case 1: return panel_product<M, 1>(x, x_stride, panel, words, sums, adds);
  }
}

// Transposes kLanes x kLanes words in registers: in log2 steps, swap the blocks off the diagonal.
inline void transpose(Words block[kLanes]) {
#pragma GCC unroll 5
  for (long d = 1; d < kLanes; d *= 2) {
    Words upper, lower;  // Lane indexes into (a, b).
#pragma GCC unroll 16
    for (long i = 0; i < kLanes; i++) {
      upper[i] = (i & d) ? kLanes + i - d : i;
      lower[i] = (i & d) ? kLanes + i : i + d;
    }
#pragma GCC unroll 16
    for (long i = 0; i < kLanes; i++)
      if (!(i & d)) {
        Words a = block[i], b = block[i + d];
        block[i] = __builtin_shuffle(a, b, upper);
        block[i + d] = __builtin_shuffle(a, b, lower);
      }
  }
}

// A panel's weights word by word: [words, kPanel] from [outputs, words] by rows, zeros for outputs
// that do not exist. `widens`: a word is two bfloat16, and becomes two floats.
inline void arrange(const uint32_t* w, long stride, long outputs, long words, bool widens,
                    uint32_t* panel) {
  const long copies = widens ? 2 : 1;
  for (long n = 0; n < kPanel; n += kLanes)
    for (long k = 0; k < words; k += kLanes) {
      const long height = std::min(kLanes, outputs - n), width = std::min(kLanes, words - k);
      Words block[kLanes] = {};
      for (long i = 0; i < height; i++) {
        const uint32_t* at = w + (n + i) * stride + k;
        if (width == kLanes)
          block[i] = load_as<Words>(at);
        else
          for (long j = 0; j < width; j++) block[i][j] = at[j];
      }
      transpose(block);
      for (long j = 0; j < width; j++) {
        uint32_t* to = panel + (k + j) * copies * kPanel + n;
        if (widens) {
          store(to, block[j] << 16);
          store(to + kPanel, block[j] & 0xffff0000u);
        } else {
          store(to, block[j]);
        }
      }
    }
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <class T>
std::unique_ptr<T[], Free> aligned(long count) {
  long bytes = (count * long(sizeof(T)) + 63) / 64 * 64;
  return std::unique_ptr<T[], Free>((T*)std::aligned_alloc(64, std::max(bytes, 64L)));
}

// x as the inner loop reads it, `steps` of M::Input a row; w as words, `row_words` a row.
template <class M, class E>
void many(const typename M::Input* x, long steps, const uint32_t* w, long row_words, bool widens,
          E* y, long T, long N, int threads) {
  const long copies = widens ? 2 : 1;
  const long block_words = std::max(kPanelBytes / 4 / kPanel / copies / kLanes * kLanes, kLanes);
  const long panels = (N + kPanel - 1) / kPanel;
#pragma omp parallel num_threads(threads)
  {
    auto panel = aligned<uint32_t>(std::min(block_words, row_words + kLanes) * copies * kPanel);
    // With one block of K the sums of a few rows at a time are enough.
    const bool is_one_block = row_words <= block_words;
    auto sums = aligned<float>((is_one_block ? kRows : T) * kPanel);
#pragma omp for schedule(dynamic, 1)
    for (long p = 0; p < panels; p++) {
      const long first = p * kPanel, outputs = std::min(kPanel, N - first);
      for (long k = 0; k < row_words; k += block_words) {
        const long words = std::min(block_words, row_words - k);
        arrange(w + first * row_words + k, row_words, outputs, words, widens, panel.get());
        const bool is_last = k + words == row_words;
        for (long t = 0; t < T; t += kRows) {
          const int rows = int(std::min<long>(kRows, T - t));
          float* into = sums.get() + (is_one_block ? 0 : t * kPanel);
          panel_rows<M>(rows, x + t * steps + k * copies, steps, panel.get(), words * copies, into,
                        k > 0);
          if (!is_last) continue;
          for (int c = 0; c < rows; c++) {
            E* to = y + (t + c) * N + first;
            long n = 0;
            for (; n + kLanes <= outputs; n += kLanes)
              store_floats(to + n, load_floats(into + c * kPanel + n));
            for (; n < outputs; n++) from_float(into[c * kPanel + n], to + n);
          }
        }
      }
    }
  }
}

void many_floats(const float* x, const float* w, float* y, long T, long N, long K, int threads) {
  many<Singles>(x, K, (const uint32_t*)w, K, false, y, T, N, threads);
}

// An even K: a word holds two numbers.
void many_bf16(const Bf16* x, const Bf16* w, Bf16* y, long T, long N, long K, bool pairs,
               int threads) {
#if defined(__AVX512BF16__)
  if (pairs)
    return many<Pairs>((const uint32_t*)x, K / 2, (const uint32_t*)w, K / 2, false, y, T, N,
                       threads);
#endif
  auto wide = aligned<float>(T * K);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long t = 0; t < T; t++)
    for (long k = 0; k < K; k++) wide[t * K + k] = to_float(x[t * K + k]);
  many<Singles>(wide.get(), K, (const uint32_t*)w, K / 2, true, y, T, N, threads);
}

}  // namespace
}  // namespace segue

using namespace segue;

extern "C" {
#pragma GCC visibility push(default)

void segue_few_float(const float* x, const float* w, float* y, long T, long N, long K, int threads) {
  few(x, w, y, T, N, K, threads);
}

void segue_few_bf16(const Bf16* x, const Bf16* w, Bf16* y, long T, long N, long K, int threads) {
  few(x, w, y, T, N, K, threads);
}

void segue_many_float(const float* x, const float* w, float* y, long T, long N, long K,
                      int threads) {
  many_floats(x, w, y, T, N, K, threads);
}

void segue_many_bf16(const Bf16* x, const Bf16* w, Bf16* y, long T, long N, long K, int pairs,
                     int threads) {
  many_bf16(x, w, y, T, N, K, pairs, threads);
}
#pragma GCC visibility pop
}
