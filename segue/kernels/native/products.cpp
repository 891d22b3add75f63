// x Wᵀ for a weight as it is stored, [N, K] by rows: T rows of x, K inputs, N outputs.
//
// Few rows are bound by reading the weight, so each weight row is read once, for all rows of x. Many
// rows are bound by arithmetic: panels of the weight are brought into the order in which the inner
// loop reads them, in a core's own cache, and used for all rows of x. Sums are float32 and run
// through K in an order that does not depend on T within each of the two.
#include <algorithm>

#include "dots.h"
#include "panels.h"
#include "vectors.h"

namespace segue {
namespace {

// ---- few rows ----

template <class E>
int few_rows(const E* x, const E* w, E* y, long T, long N, long K, int threads) {
  const long blocks = (N + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long b = 0; b < blocks; b++)
    dots_of_rows(x, w, y, T, b * kLanes, std::min((b + 1) * kLanes, N), N, K);
  return 0;
}

// ---- many rows ----

constexpr long kPanelBytes = 256 << 10;  // Of a panel, which stays in a core's second cache.

// Outputs of neighbouring rows lie far apart: their lines are requested while sums are computed.
template <class E>
inline void expect_writes(const E* y, long stride, int rows, long outputs) {
  for (int c = 0; c < rows; c++)
    for (long n = 0; n < outputs; n += 64 / long(sizeof(E)))
      __builtin_prefetch(y + c * stride + n, 1, 3);
}

// Weights that are needed next, requested a few lines at a time while others are multiplied: their
// rows lie far apart, which the processor does not foresee, and arranging them waits for each line.
struct Ahead {
  const char* rows = nullptr;
  long stride = 0, bytes = 0, count = 0;  // Of a row; of rows.
  long row = 0, at = 0;

  Ahead(const uint32_t* from, long row_words, long words, long count)
      : rows((const char*)from), stride(row_words * 4), bytes(words * 4), count(count) {}

  // One of `steps` parts.
  void request(long steps) {
    for (long lines = (count * ((bytes + 63) / 64) + steps - 1) / steps; lines && row < count; lines--) {
      __builtin_prefetch(rows + row * stride + at, 0, 2);
      if ((at += 64) >= bytes) at = 0, row++;
    }
  }
};

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
    auto sums = aligned<float>((is_one_block ? kPanelRows : T) * kPanel);
#pragma omp for schedule(dynamic, 1)
    for (long p = 0; p < panels; p++) {
      const long first = p * kPanel, outputs = std::min(kPanel, N - first);
      for (long k = 0; k < row_words; k += block_words) {
        const long words = std::min(block_words, row_words - k);
        arrange(w + first * row_words + k, row_words, outputs, words, widens, panel.get());
        const bool is_last = k + words == row_words;
        // The rest of this panel, or the one that this thread probably has next.
        const long next = is_last ? first + threads * kPanel : first, next_k = is_last ? 0 : k + words;
        Ahead ahead(w + next * row_words + next_k, row_words,
                    std::min(block_words, row_words - next_k),
                    std::clamp(N - next, 0L, kPanel));
        for (long t = 0; t < T; t += kPanelRows) {
          const int rows = int(std::min<long>(kPanelRows, T - t));
          float* into = sums.get() + (is_one_block ? 0 : t * kPanel);
          ahead.request((T + kPanelRows - 1) / kPanelRows);
          if (is_last) expect_writes(y + t * N + first, N, rows, outputs);
          panel_rows<M>(rows, x + t * steps + k * copies, steps, panel.get(), words * copies, into,
                        k > 0);
          if (!is_last) continue;
          for (int c = 0; c < rows; c++)
            for (long n = 0; n < outputs; n += kLanes)
              store_some(y + (t + c) * N + first + n, load_floats(into + c * kPanel + n),
                         outputs - n);
        }
      }
    }
  }
}

// In bfloat16 K is even: a word holds two numbers. `pairs`: by the processor's own dot product.
template <class E>
int many_rows(const E* x, const E* w, E* y, long T, long N, long K, int pairs, int threads) {
  const uint32_t* words = (const uint32_t*)w;
  if constexpr (sizeof(E) == 4) {
    many<Singles>(x, K, words, K, false, y, T, N, threads);
  } else {
#if defined(__AVX512BF16__)
    if (pairs) {
      many<Pairs>((const uint32_t*)x, K / 2, words, K / 2, false, y, T, N, threads);
      return 0;
    }
#endif
    auto wide = aligned<float>(T * K);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long t = 0; t < T; t++)
      for (long k = 0; k < K; k++) wide[t * K + k] = to_float(x[t * K + k]);
    many<Singles>(wide.get(), K, words, K / 2, true, y, T, N, threads);
  }
  return 0;
}

}  // namespace
}  // namespace segue

SEGUE_EXPORT(few_rows)
SEGUE_EXPORT(many_rows)
